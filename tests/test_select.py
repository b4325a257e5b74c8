"""`mx select`: other tools leave just the selected modules alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
from onnx import ModelProto
from onnxruntime.quantization import quantize_dynamic, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16

from mxtools.errors import AbsentError, InputError, UsageError
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.scopes.scope import contains
from mxtools.scopes.selection import Selection
from mxtools.tools.node_lists import ASSIGNMENT, BY_NAME, FORMATS, LONGEST, Format, Selected, select
from tests.support import golden_text as golden
from tests.support.calibration import Calibration
from tests.support.commands import Mx
from tests.support.pages import blocks
from tests.support.paths import ENVIRONMENT
from tests.support.shared_models import Build

BUT = "encoder.layer.1"
CASES = [("trained", "torchscript", BUT, 6), ("deep", "dynamo", "layers.7", 1)]
"""Model, exporter, the module that is to stay as it is, and the products in it."""
QUANTISED = frozenset({"MatMulInteger", "DynamicQuantizeLinear", "QuantizeLinear", "DequantizeLinear"})


def selected(model: ModelProto, *operators: str, **selection: tuple[str, ...]) -> Selected:
    return select(WorkingModel(model), Selection(**selection), operators)


def chosen(mx: Mx, model: Path, format_: str, but: str = BUT) -> Any:
    done = mx("select", model, "--scope", but, "--format", format_)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def scopes(model: ModelProto) -> dict[str, str]:
    """Return the scope of each node by name."""
    return {node.name: keys.props(node).get(keys.SCOPE, "") for node in model.graph.node}


def products(model: ModelProto) -> set[str]:
    """Return the weights that are multiplied in floating point; what the quantiser makes of a Gemm has another one."""
    weights = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    read = (node.input[1] for node in model.graph.node if node.op_type in ("MatMul", "Gemm"))
    return {name.removesuffix("_Transposed") for name in read if name in weights}


@pytest.mark.parametrize(("name", "exporter", "but", "count"), CASES)
def test_dynamic_quantisation_of_all_but_one_module(
    built: Build, mx: Mx, tmp_path: Path, name: str, exporter: str, but: str, count: int
) -> None:
    """The module's nodes stay to the byte but for a Gemm; of the others all are quantised that ever are."""
    tagged = built(name, exporter) / "tagged.onnx"
    before = onnx.load(tagged)
    quantize_dynamic(tagged, tmp_path / "all.onnx")
    quantize_dynamic(tagged, tmp_path / "but.onnx", **chosen(mx, tagged, "ort-quant", but))
    wholly, partly = (onnx.load(tmp_path / file) for file in ("all.onnx", "but.onnx"))
    inside = [node for node in before.graph.node if contains(but, scopes(before)[node.name])]
    own = products(ModelProto(graph=onnx.GraphProto(node=inside, initializer=before.graph.initializer)))
    assert len(own) == count
    assert products(partly) - products(wholly) == own
    assert len(products(wholly)) < len(products(before)) - count
    left = {node.output[0]: node.SerializeToString() for node in partly.graph.node}
    for node in inside:
        assert node.op_type == "Gemm" or left[node.output[0]] == node.SerializeToString(), node.name


