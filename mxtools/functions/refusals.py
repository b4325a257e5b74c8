"""What ONNX Runtime refuses in functions, though ONNX allows it.

One is types that a function passes on to another. ONNX Runtime finds the types that a function takes from the operators
that read them. Of what only calls of functions read, it takes the types that ONNX began with: an int4 weight of a
Linear may be given to a function of the Linear, but not to one of the layer around that, which gives it to the former.

Another is MeanVarianceNormalization without its attribute: ONNX itself defines it by a function, in which ONNX Runtime
then does not find the default.

And of functions with one name and several overloads, a function calls the one without, whichever it names.
"""

from __future__ import annotations

from onnx import ModelProto, TensorProto, TypeProto

from mxtools.functions.bodies import Body
from mxtools.graph.functions import every_node
from mxtools.graph.operators import function_key, operator_key, plain_domain, versions
from mxtools.graph.shapes import inferred_infos, is_typed, value_infos
from mxtools.graph.types import type_of, type_text
from mxtools.pipeline.working_model import WorkingModel

LAST = TensorProto.BFLOAT16
"""The last of the element types that a function may pass on."""
_WITH_DEFAULT = ("", "MeanVarianceNormalization", "")


def refusal(model: WorkingModel, body: Body) -> str:
    """Return why ONNX Runtime would not take a function of a body; empty where it would."""
    if any(operator_key(node) == _WITH_DEFAULT and not node.attribute for node in every_node(body.protos)):
        return f"it has a {_WITH_DEFAULT[1]} without axes, which ONNX Runtime refuses in functions"
    overloaded = next((node.op_type for node in every_node(body.protos) if node.overload), None)
    if overloaded is not None:
        return f"it calls an overload of {overloaded}, which ONNX Runtime ignores in functions"
    imported = {domain for domain, version in versions(model.proto.opset_import).items() if version > 0}
    missing = next((n.domain for n in every_node(body.protos) if plain_domain(n.domain) not in imported), None)
    if missing is not None:  # which is no fault of a graph to ONNX Runtime, but is one of a function
        return f"the model does not import the domain {missing!r} of its operators"
    functions = {function_key(function) for function in model.proto.functions}
    read = {name for node in body.protos if operator_key(node) not in functions for name in node.input}
    passed = {name for node in body.protos if operator_key(node) in functions for name in node.input}
    for name in sorted(passed.intersection(body.inputs) - read):
        type_ = model.once(_types).get(name) or model.once(_inferred).get(name)
        if type_ is not None and not _is_passed(type_):
            return f"it gives {name!r} to another function, and ONNX Runtime passes no {type_text(type_)} on"
    return ""


def _is_passed(type_: TypeProto) -> bool:
    if type_.HasField("tensor_type"):
        return bool(type_.tensor_type.elem_type <= LAST)
    return not type_.HasField("optional_type")


def _types(model: WorkingModel) -> dict[str, TypeProto]:
    """Return the types of values that the file says."""
    return _known(model.proto) | {t.name: type_of(t) for t in model.proto.graph.initializer}


def _inferred(model: WorkingModel) -> dict[str, TypeProto]:
    """Return the types of values as ONNX infers them."""
    found = inferred_infos(model.proto, propagating=False)
    return {name: info.type for name, info in found.items() if is_typed(info)}


def _known(model: ModelProto) -> dict[str, TypeProto]:
    return {name: info.type for name, info in value_infos(model).items() if is_typed(info)}
