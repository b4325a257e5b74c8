"""Options that say what runs a model."""

from __future__ import annotations

import shlex
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from typer import Option

from mxtools.errors import UsageError
from mxtools.runtime.sessions import Level

from .common import say

if TYPE_CHECKING:
    from mxtools.runtime.sessions import Runtime


class Library(StrEnum):
    """A library that runs models."""

    ONNX_RUNTIME = "onnxruntime"
    OPENVINO = "openvino"


LEVELS = "none|basic|extended|all"
LIBRARIES = "onnxruntime|openvino"
LevelOption = Annotated[Level, Option(metavar=LEVELS, help="How far ONNX Runtime optimises the graph first.")]
ProviderOption = Annotated[
    list[str] | None, Option(metavar="NAME", help="Execution provider of ONNX Runtime; the first one is preferred.")
]
ProviderOptions = Annotated[
    list[str] | None,
    Option("--provider-option", metavar="KEY=VALUE", help="Option of the first execution provider."),
]
SessionOptions = Annotated[
    list[str] | None,
    Option("--session-option", metavar="KEY=VALUE", help="Entry of the configuration of ONNX Runtime's session."),
]
CommandOption = Annotated[
    str | None,
    Option(
        "--command",
        metavar="'TOOL {model} {inputs} {outputs}'",
        help="Run the model by another program, which reads an ONNX file and a .npz file and writes a .npz file.",
    ),
]
LibraryOption = Annotated[Library, Option(metavar=LIBRARIES, help="Library that runs the model.")]


def runtime_of(
    library: Library,
    level: Level,
    providers: list[str] | None,
    provider_options: list[str] | None = None,
    session_options: list[str] | None = None,
    command: str | None = None,
) -> Runtime:
    """Return the runtime that options describe; UsageError where they contradict each other, or it is not there."""
    from mxtools.runtime.runtimes import CommandRuntime, OpenVino, check_providers
    from mxtools.runtime.sessions import OnnxRuntime

    own = bool(providers or provider_options or session_options or level is not Level.NONE)
    if own and (command or library is not Library.ONNX_RUNTIME):
        raise UsageError("providers, levels and session options are for ONNX Runtime only", "leave them out")
    if command:
        return CommandRuntime(tuple(shlex.split(command)))
    if library is Library.OPENVINO:
        return OpenVino()
    check_providers(providers or ())
    if provider_options and not providers:
        raise UsageError("options are given for no provider", "give --provider too")
    return OnnxRuntime(level, tuple(providers or ()), _pairs(provider_options), _pairs(session_options))


def say_assigned(command: str, runtime: Runtime) -> None:
    """Say how many nodes other providers ran than the one that was asked for."""
    assigned = getattr(runtime, "assigned", {})
    for provider, count in assigned.items():
        if count and provider != next(iter(assigned)):
            say(f"mx {command}: {provider} ran {count} of {sum(assigned.values())} nodes, not {next(iter(assigned))}")


def _pairs(texts: list[str] | None) -> dict[str, str]:
    found = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise UsageError(f"{text!r} is not KEY=VALUE", "write session.intra_op.allow_spinning=0")
        found[key] = value
    return found