@pytest.mark.parametrize(("name", "exporter", "but", "count"), CASES)
def test_static_quantisation_of_all_but_one_module(
    built: Build, mx: Mx, tmp_path: Path, name: str, exporter: str, but: str, count: int
) -> None:
    """The module's nodes read its own weights in floating point; all other products read quantised ones."""
    tagged = built(name, exporter) / "tagged.onnx"
    quantize_static(tagged, tmp_path / "but.onnx", Calibration(tagged), **chosen(mx, tagged, "ort-quant", but))
    after, kept = onnx.load(tmp_path / "but.onnx"), scopes(onnx.load(tagged))
    floats = {t.name for t in after.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    inside: Counter[bool] = Counter()
    for node in after.graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            inside[contains(but, kept[node.name])] += node.input[1] in floats
    assert inside == {True: count, False: 0}
    onnxruntime.InferenceSession(tmp_path / "but.onnx")


def test_conversion_to_half_precision_of_all_but_one_module(built: Build, mx: Mx) -> None:
    tagged = built("trained") / "tagged.onnx"
    model = convert_float_to_float16(onnx.load(tagged), keep_io_types=True, **chosen(mx, tagged, "float16"))
    types = {t.name: t.data_type for t in model.graph.initializer}
    kept = scopes(onnx.load(tagged))
    found = [n for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in types]
    assert {types[n.input[1]] for n in found if contains(BUT, kept[n.name])} == {onnx.TensorProto.FLOAT}
    assert {types[n.input[1]] for n in found if not contains(BUT, kept[n.name])} == {onnx.TensorProto.FLOAT16}


LAYERED = """
import sys, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 0
options.add_session_config_entry(*sys.argv[2:])
onnxruntime.InferenceSession(sys.argv[1], options)
"""


def matches(annotation: str, option: str) -> bool:
    """Tell what ONNX Runtime's documentation says of an annotation and the list of an option."""
    rules = [rule.strip() for rule in option.partition("(")[2].rstrip(")").split(",")]
    return any(annotation == rule[1:] if rule[0] == "=" else annotation.startswith(rule) for rule in rules)


@pytest.mark.parametrize("arguments", [["--scope", BUT], ["--exclude", BUT], ["--class", "Linear"]])
def test_onnx_runtime_assigns_the_nodes_of_the_annotation(
    built: Build, mx: Mx, tmp_path: Path, arguments: list[str]
) -> None:
    model = onnx.load(built("trained") / "tagged.onnx")
    done = mx("select", built("trained") / "tagged.onnx", *arguments, "--format", "layer-annotation")
    found = json.loads(done.stdout)
    everywhere = scopes(model)
    assert found[keys.LAYER_ANNOTATION] == {n: s for n, s in everywhere.items() if matches(s, found[ASSIGNMENT])}
    assert 0 < len(found[keys.LAYER_ANNOTATION]) < len(everywhere)
    for node in model.graph.node:
        node.metadata_props.add(key=keys.LAYER_ANNOTATION, value=everywhere[node.name])
    onnx.save(model, tmp_path / "annotated.onnx")
    command = [sys.executable, "-c", LAYERED, tmp_path / "annotated.onnx", ASSIGNMENT, found[ASSIGNMENT]]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    rules = found[ASSIGNMENT].count(",") + 1
    assert f"Matched {rules} out of {rules} rules" in ran.stderr


REPEATED = """
g (float[2] x) => (float[2] y) {
    a = Neg(x)      #@ enc
    b = Abs(a)      #@ enc.one
    c = Abs(b)      #@ enc.one.deep
    d = Neg(c)      #@ enc@1
    e = Neg(d)      #@ enc.one0
    y = Neg(e)      #@ .
}"""


@pytest.mark.parametrize(
    ("selection", "option"),
    [
        ({"scopes": ("enc.one",)}, "npu(=enc.one, enc.one.)"),
        ({"scopes": ("enc.one.deep",)}, "npu(enc.one.)"),
        ({"scopes": ("enc",)}, "npu(=enc, enc.)"),
        ({"scopes": ("enc",), "exclude": ("enc.one.deep",)}, "npu(=enc, =enc.one, =enc.one0)"),
        ({"exclude": ("enc@1",)}, "npu(=enc, enc., =.)"),
    ],
    ids=str,
)
def test_prefixes_match_no_other_module(selection: dict[str, tuple[str, ...]], option: str) -> None:
    found = select(WorkingModel(golden.read(REPEATED)), Selection(**selection), device="npu")
    model = golden.read(REPEATED)
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}"
    found = select(WorkingModel(model), Selection(**selection), device="npu")
    written = FORMATS[Format.LAYER_ANNOTATION](found)
    assert isinstance(written, dict)
    assert set(written[ASSIGNMENT][4:-1].split(", ")) == set(option[4:-1].split(", "))


def named(names: str, *operators: str, **selection: tuple[str, ...]) -> Selected:
    """Return nodes of the six of REPEATED, which have these names."""
    model = golden.read(REPEATED)
    for node, name in zip(model.graph.node, names.split(), strict=True):
        node.name = name
    return selected(model, *operators, **selection)


