"""What a cut may have copies of, looked at value by value, is what a walk over the whole graph finds."""

from __future__ import annotations

import random

import pytest
from onnx import helper

from mxtools.cut.copied import Copied
from mxtools.graph.index import Graph


def shapeful(seed: int) -> Graph:
    """Return the index of a random graph of shape chains, constants, random operators and data."""
    chance, names = random.Random(seed), ["x", "y"]
    nodes = []
    for number in range(60):
        operator = chance.choice(
            ["Constant", "Shape", "Size", "Add", "Concat", "Gather", "Relu", "Neg", "RandomNormal"]
        )
        count = {"Constant": 0, "RandomNormal": 0, "Add": 2, "Concat": 2, "Gather": 2}.get(operator, 1)
        reads = [chance.choice([*names[-8:], "w", names[0]]) for _ in range(count)]
        nodes.append(helper.make_node(operator, reads, [f"v{number}"], name=str(number)))
        names.append(f"v{number}")
    ends = ([helper.make_tensor_value_info(name, 1, None) for name in group] for group in ("xy", names[-3:]))
    weight = helper.make_tensor("w", 1, [1], [1.0])
    return Graph(helper.make_model(helper.make_graph(nodes, "g", *ends, [weight])))


@pytest.mark.parametrize("seed", range(60))
def test_values_are_constant_or_shapes_as_in_the_whole_graph(seed: int) -> None:
    graph, chance = shapeful(seed), random.Random(seed)
    foreign = {node for node in graph.main if chance.random() < 0.2}
    copied = Copied(graph, foreign)
    values = list(range(len(graph.names)))
    chance.shuffle(values)
    constant = graph.constants(foreign)
    derived = graph.shape_derived(constant)
    assert {v for v in values if copied.is_shape(v)} == derived
    assert {v for v in values if copied.is_constant(v)} == constant
    at_hand = set(chance.sample(values, 12)) - derived
    free: set[int] = set()
    for node in graph.main:  # the same, for all values of the graph
        asks = graph.operators[node].reads_only_shape
        if any(v in derived for v in graph.writes[node]) and all(
            v in free or v in graph.stored or v in constant or (v in at_hand and (asks or v in derived))
            for v in graph.needs[node]
        ):
            free.update(graph.writes[node])
    wanted = chance.sample(values, 20)
    found = copied.from_hand(wanted, at_hand)
    assert {v for v in wanted if graph.producer[v] in found and v in derived} == free.intersection(wanted)
