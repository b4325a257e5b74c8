"""Faults of tagged models and their traces, each made in one place of a sound one, for `mx validate` to find."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mxtools.carriers.doc_strings import write_doc_string
from mxtools.graph.functions import every_node
from mxtools.scopes import keys

Trace = dict[str, Any]


DENSE = "encoder.layer.0.intermediate.dense"
"""A scope with several nodes, so that others still have it where one has not."""


def at(model: ModelProto, scope: str, operator: str) -> NodeProto:
    """Return a node of a scope."""
    nodes = every_node(model.graph.node)
    return next(n for n in nodes if n.op_type == operator and keys.props(n)[keys.SCOPE] == scope)


def put(node: NodeProto, key: str, value: str | None) -> str:
    """Change a value of a node's metadata, or remove it; return the node's name."""
    keys.replace_props(node, frozenset({key}), {} if value is None else {key: value})
    return node.name


def external(model: ModelProto, trace: Trace) -> str:
    tensor = next(t for t in model.graph.initializer if t.name == f"{DENSE}.bias")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="gone.bin")
    return next(node.name for node in model.graph.node if tensor.name in node.input)


def _checker(model: ModelProto, trace: Trace) -> str:
    node = at(model, "pooler.activation", "Tanh")
    node.op_type = "Tanhh"
    return node.name


def _unsorted(model: ModelProto, trace: Trace) -> str:
    """Put the last node but one, whose result the last reads, behind it."""
    first = next(node for node in model.graph.node if node.name == at(model, "pooler.dense", "Gemm").name)
    moved = NodeProto()
    moved.CopyFrom(first)
    model.graph.node.remove(first)
    model.graph.node.append(moved)
    return next(node.name for node in model.graph.node if first.output[0] in node.input)


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


def duplicate(model: ModelProto, trace: Trace) -> str:
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
    "external data are missing": ("external-data", external),
    "a node behind one that reads it": ("sorted", _unsorted),
    "an operator that ONNX does not have": ("checker", _checker),
    "an output of another type": ("types", _types),
    "an operator of a custom domain": ("custom-operator", _custom),
    "no kernel for the type": ("runtime", _runtime),
    "an IR version without node metadata": ("ir-version", _ir_version),
    "a key twice on a node": ("duplicate-key", duplicate),
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


def read(folder: Path) -> tuple[ModelProto, Trace]:
    """Read a tagged model and its sidecar."""
    return onnx.load(folder / "tagged.onnx"), json.loads((folder / "trace.json").read_text())
