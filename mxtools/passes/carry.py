"""The pass `carry`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from onnx import ModelProto

from mxtools.carriers.doc_strings import write_doc_string
from mxtools.carriers.foreign import namespaces_of
from mxtools.carriers.names import node_names, rename_nodes, rename_outputs
from mxtools.carriers.packed import carriers_of, embed_trace, write_carriers, write_scopes
from mxtools.errors import UsageError
from mxtools.pipeline.base import Pass, option
from mxtools.pipeline.registry import key_of
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.scopes.annotations import Annotations


@dataclass(frozen=True)
class Carry(Pass):
    """Copy tags to other places, which tools keep or read, and update copies that the model already has."""

    name: ClassVar[str] = "carry"

    doc_string: bool = option("copy tags to doc strings, which ONNX Runtime's optimiser keeps", False)
    rename: bool = option("name nodes by scope, /encoder/layer.0/MatMul, for tools that select by name", False)
    output_names: bool = option("name tensors by scope; inputs and outputs of the graph keep their names", False)
    embed_trace: bool = option("put the trace into the model, where later commands find it", False)
    namespace: bool = option("write the namespaces that Model Explorer reads", False)
    layer_annotation: bool = option("write the scopes to layer_ann, where ONNX Runtime reads them", False)

    def apply(self, model: WorkingModel) -> None:
        """Write the chosen copies, and those that the model, or the model from which it was made, already has.

        Scopes and tags do not change. Raises UsageError if there is no trace to embed.
        """
        asked = {key_of(item) for item in fields(self) if getattr(self, item.name)}
        before = carriers_of(model.previous.proto) if model.previous else frozenset()
        wanted = asked | carriers_of(model.proto) | before
        if not wanted:
            return
        if "embed-trace" in asked and not model.traced:
            raise UsageError("there is no trace to put into the model", "give ⟨trace⟩")
        annotations = model.annotations
        with model.changing() as proto:
            write_carriers(proto, wanted)
            if "embed-trace" in wanted and model.traced:
                embed_trace(proto, model.traced)
            _write_on_nodes(annotations, wanted)
            if wanted & {"rename", "output-names"}:
                _write_names(proto, annotations, wanted)


def _write_on_nodes(annotations: Annotations, wanted: set[str]) -> None:
    hierarchy = annotations.hierarchy
    spaces = namespaces_of(hierarchy) if "namespace" in wanted else []
    for proto, call in zip(annotations.graph.nodes, annotations.call, strict=True):
        if "doc-string" in wanted:
            write_doc_string(proto)
        if call is not None and spaces:
            keys.set_prop(proto, keys.NAMESPACE, spaces[call])
        if call is not None and "layer-annotation" in wanted:
            keys.set_prop(proto, keys.LAYER_ANNOTATION, hierarchy.scopes[call])


def _write_names(model: ModelProto, annotations: Annotations, wanted: set[str]) -> None:
    hierarchy, names = annotations.hierarchy, node_names(annotations)
    write_scopes(model, dict(zip(hierarchy.scopes, hierarchy.tags, strict=True)))
    if "rename" in wanted:
        rename_nodes(annotations.graph, names)
    if "output-names" in wanted:
        rename_outputs(model, annotations.graph, names)
