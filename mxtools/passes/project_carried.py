"""The pass `project-carried`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from onnx import ModelProto, NodeProto

from mxtools import keys
from mxtools.annotations import INDIRECT, Evidence
from mxtools.carriers.doc_strings import read_doc_string
from mxtools.carriers.names import scope_in
from mxtools.carriers.packed import carriers_of, scopes_of
from mxtools.context import Context, Pass


@dataclass(frozen=True)
class ProjectCarried(Pass):
    """Scopes from the copies of tags that `carry` wrote and that survived: doc strings, names of nodes and values."""

    name: ClassVar[str] = "project-carried"
    annotates: ClassVar[bool] = True

    def apply(self, model: ModelProto, context: Context) -> None:
        """Annotate the nodes that bear a copy; names count only where the model says that they hold scopes."""
        annotations, carriers = context.annotations(model), carriers_of(model)
        known = scopes_of(model) if carriers & {"rename", "output-names"} else {}
        said: dict[int, Mapping[str, str]] = {}
        for node, proto in enumerate(annotations.graph.nodes):
            if annotations.call[node] is None:
                props = read_doc_string(proto.doc_string) or _by_name(proto, carriers, known)
                if props:
                    said[node] = {**props, keys.EVIDENCE: _word(props)}
        annotations.take_in(said)


def _by_name(node: NodeProto, carriers: frozenset[str], known: Mapping[str, str]) -> Mapping[str, str]:
    scopes = (scope for name in _names(node, carriers) if (scope := scope_in(name, known)) is not None)
    scope = next(scopes, None)
    return {} if scope is None else {keys.SCOPE: scope, keys.TAG: known.get(scope, "")}


def _names(node: NodeProto, carriers: frozenset[str]) -> Iterator[str]:
    if "rename" in carriers:
        yield node.name
    if "output-names" in carriers:
        yield from node.output


def _word(props: Mapping[str, str]) -> str:
    word = props.get(keys.EVIDENCE, "")
    return word if word in INDIRECT else Evidence.PREVIOUS
