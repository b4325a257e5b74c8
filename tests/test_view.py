"""`mx view`: the structure that is shown, and each format of files, read back by what reads it where that installs."""

from __future__ import annotations

import json

import onnx
import pytest
from onnx import parser

from mxtools.errors import InputError
from mxtools.views.metric_files import add_metrics
from mxtools.views.structure import OUTSIDE, Structure
from tests.support.pages import blocks
from tests.support.shared_models import Build
from tests.support.shown_models import BLOCK, chain, shown, tagged


@pytest.fixture
def block() -> Structure:
    return shown(tagged())


def named(block: Structure, level: dict[tuple[int, int], list[int]]) -> dict[tuple[str, str], list[str]]:
    """Return the edges of a level with names for numbers."""
    names = [*(scope.scope for scope in block.scopes), *(block.values[node.outputs[0]].name for node in block.nodes)]
    names.append("outside")
    return {(names[a], names[b]): [block.values[v].name for v in values] for (a, b), values in level.items()}


def test_scopes_are_parents_first_in_the_order_of_the_graph(block: Structure) -> None:
    assert [scope.scope for scope in block.scopes] == [".", "enc.0", "enc.0.lin", "enc.1", "enc.1.lin"]
    assert [block.local(scope) for scope in range(5)] == [".", "enc.0", "lin", "enc.1", "lin"]
    assert [scope.class_name for scope in block.scopes] == ["M", "E", "L", "E", "L"]
    assert all(parent < item for item, parent in enumerate(block.parent[: len(block.scopes)]))
    assert [scope.nodes for scope in block.scopes] == [8, 3, 1, 4, 1]


def test_edges_of_a_module_are_between_its_children_and_across_its_boundary(block: Structure) -> None:
    root, first, linear, second, _ = block.levels()
    assert named(block, root) == {
        ("outside", "enc.0"): ["x"],
        ("outside", "y"): ["x"],
        ("outside", "enc.1"): ["c"],
        ("enc.0", "enc.1"): ["k", "h"],
        ("enc.0", "outside"): ["h"],
        ("enc.1", "y"): ["d"],
        ("y", "outside"): ["y"],
    }
    assert named(block, first) == {
        ("outside", "enc.0.lin"): ["x"],
        ("enc.0.lin", "h"): ["a"],
        ("h", "outside"): ["h"],
        ("k", "outside"): ["k"],
    }
    assert named(block, linear) == {("outside", "a"): ["x"], ("a", "outside"): ["a"]}
    assert named(block, second) == {
        ("outside", "b"): ["k", "h"],
        ("b", "enc.1.lin"): ["b"],
        ("b", "s"): ["b"],
        ("outside", "d"): ["c"],
        ("enc.1.lin", "d"): ["r"],
        ("s", "d"): ["s"],
        ("d", "outside"): ["d"],
    }


def test_levels_hold_every_edge_once_in_the_innermost_module_with_both_ends(built: Build) -> None:
    """Against the definition, on a real model: what two children exchange is what nodes below them exchange."""
    model = onnx.load(built("bert") / "tagged.onnx")
    bert = shown(model)
    for scope, level in enumerate(bert.levels()):
        wanted: dict[tuple[int, int], set[int]] = {}
        for edge in bert.edges:
            ends = []
            for end in (edge.source, edge.target):
                line = [] if end == OUTSIDE else list(bert.lineage(end))
                inside = scope in line
                ends.append(line[line.index(scope) - 1] if inside else OUTSIDE)
            if ends[0] != ends[1]:
                wanted.setdefault((ends[0], ends[1]), set()).add(edge.value)
        assert {key: set(values) for key, values in level.items()} == wanted


def test_nodes_hold_what_is_known_of_them(block: Structure) -> None:
    by_output = {block.values[node.outputs[0]].name: node for node in block.nodes}
    assert by_output["k"].constant
    assert not by_output["a"].constant
    assert by_output["k"].attributes == {"value": "float32[2]"}
    assert by_output["d"].attributes == {"then_branch": "graph of 1 nodes", "else_branch": "graph of 1 nodes"}
    types = {value.name: (value.type, value.weight) for value in block.values}
    assert types["w"] == ("float32[2]", True)
    assert types["c"] == ("bool[]", False)
    assert types["a"] == ("float32[2]", False)
    assert block.metrics["parameters"].scopes == {0: 6, 1: 2, 2: 2, 3: 6, 4: 2}, "a weight in a Constant node is one"


def test_ids_are_unique_and_names_where_they_can_be() -> None:
    model = tagged()
    for node in model.graph.node[:3]:
        node.name = "twice"
    model.graph.node[3].name = ""
    model.graph.node[5].name = "twice_1"
    ids = shown(model).ids
    assert len(set(ids)) == len(ids)
    assert "twice_1" in ids
    assert "twice" not in ids


def test_a_model_without_tags_is_refused() -> None:
    with pytest.raises(InputError, match=r"call `model\.tag\(\)` on it first"):
        shown(parser.parse_model(BLOCK))


