"""The commands in groups, and how typer shows and reads their options."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from typer.core import TyperCommand

GROUPS = {
    "Make": {
        "demo": "Make a small PyTorch model to try things out on.",
        "trace": "Run a model once and write down its modules, in a sidecar.",
        "export": "Export a model to ONNX, with nothing added.",
        "tag": "Write onto every node of an ONNX graph which module it belongs to.",
        "auto": "Export and tag a model in one step, by the strategy that suits it.",
    },
    "Look": {
        "tree": "Show the modules of an ONNX graph as a tree.",
        "view": "Show an ONNX graph as a page to browse, or write it for other viewers.",
        "text": "Write an ONNX graph as text, module by module, for `git diff`.",
        "profile": "Show which modules take the time.",
    },
    "Cut": {
        "filter": "Cut modules out of an ONNX graph, as a model that runs.",
        "split": "Split an ONNX graph into one model for each selected module, and the rest.",
        "graft": "Put a changed part back in its place in an ONNX graph.",
        "select": "Write the nodes of modules for tools that know only node names.",
    },
    "Check": {
        "verify": "Compare what each module of an ONNX graph returns with PyTorch, or with another graph.",
        "run-values": "Run an ONNX graph and keep what its modules return, to compare with elsewhere.",
        "compare": "Compare two ONNX graphs module by module.",
        "validate": "Check an ONNX graph, its tags and its sidecar; repair what can be repaired.",
    },
    "Change": {
        "fold": "Fold modules of an ONNX graph into functions, one for all equal ones.",
        "unfold": "Put the nodes of functions in the place of their calls.",
        "wrap": "Run another tool on an ONNX graph, and carry the tags over to its result.",
        "run": "Run a pipeline of passes over an ONNX graph.",
    },
    "Set up": {
        "recommend": "Recommend a strategy for a model.",
        "bench": "Compare strategies on models: time, memory, quality.",
        "strategies": "List the strategies.",
        "passes": "List the passes and their options.",
        "cache": "Show or prune what --cache keeps.",
        "mcp": "Serve the commands to agents, as tools of the Model Context Protocol.",
    },
}
COMMANDS = {name: text for group in GROUPS.values() for name, text in group.items()}


class Command(TyperCommand):
    """A command in whose help flags have no type, as they take no value."""

    rest: ClassVar[str] = ""
    """What the words after `--` are, where a command takes some."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters."""
        return prepared(super().get_params(ctx))


def prepared(parameters: list[Any]) -> list[Any]:
    """Return typer's parameters, which show no type where they are flags, and read plain values without pydantic."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        if hasattr(parameter, "get_runtime_param"):  # since typer 0.29, which leaves conversion to pydantic
            parameter.get_runtime_param = partial(_PlainValues, parameter.get_runtime_param)
    return parameters


class _PlainValues:
    """Reads what needs no conversion, as typer would; all else is left to typer, which imports pydantic for it."""

    def __init__(self, usual: Callable[[], Any]) -> None:
        """Take what returns typer's own reader."""
        self._usual = usual

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return a value that was given, or that is the default, as one of the parameter's type."""
        described = param.type_descriptor
        kind = None if described.parameter_info.parser else described.annotation
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        if kind is str and isinstance(value, str):
            return value
        if isinstance(kind, type) and issubclass(kind, StrEnum) and value in list(kind):
            return kind(value)
        if kind == list[str] and isinstance(value, list | tuple) and all(isinstance(text, str) for text in value):
            return list(value)
        if kind is Path and isinstance(value, str) and (os.access(value, os.R_OK) or not os.path.lexists(value)):
            return Path(value)
        return self._usual().coerce(value, param=param, ctx=ctx)
