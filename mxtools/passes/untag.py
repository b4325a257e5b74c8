"""The pass `untag`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx import ModelProto

from mxtools import keys
from mxtools.context import Context, Pass


@dataclass(frozen=True)
class Untag(Pass):
    """Remove all that mxtools wrote on nodes and model."""

    name: ClassVar[str] = "untag"
    annotates: ClassVar[bool] = True

    def apply(self, model: ModelProto, context: Context) -> None:
        """Remove our keys; foreign ones stay."""
        for node in [node for node in context.graph(model).nodes if node.metadata_props]:
            keys.replace_props(node, keys.NODE_KEYS, {})
        keys.replace_props(model, keys.MODEL_KEYS, {})
        context.forget_annotations()
