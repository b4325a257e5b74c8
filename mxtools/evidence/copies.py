"""Evidence from the copies of tags that `carry` wrote: doc strings, names of nodes and of values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnx import NodeProto

from mxtools.carriers.doc_strings import describes_operator_of, read_doc_string
from mxtools.carriers.names import is_named_after_operator, scope_in
from mxtools.carriers.packed import carriers_of, scopes_of
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.scopes.annotations import INDIRECT, Evidence


def annotate_by_copies(model: WorkingModel) -> None:
    """Annotate the nodes that have a copy; names count only if the model's metadata say that they contain scopes."""
    annotations, carriers = model.annotations, carriers_of(model.proto)
    known = scopes_of(model.proto) if carriers & {"rename", "output-names"} else {}
    entries: dict[int, Mapping[str, str]] = {}
    for node, proto in enumerate(annotations.graph.nodes):
        if not (known or proto.doc_string):
            continue
        if annotations.call[node] is None and (props := next(_found(proto, carriers, known), None)):
            entries[node] = {**props, keys.EVIDENCE: _word(props)}
    annotations.read(entries)


def _found(node: NodeProto, carriers: frozenset[str], known: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """Yield the copies of a tag that a node has, the most trusted first.

    The copies in its doc string and name come first if they were written for its operator. Otherwise a tool made one
    node from several, and the names of the node's outputs say more.
    """
    named = _by_name(node.name, known) if "rename" in carriers else {}
    own = [(read_doc_string(node.doc_string), describes_operator_of(node)), (named, is_named_after_operator(node))]
    yield from (props for props, is_same in own if props and is_same)
    if "output-names" in carriers:
        yield from (props for name in node.output if (props := _by_name(name, known)))
    yield from (props for props, is_same in own if props and not is_same)


def _by_name(name: str, known: Mapping[str, str]) -> Mapping[str, str]:
    scope = scope_in(name, known)
    return {} if scope is None else {keys.SCOPE: scope, keys.TAG: known.get(scope, "")}


def _word(props: Mapping[str, str]) -> str:
    word = props.get(keys.EVIDENCE, "")
    return word if word in INDIRECT else Evidence.PREVIOUS
