"""Operator sets of two models, made to agree so that the nodes of one can stand in the other."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import ModelProto, OperatorSetIdProto

from mxtools.graph.functions import every_node


def versions(imports: Iterable[OperatorSetIdProto]) -> dict[str, int]:
    """Give the version of each domain; ONNX's own, which has two names, is ''."""
    return {plain_domain(entry.domain): entry.version for entry in imports}


def import_missing(model: ModelProto, part: ModelProto) -> None:
    """Import into a model the domains that nodes of its graph or functions use, as a part does; others stay out."""
    used = {plain_domain(node.domain) for node in every_node(part.graph.node)}
    used |= {domain for function in model.functions for domain in versions(function.opset_import)}
    for entry in part.opset_import:
        if plain_domain(entry.domain) in used - versions(model.opset_import).keys():
            model.opset_import.add().CopyFrom(entry)


def plain_domain(domain: str) -> str:
    """Return the domain, by one name where it is ONNX's own, which has two."""
    return "" if domain == "ai.onnx" else domain
