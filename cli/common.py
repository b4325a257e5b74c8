"""What several commands share: parameters, running a pipeline from file to file, reports."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

if TYPE_CHECKING:
    from mxtools.context import Context, Pass
    from mxtools.pipeline import Pipeline
    from mxtools.pytorch.subject import Subject
    from mxtools.sidecar import Sidecar

Source = Annotated[str, Argument(metavar="[ONNX]", help="ONNX file; '-' or nothing is stdin.", show_default=False)]
Output = Annotated[
    str, Option("--output", "-o", metavar="FILE", help="Where to write; '-' or nothing is stdout.", show_default=False)
]
DataDir = Annotated[
    Path | None,
    Option(
        metavar="DIR",
        help="Folder of the external data, where it is not the model's own (on pipes: the working directory).",
    ),
]
Json = Annotated[bool, Option("--json", help="Give the report as JSON on stdout.")]
Trace = Annotated[str | None, Option("--trace", metavar="SIDECAR", help="Sidecar that `mx trace` wrote.")]
Spec = Annotated[
    str,
    Argument(
        metavar="MODEL",
        help="Hugging Face folder or hub id, or FILE.py:NAME, or package.module:NAME.",
        show_default=False,
    ),
]
Inputs = Annotated[
    list[str] | None,
    Option("--input", metavar="NAME=SHAPE[:DTYPE]", help="An example input to make: x=1,3,224,224:float32."),
]
InputsFile = Annotated[
    Path | None, Option("--inputs", metavar="FILE", help="Example inputs: .npz, .safetensors or .json.")
]
Task = Annotated[
    str | None, Option(metavar="TASK", help="Hugging Face task that picks the class, else the config's architecture.")
]
TrustRemoteCode = Annotated[bool, Option("--trust-remote-code", help="Run code that comes with a hub model.")]


def takes(*passes: type[Pass]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of some passes: it gets them as `steps`, a tuple of the passes made from them."""
    from mxtools.pipeline import key_of, types_of

    fields = [(cls, item) for cls in passes for item in dataclasses.fields(cls)]
    hints = {cls: types_of(cls) for cls in passes}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_passes(**values: Any) -> None:
            given: dict[type[Pass], dict[str, Any]] = {cls: {} for cls in passes}
            for cls, item in fields:
                value = values.pop(item.name)
                given[cls][item.name] = tuple(value or ()) if _is_list(hints[cls][item.name]) else value
            command(**values, steps=tuple(cls(**options) for cls, options in given.items()))

        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "steps"]
        added = [
            inspect.Parameter(
                item.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None if _is_list(hints[cls][item.name]) else item.default,
                annotation=Annotated[
                    list[str] | None if _is_list(hints[cls][item.name]) else hints[cls][item.name],
                    Option(f"--{key_of(item)}", help=item.metadata["help"]),
                ],
            )
            for cls, item in fields
        ]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + added
        with_passes.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        with_passes.__annotations__ = {p.name: p.annotation for p in parameters}
        return with_passes

    return decorate


def _is_list(hint: object) -> bool:
    return getattr(hint, "__origin__", None) is tuple


def process(
    pipeline: Pipeline,
    source: str,
    output: str,
    data_dir: Path | None = None,
    trace: str | None = None,
    inputs: Path | None = None,
) -> Context:
    """Read a model, run a pipeline over it and write it; give the context with what the passes found out."""
    from mxtools import modelio
    from mxtools.context import Context
    from mxtools.record import Values, recorded

    if is_pipe(output):
        modelio.refuse_terminal()
    sidecar = read_sidecar(trace) if trace else None
    values = Values.open(inputs) if inputs else None
    if sidecar and not values:
        values = recorded(sidecar, Path() if is_pipe(trace) else Path(str(trace)).parent)
    loaded = modelio.read_model(source, data_dir)
    context = Context(loaded.weights, sidecar, values)
    pipeline.run(loaded.proto, context)
    modelio.write_model(loaded.proto, loaded.weights, output, data_dir)
    return context


def read_sidecar(source: str) -> Sidecar:
    """Read a sidecar from a file, or from stdin for '-'."""
    from mxtools import modelio, sidecar

    return sidecar.loads(modelio.read_bytes(source), "stdin" if is_pipe(source) else source)


def is_pipe(place: str | None) -> bool:
    """Tell whether a source or an output is stdin or stdout."""
    return place in (None, "", "-")


def check_json(wanted: bool, output: str) -> None:
    """Refuse a JSON report that would mix with a model on stdout."""
    from mxtools.errors import UsageError

    if wanted and is_pipe(output):
        raise UsageError("--json and the model would both go to stdout: give -o FILE")


def emit(report: object) -> None:
    """Print a report as JSON on stdout."""
    json.dump(report, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def say(text: str) -> None:
    """Print a message for people, on stderr."""
    print(text, file=sys.stderr)  # noqa: T201


@contextmanager
def progress(text: str) -> Iterator[None]:
    """Show on a terminal that something is going on."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


def loading(
    model: str, given: list[str] | None, inputs: Path | None, task: str | None, trust_remote_code: bool
) -> Subject:
    """Load a model with its inputs; UsageError where PyTorch is not installed."""
    import importlib.util

    from mxtools.errors import UsageError

    if importlib.util.find_spec("torch") is None:
        raise UsageError("this needs PyTorch: pip install 'mxtools[torch]'")
    with progress(f"loading {model}"):
        from mxtools.pytorch.inputs import load_subject

        return load_subject(model, given or (), inputs, task, trust_remote_code)
