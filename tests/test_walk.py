"""Walks through graphs: the five nodes of the module's docstring, and random graphs beside networkx."""

from __future__ import annotations

from graphlib import CycleError

import networkx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import parser

from mxtools.graph.index import Graph
from mxtools.graph.walk import components, in_order, nearest, nodes_behind, reached, values_after

FIVE = """<ir_version: 10, opset_import: ["" : 21]> g (float[1] x) => (float[1] e) {
    a = Abs(x) b = Neg(a) c = Exp(a) d = Add(b, c) e = Abs(d) }"""
A, B, C, D, E = range(5)

Edges = list[tuple[int, int]]
EDGES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=25)


@pytest.fixture
def five() -> Graph:
    return Graph(parser.parse_model(FIVE))


def names(graph: Graph, values: set[int]) -> str:
    return "".join(sorted(graph.names[value] for value in values))


def test_the_five_nodes_of_the_docstring(five: Graph) -> None:
    a, c, e = (five.by_name[name] for name in "ace")
    assert nodes_behind(five, [e], until=lambda value: value == a) == {E, D, B, C}
    assert names(five, values_after(five, c)) == "cde"
    assert list(reached([D], five.sources)) == [D, B, C, A]
    assert nearest([E], five.sources, lambda node: node in (A, C)) == C

    def neighbours(node: int) -> list[int]:
        return [*five.sources(node), *five.targets(node)]

    assert sorted(map(sorted, components([A, B, E], neighbours))) == [[A, B], [E]]


def test_a_walk_back_ends_at_what_no_node_makes(five: Graph) -> None:
    x, b, d = (five.by_name[name] for name in "xbd")
    assert nodes_behind(five, [x], until=lambda _: False) == set()
    assert nodes_behind(five, [d, b], until=lambda _: False) == {A, B, C, D}
    assert nodes_behind(five, [d, b], until=lambda value: value == d) == {A, B}


def test_nothing_wanted_is_nothing_found(five: Graph) -> None:
    assert nearest([E], five.sources, lambda node: node == E) == E
    assert nearest([B], five.sources, lambda node: node == E) is None
    assert reached([], five.sources) == {}
    assert list(components([], five.sources)) == []


@given(EDGES, st.lists(st.integers(0, 9), max_size=3))
def test_reached_is_all_that_networkx_reaches(edges: Edges, starts: list[int]) -> None:
    graph = networkx.DiGraph(edges)
    graph.add_nodes_from(range(10))
    found = reached(starts, graph.successors)
    assert found.keys() == set(starts).union(*(networkx.descendants(graph, start) for start in starts))


@given(EDGES, st.integers(0, 9), st.sets(st.integers(0, 9)))
def test_nearest_is_none_farther_than_another(edges: Edges, start: int, wanted: set[int]) -> None:
    graph = networkx.DiGraph(edges)
    graph.add_nodes_from(range(10))
    steps = networkx.single_source_shortest_path_length(graph, start)
    found = nearest([start], graph.successors, wanted.__contains__)
    known = {node: count for node, count in steps.items() if node in wanted}
    assert (found is None) == (not known)
    assert found is None or known[found] == min(known.values())


@given(EDGES, st.sets(st.integers(0, 9)))
def test_components_are_those_of_the_subgraph(edges: Edges, things: set[int]) -> None:
    graph = networkx.Graph(edges)
    graph.add_nodes_from(range(10))
    expected = networkx.connected_components(graph.subgraph(things))
    found = list(components(things, graph.neighbors))
    assert sorted(map(sorted, found)) == sorted(map(sorted, expected))


def test_a_long_way_takes_no_recursion() -> None:
    count = 100_000
    assert len(reached([0], lambda n: (n + 1,) if n < count else ())) == count + 1


@given(EDGES)
def test_in_order_each_comes_after_those_before_it(edges: Edges) -> None:
    directed = networkx.DiGraph(edges)
    directed.add_nodes_from(range(10))
    if not networkx.is_directed_acyclic_graph(directed):
        with pytest.raises(CycleError):
            in_order(range(10), directed.predecessors)
        return
    found = in_order(range(10), directed.predecessors)
    assert sorted(found) == list(range(10))
    assert all(found.index(a) < found.index(b) for a, b in edges)
    assert in_order(found, directed.predecessors) == found
