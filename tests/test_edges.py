"""Models at the edges: every node gets a scope, with both exporters, and what can be cut out computes the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from mxtools.errors import AbsentError
from mxtools.files.writing import materialise
from mxtools.passes.filter import Filter
from mxtools.pipeline.working_model import WorkingModel
from mxtools.pytorch.exporting.export import export
from mxtools.pytorch.loading.inputs import load_subject
from mxtools.pytorch.nested import tensors
from mxtools.pytorch.subject import Subject
from mxtools.pytorch.tracing import trace
from mxtools.scopes import keys
from mxtools.scopes.annotations import read_absent
from mxtools.strategies import table
from tests.support.commands import Mx
from tests.support.paths import MODELS as FIXTURES

X = torch.linspace(-1, 1, 12).reshape(2, 6)


class Lambda(nn.Module):
    """A module from a function of itself and its input."""

    def __init__(self, function: Callable[..., Any], **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class Cube(torch.autograd.Function):
    """A function with a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * x * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def odd_class() -> nn.Module:
    return type("Odd <class>/@%.x", (nn.Linear,), {})(6, 6)


def odd_keys() -> nn.Module:
    heads = nn.ModuleDict({"a b": nn.Linear(6, 6), "0": nn.Linear(6, 6), "é-ü": nn.Linear(6, 6)})
    return Lambda(lambda m, x: sum(head(x) for head in m.heads.values()), heads=heads)


def layers(count: int) -> nn.Module:
    body = nn.ModuleList(nn.Linear(6, 6) for _ in range(count))

    def run(module: nn.Module, x: Tensor) -> Tensor:
        for layer in module.body:
            x = torch.tanh(layer(x))
        return x

    return Lambda(run, body=body)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "auxiliary only": lambda: Lambda(
        lambda m, x: m.a(x), a=Lambda(lambda m, x: x.reshape(x.shape[1], -1).unsqueeze(0))
    ),
    "identity only": lambda: nn.Sequential(nn.Identity(), nn.Identity()),
    "constants only": lambda: Lambda(lambda m, x: x + m.a(x), a=Lambda(lambda m, x: torch.ones(2, 6) * 2)),
    "custom autograd": lambda: Lambda(lambda m, x: m.a(Cube.apply(x)), a=nn.Linear(6, 6)),
    "lstm": lambda: Lambda(lambda m, x: m.r(x.unsqueeze(0))[0] * 2, r=nn.LSTM(6, 4, bidirectional=True)),
    "gru": lambda: Lambda(lambda m, x: m.r(x.unsqueeze(0))[0] * 2, r=nn.GRU(6, 4, 2)),
    "attention": lambda: Lambda(lambda m, x: m.a(x, x, x)[0] + x, a=nn.MultiheadAttention(6, 2)),
    "odd keys": odd_keys,
    "odd class": lambda: Lambda(lambda m, x: m.a(x) + 1, a=odd_class()),
    "empty module": lambda: Lambda(lambda m, x: x * 2 if m.a(x) is None else x, a=Lambda(lambda m, x: None)),
    "siblings": lambda: Lambda(lambda m, x: m.a(x) + m.b(x), a=nn.Linear(6, 6), b=nn.Linear(6, 6)),
    "root of torch": lambda: nn.Linear(6, 3),
    "same module twice": lambda: Lambda(lambda m, x: m.a(m.a(x)), a=nn.Linear(6, 6)),
    "same module in parallel": lambda: Lambda(lambda m, x: m.a(x) + m.a(x * 2) * 3, a=nn.Linear(6, 6)),
    "48 layers": lambda: layers(48),
}


def tagged(model: nn.Module, path: Path, exporter: str) -> tuple[onnx.ModelProto, set[str]]:
    """Trace, export and tag; return the model and the scopes of the trace."""
    torch.manual_seed(0)
    name = next(iter(_parameters(model)))
    subject = Subject(model.eval(), {name: X}, "test")
    sidecar = trace(subject)
    export(subject, path, exporter)
    loaded = WorkingModel.read(path, sidecar=sidecar)
    table.get("auto").passes().apply(loaded)
    return materialise(loaded.proto, loaded.weights), {call.scope for call in sidecar.calls}


def _parameters(model: nn.Module) -> list[str]:
    return list(inspect.signature(model.forward).parameters)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", MODELS)
