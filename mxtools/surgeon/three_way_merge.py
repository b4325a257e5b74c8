"""Write an edited onnx-graphsurgeon graph back into the model that it came from, as a three-way merge.

Five nodes, of which a script renamed the third:

    x -> Conv -> c -> BatchNormalization -> b -> Relu -> r -> Gemm -> g -> Softmax -> y

The obvious way, exporting the edited graph, loses everything that graphsurgeon cannot represent: the metadata of all
five nodes, with their scopes, doc strings, overloads, attributes of types that it does not import, initializers that
nothing reads, quantisation annotations. Copying metadata from old nodes to new ones of the same name fails for Relu,
which has another name now, and for a new node that took an old name.

So there are three versions of each message: the original, what graphsurgeon made of it (`before`), and what the script
left (`after`). Graphsurgeon edits objects in place, so the object shows from which original it came, whatever its name
is now. For every field in which `before` and `after` agree, the original's bytes stay; if they differ, `after` is
written. Here this is only the name of Relu. An object that the script made has no original and is written as it is. A
graph that the script copied consists of new objects; its nodes are recognised by their operator and the tensors that
they make.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    OperatorSetIdProto,
    SparseTensorProto,
    TensorProto,
    helper,
)
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.ir.tensor import SparseValues
from onnx_graphsurgeon.logger import G_LOGGER

from mxtools.files.weights import is_deferred
from mxtools.graph.constants import densified
from mxtools.graph.shapes import Array
from mxtools.surgeon.surgery import Stored, Surgery, Tie, constants, own_constants
from mxtools.surgeon.value_infos import TypeMerge


def merged(surgery: Surgery, after: gs.Graph) -> ModelProto:
    """Return the model with the edits; raises what graphsurgeon raises if it cannot write them."""
    model, before = ModelProto(), surgery.before
    model.CopyFrom(surgery.model)
    for field in ("ir_version", "producer_name", "producer_version"):
        if getattr(after, field) and getattr(after, field) != getattr(before, field):  # a copied graph has none
            setattr(model, field, getattr(after, field))
    merge = _Merge(surgery)
    with G_LOGGER.suppress(G_LOGGER.CRITICAL + 1):
        model.graph.CopyFrom(merge.graph(after, Tie(None, before, surgery.model.graph), main=True))
        _replace(model.functions, merge.functions(after.functions))
    _replace(model.opset_import, _opsets(after, before))
    return model


class _Merge:
    def __init__(self, surgery: Surgery) -> None:
        self.surgery, self.weights = surgery, surgery.weights

    def graph(
        self, after: gs.Graph, tie: Tie | None, around: Collection[str] = frozenset(), main: bool = False
    ) -> GraphProto:
        """Merge a graph; `around` names constants of the graphs around it, which the graph does not contain itself."""
        before, original = (tie.before, tie.proto) if tie else (gs.Graph(name=""), GraphProto())
        result = GraphProto()
        result.CopyFrom(original)
        for field in ("name", "doc_string"):
            if getattr(after, field) != getattr(before, field):
                setattr(result, field, getattr(after, field))
        dense, sparse = self._initializers(after, before, original, around, main)
        _replace(result.initializer, dense)
        _replace(result.sparse_initializer, sparse)
        own = {t.name for t in dense} | {t.values.name for t in sparse}
        _replace(result.node, self._nodes(after, before, original.node, {*around, *own}))
        types = TypeMerge(after, before)
        defaults = [info for info in original.input if info.name in own]
        _replace(result.input, types.boundary(after.inputs, before.inputs, original.input, main, defaults))
        _replace(result.output, types.boundary(after.outputs, before.outputs, original.output, main))
        _replace(result.value_info, types.inner(original.value_info))
        notes = [n for n in original.quantization_annotation if types.is_left(n.tensor_name)]
        _replace(result.quantization_annotation, notes)
        return result

    def functions(self, after: Sequence[gs.Function]) -> list[FunctionProto]:
        """Merge functions. Graphsurgeon's sorting drops overloads as duplicates; each comes back with its namesake."""
        namesakes: dict[object, list[gs.Function]] = defaultdict(list)
        for function in self.surgery.functions:
            namesakes[function.unique_id].append(function)
        found = [f for function in after for f in (*namesakes.get(function.unique_id, ()), function)]
        return [self._function(function) for function in {id(f): f for f in found}.values()]

    def _function(self, after: gs.Function) -> FunctionProto:
        tie = self.surgery.tie(after)
        before, original = (tie.before, tie.proto) if tie else (gs.Function(""), FunctionProto())
        result = FunctionProto()
        result.CopyFrom(original)
        for field in ("name", "domain", "doc_string"):
            if getattr(after, field) != getattr(before, field):
                setattr(result, field, getattr(after, field))
        _replace(result.input, [tensor.name for tensor in after.inputs])
        _replace(result.output, [tensor.name for tensor in after.outputs])
        _replace(result.attribute, [name for name, value in after.attrs.items() if value is None])
        _replace(
            result.attribute_proto, self._attributes(_defaults(after), _defaults(before), original.attribute_proto)
        )
        nodes = self._nodes(after, before, original.node, own_constants(after))
        _replace(result.node, [*self._constant_nodes(after), *nodes])
        _replace(result.opset_import, _opsets(after, before))
        types = TypeMerge(after, before)
        _replace(result.value_info, [info for info in original.value_info if types.is_left(info.name)])
        return result

    def _constant_nodes(self, function: gs.Function) -> list[NodeProto]:
        """Return nodes that make the constants of a function, because functions have no initializers."""
        return [
            helper.make_node("Constant", [], [name], value=self._tensor(constant, None, inline=True))
            for name, constant in own_constants(function).items()
        ]

    def _nodes(
        self, after: gs.Graph, before: gs.Graph, originals: Sequence[NodeProto], around: Collection[str]
    ) -> list[NodeProto]:
        """Merge nodes; those of a copied graph are recognised by their operator and the tensors that they make."""
        makers: dict[tuple[str, str, tuple[str, ...]], Tie] = {}
        if self.surgery.tie(after) is None:
            pairs = zip(before.nodes, originals, strict=True)
            makers = {_made(twin): Tie(None, twin, proto) for twin, proto in pairs}
        return [self._node(node, self.surgery.tie(node) or makers.get(_made(node)), around) for node in after.nodes]

    def _node(self, after: gs.Node, tie: Tie | None, around: Collection[str]) -> NodeProto:
        result = NodeProto()
        if tie:
            result.CopyFrom(tie.proto)
        same = (result.op_type, result.domain) == (after.op, after.domain or "")
        for field, value in (("op_type", after.op), ("domain", after.domain or ""), ("name", after.name)):
            if getattr(result, field) != value:
                setattr(result, field, value)
        if not same:
            result.ClearField("overload")
        _replace(result.input, [tensor.name for tensor in after.inputs])
        _replace(result.output, [tensor.name for tensor in after.outputs])
        before, originals = (tie.before.attrs, tie.proto.attribute) if tie else ({}, ())
        hidden = [a for a in originals if a.name not in before and not same]
        kept = [a for a in originals if a not in hidden] if hidden else originals
        _replace(result.attribute, self._attributes(after.attrs, before, kept, around))
        return result

    def _attributes(
        self,
        after: Mapping[str, Any],
        before: Mapping[str, Any],
        originals: Sequence[AttributeProto],
        around: Collection[str] = frozenset(),
    ) -> list[AttributeProto]:
        """Merge attributes: the originals in their order, then new ones.

        An original that `before` lacks was never imported, so the script cannot have deleted it.
        """
        result = []
        for original in originals:
            name = original.name
            if name in after:
                result.append(self._attribute(name, after[name], before.get(name), original, around))
            elif name not in before:
                result.append(original)
        known = {original.name for original in originals}
        result += [self._attribute(n, v, None, AttributeProto(), around) for n, v in after.items() if n not in known]
        return result

    def _attribute(
        self,
        name: str,
        value: object,
        before: object,
        original: AttributeProto,
        around: Collection[str],
    ) -> AttributeProto:
        result = AttributeProto()
        result.CopyFrom(original)
        result.name = name
        if isinstance(value, gs.Graph):
            tie = Tie(None, before, original.g) if isinstance(before, gs.Graph) else None
            body = self.graph(value, self.surgery.tie(value) or tie, around)
            result.type = AttributeProto.GRAPH
            result.g.CopyFrom(body)
        elif isinstance(value, gs.Constant):
            result.type = AttributeProto.TENSOR
            result.t.CopyFrom(self._tensor(value, original.t if isinstance(before, gs.Constant) else None, inline=True))
        elif type(value) is not type(before) or value != before:
            result = _made_attribute(name, value, original)
        return result

    def _initializers(
        self, after: gs.Graph, before: gs.Graph, original: GraphProto, around: Collection[str], main: bool
    ) -> tuple[list[TensorProto], list[SparseTensorProto]]:
        """Merge initializers, dense and sparse: unread ones stay, new ones go to the graph that reads them."""
        used, was_used = constants(after), constants(before)
        sparse = [
            tensor
            for tensor in original.sparse_initializer
            if (name := tensor.values.name) not in was_used or (name in used and self._is_as_before(used[name], tensor))
        ]
        held = {tensor.values.name for tensor in sparse}
        dense = []
        for tensor in original.initializer:
            if tensor.name not in was_used:
                dense.append(tensor)
            elif tensor.name in used and not isinstance(used[tensor.name]._values, SparseValues):
                dense.append(self._tensor(used[tensor.name], tensor, inline=not main))
        held |= {*around, *(tensor.name for tensor in dense)}
        for name, constant in own_constants(after).items():
            if name not in held and isinstance(constant._values, SparseValues):
                sparse.append(constant._values.tensor)
            elif name not in held:
                dense.append(self._tensor(constant, None, inline=not main))
        return dense, sparse

    def _tensor(self, constant: gs.Constant, original: TensorProto | None, inline: bool) -> TensorProto:
        """Return a constant's tensor, `inline` with its bytes, because only initializers can be references."""
        values = constant._values
        if isinstance(values, Stored):
            result = TensorProto()
            result.CopyFrom(values.origin)
            if result.name != constant.name:
                result.name = constant.name
        elif original is not None and isinstance(values, np.ndarray) and _equal(values, self.weights.array(original)):
            result = original
        else:
            result = OnnxExporter.export_tensor_proto(constant)
            result.ClearField("data_location")
            if original is not None:
                result.doc_string = original.doc_string
                result.metadata_props.extend(original.metadata_props)
        return self.weights.inline(result) if inline and is_deferred(result) else result

    def _is_as_before(self, constant: gs.Constant, original: SparseTensorProto) -> bool:
        if isinstance(constant._values, SparseValues):
            return bool(constant._values.tensor == original)
        return _equal(constant.values, densified(original, self.weights))


