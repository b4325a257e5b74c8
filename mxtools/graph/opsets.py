"""The operator sets of two models, made to agree so that nodes of one can be put into the other."""

from __future__ import annotations

from onnx import ModelProto

from mxtools.graph.functions import every_node
from mxtools.graph.operators import plain_domain, versions


def import_missing(model: ModelProto, part: ModelProto) -> None:
    """Import into a model the domains that a part's nodes or the model's functions use, in the part's versions."""
    used = {plain_domain(node.domain) for node in every_node(part.graph.node)}
    used |= {domain for function in model.functions for domain in versions(function.opset_import)}
    for entry in part.opset_import:
        if plain_domain(entry.domain) in used - versions(model.opset_import).keys():
            model.opset_import.add().CopyFrom(entry)