def test_every_node_has_a_scope(name: str, exporter: str, tmp_path: Path) -> None:
    model, scopes = tagged(MODELS[name](), tmp_path / "m.onnx", exporter)
    borne = {keys.props(node).get(keys.SCOPE) for node in model.graph.node}
    assert borne <= scopes
    absent = read_absent(model)
    assert set(absent) <= scopes
    assert {s for s in scopes if not any(b == s or s == "." or b.startswith(s + ".") for b in borne if b)} <= set(
        absent
    )
    onnx.checker.check_model(model, full_check=True)


def returned(model: nn.Module) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}

    def note(name: str, result: Any) -> None:
        found.setdefault(name, [t.clone().numpy() for _, t in tensors(result)])

    handles = [m.register_forward_hook(lambda _m, _i, r, n=n: note(n, r)) for n, m in model.named_modules()]
    with torch.no_grad():
        model(X)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", ["lstm", "gru", "attention", "odd keys", "odd class", "siblings", "same module twice"])
def test_parts_compute_what_the_modules_computed(name: str, exporter: str, tmp_path: Path) -> None:
    built = MODELS[name]()
    model, scopes = tagged(built, tmp_path / "m.onnx", exporter)
    wanted = returned(built)
    values = _values(model, {model.graph.input[0].name: X.numpy()})
    for scope in sorted(scopes - {"."}):
        part = onnx.ModelProto.FromString(model.SerializeToString())
        try:
            Filter(scope=(scope.replace("[", "[[]"),)).apply(WorkingModel(part))
        except AbsentError:
            assert scope in read_absent(model)
            continue
        session = onnxruntime.InferenceSession(part.SerializeToString())
        results = session.run(None, {i.name: values[i.name] for i in session.get_inputs()})
        expected = wanted.get(scope.replace("%25", "%"), []) if "@" not in scope else []
        for result in results if expected else []:
            assert any(e.size == result.size and np.allclose(e.ravel(), result.ravel(), atol=1e-5) for e in expected), (
                scope
            )


def _values(model: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, Any]:
    probe = onnx.ModelProto.FromString(model.SerializeToString())
    known = {o.name for o in probe.graph.output}
    names = [o for n in probe.graph.node for o in n.output if o and o not in known]
    probe.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
    session = onnxruntime.InferenceSession(probe.SerializeToString())
    wanted = [o.name for o in session.get_outputs()]
    return feeds | dict(zip(wanted, session.run(wanted, feeds), strict=True))


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_200_layers_are_never_mixed_up(exporter: str, tmp_path: Path) -> None:
    model, _ = tagged(layers(200), tmp_path / "m.onnx", exporter)
    found = [keys.props(n)[keys.SCOPE] for n in model.graph.node if n.op_type in ("Gemm", "MatMul")]
    assert found == [f"body.{i}" for i in range(200)]


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_calls_in_parallel_are_told_apart_by_order(exporter: str, tmp_path: Path) -> None:
    model, _ = tagged(MODELS["same module in parallel"](), tmp_path / "m.onnx", exporter)
    gemms = [n for n in model.graph.node if n.op_type in ("Gemm", "MatMul")]
    assert {n.input[0] == model.graph.input[0].name: keys.props(n)[keys.SCOPE] for n in gemms} == {
        True: "a",
        False: "a@1",
    }


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_dynamic_shapes(exporter: str, mx: Mx, tmp_path: Path) -> None:
    spec, dynamic = f"{FIXTURES}:bert", [f"--dynamic={name}=0:batch,1:seq" for name in ("input_ids", "attention_mask")]
    shapes = ["--input", "input_ids=2,12", "--input", "attention_mask=2,12"]
    raw, sidecar, tagged_, part = (tmp_path / name for name in ("raw.onnx", "t.json", "tagged.onnx", "part.onnx"))
    for arguments in (
        ("export", spec, *shapes, *dynamic, "--exporter", exporter, "-o", raw),
        ("trace", spec, *shapes, "-o", sidecar),
        ("tag", raw, "--trace", sidecar, "-o", tagged_),
        ("filter", tagged_, "--scope", "encoder.layer.1.output", "-o", part),
    ):
        done = mx(*arguments)
        assert done.returncode == 0, done.stderr.decode()
    session = onnxruntime.InferenceSession(part)
    assert all(isinstance(i.shape[0], str) for i in session.get_inputs())
    model = load_subject(spec).model.encoder.layer[1].output
    hidden, given = torch.randn(3, 5, 64), torch.randn(3, 5, 32)
    by_width = {64: hidden.numpy(), 32: given.numpy()}
    feeds = {i.name: by_width[i.shape[-1]] for i in session.get_inputs()}
    with torch.no_grad():
        expected = model(hidden, given).numpy()
    (result,) = session.run(None, feeds)
    assert np.allclose(result, expected, atol=1e-5)