def _made(node: gs.Node) -> tuple[str, str, tuple[str, ...]]:
    return node.op, node.domain or "", tuple(tensor.name for tensor in node.outputs)


def _made_attribute(name: str, value: Any, original: AttributeProto) -> AttributeProto:  # noqa: ANN401
    """Return a new or changed attribute; an empty list has the type of the original."""
    if isinstance(value, list) and not value and original.type:
        made = helper.make_attribute(name, value, attr_type=original.type)
    else:
        made = OnnxExporter.export_attributes({name: value})[0]
    if original.doc_string:
        made.doc_string = original.doc_string
    return made


def _defaults(function: gs.Function) -> dict[str, Any]:
    """Return the attributes of a function that have a default value."""
    return {name: value for name, value in function.attrs.items() if value is not None}


def _opsets(after: gs.Graph, before: gs.Graph) -> list[OperatorSetIdProto]:
    """Return the operator sets of the edited graph or function, and those of its new nodes."""
    if after.import_domains is None:
        imports = [helper.make_opsetid("", after.opset)]
    else:
        imports = list(after.import_domains)
        if after.opset != before.opset:
            imports = [helper.make_opsetid(i.domain, i.version if i.domain else after.opset) for i in imports]
    imported = {entry.domain for entry in imports} | {"", "ai.onnx"}
    return imports + [helper.make_opsetid(d, 1) for d in sorted(_domains(after) - _domains(before) - imported)]


def _domains(graph: gs.Graph) -> set[str]:
    nodes = (*graph.nodes, *(node for body in graph.subgraphs(recursive=True) for node in body.nodes))
    return {node.domain or "" for node in nodes}


def _equal(a: Array, b: Array) -> bool:
    """Return whether two arrays are equal to the bit."""
    same = a.dtype == b.dtype and a.shape == b.shape
    return same and (np.array_equal(a, b) if a.dtype.hasobject else a.tobytes() == b.tobytes())


def _replace(field: Any, values: Iterable[Any]) -> None:  # noqa: ANN401 - protobuf's container
    """Replace the values of a repeated field."""
    values = list(values)
    del field[:]
    field.extend(values)
