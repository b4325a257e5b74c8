"""Shapes that are computed from shapes, against what ONNX Runtime computes."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

from mxtools.costs.static_shapes import static_shapes
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.sessions import inner_values
from tests.support.shared_models import Build

EXPANDED = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[{dims}] x) => (float[a, b, c] y) <int64[1] one = {{1}}, int64[1] minus = {{-1}}> {{
    s = Shape<start = 0, end = 1>(x)
    t = Concat<axis = 0>(minus, s, one)
    m = Equal(t, minus)
    r = Shape(t)
    o = ConstantOfShape<value = int64[1] {{1}}>(r)
    w = Where(m, o, t)
    e = Expand(x, w)
    y = Relu(e)
}}
"""


def known(dims: str) -> list[tuple[int | None, ...] | None]:
    """Return the shape of what is expanded, without and with following."""
    model = parser.parse_model(EXPANDED.format(dims=dims))
    working = WorkingModel(model)
    graph, shapes = working.graph, working.shapes
    before = model.SerializeToString()
    followed = static_shapes(model, graph, working.weights, shapes)
    assert model.SerializeToString() == before
    value = graph.by_name["e"]
    return [found and found.dims for found in (shapes[value], followed[value])]


def test_what_is_computed_from_shapes_is_followed() -> None:
    without, followed = known("2, 3")
    assert without is not None
    assert None in without
    assert followed == (1, 2, 3)


def test_symbolic_dimensions_stay_unknown() -> None:
    assert known("n, 3")[1] in ((None, None, 3), (1, None, 3))


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_shapes_of_a_real_model(built: Build, name: str) -> None:
    loaded = WorkingModel.read(built(name) / "tagged.onnx")
    graph = loaded.graph
    shapes = static_shapes(loaded.proto, graph, loaded.weights, loaded.shapes)
    given = np.ones((1, 12), np.int64)
    feeds = {info.name: given for info in loaded.proto.graph.input}
    made = {graph.names[v]: v for n in graph.main for v in graph.writes[n]}
    for tensor, array in inner_values(loaded.proto, loaded.weights, feeds, dict.fromkeys(made, 1)):
        found = shapes[made[tensor]]
        assert found is not None
        assert found.dims == array.shape, tensor


def test_products_of_both_exports_are_the_same(built: Build) -> None:
    counts = []
    for exporter in ("torchscript", "dynamo"):
        model = WorkingModel.read(built("bert", exporter) / "tagged.onnx")
        counts.append(sum(model.costs().multiply_adds.values()))
    assert counts[0] == counts[1]
