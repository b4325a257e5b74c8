"""What `mx view` writes: pages and files for other viewers, read back by what reads them where that installs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import networkx
import onnx
import pytest

from mxtools.scopes import keys
from mxtools.views import model_explorer
from mxtools.views.dot import dot
from mxtools.views.graphml import graphml
from mxtools.views.html import html
from mxtools.views.mermaid import mermaid
from mxtools.views.metric_files import add_metrics
from mxtools.views.netron import netron
from mxtools.views.structure import OUTSIDE
from tests.support.commands import Mx
from tests.support.shared_models import Build
from tests.support.shown_models import HOSTILE, hostile, shown, tagged

NAMESPACE = "{http://graphml.graphdrawing.org/xmlns}"


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
    assert data["models"][0]["title"] == HOSTILE
    assert HOSTILE in {name for name, *_ in data["models"][0]["nodes"]}
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
    nodes = ("node a", "node b", "node r", "node s")
    assert {key: value["value"] for key, value in own.items()} == dict.fromkeys(nodes, 2)


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
        (("-f", "pdf"), 2, "there is no format 'pdf': there are html"),
        (("--depth", "2"), 2, "--depth is for mermaid and dot"),
        (("-f", "netron", "--against", "x.onnx"), 2, "--against is for html and model-explorer"),
        (("-f", "netron", "--open"), 2, "--open is for the page"),
        (("-f", "dot", "--statistics"), 2, "--statistics is for the page"),
        (("--against", "none.onnx"), 3, "none.onnx"),
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
