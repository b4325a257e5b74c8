"""Joining: the parts of a split are the whole again, to the bit; models end to end and side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper, parser

from mxtools.errors import AbsentError, InputError, UsageError
from mxtools.graph.functions import model_nodes
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.scopes.selection import Selection
from mxtools.split.connections import join_models, join_parts
from mxtools.split.manifest import write
from mxtools.split.parts import split
from tests.support import random_models, running
from tests.support.commands import Mx
from tests.support.shared_models import Build
from tests.support.small_graphs import HEAD, tagged


def bits(outputs: dict[str, Any]) -> dict[str, bytes]:
    return {name: np.asarray(value).tobytes() for name, value in outputs.items()}


def scopes(model: ModelProto) -> list[tuple[str, str | None, str | None]]:
    props = [(node, keys.props(node)) for node in model_nodes(model)]
    return sorted((str(node.output[:]), found.get(keys.SCOPE), found.get(keys.TAG)) for node, found in props)


@pytest.mark.model
@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize(("name", "depth"), [("bert", 2), ("llama", 1), ("resnet", 3), ("repeated", 1)])
def test_the_parts_of_real_models(built: Build, mx: Mx, tmp_path: Path, name: str, exporter: str, depth: int) -> None:
    source = built(name, exporter) / "tagged.onnx"
    assert mx("split", source, "--depth", str(depth), "-d", tmp_path / "parts").returncode == 0
    done = mx("join", tmp_path / "parts", "-o", tmp_path / "whole.onnx")
    assert done.returncode == 0, done.stderr.decode()
    whole, model = onnx.load(tmp_path / "whole.onnx"), onnx.load(source)
    onnx.checker.check_model(whole, full_check=True)
    feeds = WorkingModel.read(source).inputs()
    assert bits(running.outputs(whole, feeds)) == bits(running.outputs(model, feeds))
    assert [info.name for info in whole.graph.input] == [info.name for info in model.graph.input]
    assert scopes(whole) == scopes(model), "each node once, with its tag"
    assert {t.name for t in whole.graph.initializer} == {t.name for t in model.graph.initializer}
    assert whole.metadata_props == model.metadata_props


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(random_models.models(("a", "b", "c")), st.booleans())
def test_the_parts_of_random_graphs(tmp_path_factory: pytest.TempPathFactory, model: ModelProto, first: bool) -> None:
    folder = tmp_path_factory.mktemp("parts")
    whole = WorkingModel(ModelProto.FromString(model.SerializeToString()))
    try:
        parts = split(whole, [Selection(("a",))] if first else [], None if first else 1)
        write(whole, parts, folder, verify=False)
    except (AbsentError, UsageError):
        return
    joined, _ = join_parts(folder)
    random_models.check(joined.proto)
    for condition in (True, False):
        feeds = random_models.feeds(condition)
        assert bits(running.outputs(joined.proto, feeds)) == bits(running.outputs(model, feeds))


def test_a_part_that_a_tool_changed_gets_names_of_its_own(tmp_path: Path) -> None:
    text = """ g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
        a = Add(x, w)
        y = Mul(a, w)
    }"""
    model = WorkingModel(tagged(HEAD + text, {"a": "one", "y": "two"}))
    write(model, split(model, [], 1), tmp_path / "p", verify=False)
    last = sorted((tmp_path / "p").glob("*.onnx"))[-1]
    part = onnx.load(last)
    part.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array([5, 6], "f"), "w"))
    onnx.save(part, last)
    joined, _ = join_parts(tmp_path / "p")
    assert {t.name for t in joined.proto.graph.initializer} == {"w", "w_1"}
    assert running.outputs(joined.proto, {"x": np.ones(2, "f")})["y"].tolist() == [10, 18]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["parts"].clear(), "names no parts"),
        (lambda m: m["parts"].reverse(), "names no part '00-one.onnx' before '01-two.onnx'"),
        (lambda m: m["parts"][0]["outputs"].append("z"), "00-one.onnx has no output 'z': keep the outputs of parts"),
        (lambda m: m["outputs"][0].update(name="z"), "no part of .* has the output 'z'"),
        (lambda m: m.update(schema="other"), "is not a manifest of this version"),
        (lambda m: m["parts"][0].update(file="../00-one.onnx"), "is not a manifest of this version"),
    ],
)
def test_a_wrong_manifest(tmp_path: Path, change: Any, said: str) -> None:
    text = " g (float[2] x) => (float[2] y) { a = Abs(x) y = Neg(a) }"
    model = WorkingModel(tagged(HEAD + text, {"a": "one", "y": "two"}))
    write(model, split(model, [], 1), tmp_path / "p", verify=False)
    file = tmp_path / "p" / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=said):
        join_parts(tmp_path / "p")


ENCODER = """ enc (float[batch, 2] x) => (float[batch, 2] h, float[batch, 2] k) <float[2] w = {1, 2}> {
    t = Mul(x, w)
    h = Relu(t)
    k = Neg(t)
}"""
DECODER = """ dec (float[n, 2] x, float[m, 2] states, bool c) => (float[n, 2] h) <float[2] w = {3, 4}> {
    t = Mul(x, w)
    u = Add(t, states)
    h = If(c) <then_branch = a () => (float[n, 2] p) { p = Abs(u) },
               else_branch = b () => (float[n, 2] q) { q = Neg(u) }>
}"""


def models(*aliases: str, head: str = HEAD) -> list[tuple[str, WorkingModel]]:
    one = tagged(HEAD + ENCODER, {"t": "block.0", "h": "act"})
    two = tagged(head + DECODER, {"t": "block.0"})
    for model, name in ((one, "Enc"), (two, "Dec")):
        for node in model.graph.node:
            scope = keys.props(node)[keys.SCOPE]
            keys.set_prop(node, keys.TAG, f"/{name}" if scope == "." else f"/{name}/Block.{scope.rpartition('.')[2]}")
    return [(alias, WorkingModel(model)) for alias, model in zip(aliases, (one, two), strict=True)]


FEEDS = {"x": np.array([[1, -2]], "f"), "z": np.array([[-3, 1]], "f"), "c": np.array(False)}


def test_end_to_end() -> None:
    joined, report = join_models(models("", ""), {"states": "k"})
    onnx.checker.check_model(joined.proto, full_check=True)
    assert (report.inputs, report.outputs) == (["x", "x_1", "c"], ["h", "h_1"])
    found = running.outputs(joined.proto, {"x": FEEDS["x"], "x_1": FEEDS["z"], "c": FEEDS["c"]})
    assert found["h"].tolist() == [[1, 0]]
    assert found["h_1"].tolist() == [[9 + 1, -(4 + 4)]]
    dims = [dim.dim_param for info in joined.proto.graph.input for dim in info.type.tensor_type.shape.dim]
    assert dims == ["batch", "", "n", ""]


def test_side_by_side_under_names() -> None:
    joined, report = join_models(models("e", "d"), {"d.states": "e.h", "d.x": "e.x"}, keep=True)
    onnx.checker.check_model(joined.proto, full_check=True)
    assert (report.inputs, report.outputs) == (["e.x", "d.c"], ["e.h", "e.k", "d.h"])
    found = running.outputs(joined.proto, {"e.x": FEEDS["x"], "d.c": FEEDS["c"]})
    assert found["d.h"].tolist() == [[-(3 + 1), 8]]
    tags = {keys.props(node).get(keys.SCOPE): keys.props(node).get(keys.TAG) for node in joined.proto.graph.node}
    assert tags["e.block.0"] == "/Model/Enc.e/Block.0"
    assert tags["d.block.0"] == "/Model/Dec.d/Block.0"
    assert tags["d"] == "/Model/Dec.d"
    assert len({name for node in joined.proto.graph.node for name in node.output}) == len(joined.proto.graph.node)


def test_equal_weights_are_stored_once() -> None:
    text = " g (float[300] x) => (float[300] y) <float[300] w> { y = Mul(x, w) }"
    both = []
    for alias, other in (("a", "w"), ("b", "v")):
        model = parser.parse_model(HEAD + text.replace("<float[300] w>", "").replace("w)", f"{other})"))
        model.graph.initializer.append(numpy_helper.from_array(np.arange(300, dtype="f"), other))
        both.append((alias, WorkingModel(model)))
    joined, report = join_models(both, {"b.x": "a.y"})
    assert report.shared == 1
    assert [t.name for t in joined.proto.graph.initializer] == ["w"]
    assert running.outputs(joined.proto, {"a.x": np.ones(300, "f")})["b.y"][3] == 9


def test_other_operator_versions_are_converted() -> None:
    head = '<ir_version: 8, opset_import: ["" : 12]>'
    old = parser.parse_model(head + " g (float[2, 1] x) => (float[2] y) { y = Squeeze <axes = [1]> (x) }")
    new = parser.parse_model(HEAD + " g (float[2] z) => (float[2] u) { u = Neg(z) }")
    joined, _ = join_models([("", WorkingModel(old)), ("", WorkingModel(new))], {"z": "y"})
    onnx.checker.check_model(joined.proto, full_check=True)
    assert {entry.domain: entry.version for entry in joined.proto.opset_import} == {"": 21}
    assert running.outputs(joined.proto, {"x": np.ones((2, 1), "f")})["u"].tolist() == [-1, -1]


def test_functions_of_one_name_that_differ_are_kept_apart() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "own" : 1]> g (float[2] x) => (float[2] y) { y = own.f(x) }
    <domain: "own", opset_import: ["" : 21]> f (p) => (q) { q = Neg(p) }"""
    both = [
        ("a", WorkingModel(parser.parse_model(text))),
        ("b", WorkingModel(parser.parse_model(text.replace("Neg", "Abs")))),
    ]
    joined, _ = join_models(both, {"b.x": "a.y"})
    assert [f.name for f in joined.proto.functions] == ["f", "f_1"]
    assert running.outputs(joined.proto, {"a.x": np.ones(2, "f")})["b.y"].tolist() == [1, 1]