METRICS: dict[str, tuple[object, dict[int, float], dict[int, float]]] = {
    "by scope": ({"time": {"enc.0": 1.5, ".": 2}}, {1: 1.5, 0: 2.0}, {}),
    "a report": ({"first": "enc.0", "metrics": {"time": {"enc.0": 1}}}, {1: 1.0}, {}),
    "nodes too": ({"metrics": {"time": {"enc.0": 1}}, "node_metrics": {"time": {"node a": 2}}}, {1: 1.0}, {6: 2.0}),
    "nodes only": ({"node_metrics": {"time": {"node a": 2}}}, {}, {6: 2.0}),
    "rows of mx profile": (
        {
            "schema": "mxtools.profile/1",
            "modules": [
                {"scope": "enc.0", "tag": "/M/E.0", "microseconds": 7.5, "kernels": []},
                {"scope": "enc.0.lin", "microseconds": 2, "kernels": [{"name": "node a", "microseconds": 2}]},
                {"scope": "enc.1", "microseconds": 1, "kernels": [{"name": "fused", "microseconds": 1}]},
            ],
        },
        {1: 7.5, 2: 2.0, 3: 1.0},
        {6: 2.0},
    ),
    "no number in JSON": ({"time": {"enc.0": "Infinity", "enc.1": None}}, {1: float("inf")}, {}),
}


@pytest.mark.parametrize("case", METRICS)
def test_metrics(block: Structure, case: str) -> None:
    report, scopes, nodes = METRICS[case]
    assert add_metrics(block, json.dumps(report), "f.json").unknown == 0
    metric = block.metrics["time"]
    assert metric.scopes == scopes
    assert metric.nodes == nodes


def test_errors_of_mx_verify(block: Structure) -> None:
    outputs = [{"name": "a", "relative": 0.1}, {"name": "b", "relative": "Infinity"}]
    rows = [
        {"scope": "enc.0", "tag": "/M/E.0", "outputs": outputs},
        {"scope": "enc.1", "outputs": outputs[:1], "own": {"max_abs": 1, "relative": 0.01}},
        {"scope": "enc.1.lin", "outputs": [], "reason": "folded"},
    ]
    added = add_metrics(block, json.dumps({"tolerance": 0.1, "modules": rows}), "f.json")
    assert added.names == ("relative error", "relative error (own)")
    assert added.unknown == 0
    assert block.metrics["relative error"].total is None, "errors add up to nothing"
    assert block.metrics["relative error"].scopes == {1: float("inf"), 3: 0.1}
    assert block.metrics["relative error (own)"].scopes == {3: 0.01}


def test_shares_are_of_what_adds_up(block: Structure) -> None:
    """The modules in a part may not have more than it has; a time of a profile is taken for a part in any case."""
    files: dict[str, tuple[dict[str, float], float | None]] = {
        "parts": ({".": 10, "enc.0": 4, "enc.1": 6.005, "enc.1.lin": 6}, 10),
        "more than the whole": ({".": 10, "enc.0": 7, "enc.1": 7}, None),
        "no whole": ({"enc.0": 4, "enc.1": 6}, None),
        "less than nothing": ({".": 10, "enc.0": -4}, None),
        "the whole alone": ({".": 10}, None),
        "nothing": ({".": 0, "enc.0": 0}, None),
        "time": ({".": 10, "enc.0": 7, "enc.1": 7}, 10),
        "own time": ({".": 1, "enc.0": 7, "enc.1": 2}, 10),
    }
    for name, (numbers, total) in files.items():
        add_metrics(block, json.dumps({"metrics": {name: numbers}, "units": {name: "W"}}), "f.json")
        assert (block.metrics[name].total, block.metrics[name].unit) == (total, "W"), name


@pytest.mark.parametrize("example", range(2))
def test_the_examples_of_the_documentation(example: int) -> None:
    found = shown(chain("encoder.layer.0", "encoder.layer.1", "encoder"))
    texts = blocks("docs/viewing.md", "json")
    assert len(texts) == 2
    assert add_metrics(found, texts[example], "f.json").unknown == 0


def test_modules_that_are_not_there_are_counted(block: Structure) -> None:
    assert add_metrics(block, '{"time": {"enc.0": 1, "dec": 2, "pool": 3}}', "f.json").unknown == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no", "is no JSON"),
        ("[1]", "is no JSON object"),
        ('{"time": 3}', "not every metric is numbers"),
        ('{"time": {"enc.0": "fast"}}', "not every metric is numbers"),
        ('{"metrics": 3}', "not every metric is numbers"),
        ('{"modules": [3]}', "not every metric is numbers"),
        ('{"modules": [{"microseconds": 3}]}', "not every metric is numbers"),
        ('{"time": {"other": 1}}', "no number for any module"),
        ('{"metrics": {"time": {".": 1}}, "units": 3}', "not every metric is numbers"),
        ('{"metrics": {"time": {".": 1}}, "units": {"time": 3}}', "not every metric is numbers"),
    ],
)
def test_metrics_that_are_none(block: Structure, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        add_metrics(block, text, "f.json")


def test_multiply_adds_are_summed_over_modules() -> None:
    head = '<ir_version: 10, opset_import: ["" : 21]>\n'
    text = (
        head
        + "g (float[2, 3] x, float[3, 5] w, float[5, 7] v) => (float[2, 7] y) { a = MatMul(x, w) y = MatMul(a, v) }"
    )
    scopes = {"a": ("enc.lin", "/M/Enc/L"), "y": ("enc", "/M/Enc")}
    found = shown(tagged(text, scopes))
    assert [scope.scope for scope in found.scopes] == [".", "enc", "enc.lin"]
    assert found.metrics["multiply-adds"].scopes == {0: 100, 1: 100, 2: 30}
    assert found.metrics["multiply-adds"].nodes == {3: 30, 4: 70}
    assert "multiply-adds" not in shown(tagged()).metrics
