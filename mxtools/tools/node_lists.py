"""Write selected nodes in the formats of other tools, which know no modules: as names of nodes or tensors."""

from __future__ import annotations

import re
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
BY_NAME = "session.name_based_layer_assignment"
LONGEST = 8192
"""The most characters that ONNX Runtime accepts as the value of an option."""
_SYNTAX = frozenset("(),;= ")
"""Characters that end an annotation in ONNX Runtime's options, or have a meaning at its beginning."""
_SEPARATORS = frozenset(",:*")
"""Characters with a meaning in the lists of trtexec."""


class Format(StrEnum):
    """The formats, most of them named after a tool; FORMATS has the function that writes each."""

    NAMES = "names"
    TENSORS = "tensors"
    ORT_QUANT = "ort-quant"
    FLOAT16 = "float16"
    NNCF = "nncf"
    OLIVE = "olive"
    LAYER_ANNOTATION = "layer-annotation"
    ORT_NAMES = "ort-names"
    MODELOPT = "modelopt"
    QUARK = "quark"
    AIMET = "aimet"
    TENSORRT = "tensorrt"


@dataclass(frozen=True)
class Selected:
    """Some nodes of a tagged model, in order; `device` is where they must run, for formats that say so."""

    annotations: Annotations
    nodes: tuple[int, ...]
    device: str = "cpu"

    @cached_property
    def names(self) -> list[str]:
        """The names of the nodes; InputError if a node has no name, or shares it with one that is not selected."""
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
        """The names, and those of the nodes that ONNX Runtime's quantiser makes from a Gemm.

        The quantiser divides a Gemm into MatMul and Add before it looks at any name.
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

    @property
    def own_weights(self) -> list[str]:
        """The names of the initializers that only these nodes read."""
        graph, chosen = self.annotations.graph, set(self.nodes)
        read = dict.fromkeys(value for n in self.nodes for value in graph.reads[n] if value in graph.initializers)
        return [graph.names[value] for value in read if chosen.issuperset(graph.readers[value])]

    @cached_property
    def other_names(self) -> str:
        """The names of all other nodes, one a line."""
        chosen = set(self.nodes)
        return "\n".join(proto.name for n, proto in enumerate(self.annotations.graph.nodes) if n not in chosen)

    def scope(self, node: int) -> str:
        """Return the scope of a node."""
        return self.annotations.hierarchy.scopes[self.annotations.call[node] or 0]


def select(model: WorkingModel, selection: Selection, operators: tuple[str, ...] = (), device: str = "cpu") -> Selected:
    """Select nodes of a tagged model, including those in bodies and functions.

    Raises InputError if no node has a scope, UsageError if a selector matches nothing, AbsentError if the graph no
    longer has a selected module, or only a part of it.
    """
    annotations = model.annotations
    model.require_tagged()
    nodes = nodes_anywhere(annotations, calls_of(annotations, selection), operators)
    return Selected(annotations, tuple(sorted(nodes)), device)


def _olive(selected: Selected) -> dict[str, Any]:
    """Return a pass of an Olive workflow; ONNX Runtime's preprocessing is off, because it renames nodes."""
    return {"type": "OnnxDynamicQuantization", "quant_preprocess": False, "nodes_to_exclude": selected.excluded}


def _layer_annotation(selected: Selected) -> dict[str, Any]:
    """Return the scopes of the nodes by name, and the session option that assigns only these nodes to a device."""
    protos = selected.annotations.graph.nodes
    scopes = {protos[n].name: selected.scope(n) for n in selected.nodes} if selected.names else {}
    option = f"{selected.device}({', '.join(_rules(selected))})"
    if len(option) > LONGEST:
        raise UsageError(f"{ASSIGNMENT} would be longer than {LONGEST} characters", "select whole modules, or fewer")
    return {keys.LAYER_ANNOTATION: scopes, ASSIGNMENT: option}


