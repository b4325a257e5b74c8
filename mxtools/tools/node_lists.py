"""Write selected nodes in the formats of other tools, which know no modules: names of nodes or tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from mxtools.errors import InputError, UsageError
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.scopes.annotations import Annotations
from mxtools.scopes.scope import enclosing_scopes
from mxtools.scopes.selection import Selection, calls_of, nodes_anywhere

ASSIGNMENT = "session.layer_assignment_settings"
LONGEST = 8192
"""Characters that ONNX Runtime accepts at most as the value of an option."""
_SYNTAX = frozenset("(),;= ")
"""Characters that end an annotation in ONNX Runtime's option, or have a meaning at its beginning."""


class Format(StrEnum):
    """The formats, most of them named after a tool; FORMATS has the function that writes each."""

    NAMES = "names"
    TENSORS = "tensors"
    ORT_QUANT = "ort-quant"
    FLOAT16 = "float16"
    NNCF = "nncf"
    OLIVE = "olive"
    LAYER_ANNOTATION = "layer-annotation"


@dataclass(frozen=True)
class Selected:
    """Some nodes of a tagged model, in order; `device` is where they are to run, for formats that say so."""

    annotations: Annotations
    nodes: tuple[int, ...]
    device: str = "cpu"

    @cached_property
    def names(self) -> list[str]:
        """The names of the nodes; InputError where one has no name, or shares it with a node that is not selected."""
        protos, chosen = self.annotations.graph.nodes, set(self.nodes)
        others = {proto.name for node, proto in enumerate(protos) if node not in chosen}
        for node in self.nodes:
            name = protos[node].name
            if not name or name in others:
                what = f"has the same name, {name!r}, as a node that is not selected" if name else "has no name"
                raise InputError(
                    f"a {protos[node].op_type} of {self.scope(node)} {what}",
                    "give every node a unique name with ⟨tag-renaming⟩",
                )
        return list(dict.fromkeys(protos[node].name for node in self.nodes))

    @property
    def excluded(self) -> list[str]:
        """The names, and those that ONNX Runtime's quantiser gives the nodes that it makes of a Gemm.

        It divides a Gemm into MatMul and Add before it looks at any name.
        """
        protos, operators = self.annotations.graph.nodes, self.annotations.graph.operators
        taken = {proto.name for proto in protos}
        gemms = dict.fromkeys(protos[n].name for n in self.nodes if operators[n].is_named("Gemm"))
        made = (name + suffix for name in gemms for suffix in ("_MatMul", "_Add"))
        return [*self.names, *(name for name in made if name not in taken)]

    @cached_property
    def tensors(self) -> list[str]:
        """The names of the tensors that the nodes make."""
        return list(dict.fromkeys(name for n in self.nodes for name in self.annotations.graph.nodes[n].output if name))

    def scope(self, node: int) -> str:
        """Return the scope of a node."""
        return self.annotations.hierarchy.scopes[self.annotations.call[node] or 0]


def select(model: WorkingModel, selection: Selection, operators: tuple[str, ...] = (), device: str = "cpu") -> Selected:
    """Select nodes of a tagged model, also those in bodies and functions.

    Raises InputError where no node has a scope, UsageError where a selector matches nothing, AbsentError where a
    selected module is no longer in the graph, or only in part.
    """
    annotations = model.annotations
    model.require_tagged()
    nodes = nodes_anywhere(annotations, calls_of(annotations, selection), operators)
    return Selected(annotations, tuple(sorted(nodes)), device)


def _olive(selected: Selected) -> dict[str, Any]:
    """Return a pass of an Olive workflow; ONNX Runtime's preprocessing is off, because it renames nodes."""
    return {"type": "OnnxDynamicQuantization", "quant_preprocess": False, "nodes_to_exclude": selected.excluded}


def _layer_annotation(selected: Selected) -> dict[str, Any]:
    """Return the scopes of the nodes by name, and the session option that assigns just these nodes to a device."""
    protos = selected.annotations.graph.nodes
    scopes = {protos[n].name: selected.scope(n) for n in selected.nodes} if selected.names else {}
    option = f"{selected.device}({', '.join(_rules(selected))})"
    if len(option) > LONGEST:
        raise UsageError(f"{ASSIGNMENT} would be longer than {LONGEST} characters", "select whole modules, or fewer")
    return {keys.LAYER_ANNOTATION: scopes, ASSIGNMENT: option}


def _rules(selected: Selected) -> dict[str, None]:
    """Return the rules of ONNX Runtime's option that match the scopes of the selected nodes and no others.

    `=a` matches the scope `a` itself, `a.` every scope that begins so. Where all nodes of a module are selected, one
    rule for the module stands for all scopes below it. Source: onnxruntime.ai/docs, partitioning with annotations.
    """
    annotations, chosen = selected.annotations, set(selected.nodes)
    others = {selected.scope(n) for n, call in enumerate(annotations.call) if call is not None and n not in chosen}
    around = {outer for scope in others for outer in enclosing_scopes(scope)}
    rules: dict[str, None] = {}
    for scope in dict.fromkeys(map(selected.scope, selected.nodes)):
        if scope in others:
            raise UsageError(
                f"ONNX Runtime can assign only all of {scope}", "select by ⟨scope⟩, ⟨by-tag⟩ or ⟨class⟩ only"
            )
        if not _SYNTAX.isdisjoint(scope):
            raise UsageError(f"ONNX Runtime's option {ASSIGNMENT} cannot hold the scope {scope!r}", "select another")
        outermost = next((outer for outer in enclosing_scopes(scope) if outer not in around), None)
        rules[f"{outermost}." if outermost else f"={scope}"] = None
    return rules


FORMATS: dict[Format, Callable[[Selected], list[str] | dict[str, Any]]] = {
    Format.NAMES: lambda selected: selected.names,
    Format.TENSORS: lambda selected: selected.tensors,
    Format.ORT_QUANT: lambda selected: {"nodes_to_exclude": selected.excluded},
    Format.FLOAT16: lambda selected: {"node_block_list": selected.names},
    Format.NNCF: lambda selected: {"names": selected.names},
    Format.OLIVE: _olive,
    Format.LAYER_ANNOTATION: _layer_annotation,
}
"""The function that writes each format: it returns lines, or an object for JSON."""
