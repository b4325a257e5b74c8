"""Cutting random graphs: each part computes, to the bit, what the whole computes at its place."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto

from mxtools.errors import AbsentError
from mxtools.graph.index import bodies
from mxtools.passes.filter import Filter
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from tests.support import random_models, running


def reads(node: NodeProto) -> Iterator[str]:
    """Yield what a node and the nodes in its bodies read."""
    yield from node.input
    for body in bodies(node):
        for inner in body.node:
            yield from reads(inner)


def read_outside(model: ModelProto, scope: str) -> set[str]:
    """Return the outputs, and what nodes of other scopes and their bodies read."""
    others = [n for n in model.graph.node if keys.props(n)[keys.SCOPE] != scope]
    return {o.name for o in model.graph.output} | {i for n in others for i in reads(n)}


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(random_models.models(("a", "b", "c")), st.booleans())
def test_parts_of_random_graphs(model: ModelProto, condition: bool) -> None:
    random_models.check(model)
    values = running.values(model, random_models.feeds(condition))
    for scope in [".", *sorted({keys.props(node)[keys.SCOPE] for node in model.graph.node})]:
        part = ModelProto.FromString(model.SerializeToString())
        made = {o for n in part.graph.node if keys.props(n)[keys.SCOPE] == scope for o in n.output}
        try:
            Filter(scope=(scope,)).apply(WorkingModel(part))
        except AbsentError:
            assert not read_outside(model, scope) & made
            continue
        random_models.check(part)
        if scope == ".":
            assert [o.name for o in part.graph.output] == [o.name for o in model.graph.output]
        for name, result in running.outputs(part, values).items():
            assert result.tobytes() == values[name].tobytes(), name
