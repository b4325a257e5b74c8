"""The graph index, on graphs with bodies and functions."""

from __future__ import annotations

import onnx
import pytest
from onnx import parser

from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.shapes import TensorShape
from tests.support.small_traces import trace_of

NESTED = """
<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
main (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}> {
    a = Add(x, w)
    k = Constant <value = float[2] {3, 4}> ()
    kk = Mul(k, w)
    b = If (c) <
        then_branch = then () => (float[2] r) { r = Mul(a, kk) },
        else_branch = other () => (float[2] s) { s0 = own.twice(x)  s = Add(s0, a) }
    >
    y = own.twice(b)
}
<domain: "own", opset_import: ["" : 21]>
twice (p) => (q) { q = Add(p, p) }
"""


@pytest.fixture
def graph() -> Graph:
    return Graph(parser.parse_model(NESTED))


def _node(graph: Graph, output: str) -> int:
    return next(n for n, proto in enumerate(graph.nodes) if output in proto.output)


def test_bodies_come_before_their_holder(graph: Graph) -> None:
    holder = _node(graph, "b")
    for inner in ("r", "s0", "s"):
        assert graph.owner[_node(graph, inner)] == holder
        assert _node(graph, inner) < holder
    assert graph.owner[_node(graph, "a")] == NOWHERE


def test_captured_values_are_read_by_the_body_and_needed_by_the_holder(graph: Graph) -> None:
    a = graph.writes[_node(graph, "a")][0]
    assert sorted(graph.readers[a]) == sorted([_node(graph, "r"), _node(graph, "s")])
    needed = {graph.names[v] for v in graph.needs[_node(graph, "b")]}
    assert needed == {"c", "a", "kk", "x"}


def test_what_bodies_without_nodes_return_is_no_need() -> None:
    text = """
g (bool c) => (float[2] y) {
    y = If (c) <
        then_branch = yes () => (float[2] t) <float[2] t = {1, 2}> {},
        else_branch = no () => (float[2] e) <float[2] e = {3, 4}> {}>
}"""
    graph = Graph(parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>{text}'))
    assert [graph.names[v] for v in graph.needs[0]] == ["c"]


def test_functions_are_regions_of_their_own(graph: Graph) -> None:
    inner = _node(graph, "q")
    assert graph.region[inner] == 1
    assert graph.region[_node(graph, "y")] == 0
    assert not list(graph.sources(inner))


def test_what_a_body_returns_leads_to_its_holder(graph: Graph) -> None:
    assert list(graph.targets(_node(graph, "r"))) == [_node(graph, "b")]


def test_constants(graph: Graph) -> None:
    assert {graph.names[v] for v in graph.constant} == {"k", "kk"}


def test_random_is_no_constant() -> None:
    model = parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]> g () => (float[2] y) {
            r = RandomNormal <shape = [2]> ()
            y = Neg(r)
        }"""
    )
    assert Graph(model).constant == set()


def test_one_name_in_two_bodies_is_two_values() -> None:
    model = parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]> g (bool c, float[1] x) => (float[1] y) {
            y = If (c) <
                then_branch = t () => (float[1] v) { v = Neg(x) },
                else_branch = e () => (float[1] v) { v = Abs(x) }
            >
        }"""
    )
    graph = Graph(model)
    assert graph.names.count("v") == 2
    assert [graph.nodes[graph.producer[v]].op_type for v, n in enumerate(graph.names) if n == "v"] == ["Neg", "Abs"]


def test_size_is_linear() -> None:
    nodes = [onnx.helper.make_node("Neg", [f"t{i}"], [f"t{i + 1}"]) for i in range(5000)]
    value = onnx.helper.make_tensor_value_info
    proto = onnx.helper.make_graph(nodes, "g", [value("t0", 1, [1])], [value("t5000", 1, [1])])
    graph = Graph(onnx.helper.make_model(proto))
    assert len(graph.nodes) == 5000
    assert sum(map(len, graph.readers)) == 5000


@pytest.mark.parametrize(
    ("dims", "traced", "fits"),
    [
        ((2, 3), "6", True),
        ((3, 2), "2x3", False),
        ((None, 3), "6", True),
        ((None, 3), "3x2", False),
        ((None, None, 4, 8), "1x16x32", True),
        ((None, 512), "1x16x32", True),
        ((None, None, 16, 16), "1x16x32", False),
        ((None, None, 5), "1x16x32", False),
        ((None, None), "1x16x32", True),
    ],
)
def test_a_shape_fits_what_merging_or_splitting_dimensions_makes_of_it(
    dims: tuple[int | None, ...], traced: str, fits: bool
) -> None:
    tensor = trace_of(f". M x:{traced} -> x:{traced}").calls[0].inputs[0]
    assert TensorShape("f", dims).fits(tensor) == fits


@pytest.mark.parametrize(
    ("dims", "can"),
    [
        ((2, 3, 12), True),
        ((2, 3, None), True),
        ((None, 3, 12), True),
        ((2, 12, 3), False),
        ((2, 12, None), False),
        ((2, 5, None), False),
        ((2, None, None), False),
        (None, False),
    ],
)
def test_a_shape_that_can_be_a_transposed_one(dims: tuple[int | None, ...] | None, can: bool) -> None:
    tensor = trace_of(". M x:2x12x3 -> x:2x12x3").calls[0].inputs[0]
    assert TensorShape("f", dims).can_be_transposed(tensor) == can
