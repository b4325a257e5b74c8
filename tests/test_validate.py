"""`mx validate`: seeded faults in real models are found where they are, what is right is left alone, repair mends."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, parser

from mxtools.carriers.doc_strings import write_doc_string
from mxtools.graph.functions import every_node
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.scopes.scope import is_scope
from mxtools.traces import sidecar
from mxtools.validate.findings import Finding, repair, validate
from mxtools.validate.rules import RULES
from tests.support.commands import Mx
from tests.support.pages import blocks
from tests.support.paths import ENVIRONMENT

Build = Callable[..., Path]
Trace = dict[str, Any]
DENSE = "encoder.layer.0.intermediate.dense"
"""A scope with several nodes, so that others bear it where one does not."""


def at(model: ModelProto, scope: str, operator: str) -> NodeProto:
    """Give a node of a scope."""
    nodes = every_node(model.graph.node)
    return next(n for n in nodes if n.op_type == operator and keys.props(n)[keys.SCOPE] == scope)


def put(node: NodeProto, key: str, value: str | None) -> str:
    """Change a value of a node's metadata, or remove it; give the node's name."""
    keys.replace_props(node, frozenset({key}), {} if value is None else {key: value})
    return node.name


def _external(model: ModelProto, trace: Trace) -> str:
    tensor = next(t for t in model.graph.initializer if t.name == f"{DENSE}.bias")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="gone.bin")
    return next(node.name for node in model.graph.node if tensor.name in node.input)


def _checker(model: ModelProto, trace: Trace) -> str:
    node = at(model, "pooler.activation", "Tanh")
    node.op_type = "Tanhh"
    return node.name


def _types(model: ModelProto, trace: Trace) -> str:
    output = next(o for o in model.graph.output if o.name in at(model, "pooler.activation", "Tanh").output)
    output.type.tensor_type.elem_type = TensorProto.INT64
    return at(model, "pooler.activation", "Tanh").name


def _custom(model: ModelProto, trace: Trace) -> str:
    node = at(model, "pooler.activation", "Tanh")
    node.domain = "com.acme"
    model.opset_import.add(domain="com.acme", version=1)
    return node.name


def _runtime(model: ModelProto, trace: Trace) -> str:
    node = at(model, "pooler.activation", "Tanh")
    for new in (
        helper.make_node("Cast", [node.output[0]], ["half"], name="cast", to=TensorProto.BFLOAT16),
        helper.make_node("Tanh", ["half"], ["no kernel"], name="no kernel"),
    ):
        new.metadata_props.extend(node.metadata_props)
        model.graph.node.append(new)
    model.graph.output.append(helper.make_tensor_value_info("no kernel", TensorProto.BFLOAT16, [1, 32]))
    return "no kernel"


def _ir_version(model: ModelProto, trace: Trace) -> str:
    model.ir_version = 9
    return ""


def _duplicate(model: ModelProto, trace: Trace) -> str:
    node = at(model, DENSE, "MatMul")
    node.metadata_props.insert(0, onnx.StringStringEntryProto(key=keys.SCOPE, value="pooler"))
    return node.name


def _duplicate_foreign(model: ModelProto, trace: Trace) -> str:
    model.metadata_props.add(key="task", value="a")
    model.metadata_props.add(key="task", value="b")
    return ""


def _malformed_absent(model: ModelProto, trace: Trace) -> str:
    keys.replace_props(model, frozenset({keys.ABSENT}), {keys.ABSENT: "[]"})
    return ""


def _lost_absent(model: ModelProto, trace: Trace) -> str:
    keys.replace_props(model, frozenset({keys.ABSENT}), {})
    return ""


def _absent(scope: str, reason: str) -> Callable[[ModelProto, Trace], str]:
    def seed(model: ModelProto, trace: Trace) -> str:
        absent = json.loads(keys.props(model)[keys.ABSENT]) | {scope: reason}
        keys.replace_props(model, frozenset({keys.ABSENT}), {keys.ABSENT: json.dumps(absent)})
        return at(model, scope, "Gather").name if scope == "embeddings.word_embeddings" else ""

    return seed


def _prop(key: str, value: str | None) -> Callable[[ModelProto, Trace], str]:
    return lambda model, trace: put(at(model, DENSE, "MatMul"), key, value)


def _untagged(model: ModelProto, trace: Trace) -> str:
    node = at(model, DENSE, "MatMul")
    keys.replace_props(node, keys.NODE_KEYS, {})
    return node.name


def _version(model: ModelProto, trace: Trace) -> str:
    keys.replace_props(model, frozenset({keys.VERSION}), {})
    return ""


def _order(model: ModelProto, trace: Trace) -> str:
    """Give a node of the second layer, and its tag, to the first one."""
    node, first = at(model, "encoder.layer.1.intermediate.dense", "Add"), at(model, DENSE, "Add")
    for key in (keys.SCOPE, keys.TAG):
        put(node, key, keys.props(first)[key])
    return node.name


def _other_weights(model: ModelProto, trace: Trace) -> str:
    module = next(m for m in trace["modules"] if m["path"] == DENSE)
    next(w for w in module["weights"] if w["name"] == "bias")["shape"] = [65]
    return at(model, DENSE, "Add").name


def _other_values(model: ModelProto, trace: Trace) -> str:
    tensor = next(t for t in model.graph.initializer if t.name == f"{DENSE}.bias")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, tensor.name))
    return at(model, DENSE, "Add").name


def _foreign_weight(model: ModelProto, trace: Trace) -> str:
    """Give the one node of a layer to the activation after it, and say that the layer is no more."""
    node, after = at(model, "pooler.dense", "Gemm"), at(model, "pooler.activation", "Tanh")
    for key in (keys.SCOPE, keys.TAG):
        put(node, key, keys.props(after)[key])
    _absent("pooler.dense", "folded")(model, trace)
    return node.name


def _damaged_copy(model: ModelProto, trace: Trace) -> str:
    model.metadata_props.add(key=keys.TRACE, value="eJwrAA")
    return ""


def _stale_copy(model: ModelProto, trace: Trace) -> str:
    node, other = at(model, "pooler.dense", "Gemm"), at(model, "pooler.activation", "Tanh")
    write_doc_string(other)
    node.doc_string = other.doc_string
    return node.name


def _other_inputs(model: ModelProto, trace: Trace) -> str:
    trace["model"]["inputs"][0]["shape"] = [1, 13]
    return ""


def _record(model: ModelProto, trace: Trace) -> str:
    trace["record"] = "gone.safetensors"
    return ""


FAULTS: dict[str, tuple[str, Callable[[ModelProto, Trace], str]]] = {
    "external data are missing": ("external-data", _external),
    "an operator that ONNX does not have": ("checker", _checker),
    "an output of another type": ("types", _types),
    "an operator of a custom domain": ("custom-operator", _custom),
    "no kernel for the type": ("runtime", _runtime),
    "an IR version without node metadata": ("ir-version", _ir_version),
    "a key twice on a node": ("duplicate-key", _duplicate),
    "a key twice on the model": ("duplicate-key", _duplicate_foreign),
    "a key that is none": ("unknown-key", _prop("pkg.mxtools.scop", "x")),
    "a trace in the model that is none": ("damaged-copy", _damaged_copy),
    "a doc string that says another scope": ("stale-copy", _stale_copy),
    "no tags on a node": ("untagged", _untagged),
    "an empty scope": ("malformed-scope", _prop(keys.SCOPE, "")),
    "a path for a scope": ("malformed-scope", _prop(keys.SCOPE, "/encoder/layer.0")),
    "a call that is no number": ("malformed-scope", _prop(keys.SCOPE, DENSE + "@x")),
    "a scope without a tag": ("incomplete", _prop(keys.TAG, None)),
    "a scope without evidence": ("incomplete", _prop(keys.EVIDENCE, None)),
    "evidence of no kind": ("unknown-evidence", _prop(keys.EVIDENCE, "hearsay")),
    "a tag of another scope": ("tag-differs", _prop(keys.TAG, "/BertModel/BertEncoder")),
    "merged with what is no list": ("invalid-merged", _prop(keys.MERGED, "pooler")),
    "merged with itself": ("invalid-merged", _prop(keys.MERGED, json.dumps([DENSE]))),
    "a scope that the trace lacks": ("unknown-scope", _prop(keys.SCOPE, "encoder.layer.7")),
    "merged with what the trace lacks": ("unknown-scope", _prop(keys.MERGED, json.dumps([DENSE, "conv"]))),
    "no version": ("version", _version),
    "absent scopes as a list": ("invalid-absent", _malformed_absent),
    "an absent scope without a reason": ("invalid-absent", _absent("embeddings.dropout", "gone")),
    "an absent scope that is borne": ("absent-borne", _absent("embeddings.word_embeddings", "folded")),
    "an absent scope that the trace lacks": ("unknown-absent", _absent("conv", "folded")),
    "scopes that nobody mentions": ("unmentioned", _lost_absent),
    "a node of a later call in an earlier one": ("order", _order),
    "a weight of another shape": ("other-weights", _other_weights),
    "a weight of other values": ("other-values", _other_values),
    "a node that uses another module's weight": ("foreign-weight", _foreign_weight),
    "an input of another shape": ("other-inputs", _other_inputs),
    "recorded values that are not there": ("record", _record),
}
UNSEEDED = {"disconnected", "unknown-place"}
"""Notes on what is good to know, and can be right."""


def checked(model: ModelProto, trace: Trace | None, mending: bool = False) -> list[Finding]:
    """Give what is found of a model and the text of a sidecar without notes; with `mending`, what is left of it."""
    known = sidecar.loads(json.dumps(trace), "trace") if trace else None
    working = WorkingModel(model, sidecar=known)
    findings = repair(working)[1] if mending else validate(working)
    return [finding for finding in findings if finding.rule not in UNSEEDED]


def read(folder: Path) -> tuple[ModelProto, Trace]:
    """Read a tagged model and its sidecar."""
    return onnx.load(folder / "tagged.onnx"), json.loads((folder / "trace.json").read_text())


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", ["bert", "llama", "resnet", "convnet", "repeated", "outputs"])
def test_nothing_is_wrong_with_what_tag_writes(built: Build, name: str, exporter: str) -> None:
    model, trace = read(built(name, exporter))
    assert checked(model, trace) == []
    assert checked(model, None) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_where_it_is(built: Build, fault: str) -> None:
    model, trace = read(built("bert", "dynamo"))
    rule, seed = FAULTS[fault]
    node = seed(model, trace)
    found = {(finding.rule, finding.node) for finding in checked(model, trace)}
    assert found == {(rule, node)}


def test_there_are_no_rules_without_a_fault() -> None:
    assert {rule for rule, _ in FAULTS.values()} == RULES.keys() - UNSEEDED - {"other-model"}


def test_tags_are_compared_without_a_trace(built: Build) -> None:
    model, _ = read(built("bert"))
    layer = at(model, "encoder.layer.0.output.dense", "MatMul")
    put(layer, keys.TAG, "/BertModel/BertEncoder/BertLayer.1/BertOutput/Linear")
    assert [(f.rule, f.node) for f in checked(model, None)] == [("tag-differs", layer.name)]
    assert checked(model, None, mending=True) == []
    assert keys.props(layer)[keys.TAG] == "/BertModel/BertEncoder/BertLayer.0/BertOutput/Linear"


def test_calls_of_one_module_have_an_order_without_a_trace(built: Build) -> None:
    model, trace = read(built("repeated"))
    first, second = at(model, "layer.0", "Gemm"), at(model, "layer@1.0", "Gemm")
    one, other = keys.props(first), keys.props(second)
    for key in (keys.SCOPE, keys.TAG):
        put(first, key, other[key])
    assert "order" in {finding.rule for finding in checked(model, None)}
    assert "order" in {finding.rule for finding in checked(model, trace)}
    for key in (keys.SCOPE, keys.TAG):
        put(first, key, one[key])
    assert checked(model, None) == []


def test_a_trace_of_another_model_is_one_finding(built: Build) -> None:
    model, _ = read(built("bert"))
    _, trace = read(built("llama"))
    assert [finding.rule for finding in checked(model, trace)] == ["other-model"]


def test_a_scope_in_pieces_is_noted(built: Build) -> None:
    model, _ = read(built("deep"))
    first, last = at(model, "layers.0", "Gemm"), at(model, "layers.47", "Gemm")
    for key in (keys.SCOPE, keys.TAG):
        put(last, key, keys.props(first)[key])
    notes = [finding for finding in validate(WorkingModel(model)) if finding.rule == "disconnected"]
    assert [finding.scope for finding in notes] == ["layers.0"]
    assert "2 pieces" in notes[0].reason


NESTED = """
<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
g (float[2] x, bool c) => (float[2] y) {
    d = If (c) <
        then_branch = then () => (float[2] r) { [inner] r = Relu(x) },
        else_branch = other () => (float[2] s) { s = Neg(x) }
    >
    y = local.twice(d)
}
<domain: "local", opset_import: ["" : 21]>
twice (a) => (b) { [called] b = Add(a, a) }
"""


@pytest.mark.parametrize("bare", ["inner", "called"])
def test_bodies_and_functions_are_looked_into(bare: str) -> None:
    model = parser.parse_model(NESTED)
    keys.replace_props(model, keys.MODEL_KEYS, {keys.VERSION: "1"})
    nodes = WorkingModel(model).graph.nodes
    for node in nodes:
        if node.name != bare:
            keys.replace_props(node, keys.NODE_KEYS, {keys.SCOPE: ".", keys.TAG: "/M", keys.EVIDENCE: "name"})
    assert [(f.rule, f.node) for f in checked(model, None)] == [("untagged", bare)]
    assert checked(model, None, mending=True) == []
    node = next(node for node in nodes if node.name == bare)
    assert keys.props(node) == {keys.SCOPE: ".", keys.TAG: "/M", keys.EVIDENCE: "dataflow"}


JUNK = ["", ".", "..", "encoder.layer.0", "@", "[]", "[1]", '["a", "b"]', "{}", '{"a": 1}', "/", "/A/B.0@1", "x" * 500]


@pytest.mark.parametrize("seed", range(16))
def test_junk_gives_findings_and_no_crash(built: Build, seed: int) -> None:
    model, trace = read(built(("bert", "repeated")[seed % 2]))
    choose = random.Random(seed)
    for _ in range(6):
        node = choose.choice([node for node in every_node(model.graph.node) if node.input])
        node.metadata_props.add(key=choose.choice(sorted(keys.NODE_KEYS)), value=choose.choice(JUNK))
        model.metadata_props.add(key=choose.choice(sorted(keys.MODEL_KEYS)), value=choose.choice(JUNK))
    node.input[0] = choose.choice([node.output[0], "nowhere", ""])
    known = sidecar.loads(json.dumps(trace), "trace") if seed % 3 else None
    assert "duplicate-key" in {finding.rule for finding in validate(WorkingModel(model, sidecar=known))}
    _, left = repair(WorkingModel(model, sidecar=known))
    assert [str(finding) for finding in left if finding.mend] == []


MECHANICAL = {
    *("ir-version", "duplicate-key", "unknown-key", "untagged", "malformed-scope", "incomplete", "unknown-evidence"),
    *("tag-differs", "invalid-merged", "version", "invalid-absent", "absent-borne", "unknown-absent", "unmentioned"),
    *("damaged-copy", "stale-copy"),
}


@pytest.mark.parametrize("fault", [name for name, (rule, _) in FAULTS.items() if rule in MECHANICAL])
def test_repair_mends_what_is_mechanical(built: Build, fault: str) -> None:
    model, trace = read(built("bert", "dynamo"))
    before = {node.name: keys.props(node).get(keys.SCOPE) for node in every_node(model.graph.node)}
    FAULTS[fault][1](model, trace)
    assert checked(model, trace, mending=True) == []
    after = {node.name: keys.props(node).get(keys.SCOPE) for node in every_node(model.graph.node)}
    assert {name for name in before if before[name] != after[name]} <= {at(model, "pooler.activation", "Tanh").name}


@pytest.mark.parametrize("fault", [name for name, (rule, _) in FAULTS.items() if rule not in MECHANICAL])
def test_repair_leaves_the_rest_as_it_is(built: Build, fault: str) -> None:
    model, trace = read(built("bert", "dynamo"))
    FAULTS[fault][1](model, trace)
    seeded = model.SerializeToString()
    assert [finding.rule for finding in checked(model, trace, mending=True)] == [FAULTS[fault][0]]
    assert model.SerializeToString() == seeded


@pytest.mark.parametrize(
    ("text", "right"),
    [
        *((text, True) for text in (".", "a", "a.0@2.b c", "a%2Fb")),
        *((text, False) for text in ("", "a.", "a..b", "a@0", "a@01", "a/b", "a%b", "a\nb", "@1", "a" + ".a" * 200)),
    ],
)
def test_scopes_are_told_from_other_texts(text: str, right: bool) -> None:
    assert is_scope(text) == right


def test_the_command(built: Build, mx: Mx, tmp_path: Path) -> None:
    folder = built("bert", "dynamo")
    done = mx("validate", folder / "tagged.onnx", "--trace", folder / "trace.json")
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"0 errors, 0 warnings, 0 notes" in done.stderr
    model, trace = read(folder)
    name, wrong = _duplicate(model, trace), tmp_path / "wrong.onnx"
    at(model, "pooler.activation", "Tanh").ClearField("metadata_props")
    onnx.save(model, wrong)

    done = mx("validate", wrong, "--trace", folder / "trace.json")
    assert done.returncode == 1
    line = done.stdout.decode().splitlines()[0]
    assert line.startswith(f"error: duplicate-key: MatMul {name!r} in {DENSE}: {keys.SCOPE} stands 2 times: keep one")
    assert done.stderr.decode().count("\n") == 1

    report = json.loads(mx("validate", wrong, "--json").stdout)
    assert report["counts"] == {"error": 2, "warning": 0, "note": 0}
    assert report["findings"][0]["node"] == name
    assert mx("validate", "--format", "json", stdin=wrong.read_bytes()).returncode == 1


def test_repair_of_the_command(built: Build, mx: Mx, tmp_path: Path) -> None:
    folder = built("bert", "dynamo")
    model, trace = read(folder)
    _duplicate(model, trace)
    wrong, right = tmp_path / "wrong.onnx", tmp_path / "right.onnx"
    onnx.save(model, wrong)
    done = mx("validate", wrong, "--repair", "-o", right, "--json")
    assert done.returncode == 0
    assert [item["rule"] for item in json.loads(done.stdout)["mended"]] == ["duplicate-key"]
    assert onnx.load(right) == onnx.load(folder / "tagged.onnx")
    piped = mx("validate", "--repair", stdin=wrong.read_bytes())
    assert piped.stdout == right.read_bytes()
    assert b"mended: duplicate-key" in piped.stderr


@pytest.mark.parametrize("location", ["gone.bin", "../gone.bin", "/etc/hostname", ""])
def test_data_that_are_not_there_are_a_finding(built: Build, mx: Mx, tmp_path: Path, location: str) -> None:
    model, trace = read(built("bert", "dynamo"))
    name = _external(model, trace)
    tensor = next(t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL)
    tensor.external_data[0].value = location
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    done = mx("validate", tmp_path / "m.onnx", "--json")
    assert done.returncode == 1
    assert [(f["rule"], f["node"]) for f in json.loads(done.stdout)["findings"]] == [("external-data", name)]


def test_external_data_are_read(built: Build, mx: Mx, tmp_path: Path) -> None:
    folder, file = built("bert", "dynamo"), tmp_path / "m.onnx"
    onnx.save(onnx.load(folder / "tagged.onnx"), file, save_as_external_data=True)
    assert mx("validate", file, "--trace", folder / "trace.json").stdout == b""
    data = next(path for path in tmp_path.iterdir() if path != file)
    data.write_bytes(data.read_bytes()[:-4])
    done = mx("validate", file)
    assert done.returncode == 1
    assert b"the file is truncated" in done.stdout or b"end after" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--format", "xml"], "is none of text, json, sarif"),
        (["--json", "--format", "sarif"], "are two formats"),
        (["-o", "out.onnx"], "--repair"),
        (["--repair", "--json"], "would both go to stdout"),
    ],
)
def test_nonsense_is_refused(mx: Mx, arguments: list[str], said: str) -> None:
    done = mx("validate", "none.onnx", *arguments)
    assert done.returncode == 2
    assert said in done.stderr.decode()


@pytest.mark.parametrize("page", ["validating", "tree"])
def test_the_commands_of_the_page_run(built: Build, tmp_path: Path, page: str) -> None:
    folder = built("bert", "dynamo")
    (tmp_path / "bert.tagged.onnx").symlink_to(folder / "tagged.onnx")
    (tmp_path / "bert.trace.json").symlink_to(folder / "trace.json")
    script = "".join(["set -eu\n", *blocks(f"docs/{page}.md", "sh")])
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_sarif(built: Build, mx: Mx, tmp_path: Path) -> None:
    model, trace = read(built("bert", "dynamo"))
    node, file = _duplicate(model, trace), tmp_path / "a model.onnx"
    onnx.save(model, file)
    done = mx("validate", file.name, "--format", "sarif", cwd=tmp_path)
    assert done.returncode == 1
    log = json.loads(done.stdout)
    assert log["version"] == "2.1.0"
    run = log["runs"][0]
    (result,) = run["results"]
    assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"] == "duplicate-key"
    assert result["level"] == "error"
    (place,) = result["locations"]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == "a%20model.onnx"
    assert [logical["fullyQualifiedName"] for logical in place["logicalLocations"]] == [node, DENSE]
