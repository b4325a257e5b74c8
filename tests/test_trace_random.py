"""Tracing random trees of modules: scopes and tags are one to one, and each call has what PyTorch gave it and got."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, settings

from mxtools.pytorch.fingerprint import fingerprint
from mxtools.pytorch.subject import Subject
from mxtools.pytorch.tracing import trace
from mxtools.scopes.scope import ROOT, local_name, split_call
from mxtools.traces import sidecar
from tests.support.module_trees import WIDTH, Spec, model_of, run, trees

X = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(5))


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(trees)
def test_calls_are_those_that_ran(spec: Spec) -> None:
    model = model_of(spec)
    ran = run(model, X)
    made = sidecar.loads(sidecar.dumps(trace(Subject(model, {"input": X}, "test"))), "test")
    assert [call.scope for call in made.calls] == [call.scope or ROOT for call in ran]
    named = dict(model.named_modules(remove_duplicate=False))
    paths = {module: path or ROOT for path, module in model.named_modules()}
    assert [call.module for call in made.calls] == [paths[named[call.path]] for call in ran]
    for traced, call in zip(made.calls, ran, strict=True):
        assert [tensor.fingerprint for tensor in traced.inputs] == [fingerprint(tensor) for tensor in call.given]
        assert [tensor.fingerprint for tensor in traced.outputs] == [fingerprint(tensor) for tensor in call.returned]


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(trees)
def test_scopes_and_tags_are_one_to_one(spec: Spec) -> None:
    calls = trace(Subject(model_of(spec), {"input": X}, "test")).calls
    assert len({call.scope for call in calls}) == len({call.tag for call in calls}) == len(calls)
    for call in calls[1:]:
        parent = calls[call.parent or 0]
        assert parent.scope == ROOT or call.scope.startswith(parent.scope + ".")
        assert call.tag.startswith(parent.tag + "/")
        _, number = split_call(local_name(call.scope, parent.scope).rpartition(".")[2])
        first = call.scope.removesuffix(number)
        assert not number or any(other.scope == first for other in calls)
