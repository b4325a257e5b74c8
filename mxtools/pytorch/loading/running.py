"""Run a model once, to find out what its inputs must be."""

from __future__ import annotations

from typing import Any

from torch import nn

from mxtools.errors import InputError
from mxtools.pytorch.eval_mode import settled
from mxtools.runtime.quiet import error_line, quiet, where_raised


def run(model: nn.Module, arguments: dict[str, Any]) -> Any:  # noqa: ANN401 - whatever it returns
    """Return what a model returns; InputError if its forward pass raises."""
    try:
        with quiet(), settled(model):
            return model(**arguments)
    except Exception as error:
        raise InputError(
            f"the forward pass of {type(model).__name__} raised {error_line(error)} ({where_raised(error)})",
            "give fitting inputs with ⟨any-inputs⟩",
        ) from error
