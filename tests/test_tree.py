"""`mx tree`: what it counts equals a count by other means, and the forms in which it shows that."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from mxtools.files.weights import bytes_of
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.scopes.scope import contains
from mxtools.views.tree import Branch, Key, folded, sorted_by, tree
from tests.support.commands import Mx
from tests.support.shared_models import Build

BLOCKS = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[2, 4] x, float[n, 4] z) => (float[2, 4] y, float[n, 4] u)
<float[4, 4] v = {1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6}, float16[4] h = {1, 2, 3, 4}> {
    a = MatMul(x, v)
    b = Relu(a)
    c = MatMul(b, v)
    d = Relu(c)
    e = MatMul(d, v)
    k = Cast<to = 1>(h)
    y = Add(e, k)
    u = MatMul(z, v)
}
"""
SCOPES = {
    "a": ("seq.0.lin", "/M/B.0/L"),
    "b": ("seq.0", "/M/B.0"),
    "c": ("seq.1.lin", "/M/B.1/L"),
    "d": ("seq.1", "/M/B.1"),
    "e": ("seq.3.lin", "/M/B.3/L"),
    "k": ("seq.3", "/M/B.3"),
    "y": ("seq.3", "/M/B.3"),
    "u": ("far", "/M/L"),
}


def blocks(scopes: dict[str, tuple[str, str]] = SCOPES) -> onnx.ModelProto:
    """Return a model of blocks of which two are equal."""
    model = parser.parse_model(BLOCKS)
    for node in model.graph.node:
        scope, tag = scopes[node.output[0]]
        keys.replace_props(node, keys.NODE_KEYS, {keys.SCOPE: scope, keys.TAG: tag, keys.EVIDENCE: "name"})
    return model


def built_tree(scopes: dict[str, tuple[str, str]] = SCOPES) -> Branch:
    model = WorkingModel(blocks(scopes))
    return tree(model.annotations, model.costs())


def rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the calls of a report as a list."""
    return [report, *(row for child in report["children"] for row in rows(child))]


def test_counts() -> None:
    root = built_tree()
    assert (root.nodes, root.parameters, root.bytes, root.multiply_adds, root.uncounted) == (8, 20, 72, 96, 1)
    first, second, third, far = root.children
    assert [child.scope for child in root.children] == ["seq.0", "seq.1", "seq.3", "far"]
    assert (first.nodes, first.parameters, first.bytes, first.multiply_adds) == (2, 16, 64, 32)
    assert first.to_dict() | {"scope": 0, "tag": 0, "children": 0} == second.to_dict() | {
        "scope": 0,
        "tag": 0,
        "children": 0,
    }
    assert (third.parameters, third.bytes, third.operators["Cast"]) == (20, 72, 1)
    assert (far.multiply_adds, far.uncounted) == (0, 1)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_numbers_of_a_real_model(built: Build, mx: Mx, exporter: str) -> None:
    file = built("bert", exporter) / "tagged.onnx"
    model = onnx.load(file)
    sizes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    constants = (node for node in model.graph.node if node.op_type == "Constant")
    sizes |= {node.output[0]: numpy_helper.to_array(node.attribute[0].t) for node in constants}
    report = json.loads(mx("tree", file, "--json").stdout)
    assert len(rows(report)) > 30
    for row in rows(report):
        nodes = [n for n in model.graph.node if contains(row["scope"], keys.props(n)[keys.SCOPE])]
        used = {name for node in nodes for name in node.input if name in sizes}
        assert row["nodes"] == len(nodes) == sum(row["operators"].values()) == sum(row["evidence"].values())
        floats = (sizes[name] for name in used if sizes[name].dtype == np.float32)
        assert row["parameters"] == sum(array.size for array in floats if array.size > 1)
        assert row["bytes"] == sum(sizes[name].nbytes for name in used)
    by_scope = {row["scope"]: row["multiply_adds"] for row in rows(report)}
    assert by_scope["encoder.layer.0.output.dense"] == 12 * 64 * 32
    assert by_scope["encoder.layer.0.attention.self"] == 3 * 12 * 32 * 32 + 2 * 12 * 12 * 32
    assert report["uncounted"] == 0


def test_equal_blocks_are_folded() -> None:
    root = folded(built_tree())
    assert [(child.scope, child.equal) for child in root.children] == [
        ("seq.0", ("seq.1",)),
        ("seq.3", ()),
        ("far", ()),
    ]


def test_blocks_that_differ_below_or_have_names_are_not_folded() -> None:
    other = SCOPES | {"c": ("seq.1.out", "/M/B.1/L")}
    assert [child.equal for child in folded(built_tree(other)).children] == [(), (), (), ()]
    names = {"0": "one", "1": "two"}
    named = {
        k: (s.replace(f"seq.{n}", w), t.replace(f"B.{n}", f"B.{w}"))
        for k, (s, t) in SCOPES.items()
        for n, w in names.items()
        if f"B.{n}" in t
    }
    named = SCOPES | named
    assert [child.equal for child in folded(built_tree(named)).children] == [(), (), (), ()]


def test_sorting() -> None:
    root = built_tree()
    for key in Key:
        values = [getattr(child, key.replace("-", "_")) for child in sorted_by(root, key).children]
        assert values == sorted(values, reverse=True)
    assert [child.scope for child in sorted_by(root, Key.NODES).children] == ["seq.3", "seq.0", "seq.1", "far"]
    assert [child.scope for child in root.children] == ["seq.0", "seq.1", "seq.3", "far"]


def shown(mx: Mx, *arguments: object, stdin: bytes) -> list[str]:
    done = mx("tree", *arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().splitlines()


def test_the_table(mx: Mx) -> None:
    stdin = blocks().SerializeToString()
    head, root, *lines = shown(mx, stdin=stdin)
    assert " ".join(head.split()) == "module class nodes parameters bytes multiply-adds activations evidence operators"
    assert root.split()[:12] == [".", "M", "8", "20", "72", "B", "≥", "96", "≥", "112", "B", "name"]
    assert [line.split()[:7] for line in lines] == [
        ["├─", "seq.0", "…", "1", "2", "×", "B"],  # noqa: RUF001 - as it is shown
        ["│", "└─", "lin", "L", "1", "16", "64"],
        ["├─", "seq.3", "B", "3", "20", "72", "B"],
        ["│", "└─", "lin", "L", "1", "16", "64"],
        ["└─", "far", "L", "1", "16", "64", "B"],
    ]
    assert "?" in lines[-1].split()
    assert len(shown(mx, "--no-fold", "--depth", "1", stdin=stdin)) == 6
    markdown = shown(mx, "--markdown", "--depth", "1", stdin=stdin)
    assert markdown[1] == "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
    assert markdown[3].startswith("| ├─ seq.0 … 1 | 2 × B | 2 | 16 | 64 B | 32 | 64 B | name 100% |")  # noqa: RUF001


def test_folded_blocks_that_do_not_follow_are_listed(mx: Mx) -> None:
    scopes = {k: (s.replace("seq.1", "seq.7"), t.replace("B.1", "B.7")) for k, (s, t) in SCOPES.items()}
    lines = shown(mx, "--depth", "1", stdin=blocks(scopes).SerializeToString())
    assert lines[2].startswith("├─ seq.0, 7  2 × B")  # noqa: RUF001


def test_csv_is_the_json(mx: Mx) -> None:
    stdin = blocks().SerializeToString()
    table = list(csv.DictReader(io.StringIO("\n".join(shown(mx, "--csv", "--sort", "bytes", stdin=stdin)))))
    report = rows(json.loads("\n".join(shown(mx, "--json", "--sort", "bytes", stdin=stdin))))
    assert [row["scope"] for row in table] == [row["scope"] for row in report]
    for line, row in zip(table, report, strict=True):
        assert all(line[key] == str(value) for key, value in row.items() if isinstance(value, str | int))
        assert line["operators"] == " ".join(f"{name}:{count}" for name, count in row["operators"].items())
    assert table[1]["scope"] == "seq.3"


@pytest.mark.parametrize(
    ("selectors", "nodes"),
    [
        (["--scope", "seq.0"], 2),
        (["--scope", "seq.*", "--exclude", "seq.3"], 4),
        (["--class", "L", "--op", "MatMul"], 4),
        (["--tag", "/M/B.1", "--scope", "far"], 3),
        (["--exclude", "seq.3.lin"], 7),
    ],
)
def test_selectors(mx: Mx, selectors: list[str], nodes: int) -> None:
    report = json.loads("\n".join(shown(mx, "--json", *selectors, stdin=blocks().SerializeToString())))
    assert report["nodes"] == nodes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scope", "seq.9"], "no node has a scope that matches"),
        (["--scope", "seq.0", "--op", "Conv"], "no selected node is a Conv"),
        (["--csv", "--json"], "give one"),
        (["--sort", "name"], "--sort"),
    ],
)
def test_what_matches_nothing_is_an_error(mx: Mx, arguments: list[str], said: str) -> None:
    done = mx("tree", *arguments, stdin=blocks().SerializeToString())
    assert done.returncode == 2
    assert said in done.stderr.decode()


@pytest.mark.parametrize("type_", ["FLOAT", "FLOAT16", "BFLOAT16", "INT8", "BOOL", "INT4", "UINT4", "DOUBLE"])
def test_bytes_of_types(type_: str) -> None:
    number = TensorProto.DataType.Value(type_)
    tensor = helper.make_tensor("w", number, [3, 5], np.ones(15, np.int8).tolist())
    bits = {"FLOAT": 32, "FLOAT16": 16, "BFLOAT16": 16, "INT8": 8, "BOOL": 8, "INT4": 4, "UINT4": 4, "DOUBLE": 64}
    assert bytes_of(tensor) == (15 * bits[type_] + 7) // 8


def test_bytes_of_strings() -> None:
    assert bytes_of(helper.make_tensor("w", TensorProto.STRING, [2], [b"ab", b"c"])) == 3
