"""`mx view`: the structure that is shown, and each format of files, read back by what reads it where that installs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import networkx
import onnx
import pytest
from onnx import parser

from mxtools.errors import InputError
from mxtools.scopes import keys
from mxtools.views import model_explorer
from mxtools.views.dot import dot
from mxtools.views.graphml import graphml
from mxtools.views.html import html
from mxtools.views.mermaid import mermaid
from mxtools.views.metric_files import add_metrics
from mxtools.views.netron import netron
from mxtools.views.structure import OUTSIDE, Structure
from tests.support.commands import Mx
from tests.support.shown_models import BLOCK, HOSTILE, hostile, shown, tagged

Build = Callable[..., Path]
NAMESPACE = "{http://graphml.graphdrawing.org/xmlns}"


@pytest.fixture
def block() -> Structure:
    return shown(tagged())


def named(block: Structure, level: dict[tuple[int, int], list[int]]) -> dict[tuple[str, str], list[str]]:
    """Give the edges of a level with names for numbers."""
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
    assert block.metrics["parameters"].scopes == {0: 4, 1: 2, 2: 2, 3: 4, 4: 2}


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
    assert add_metrics(block, json.dumps(report), "f.json") == 0
    metric = block.metrics.get("time") or block.metrics["microseconds"]
    assert metric.scopes == scopes
    assert metric.nodes == nodes


def test_errors_of_mx_verify(block: Structure) -> None:
    outputs = [{"name": "a", "relative": 0.1}, {"name": "b", "relative": "Infinity"}]
    rows = [
        {"scope": "enc.0", "tag": "/M/E.0", "outputs": outputs},
        {"scope": "enc.1", "outputs": outputs[:1], "own": {"max_abs": 1, "relative": 0.01}},
        {"scope": "enc.1.lin", "outputs": [], "reason": "folded"},
    ]
    assert add_metrics(block, json.dumps({"tolerance": 0.1, "modules": rows}), "f.json") == 0
    assert block.metrics["relative error"].scopes == {1: float("inf"), 3: 0.1}
    assert block.metrics["relative error (own)"].scopes == {3: 0.01}


def test_modules_that_are_not_there_are_counted(block: Structure) -> None:
    assert add_metrics(block, '{"time": {"enc.0": 1, "dec": 2, "pool": 3}}', "f.json") == 2


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
    ],
)
def test_metrics_that_are_none(block: Structure, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        add_metrics(block, text, "f.json")


class Page(HTMLParser):
    """The elements of a page, and the text in its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data


def test_nothing_of_the_model_becomes_markup_or_script_of_the_page() -> None:
    plain, bad = Page(), Page()
    plain.feed(html(shown(tagged())))
    bad.feed(html(hostile()))
    assert bad.tags == plain.tags
    assert len(bad.scripts) == 2
    data = json.loads(bad.scripts[0])
    assert data["title"] == HOSTILE
    assert HOSTILE in {name for name, *_ in data["nodes"]}
    assert bad.scripts[1] == plain.scripts[1]


def test_the_page_needs_no_network() -> None:
    page = html(shown(tagged()))
    assert "default-src 'none'" in page
    assert "unsafe" not in page
    fetching = re.findall(r"(?:src|href)\s*=|url\((?!#)|@import|fetch\(|XMLHttpRequest|import\(", page)
    assert [text for text in fetching if "href" not in text] == []
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")


def test_the_script_sets_no_markup() -> None:
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", html(shown(tagged()))
    )


