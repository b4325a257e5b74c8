"""Folded models for what looks at modules: each module has its own nodes, also where one function serves several."""

from __future__ import annotations

from typing import TypeVar

from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys

M = TypeVar("M", bound=WorkingModel)


def is_folded(model: WorkingModel) -> bool:
    """Return whether `fold` made functions of modules of a model."""
    return bool(model.proto.functions) and any(keys.FOLDED in keys.props(node) for node in model.proto.graph.node)


def unfolded(model: M) -> M:
    """Return a model, or if it is folded, a copy that is not."""
    if is_folded(model):
        model = model.copy()
        unfold_all(model)
    return model


def unfold_all(model: WorkingModel) -> None:
    """Put the nodes of all functions in the place of their calls; InputError if the record of them is damaged."""
    from mxtools.functions.unfolding import UnfoldRequest, unfold  # for few models, and it takes long
    from mxtools.scopes.selection import Selection

    unfold(model, UnfoldRequest(Selection()))
