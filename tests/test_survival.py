"""Carriers of tags: written and read back, also by real tools, and never misread."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

from mxtools.carriers.doc_strings import read_doc_string, without_tag
from mxtools.carriers.names import scope_in
from mxtools.carriers.packed import carriers_of, embedded_trace, scopes_of
from mxtools.errors import InputError
from mxtools.files.writing import materialise, write_model
from mxtools.graph.functions import model_nodes
from mxtools.passes.carry import Carry
from mxtools.pipeline.pipeline import Pipeline
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.strategies.table import shipped
from mxtools.traces.sidecar import loads
from tests.support import golden_text as golden
from tests.support.commands import Mx
from tests.support.shared_models import Build

TAG = shipped().strategies["auto"]
ALL = Carry(doc_string=True, rename=True, output_names=True, embed_trace=True, namespace=True, layer_annotation=True)
OPTIONS = ("--doc-string", "--rename", "--output-names", "--embed-trace", "--namespace", "--layer-annotation")


def tagged(file: Path, carry: Carry | None = None, trace: Path | None = None) -> onnx.ModelProto:
    """Tag a file; return the model, with its weights."""
    loaded = WorkingModel.read(file, sidecar=loads(trace.read_bytes(), "trace") if trace else None)
    TAG.passes(carry=carry).apply(loaded)
    return materialise(loaded.proto, loaded.weights)


def all_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return list(model_nodes(model))


def scopes(model: onnx.ModelProto, key: str = keys.SCOPE) -> list[str]:
    return [keys.props(node).get(key, "") for node in all_nodes(model)]


def without_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    for node in all_nodes(model):
        del node.metadata_props[:]
    return model


def outputs(model: onnx.ModelProto) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    kinds = {"tensor(int64)": np.int64, "tensor(float)": np.float32, "tensor(bool)": np.bool_}
    return session.run(None, {i.name: np.ones(i.shape, kinds[i.type]) for i in session.get_inputs()})


@pytest.mark.parametrize("name", ["bert", "convnet"])
def test_tags_and_results_stay_what_they_are(built: Build, name: str) -> None:
    folder = built(name)
    plain = tagged(folder / "raw.onnx", None, folder / "trace.json")
    model = tagged(folder / "raw.onnx", ALL, folder / "trace.json")
    onnx.checker.check_model(model)
    for key in keys.TAG_KEYS:
        assert scopes(model, key) == scopes(plain, key)
    for field in ("input", "output", "initializer"):
        assert list(getattr(model.graph, field)) == list(getattr(plain.graph, field))
    names = [node.name for node in all_nodes(model)]
    assert len(set(names)) == len(names)
    assert all(scope_in(node.name, set(scopes(plain))) == keys.props(node)[keys.SCOPE] for node in all_nodes(model))
    for found, expected in zip(outputs(model), outputs(plain), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_tagging_again_changes_nothing_more(built: Build, tmp_path: Path) -> None:
    folder = built("bert")
    onnx.save(tagged(folder / "raw.onnx", ALL, folder / "trace.json"), tmp_path / "a.onnx")
    again = tagged(tmp_path / "a.onnx")
    assert set(scopes(again, keys.EVIDENCE)) == {"previous", "dataflow"}
    assert scopes(again) == scopes(onnx.load(tmp_path / "a.onnx"))
    onnx.save(again, tmp_path / "b.onnx")
    assert tagged(tmp_path / "b.onnx").SerializeToString() == again.SerializeToString()


CARRIERS = {
    "doc strings": (Carry(doc_string=True), 0),
    "node names": (Carry(rename=True), 0),
    "output names": (Carry(output_names=True), 1),
}


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize(("carry", "lost"), CARRIERS.values(), ids=CARRIERS.keys())
def test_what_survived_is_read_back(built: Build, tmp_path: Path, carry: Carry, lost: int, exporter: str) -> None:
    """Take away all metadata of nodes, and their names where these are not the carrier; one node makes the output."""
    folder = built("convnet", exporter)
    model = tagged(folder / "raw.onnx", carry, folder / "trace.json")
    before = scopes(model), scopes(model, keys.TAG)
    without_metadata(model)
    if not carry.rename:
        for number, node in enumerate(all_nodes(model)):
            node.name = f"n{number}"
    onnx.save(model, tmp_path / "a.onnx")
    loaded = WorkingModel.read(tmp_path / "a.onnx")
    Pipeline.parse("project-carried").apply(loaded)
    after = scopes(loaded.proto), scopes(loaded.proto, keys.TAG)
    for was, now in zip(before, after, strict=True):
        assert all(b in ("", a) for a, b in zip(was, now, strict=True))
        assert now.count("") == lost
    assert set(scopes(loaded.proto, keys.EVIDENCE)) <= {"previous", "dataflow", ""}


NESTED = """<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
    g (float[2] x, bool c) => (float[2] y) {
        a = own.f(x)
        b = If (c) <
            then_branch = t () => (float[2] p) { s = Neg(a) p = Abs(s) },
            else_branch = e () => (float[2] q) { s = Exp(a) q = Neg(s) }
        >
        y = Neg(b)
    }
    <domain: "own", opset_import: ["" : 21]> f (i) => (o) { h = Exp(i) o = Neg(h) }"""


def nested() -> onnx.ModelProto:
    """Return a model whose nodes all lie in `m`; those of its function and bodies too."""
    model = parser.parse_model(NESTED)
    for node in all_nodes(model):
        keys.replace_props(node, keys.NODE_KEYS, {keys.SCOPE: "m", keys.TAG: "/N/M", keys.EVIDENCE: "name"})
    return model


def test_nested_bodies_and_functions() -> None:
    model, expected = nested(), outputs(nested())
    Pipeline((Carry(doc_string=True, rename=True, output_names=True),)).apply(WorkingModel(model))
    onnx.checker.check_model(model)
    np.testing.assert_array_equal(outputs(model), expected)
    names = [node.name for node in all_nodes(model)]
    assert sorted(names) == sorted(
        ["/m/f", "/m/If", "/m/Exp", "/m/Exp_1", "/m/Abs", "/m/Neg", "/m/Neg_1", "/m/Neg_2", "/m/Neg_3"]
    )
    assert {len(read_doc_string(node.doc_string)) for node in all_nodes(model)} == {4}
    made = {name for node in all_nodes(model) for name in node.output}
    assert made - {name for name in made if name.startswith("/m/")} == {"y", "s", "o"}
    assert model.functions[0].node[0].output[0] == model.functions[0].node[1].input[0] != "h"


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("", None),
        ("File model.py, line 3", None),
        ("pkg.mxtools of another kind", None),
        ('pkg.mxtools {"scope": "a", "tag"', None),
        ("pkg.mxtools []", None),
        ('pkg.mxtools {"scope": 3}', None),
        ('pkg.mxtools {"tag": "/A"}', None),
        ('see pkg.mxtools {"scope": "a"}', None),
        ('said\npkg.mxtools {"scope": "a", "tag": "/A"}', "a"),
    ],
)
def test_doc_strings_that_are_not_ours_say_nothing(text: str, scope: str | None) -> None:
    assert read_doc_string(text).get(keys.SCOPE) == scope


def test_what_a_doc_string_said_stays() -> None:
    model = golden.read("g (float[2] x) => (float[2] y) {\n y = Neg(x)     #@ one\n}")
    model.graph.node[0].doc_string = "File model.py,\nline 3"
    for _ in range(2):
        Pipeline((Carry(doc_string=True),)).apply(WorkingModel(model))
        assert model.graph.node[0].doc_string.startswith("File model.py,\nline 3\npkg.mxtools {")
    Pipeline.parse("untag{carriers=true}").apply(WorkingModel(model))
    assert model.graph.node[0].doc_string == without_tag(model.graph.node[0].doc_string) == "File model.py,\nline 3"
    assert (list(model.metadata_props), list(model.graph.node[0].metadata_props)) == ([], [])


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("/MatMul", "."),
        ("/enc/layer.0/MatMul", "enc.layer.0"),
        ("/enc/layer.0/MatMul_output_0_quantized", "enc.layer.0"),
        ("/enc/layer.0/Add/LayerNormFusion/", "enc.layer.0"),
        ("/dec/MatMul", None),
        ("enc/layer.0/MatMul", None),
        ("MatMul_4", None),
        ("", None),
    ],
)
def test_names_are_read_as_far_as_scopes_are_known(name: str, scope: str | None) -> None:
    assert scope_in(name, {".", "enc", "enc.layer.0"}) == scope


def test_names_say_nothing_where_the_model_does_not_say_so(built: Build) -> None:
    loaded = WorkingModel.read(built("convnet") / "raw.onnx")
    Pipeline.parse("project-carried").apply(loaded)
    assert set(scopes(loaded.proto)) == {""}


@pytest.mark.parametrize("level", ["ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED"])
def test_onnx_runtime_keeps_doc_strings_and_names(built: Build, mx: Mx, tmp_path: Path, level: str) -> None:
    """What it made is tagged from the file alone as it is with the model before."""
    folder, file = built("bert"), tmp_path / "tagged.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(tmp_path / "fast.onnx")
    options.log_severity_level = 4
    carry = Carry(doc_string=True, output_names=True, embed_trace=True)
    onnx.save(tagged(folder / "raw.onnx", carry, folder / "trace.json"), file)
    onnxruntime.InferenceSession(file, options)
    fast = onnx.load(tmp_path / "fast.onnx")
    assert set(scopes(fast)) == {""}
    alone = tagged(tmp_path / "fast.onnx")
    done = mx("tag", tmp_path / "fast.onnx", "--from", file, "-o", tmp_path / "from.onnx")
    assert done.returncode == 0, done.stderr
    same = [a == b for a, b in zip(scopes(alone), scopes(onnx.load(tmp_path / "from.onnx")), strict=True)]
    assert sum(same) >= 0.9 * len(same)
    assert carriers_of(alone) == {"doc-string", "output-names", "embed-trace"}


def test_the_trace_in_the_model_is_as_good_as_the_file(built: Build, mx: Mx, tmp_path: Path) -> None:
    folder = built("bert")
    done = mx("tag", folder / "raw.onnx", "--trace", folder / "trace.json", "--embed-trace", "-o", tmp_path / "a.onnx")
    assert done.returncode == 0, done.stderr
    line = ("filter", "--scope", "encoder.layer.0", "--io", "module")
    alone = mx(*line, tmp_path / "a.onnx")
    given = mx(*line, folder / "tagged.onnx", "--trace", folder / "trace.json")
    assert (alone.returncode, given.returncode) == (0, 0), alone.stderr
    parts = [onnx.ModelProto.FromString(done.stdout).graph for done in (alone, given)]
    assert parts[0] == parts[1]


@pytest.mark.parametrize("carriers", [("--embed-trace",), OPTIONS], ids=["trace", "all"])
def test_tagging_again_gives_the_same_file(built: Build, mx: Mx, tmp_path: Path, carriers: tuple[str, ...]) -> None:
    folder = built("bert", "dynamo")
    done = mx("tag", folder / "raw.onnx", "--trace", folder / "trace.json", *carriers, "-o", tmp_path / "a.onnx")
    assert done.returncode == 0, done.stderr
    again = mx("tag", tmp_path / "a.onnx")
    assert (again.returncode, again.stdout) == (0, (tmp_path / "a.onnx").read_bytes())
    assert mx("validate", tmp_path / "a.onnx").stderr.count(b": 0 errors, 0 warnings, ") == 1


def test_a_part_that_is_tagged_again_stays_what_it_was(built: Build, tmp_path: Path) -> None:
    """The trace in it knows modules of which the part has nothing."""
    folder = built("bert")
    onnx.save(tagged(folder / "raw.onnx", ALL, folder / "trace.json"), tmp_path / "a.onnx")
    loaded = WorkingModel.read(tmp_path / "a.onnx")
    Pipeline.parse("filter{scope=encoder.layer.0}").apply(loaded)
    write_model(loaded.proto, loaded.weights, tmp_path / "b.onnx")
    before, after = scopes(onnx.load(tmp_path / "b.onnx")), scopes(tagged(tmp_path / "b.onnx"))
    assert after == before
    assert all(scope.startswith("encoder.layer.0") for scope in after)


def test_wrong_uses(built: Build, mx: Mx, tmp_path: Path) -> None:
    folder = built("convnet")
    done = mx("tag", folder / "raw.onnx", "--embed-trace")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"there is no trace to put into the model: give --trace" in done.stderr
    model = onnx.load(folder / "tagged.onnx")
    for damaged in ("x", "eJwDAAAAAAE="):
        keys.replace_props(model, keys.CARRIER_KEYS, {keys.TRACE: damaged, keys.SCOPES: damaged})
        with pytest.raises(InputError, match="the trace in the model's metadata cannot be read"):
            embedded_trace(model)
        with pytest.raises(InputError, match="the scopes in the model's metadata cannot be read"):
            scopes_of(model)


def spaces(nodes: Iterable[onnx.NodeProto], key: str) -> list[str]:
    return [keys.props(node)[key] for node in nodes]


def test_keys_of_others(built: Build, mx: Mx, tmp_path: Path) -> None:
    """Namespaces are those that `mx view` writes, and ONNX Runtime takes the annotations."""
    folder = built("bert")
    model = tagged(folder / "raw.onnx", ALL, folder / "trace.json")
    viewed = mx("view", folder / "tagged.onnx", "-f", "model-explorer", "-o", tmp_path / "view.onnx")
    assert viewed.returncode == 0, viewed.stderr
    expected = spaces(onnx.load(tmp_path / "view.onnx").graph.node, keys.NAMESPACE)
    assert spaces(model.graph.node, keys.NAMESPACE) == expected
    assert "encoder: BertEncoder/layer.0: BertLayer/output: BertOutput" in expected
    assert spaces(model.graph.node, keys.LAYER_ANNOTATION) == scopes(model)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.layer_assignment_settings", "cpu(=encoder.layer.0)")
    onnxruntime.InferenceSession(model.SerializeToString(), options)