def _rules(selected: Selected) -> dict[str, None]:
    """Return the rules of ONNX Runtime's option that match the scopes of the selected nodes and no others.

    `=a` matches the scope `a` itself, `a.` every scope that begins with it. If all nodes of a module are selected, one
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


def _ort_names(selected: Selected) -> dict[str, Any]:
    """Return the session option that assigns nodes to a device by parts of their names.

    A rule is a part of a name, such as `/encoder/layer.1/`, that the names of all selected nodes of a module contain
    and no other name. Source: docs/annotated_partitioning of ONNX Runtime, name-based layer assignment.
    """
    rules: dict[str, None] = {}
    parts = _LeadingParts(selected.other_names)
    length = len(selected.device) + len("()")
    for name in selected.names:
        rule = parts.shortest(name)
        if rule is None:
            raise UsageError(
                f"ONNX Runtime would assign other nodes too, whose names contain {name!r}",
                "name nodes by ⟨tag-renaming⟩",
            )
        if not _SYNTAX.isdisjoint(rule):
            raise UsageError(f"ONNX Runtime's option {BY_NAME} cannot hold the name {rule!r}", "select another")
        length += 0 if rule in rules else len(rule) + len(", ")
        if length > LONGEST:
            raise UsageError(f"{BY_NAME} would be longer than {LONGEST} characters", "select whole modules, or fewer")
        rules[rule] = None
    return {BY_NAME: f"{selected.device}({', '.join(rules)})"}


class _LeadingParts:
    """Finds the shortest leading part of a name, up to a slash or all of it, that none of some other names contains."""

    def __init__(self, others: str) -> None:
        self._others = others
        self._is_free: dict[str, bool] = {}

    def shortest(self, name: str) -> str | None:
        """Return this part of a name, None if another name contains even the whole of it."""
        ends = [place + 1 for place, letter in enumerate(name) if letter == "/" and place] + [len(name)]
        return next((name[:end] for end in ends if self._is_in_no_other(name[:end])), None)

    def _is_in_no_other(self, part: str) -> bool:
        if part not in self._is_free:
            self._is_free[part] = part not in self._others
        return self._is_free[part]


def _quark(selected: Selected) -> dict[str, Any]:
    """Return arguments of Quark's QConfig; its graph optimisation is off, because that renames nodes."""
    return {"exclude": selected.names, "OptimizeModel": False, "SimplifyModel": False}


def _lines(names: list[str]) -> list[str]:
    """Return names, one a line; UsageError if one has characters that a line of text cannot show as they are."""
    for name in names:
        if not name.isprintable():
            raise UsageError(f"a line of text cannot hold the name {name!r}", "choose a format that is JSON")
    return names


def _tensorrt(selected: Selected) -> list[str]:
    """Return the arguments with which trtexec keeps layers in float32; its parser's layers have the nodes' names."""
    for name in selected.names:
        if not _SEPARATORS.isdisjoint(name) or not name.isprintable():
            raise UsageError(f"trtexec's --layerPrecisions cannot hold the name {name!r}", "name it by ⟨tag-renaming⟩")
    precisions = ",".join(f"{name}:fp32" for name in selected.names)
    return ["--precisionConstraints=obey", f"--layerPrecisions={precisions}"]


FORMATS: dict[Format, Callable[[Selected], list[str] | dict[str, Any]]] = {
    Format.NAMES: lambda selected: _lines(selected.names),
    Format.TENSORS: lambda selected: _lines(selected.tensors),
    Format.ORT_QUANT: lambda selected: {"nodes_to_exclude": selected.excluded},
    Format.FLOAT16: lambda selected: {"node_block_list": selected.names},
    Format.NNCF: lambda selected: {"names": selected.names},
    Format.OLIVE: _olive,
    Format.LAYER_ANNOTATION: _layer_annotation,
    Format.ORT_NAMES: _ort_names,
    Format.MODELOPT: lambda selected: {"nodes_to_exclude": [f"{re.escape(name)}$" for name in selected.names]},
    Format.QUARK: _quark,
    Format.AIMET: lambda selected: {"tensors": [*selected.tensors, *selected.own_weights]},
    Format.TENSORRT: _tensorrt,
}
"""The function that writes each format; it returns lines, or an object for JSON."""
