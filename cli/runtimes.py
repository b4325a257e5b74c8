"""Options that choose what runs a model."""

from __future__ import annotations

import inspect
import shlex
from enum import StrEnum
from typing import Annotated

from typer import Option

from mxtools.errors import UsageError
from mxtools.runtime.sessions import Level, OnnxRuntime, Runtime

from .common import say
from .options import Command, extended_by


class Library(StrEnum):
    """A library that runs models."""

    ONNX_RUNTIME = "onnxruntime"
    OPENVINO = "openvino"


LevelOption = Annotated[
    Level, Option(metavar="none|basic|extended|all", help="How far ONNX Runtime optimises the graph first.")
]
ProviderOption = Annotated[
    list[str] | None, Option(metavar="NAME", help="Execution provider of ONNX Runtime; the first one is preferred.")
]
LibraryOption = Annotated[Library, Option(metavar="onnxruntime|openvino", help="Library that runs the model.")]


def takes_runtime(command: Command) -> Command:
    """Add the options of `runtime_of` to a command, which gets the result as its parameter `ours`."""
    added = inspect.signature(runtime_of, eval_str=True).parameters.values()
    return extended_by(command, "ours", added, lambda values: runtime_of(**values))


def runtime_of(
    level: LevelOption = Level.NONE,
    provider: ProviderOption = None,
    provider_option: Annotated[
        list[str] | None, Option(metavar="KEY=VALUE", help="Option of the first execution provider.")
    ] = None,
    session_option: Annotated[
        list[str] | None, Option(metavar="KEY=VALUE", help="Entry of the configuration of ONNX Runtime's session.")
    ] = None,
    runtime: LibraryOption = Library.ONNX_RUNTIME,
    run_by: Annotated[
        str | None,
        Option(
            "--command",
            metavar="'TOOL {model} {inputs} {outputs}'",
            help="Run the model by another program, which reads an ONNX file and a .npz file and writes a .npz file.",
        ),
    ] = None,
) -> Runtime:
    """Return the runtime that options describe; UsageError if they contradict each other, or it is not installed."""
    from mxtools.runtime.runtimes import CommandRuntime, OpenVino
    from mxtools.runtime.sessions import check_providers

    own = bool(provider or provider_option or session_option or level is not Level.NONE)
    if own and (run_by or runtime is not Library.ONNX_RUNTIME):
        raise UsageError("providers, levels and session options are for ONNX Runtime only", "leave them out")
    if run_by:
        return CommandRuntime(tuple(shlex.split(run_by)))
    if runtime is Library.OPENVINO:
        return OpenVino()
    if provider:
        check_providers(provider)
    elif provider_option:
        raise UsageError("options are given for no provider", "give --provider too")
    return OnnxRuntime(level, tuple(provider or ()), _pairs(provider_option), _pairs(session_option))


def say_assigned(command: str, runtime: Runtime) -> None:
    """Say how many nodes ran on other providers than the one that was asked for."""
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