def check_graphml(root: ElementTree.Element) -> None:
    """Check the rules of the GraphML specification that a document of nested graphs can break."""
    keys_ = {key.get("id"): key for key in root.findall(f"{NAMESPACE}key")}
    children = [child.tag.removeprefix(NAMESPACE) for child in root]
    assert children == ["key"] * len(keys_) + ["graph"]
    assert all(key.get("for") in ("node", "edge") and " " not in key.get("attr.name", " ") for key in keys_.values())
    ids: set[str | None] = set()

    def visit(graph: ElementTree.Element) -> set[str | None]:
        assert graph.get("edgedefault") == "directed"
        inside: set[str | None] = set()
        for node in graph.findall(f"{NAMESPACE}node"):
            assert re.fullmatch(r"[\w.:-]+", node.get("id") or "")
            inside.add(node.get("id"))
            for nested in node.findall(f"{NAMESPACE}graph"):
                inside |= visit(nested)
        for edge in graph.findall(f"{NAMESPACE}edge"):
            assert {edge.get("source"), edge.get("target")} <= inside
        ids.add(graph.get("id"))
        return inside

    visit(root[-1])
    used = {data.get("key") for data in root.iter(f"{NAMESPACE}data")}
    assert used <= keys_.keys()
    every = [e.get("id") for e in root.iter() if e.tag in (f"{NAMESPACE}node", f"{NAMESPACE}graph", f"{NAMESPACE}key")]
    assert len(every) == len(set(every))


@pytest.mark.parametrize("name", ["bert", "repeated", "outputs"])
def test_graphml_is_valid_and_loads_in_networkx(built: Build, mx: Mx, tmp_path: Path, name: str) -> None:
    out = tmp_path / "g.graphml"
    done = mx("view", built(name) / "tagged.onnx", "-f", "graphml", "-o", out)
    assert done.returncode == 0, done.stderr.decode()
    root = ElementTree.parse(out).getroot()
    check_graphml(root)
    loaded = networkx.read_graphml(out)
    expected = shown(onnx.load(built(name) / "tagged.onnx"))
    kinds = [kind for _, kind in loaded.nodes(data="kind")]
    assert kinds.count("node") == len(expected.nodes)
    assert kinds.count("module") == len(expected.scopes) - 1
    pairs = {(e.source, e.target) for e in expected.edges if OUTSIDE not in (e.source, e.target)}
    assert {(f"n{a}", f"n{b}") for a, b in pairs} <= set(loaded.edges())
    item = len(expected.scopes)
    data = loaded.nodes[f"n{item}"]
    assert data["scope"] == expected.scopes[expected.nodes[0].parent].scope
    assert networkx.is_directed_acyclic_graph(networkx.DiGraph(loaded))


def test_graphml_holds_any_name(tmp_path: Path) -> None:
    (tmp_path / "g.graphml").write_text(graphml(hostile()))
    check_graphml(ElementTree.parse(tmp_path / "g.graphml").getroot())
    loaded = networkx.read_graphml(tmp_path / "g.graphml")
    assert HOSTILE.replace("\u2028", "\\u2028") in {name for _, name in loaded.nodes(data="name")}


def test_mermaid_and_dot_open_so_many_levels() -> None:
    expected = """flowchart TD
    subgraph i1["enc.0: E"]
      i2[["lin<br>L"]]
      i7["Relu"]
    end
    subgraph i3["enc.1: E"]
      i4[["lin<br>L"]]
      i8["Add"]
      i10["Sub"]
      i11["If"]
    end
    i12["Add"]
    o2(["x"])
    o3(["c"])
    o4(["h"])
    o5(["y"])
"""
    text = mermaid(shown(tagged()), 2)
    assert text.startswith(expected)
    assert set(text.removeprefix(expected).split("\n")) == {
        "  o2 --> i2",
        "  i2 --> i7",
        "  i7 --> i8",
        "  i8 --> i4",
        "  i8 --> i10",
        "  i4 --> i11",
        "  i10 --> i11",
        "  o3 --> i11",
        "  i11 --> i12",
        "  o2 --> i12",
        "  i7 --> o4",
        "  i12 --> o5",
        "",
    }
    shallow = mermaid(shown(tagged()), 1)
    assert "subgraph" not in shallow
    assert 'i1[["enc.0<br>E"]]' in shallow
    assert "  i1 --> i3\n" in shallow
    drawn = dot(shown(tagged()), 1)
    assert '"1" [label="enc.0\\nE"' in drawn
    assert '"1" -> "3"' in drawn
    assert "cluster" not in drawn
    assert 'subgraph "cluster1" {' in dot(shown(tagged()), 2)


