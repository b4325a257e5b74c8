"""The pass `untag`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mxtools.carriers.doc_strings import without_tag
from mxtools.carriers.packed import carriers_of
from mxtools.pipeline.base import Pass, option
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys


@dataclass(frozen=True)
class Untag(Pass):
    """Remove the tags that mxtools wrote on the nodes and the model."""

    name: ClassVar[str] = "untag"

    carriers: bool = option(
        "also remove the copies in doc strings and under other keys, and the trace; names stay", False
    )

    def apply(self, model: WorkingModel) -> None:
        """Remove our keys; foreign ones stay."""
        if self.carriers:
            with model.changing():
                _remove_carriers(model)
        model.clear_annotations()
        keys.replace_props(model.proto, keys.MODEL_KEYS, {})


def _remove_carriers(model: WorkingModel) -> None:
    known = {"namespace": keys.NAMESPACE, "layer-annotation": keys.LAYER_ANNOTATION}
    ours = frozenset(known[name] for name in carriers_of(model.proto) if name in known)
    for node in model.graph.nodes:
        keys.replace_props(node, ours, {})
        if (text := without_tag(node.doc_string)) != node.doc_string:
            node.doc_string = text
    keys.replace_props(model.proto, keys.CARRIER_KEYS, {})
