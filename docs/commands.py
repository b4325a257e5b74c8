"""What the generated pages say of the commands, from the command table."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

STATUSES = {
    0: "done",
    1: "the answer is no: a check failed, or a difference was found",
    2: "wrong usage, or nothing matched",
    3: "unreadable or invalid input, or an output that cannot be written",
    4: "the module cannot be cut out: the exporter removed it, or it ends inside a merged node",
    70: "an error in mxtools itself",
    130: "interrupted",
}
"""What exit statuses mean."""
_EXAMPLE = "Example: "


def paragraphs(command: Any) -> list[str]:
    """Return the help of a command, each paragraph on one line; without its examples."""
    return [text for text in _paragraphs(command) if not text.startswith(_EXAMPLE)]


def examples(command: Any) -> list[str]:
    """Return the command lines that its help shows."""
    return [text.removeprefix(_EXAMPLE) for text in _paragraphs(command) if text.startswith(_EXAMPLE)]


def parameters(command: Any) -> Iterator[Any]:
    """Yield the parameters of a command, first the arguments; not `--help`, which all have."""
    found = sorted(command.params, key=lambda p: p.param_type_name != "argument")
    yield from (parameter for parameter in found if parameter.name != "help")


def shown(parameter: Any) -> str:
    """Return a parameter as it is written: `--output, -o FILE`."""
    metavar = parameter.metavar or parameter.name.strip("_").upper()
    if parameter.param_type_name == "argument":
        return str(metavar)
    return ", ".join((*parameter.opts, *parameter.secondary_opts)) + ("" if parameter.is_flag else f" {metavar}")


def explained(parameter: Any) -> str:
    """Return the help of a parameter."""
    return f"{parameter.help or ''}{' Repeatable.' if getattr(parameter, 'multiple', False) else ''}"


def usage(name: str, command: Any) -> str:
    """Return how a command is called: `mx graft [OPTIONS] [ONNX] PART`."""
    arguments = [shown(parameter) for parameter in parameters(command) if parameter.param_type_name == "argument"]
    options = ["[OPTIONS]"] if len(arguments) < len([*parameters(command)]) else []
    return " ".join(["mx", name, *options, *arguments, *(["--", command.rest] if command.rest else [])])


def _paragraphs(command: Any) -> list[str]:
    return [" ".join(text.split()) for text in inspect.cleandoc(command.help).split("\n\n")]