@pytest.mark.parametrize(
    ("names", "scope", "option"),
    [
        ("/e/a /e/one/b /e/one/c /f/d /e/one0/e y", "enc.one", "cpu(/e/one/)"),
        ("/e/a /e/one/b /e/one/deep/c /f/d /e/one0/e y", "enc.one.deep", "cpu(/e/one/deep/)"),
        ("/e/a /e/one/b /e/one/c /f/d /e/one0/e y", "enc.one.deep", "cpu(/e/one/c)"),
        ("a b c d e0 y", "enc.one", "cpu(b, c)"),
    ],
)
def test_parts_of_names_match_no_other_node(names: str, scope: str, option: str) -> None:
    found = named(names, scopes=(scope,))
    written = FORMATS[Format.ORT_NAMES](found)
    assert written == {BY_NAME: option}
    parts = option[4:-1].split(", ")
    assert [n for n in names.split() if any(part in n for part in parts)] == found.names


@pytest.mark.parametrize("name", ["a\nb", "a\u202eb"])
def test_names_that_lines_of_text_cannot_hold_are_refused(name: str) -> None:
    selected = named("a b c d e f", scopes=("enc",))
    node = selected.annotations.graph.nodes[selected.nodes[0]]
    node.name = node.output[0] = name
    for format_ in (Format.NAMES, Format.TENSORS, Format.TENSORRT):
        with pytest.raises(UsageError, match=re.escape(f"cannot hold the name {name!r}")):
            FORMATS[format_](selected)
    assert name in FORMATS[Format.NNCF](selected)["names"]  # type: ignore[call-overload]


def test_what_an_option_of_names_cannot_hold_is_refused() -> None:
    with pytest.raises(UsageError, match="would assign other nodes too, whose names contain 'b'"):
        FORMATS[Format.ORT_NAMES](named("a b c d e ab", scopes=("enc.one",)))
    with pytest.raises(UsageError, match="cannot hold the name 'a,b'"):
        FORMATS[Format.ORT_NAMES](named("a,b b c d e f", scopes=("enc",)))
    with pytest.raises(UsageError, match="cannot hold the name 'a:b'"):
        FORMATS[Format.TENSORRT](named("a:b b c d e f", scopes=("enc",)))
    long = "n" * LONGEST
    with pytest.raises(UsageError, match=f"longer than {LONGEST}"):
        FORMATS[Format.ORT_NAMES](named(f"{long} b c d e f", scopes=("enc",)))


def test_onnx_runtime_takes_the_parts_of_names(built: Build, mx: Mx, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed.onnx"
    tagged = built("trained") / "tagged.onnx"
    assert mx("tag", tagged, "--from", tagged, "--rename", "-o", renamed).returncode == 0
    found = chosen(mx, renamed, "ort-names")
    assert found == {BY_NAME: "cpu(/encoder/layer.1/)"}
    command = [sys.executable, "-c", LAYERED, renamed, BY_NAME, found[BY_NAME]]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "Matched 1 out of 1 rules" in ran.stderr


def test_patterns_match_one_name_each() -> None:
    names = "/a.1 /a.10 /aX1 d e f"
    found = FORMATS[Format.MODELOPT](named(names, "Neg", scopes=("enc",), exclude=("enc.one", "enc@1", "enc.one0")))
    assert isinstance(found, dict)
    (pattern,) = found["nodes_to_exclude"]
    assert [name for name in names.split() if re.match(pattern, name)] == ["/a.1"]


def test_arguments_and_tensors_for_other_tools() -> None:
    found = named("a b c d e f", scopes=("enc.one",))
    assert FORMATS[Format.TENSORRT](found) == ["--precisionConstraints=obey", "--layerPrecisions=b:fp32,c:fp32"]
    quark = {"exclude": ["b", "c"], "OptimizeModel": False, "SimplifyModel": False}
    assert FORMATS[Format.QUARK](found) == quark
    weighted = golden.read(
        REPEATED.replace("Abs(a)", "Mul(a, w)").replace("Abs(b)", "Mul(v, b)").replace("Neg(e)", "Mul(v, e)")
    )
    for name in "vw":
        weighted.graph.initializer.append(onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [2], [1, 2]))
    assert FORMATS[Format.AIMET](selected(weighted, scopes=("enc.one",))) == {"tensors": ["b", "c", "w"]}


def test_lines_are_names_of_nodes_or_tensors(built: Build, mx: Mx) -> None:
    folder = built("trained")
    model = onnx.load(folder / "tagged.onnx")
    inside = [node for node in model.graph.node if contains(BUT, scopes(model)[node.name])]
    found = mx("select", "--scope", BUT, stdin=(folder / "tagged.onnx").read_bytes())
    assert found.stdout.decode().splitlines() == [node.name for node in inside]
    found = mx("select", folder / "tagged.onnx", "--scope", BUT, "--format", "tensors")
    assert found.stdout.decode().splitlines() == [name for node in inside for name in node.output]