def test_mermaid_and_dot_hold_any_name() -> None:
    text = mermaid(hostile(), 9)
    assert "<script" not in text
    assert "</" not in text
    for line in text.split("\n"):
        assert line.count('"') in (0, 2), line
    for line in dot(hostile(), 9).split("\n"):
        unescaped = line.replace("\\\\", "").replace('\\"', "")
        assert unescaped.count('"') % 2 == 0, line


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_reads_dot() -> None:
    for text in (dot(hostile(), 9), dot(shown(tagged()), 2)):
        done = subprocess.run(["dot", "-Tplain"], input=text.encode(), capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()


def test_netron_knows_every_named_node() -> None:
    found = shown(tagged())
    add_metrics(found, '{"metrics": {"time": {"enc.1": 2}}, "node_metrics": {"time": {"node d": 1}}}', "f.json")
    attachment = json.loads(netron(found))
    assert attachment["signature"] == "netron:attachment"
    names = {node.name for node in found.nodes}
    assert {entry["target"] for entry in attachment["metadata"]} == names
    assert {entry["kind"] for entry in attachment["metadata"] + attachment["metrics"]} == {"node"}
    scopes = {entry["target"]: entry["value"] for entry in attachment["metadata"] if entry["name"] == "scope"}
    assert scopes["node a"] == "enc.0.lin"
    times = [e for e in attachment["metrics"] if e["target"] == "node d" and e["name"].startswith("time")]
    assert {entry["name"]: entry["value"] for entry in times} == {"time": 1, "time of the module": 2}


def test_model_explorer_graph() -> None:
    found = shown(tagged())
    (graph,) = model_explorer.graph(found, "g")["graphs"]
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert len(nodes) == len(graph["nodes"]) == len(found.nodes) + 4
    assert nodes["node a"]["namespace"] == "enc.0: E/lin: L"
    assert nodes["node y"]["namespace"] == ""
    edges: list[dict[str, Any]] = [edge for node in graph["nodes"] for edge in node["incomingEdges"]]
    assert {edge["sourceNodeId"] for edge in edges} <= nodes.keys()
    assert {edge["sourceNodeId"] for edge in nodes["node y"]["incomingEdges"]} == {"node d", "[value] x"}
    assert nodes["[value] y"]["incomingEdges"][0]["sourceNodeId"] == "node y"


def test_model_explorer_overlay_gives_a_node_its_own_number_else_its_innermost_modules() -> None:
    found = shown(tagged())
    add_metrics(found, '{"error": {".": 9, "enc.0": 1, "enc.0.lin": 2}}', "f.json")
    (data,) = model_explorer.overlay(found, "g", found.metrics["error"]).values()
    assert {key: value["value"] for key, value in data["results"].items()} == {"node k": 1, "node a": 2, "node h": 1}
    own = model_explorer.overlay(found, "g", found.metrics["parameters"])["g"]["results"]
    assert {key: value["value"] for key, value in own.items()} == {"node a": 2, "node r": 2, "node s": 2}


def test_sync_navigation_pairs_equal_names_and_else_scopes() -> None:
    left, right = tagged(), tagged()
    right.graph.node[3].name = "fused"
    keys.replace_props(right.graph.node[3], frozenset({keys.MERGED}), {keys.MERGED: json.dumps(["enc.1", "enc.0.lin"])})
    right.graph.node[1].name = "renamed"
    entries = model_explorer.sync_navigation(shown(left), shown(right))["mappingEntries"]
    mapping = {name: entry["rightNodeIds"] for entry in entries for name in entry["leftNodeIds"]}
    assert mapping["node y"] == ["node y"]
    assert mapping["node b"] == ["fused"]
    assert mapping["node a"] == ["renamed", "fused"]


def test_files_of_model_explorer(built: Build, mx: Mx, tmp_path: Path) -> None:
    source = built("bert") / "tagged.onnx"
    (tmp_path / "m.json").write_text('{"error": {"encoder.layer.0": 0.5}}')
    arguments = ("view", source, "-f", "model-explorer", "--metric", tmp_path / "m.json", "--against", source)
    done = mx(*arguments, "-o", tmp_path / "out.onnx", "--json")
    assert done.returncode == 0, done.stderr.decode()
    files = json.loads(done.stdout)["files"]
    beside = [f"out.{name}.json" for name in ("parameters", "multiply-adds", "error", "sync")]
    assert [Path(file).name for file in files] == ["out.onnx", *beside]
    before, after = onnx.load(source), onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(after)
    assert [n.op_type for n in after.graph.node] == [n.op_type for n in before.graph.node]
    names = {node.name for node in after.graph.node}
    results = json.loads((tmp_path / "out.error.json").read_text())[after.graph.name]["results"]
    assert results
    assert results.keys() <= names
    query = next(n for n in after.graph.node if keys.props(n)[keys.SCOPE] == "encoder.layer.0.attention.self.query")
    path = keys.props(query)["namespace"]
    assert path.startswith("encoder: BertEncoder/layer.0: BertLayer/attention: BertAttention/")
    assert {keys.props(n)[keys.SCOPE] for n in after.graph.node} == {
        keys.props(n)[keys.SCOPE] for n in before.graph.node
    }


def test_the_onnx_adapter_of_model_explorer_knows_the_nodes_of_the_overlays(
    built: Build, mx: Mx, tmp_path: Path
) -> None:
    adapter = pytest.importorskip("model_explorer_onnx.main", reason="model-explorer-onnx is not installed")
    from model_explorer import node_data_builder

    mx("view", built("bert") / "tagged.onnx", "-f", "model-explorer", "-o", tmp_path / "out.onnx")
    (graph,) = adapter.ONNXAdapter().convert(str(tmp_path / "out.onnx"), {})["graphs"]
    ((name, data),) = json.loads((tmp_path / "out.parameters.json").read_text()).items()
    assert name == graph.id
    assert data["results"].keys() <= {node.id for node in graph.nodes}
    results = {key: node_data_builder.NodeDataResult(**value) for key, value in data["results"].items()}
    assert node_data_builder.GraphNodeData(results=results).to_json_string()
    assert f"{graph.id}/encoder: BertEncoder/layer.0: BertLayer" in {
        "/".join(node.namespace.split("/")[:3]) for node in graph.nodes
    }


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("-f", "pdf"), 2, "is none of html"),
        (("--depth", "2"), 2, "--depth is for mermaid and dot"),
        (("--against", "x.onnx"), 2, "--against is for synchronised navigation"),
        (("-f", "model-explorer", "--against", "x.onnx"), 2, "give -o FILE"),
        (("--metric", "none.json"), 3, "cannot be read"),
        (("-o", "none/x.html"), 3, "does not exist"),
        (("--json",), 2, "--json"),
    ],
)
def test_wrong_usage(
    built: Build, mx: Mx, tmp_path: Path, arguments: tuple[str, ...], status: int, message: str
) -> None:
    done = mx("view", built("bert") / "tagged.onnx", *arguments, cwd=tmp_path)
    assert done.returncode == status
    assert message in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert done.stdout == b""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format_", ["html", "model-explorer", "netron", "graphml", "mermaid", "dot"])
def test_every_format_is_the_same_on_a_pipe_and_each_time(built: Build, mx: Mx, tmp_path: Path, format_: str) -> None:
    source = built("repeated") / "tagged.onnx"
    piped = mx("view", source, "-f", format_)
    assert piped.returncode == 0, piped.stderr.decode()
    mx("view", source, "-f", format_, "-o", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == piped.stdout


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
