"""Selected nodes in the words of other tools, which know no modules: names of nodes and tensors, as configuration."""

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
"""Characters that ONNX Runtime takes for the value of an option."""
_SYNTAX = frozenset("(),;= ")
"""What ends an annotation in ONNX Runtime's option, or means something at its beginning."""


class Format(StrEnum):
    """For what tool; FORMATS has what each gives."""

    NAMES = "names"
    TENSORS = "tensors"
    ORT_QUANT = "ort-quant"
    FLOAT16 = "float16"
    NNCF = "nncf"
    OLIVE = "olive"
    LAYER_ANNOTATION = "layer-annotation"


@dataclass(frozen=True)
class Selected:
    """Some nodes of a tagged model, in order, and the device where they are to run, for those who ask."""

    annotations: Annotations
    nodes: tuple[int, ...]
    device: str = "cpu"

    @cached_property
    def names(self) -> list[str]:
        """The names of the nodes; InputError where one has none, or one that a node beside the selection has too."""
        protos, chosen = self.annotations.graph.nodes, set(self.nodes)
        others = {proto.name for node, proto in enumerate(protos) if node not in chosen}
        for node in self.nodes:
            name = protos[node].name
            if not name or name in others:
                what = f"has its name, {name!r}, in common with a node that is not selected" if name else "has no name"
                raise InputError(
                    f"a {protos[node].op_type} of {self.scope(node)} {what}", "name it by `mx tag --rename`"
                )
        return list(dict.fromkeys(protos[node].name for node in self.nodes))

    @property
    def excluded(self) -> list[str]:
        """The names, and those that ONNX Runtime's quantiser, before it looks at any, gives what it makes of a Gemm."""
        protos, operators = self.annotations.graph.nodes, self.annotations.graph.operators
        taken = {proto.name for proto in protos}
        gemms = dict.fromkeys(protos[n].name for n in self.nodes if operators[n].onnx_name == "Gemm")
        made = (name + suffix for name in gemms for suffix in ("_MatMul", "_Add"))
        return [*self.names, *(name for name in made if name not in taken)]

    @cached_property
    def tensors(self) -> list[str]:
        """The names of the tensors that the nodes make."""
        return list(dict.fromkeys(name for n in self.nodes for name in self.annotations.graph.nodes[n].output if name))

    def scope(self, node: int) -> str:
        """Give the scope of a node."""
        return self.annotations.hierarchy.scopes[self.annotations.call[node] or 0]


def select(model: WorkingModel, selection: Selection, operators: tuple[str, ...] = (), device: str = "cpu") -> Selected:
    """Select nodes of a tagged model, also those in bodies and functions.

    Raises InputError where no node has a scope, UsageError where a selector matches nothing, AbsentError where a
    selected module is there no more or in part.
    """
    annotations = model.annotations
    model.require_tagged()
    nodes = nodes_anywhere(annotations, calls_of(annotations, selection), operators)
    return Selected(annotations, tuple(sorted(nodes)), device)


def _olive(selected: Selected) -> dict[str, Any]:
    """Give a pass of a workflow, without ONNX Runtime's preprocessing, which gives nodes other names."""
    return {"type": "OnnxDynamicQuantization", "quant_preprocess": False, "nodes_to_exclude": selected.excluded}


def _layer_annotation(selected: Selected) -> dict[str, Any]:
    """Give the metadata of the nodes by name, and the option of a session that assigns just these to a device."""
    protos = selected.annotations.graph.nodes
    scopes = {protos[n].name: selected.scope(n) for n in selected.nodes} if selected.names else {}
    option = f"{selected.device}({', '.join(_rules(selected))})"
    if len(option) > LONGEST:
        raise UsageError(f"{ASSIGNMENT} would be longer than {LONGEST} characters", "select whole modules, or fewer")
    return {keys.LAYER_ANNOTATION: scopes, ASSIGNMENT: option}


def _rules(selected: Selected) -> dict[str, None]:
    """Give the annotations that are the scopes of some nodes and of no others.

    `=a` is a itself, `a.` all that begins so: it stands for the scopes below the outermost module that is selected.
    Source: onnxruntime.ai/docs, graph partitioning with annotations.
    """
    annotations, chosen = selected.annotations, set(selected.nodes)
    others = {selected.scope(n) for n, at in enumerate(annotations.call) if at is not None and n not in chosen}
    around = {outer for scope in others for outer in enclosing_scopes(scope)}
    rules: dict[str, None] = {}
    for scope in dict.fromkeys(map(selected.scope, selected.nodes)):
        if scope in others:
            raise UsageError(
                f"ONNX Runtime assigns all of {scope} or nothing", "select by --scope, --tag or --class only"
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
"""What each format gives: lines, or an object for JSON."""
