"""`mx validate`: seeded faults in real models are found where they are, what is right is left alone, repair mends."""

from __future__ import annotations

import json
import random

import pytest
from onnx import ModelProto, parser

from mxtools.graph.functions import every_node
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.scopes.scope import is_scope
from mxtools.traces import sidecar
from mxtools.validate.findings import Finding, repair, validate
from mxtools.validate.rules import RULES
from tests.support.faults import FAULTS, Trace, at, put, read
from tests.support.shared_models import Build

UNSEEDED = {"disconnected", "exporter-differs", "unknown-place"}
"""Notes on what is good to know, and can be right."""
NOT_ALONE = {"other-model", "opset-import", "unfound"}
"""Rules of which no fault is found by itself; they have tests of their own."""


def checked(model: ModelProto, trace: Trace | None, mending: bool = False) -> list[Finding]:
    """Return what is found of a model and the text of a sidecar without notes; with `mending`, what is left of it."""
    known = sidecar.loads(json.dumps(trace), "trace") if trace else None
    working = WorkingModel(model, sidecar=known)
    findings = repair(working)[1] if mending else validate(working)
    return [finding for finding in findings if finding.rule not in UNSEEDED]


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


def test_a_domain_that_is_not_imported_is_imported_by_repair(built: Build) -> None:
    model, trace = read(built("bert", "dynamo"))
    node = at(model, "pooler.activation", "Tanh")
    node.domain = "com.acme"
    found = {finding.rule: finding.node for finding in checked(model, trace)}
    assert found == {"opset-import": node.name, "custom-operator": node.name}
    assert [finding.rule for finding in checked(model, trace, mending=True)] == ["custom-operator"]
    assert ("com.acme", 1) in [(entry.domain, entry.version) for entry in model.opset_import]


def test_a_domain_of_onnx_that_is_not_imported_is_not_guessed(built: Build) -> None:
    model, trace = read(built("bert", "dynamo"))
    at(model, "pooler.activation", "Tanh").domain = "ai.onnx.ml"
    assert [finding.rule for finding in checked(model, trace, mending=True)] == ["opset-import"]


def test_there_are_no_rules_without_a_fault() -> None:
    assert {rule for rule, _ in FAULTS.values()} == RULES.keys() - UNSEEDED - NOT_ALONE


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
    *("damaged-copy", "stale-copy", "sorted"),
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