def test_an_output_that_is_an_input() -> None:
    text = " g (float[2] x) => (float[2] x, float[2] y) { y = Neg(x) }"
    both = [("a", WorkingModel(parser.parse_model(HEAD + text))), ("b", WorkingModel(parser.parse_model(HEAD + text)))]
    joined, _ = join_models(both, {"b.x": "a.x"})
    onnx.checker.check_model(joined.proto, full_check=True)
    found = running.outputs(joined.proto, {"a.x": np.ones(2, "f")})
    assert sorted(value.tolist() for value in found.values()) == [[-1, -1], [-1, -1], [1, 1]]


@pytest.mark.parametrize(
    ("aliases", "connections", "error", "said"),
    [
        (("", ""), {"states": "nothing"}, UsageError, "no model has an output or input 'nothing': there are"),
        (("", ""), {"x": "k"}, UsageError, "several models have 'x': say of which model it is"),
        (("e", "d"), {"d.states": "e.kk"}, UsageError, r"no model has an output or input 'e.kk': did you mean e\.k"),
        (("e", "d"), {"d.c": "e.k"}, InputError, r"'d.c' takes bool\[\], and 'e.k' is float\[batch,2\]"),
        (("e", "d"), {"d.states": "e.h", "e.x": "d.h"}, UsageError, "models are connected in a circle"),
        (("e", "d"), {"d.states": "e.h", "states": "e.x"}, UsageError, "one input is given two values"),
    ],
)
def test_what_does_not_fit(
    aliases: tuple[str, str], connections: dict[str, str], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        join_models(models(*aliases), connections)


def test_commands(mx: Mx, tmp_path: Path) -> None:
    for (_, model), name in zip(models("", ""), ("e", "d"), strict=True):
        onnx.save(
            model.proto,
            tmp_path / f"{name}.onnx",
            save_as_external_data=True,
            location=f"{name}.data",
            size_threshold=0,
        )
    line = ["join", "--as", "e=e.onnx", "--as", "d=d.onnx", "--map", "e.h=d.states", "-o", "j.onnx", "--json"]
    done = mx(*line, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["inputs"] == ["e.x", "d.x", "d.c"]
    assert mx("tree", "j.onnx", cwd=tmp_path).returncode == 0
    assert mx("join", "e.onnx", "-o", "k.onnx", cwd=tmp_path).returncode == 2
    assert mx("join", "e.onnx", "d.onnx", "-o", "e.onnx", cwd=tmp_path).returncode == 3, "an input is not written to"
    assert mx("join", "e.onnx", "d.onnx", "--map", "h", "-o", "k.onnx", cwd=tmp_path).returncode == 2
    assert mx("join", ".", "-o", "k.onnx", cwd=tmp_path).returncode == 3
    assert not (tmp_path / "k.onnx").exists()