def test_operators_and_bodies() -> None:
    text = """
<ir_version: 10, opset_import: ["" : 21]>
g (bool c, float[2] x) => (float[2] y) {
    [outer] y = If (c) <
        then_branch = yes () => (float[2] t) { [inner] t = Neg(x) },
        else_branch = no () => (float[2] e) { [other] e = Abs(x) }>
}"""
    model = onnx.parser.parse_model(text)
    bodies = [a.g.node[0] for a in model.graph.node[0].attribute]
    for node, scope in zip([model.graph.node[0], *bodies], (".", "a", "b"), strict=True):
        keys.replace_props(node, keys.NODE_KEYS, {keys.SCOPE: scope, keys.TAG: "/M" if scope == "." else f"/M/{scope}"})
    assert selected(model, scopes=("a",)).names == ["inner"]
    assert selected(model, "Abs", scopes=(".",)).names == ["other"]
    assert selected(model, exclude=("a",)).tensors == ["e", "y"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("", "b", "c", "d", "e", "f"),
            "a Neg of enc has no name: give every node a unique name with `model.tag\\(rename=True\\)`",
        ),
        (("a", "b", "c", "a", "e", "f"), "a Neg of enc has the same name, 'a', as a node"),
    ],
)
def test_a_node_that_no_name_tells_is_refused(names: tuple[str, ...], message: str) -> None:
    model = golden.read(REPEATED)
    for node, name in zip(model.graph.node, names, strict=True):
        node.name = name
    found = selected(model, scopes=("enc",))
    assert found.tensors == ["a", "b", "c", "e"]
    for format_ in set(Format) - {Format.TENSORS, Format.AIMET}:
        with pytest.raises(InputError, match=message):
            FORMATS[format_](found)


def test_a_name_that_only_selected_nodes_have_is_no_ambiguity() -> None:
    model = golden.read(REPEATED)
    for node, name in zip(model.graph.node, "aabcde", strict=True):
        node.name = name
    assert selected(model, scopes=("enc",)).names == ["a", "b", "d"]


def test_what_matches_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"did you mean .*enc\.one"):
        selected(golden.read(REPEATED), scopes=("enc.two",))
    with pytest.raises(UsageError, match="no selected node is a Conv"):
        selected(golden.read(REPEATED), "Conv", scopes=("enc",))
    with pytest.raises(InputError, match=r"call `model\.tag\(\)` first"):
        selected(golden.untagged(REPEATED), scopes=("enc",))


def test_what_onnx_runtime_cannot_assign_is_refused() -> None:
    model = golden.read(REPEATED.replace("c = Abs(b)", "c = Neg(b)").replace("enc.one.deep", "enc.one"))
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}"
    with pytest.raises(UsageError, match=r"can assign only all of enc\.one"):
        FORMATS[Format.LAYER_ANNOTATION](selected(model, "Abs", scopes=("enc.one",)))


def test_a_module_inside_a_merged_node_is_absent(built: Build, mx: Mx) -> None:
    merged = "g (float[2] x) => (float[2] y) { \n y = Neg(x) #@ act previous act one \n }"
    with pytest.raises(AbsentError, match="ends inside Neg"):
        selected(golden.read(merged), scopes=("one",))
    done = mx("select", built("trained") / "tagged.onnx", "--scope", "encoder.layer.9")
    assert done.returncode == 2
    assert b"encoder.layer.1" in done.stderr
    done = mx("select", built("trained") / "tagged.onnx")
    assert (done.returncode, b"nothing is selected" in done.stderr) == (2, True)


@pytest.mark.parametrize("script", blocks("docs/selecting.md", "sh"), ids=lambda text: text.partition("import ")[2][:9])
def test_the_page_runs_where_its_tools_are(built: Build, tmp_path: Path, script: str) -> None:
    for tool in re.findall(r"^(?:import|from) (\w+)", script, re.MULTILINE):
        pytest.importorskip(tool)
    shutil.copy(built("trained") / "tagged.onnx", tmp_path / "bert.tagged.onnx")
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
