"""The commands as tools for programs: what each takes, as JSON Schema, and the command line of a call.

Everything comes from the command table: names and help from the commands' parameters, types from their functions.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from ..help import COMMANDS
from ..main import load

SERVER = "mcp"
"""The command that serves the others, and is no tool."""
JSON = "json"
REST = "command"
"""The property that holds the words after `--`."""
NO_DEFAULTS = ("", "-")
"""Defaults that say nothing: what is left out, and pipes, which calls do not have."""
_WORDS = re.compile(r"\[?[a-z0-9-]+(\|[a-z0-9-]+)+\]?")
_TYPES: dict[Any, str] = {bool: "boolean", int: "integer", float: "number"}


@dataclass(frozen=True)
class Tool:
    """A command: its name, its help, the parameters by the names that a call uses, and the words after `--`."""

    name: str
    help: str
    parameters: Mapping[str, Any]
    types: Mapping[str, Any]
    rest: str

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the arguments of a call."""
        properties = {name: self._property(name, parameter) for name, parameter in self.parameters.items()}
        required = [name for name, p in self.parameters.items() if p.required or _is_stdin(p)]
        if self.rest:
            properties[REST] = {"type": "array", "items": {"type": "string"}, "description": self.rest}
            required.append(REST)
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    def line(self, arguments: Mapping[str, Any]) -> list[str]:
        """Return the words of the command line, from the command's name on, of arguments that fit the schema.

        >>> tools()["tree"].line({"source": "-m.onnx", "depth": 2.0, "fold": False, "json": False})
        ['tree', '--depth=2', '--no-fold', './-m.onnx']
        """
        given = ({JSON: True} if JSON in self.parameters else {}) | dict(arguments)
        options: list[str] = []
        files: list[str] = []
        for name, parameter in self.parameters.items():
            if given.get(name) is None:
                continue
            values = given[name] if isinstance(given[name], list) else [given[name]]
            if parameter.param_type_name == "argument":
                files += map(_no_option, values)
            elif not parameter.is_flag:
                options += [f"--{name}={_word(value)}" for value in values]
            elif given[name]:
                options.append(f"--{name}")
            else:
                options += parameter.secondary_opts[:1]
        return [self.name, *options, *files, *(["--", *given[REST]] if self.rest else [])]

    def _property(self, name: str, parameter: Any) -> dict[str, Any]:
        type_ = self.types[parameter.name]
        help_ = " ".join(text for text in (parameter.help, _form(parameter)) if text)
        found = _schema(type_, parameter) | ({"description": help_} if help_ else {})
        default = True if name == JSON else parameter.default
        if isinstance(default, Enum):
            default = default.value
        return found | (
            {"default": default} if isinstance(default, str | int | float) and default not in NO_DEFAULTS else {}
        )


@cache
def tools() -> dict[str, Tool]:
    """Return the tools by the names of their commands."""
    return {name: _tool(name) for name in COMMANDS if name != SERVER}


def _tool(name: str) -> Tool:
    command = load(name)
    function = import_module(f"..commands.{name.replace('-', '_')}", __package__).command
    types = {p.name: p.annotation for p in inspect.signature(function, eval_str=True).parameters.values()}
    parameters = dict(_named(command.params))
    return Tool(name, command.help, parameters, types, command.rest)


def _named(parameters: list[Any]) -> Iterator[tuple[str, Any]]:
    """Yield parameters with the names that calls use: those of the long options, without the dashes."""
    for parameter in parameters:
        if parameter.name != "help":
            yield next((o[2:] for o in parameter.opts if o.startswith("--")), parameter.name), parameter


def _is_stdin(parameter: Any) -> bool:
    """Return whether a parameter is a file, or files, that are stdin by default, which calls do not have."""
    return bool(parameter.param_type_name == "argument" and (parameter.default == "-" or parameter.nargs == -1))


def _no_option(value: str) -> str:
    """Return a file's name so that it is not taken for an option."""
    return f"./{value}" if value.startswith("-") and value != "-" else str(value)


def _word(value: Any) -> str:
    """Return a value as an option takes it: to JSON 2.0 is an integer, to a command line it is not."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _form(parameter: Any) -> str:
    """Return how a value is written, where the metavar shows that and not only that it is a name."""
    form = parameter.metavar or ""
    return f"Form: {form}." if re.search(r"[=:,]", form) else ""


def _schema(hint: Any, parameter: Any) -> dict[str, Any]:
    """Return the JSON Schema of a parameter's type."""
    origin, inner = get_origin(hint), [arg for arg in get_args(hint) if arg is not type(None)]
    if hasattr(hint, "__metadata__") or origin in (Union, UnionType):
        return _schema(inner[0], parameter)
    if origin is list:
        return {"type": "array", "items": _schema(inner[0], parameter)}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"type": "string", "enum": [member.value for member in hint]}
    if hint in _TYPES:
        bounds = {"minimum": parameter.min, "maximum": parameter.max} if hint is not bool else {}
        return {"type": _TYPES[hint], **{key: value for key, value in bounds.items() if value is not None}}
    if hint in (str, Path, Any):
        words = _WORDS.fullmatch(parameter.metavar or "")
        return {"type": "string", **({"enum": parameter.metavar.strip("[]").split("|")} if words else {})}
    raise TypeError(f"no JSON type is known for {hint} of {parameter.name}")
