"""The class of all commands; parameters that several share, and those that are made from passes and from `load`."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from typer import Argument, Option
from typer.core import TyperCommand

from .common import progress, say
from .completion import SELECTORS, one_of, strategies
from .foreign import without_torch
from .page import command_page, plain_width

if TYPE_CHECKING:
    from mxtools.pipeline.base import Pass
    from mxtools.traces.sidecar import Sidecar

Command = Callable[..., None]

_SELECTORS = ("scope", "tag", "class_", "op", "exclude")
"""The fields of the pass `filter` that select something."""
_MARKUP = re.compile(r"\[(?=[a-z#/@])")
"""The beginnings of what rich considers markup in a text."""
_PRIORITIES = "coverage|speed|fidelity|compatibility"


def _cache(folder: str) -> Any:
    """Return the cache in a folder; imported late, because few commands need it."""
    from mxtools.strategies.cache import Cache

    return Cache(Path(folder))


Source = Annotated[str, Argument(metavar="[ONNX]", help="ONNX file; '-' or nothing is stdin.", show_default=False)]
Output = Annotated[
    str, Option("--output", "-o", metavar="FILE", help="File to write; '-' or nothing is stdout.", show_default=False)
]
DataDir = Annotated[
    Path | None,
    Option(
        metavar="DIR",
        help="Folder of the external data; by default the model's folder, on pipes the working directory.",
    ),
]
Json = Annotated[bool, Option("--json", help="Write the report as JSON to stdout.")]
Markdown = Annotated[bool, Option("--markdown", help="Write the table as Markdown.")]
Inputs = Annotated[
    Path | None,
    Option("--inputs", metavar="FILE", help="Inputs to run the graph on: .npz, .safetensors or .json."),
]
Cache = Annotated[
    Any,
    Option(
        "--cache",
        metavar="DIR",
        envvar="MX_CACHE",
        parser=_cache,
        help="Keep traces and exports in this folder, and reuse them for the same model, inputs and versions.",
    ),
]
Priority = Annotated[
    str,
    Option(
        "--priority",
        metavar=_PRIORITIES,
        autocompletion=one_of(_PRIORITIES.split("|")),
        help="What matters most: evidence for all nodes, speed, modules that agree with PyTorch's, or other tools.",
    ),
]
StrategyName = Annotated[
    str,
    Option(
        "--strategy",
        "-s",
        autocompletion=strategies,
        metavar="NAME",
        help="Strategy whose passes come first; `mx strategies` lists them.",
    ),
]
Fold = Annotated[
    bool, Option("--fold/--no-fold", help="Show equal siblings as one line, with the numbers of one of them.")
]
Depth = Annotated[
    int | None, Option(min=0, metavar="N", help="Number of levels to show below the root.", show_default=False)
]
Dims = Annotated[
    list[str] | None,
    Option("--dim", metavar="NAME=SIZE", help="Size of a symbolic dimension: batch=8."),
]
Plot = Annotated[
    Path | None, Option("--plot", metavar="FILE", help="Also draw a picture: .png or .svg.", show_default=False)
]
Static = Annotated[
    bool,
    Option("--static", help="Keep all axes static; by default batch and sequence are dynamic in Hugging Face models."),
]
Trace = Annotated[str | None, Option("--trace", metavar="SIDECAR", help="Sidecar that `mx trace` wrote.")]


def takes(*passes: type[Pass]) -> Callable[[Command], Command]:
    """Return a decorator that adds the options of some passes to a command.

    The command receives the passes made from the options as its parameter `steps`, a tuple.
    """
    from mxtools.pipeline.registry import types_of

    fields = [(cls, item, types_of(cls)[item.name]) for cls in passes for item in dataclasses.fields(cls)]
    added = [_option(item, hint) for _, item, hint in fields]

    def steps(values: dict[str, Any]) -> tuple[Pass, ...]:
        given: dict[type[Pass], dict[str, Any]] = {cls: {} for cls in passes}
        for cls, item, hint in fields:
            given[cls][item.name] = tuple(values[item.name] or ()) if _is_list(hint) else values[item.name]
        return tuple(cls(**options) for cls, options in given.items())

    return lambda command: extended_by(command, "steps", added, steps)


def takes_selection(command: Command) -> Command:
    """Add the selectors of `mx filter` to a command.

    The command receives a `Selection` and the operators as its parameter `selected`, None if nothing was selected.
    """
    from mxtools.passes.filter import Filter
    from mxtools.pipeline.registry import types_of
    from mxtools.scopes.selection import Selection

    fields = [item for item in dataclasses.fields(Filter) if item.name in _SELECTORS]
    added = [_option(item, types_of(Filter)[item.name]) for item in fields]

    def selected(values: dict[str, Any]) -> tuple[Selection, tuple[str, ...]] | None:
        scopes, tags, classes, operators, exclude = (tuple(values[name] or ()) for name in _SELECTORS)
        return (Selection(scopes, tags, classes, exclude), operators) if any(values.values()) else None

    return extended_by(command, "selected", added, selected)


def takes_model(command: Command) -> Command:
    """Add the parameters of `load` to a command, which receives a function that loads the model as `load`."""
    added = inspect.signature(load, eval_str=True).parameters.values()
    return extended_by(command, "load", added, lambda values: functools.partial(load, **values))


def load(
    model: Annotated[
        str,
        Argument(
            metavar="MODEL",
            help="Hugging Face folder or hub id, or FILE.py:NAME, or package.module:NAME.",
            show_default=False,
        ),
    ],
    input: Annotated[  # noqa: A002 - the option's name
        list[str] | None,
        Option("--input", metavar="NAME=SHAPE[:DTYPE]", help="An example input to make: x=1,3,224,224:float32."),
    ] = None,
    inputs: Annotated[
        Path | None, Option("--inputs", metavar="FILE", help="Example inputs: .npz, .safetensors or .json.")
    ] = None,
    task: Annotated[
        str | None,
        Option(
            metavar="TASK", help="Hugging Face task that picks the model's class; by default the configuration does."
        ),
    ] = None,
    trust_remote_code: Annotated[
        bool, Option("--trust-remote-code", help="Run code that comes with a hub model.")
    ] = False,
    module: Annotated[
        str,
        Option(
            metavar="PATH",
            help="Take only this part of the model, with the inputs that the whole model gives it: encoder.",
        ),
    ] = "",
    with_past: Annotated[
        bool,
        Option(
            "--with-past",
            help="Take one step of a decoder with its cache: past_key_values.N.key in, present.N.key out.",
        ),
    ] = False,
) -> Any:
    """Return the `Subject` of a model spec, a module with its inputs; UsageError if PyTorch is not installed."""
    require_torch()
    with progress(f"loading {model}"):
        from mxtools.pytorch.loading.inputs import load_subject

        return load_subject(model, input or (), inputs, task, trust_remote_code, module, with_past)


def require_torch() -> None:
    """Raise UsageError if PyTorch is not installed."""
    import importlib.util

    if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
        raise without_torch()


def key(load: functools.partial[Any]) -> str | None:
    """Return the cache key of a Hugging Face folder and the options with which it is loaded; None for other models."""
    from mxtools.strategies.cache import key_of_folder

    options = dict(load.keywords)
    folder, file = Path(options["model"]), options["inputs"]
    if not folder.is_dir():
        return None
    options["inputs"] = file and file.is_file() and file.read_bytes()
    return key_of_folder(folder, sorted(options.items()))


def varies(load: functools.partial[Any], dynamic: Iterable[str] | None, static: bool) -> bool:
    """Return whether axes of batch and sequence should be dynamic, as they are in Hugging Face models by default.

    Raises UsageError if the options want all axes static and some dynamic.
    """
    from mxtools.errors import UsageError

    if static and dynamic:
        raise UsageError("--static and --dynamic contradict each other", "give one")
    spec = load.keywords["model"]
    return not static and not dynamic and (Path(spec).is_dir() or ":" not in spec)


def say_trace(command: str, traced: Sidecar, counts: bool) -> None:
    """Say which modules a trace cannot look into, and with `counts`, how many calls and modules it has."""
    from mxtools.traces.sidecar import opaque_modules

    if opaque := opaque_modules(traced):
        named = opaque[0] if len(opaque) == 1 else f"{opaque[0]} and {len(opaque) - 1} more"
        say(f"mx {command}: PyTorch runs no hooks in ScriptModules ({named}): their work counts for their callers")
    if counts:
        say(f"mx {command}: {len(traced.calls)} calls of {len(traced.modules)} modules")


def say_axes(command: str, axes: Any, why_static: str) -> None:
    """Say which axes are dynamic, or why none is; nothing if none should be."""
    from mxtools.pytorch.exporting.exporters import in_words

    if axes:
        say(f"mx {command}: dynamic axes: {in_words(axes)}")
    elif why_static:
        say(f"mx {command}: all axes are static, since with dynamic ones: {why_static}")


def axes(texts: Iterable[str] | None) -> dict[str, dict[int, str]]:
    """Return the dynamic axes by input, each with its symbol, from texts such as `x=0:batch,2`."""
    return dict(map(_parse_axes, texts or ()))


def _parse_axes(text: str) -> tuple[str, dict[int, str]]:
    from mxtools.errors import UsageError

    name, _, listed = text.partition("=")
    found = [re.fullmatch(r"(\d+)(?::(\w+))?", part) for part in listed.split(",")]
    if not name or not all(found):
        raise UsageError(f"--dynamic {text!r} is not NAME=AXIS[:SYMBOL],…", "write input_ids=0:batch,1:sequence")
    return name, {int(m[1]): m[2] or f"{name}_{m[1]}" for m in found if m}


def extended_by(
    command: Command, name: str, added: Iterable[inspect.Parameter], make: Callable[[dict[str, Any]], Any]
) -> Command:
    """Return a command that also takes the parameters `added`.

    Their values go to `make`, and its result goes to the original command as the parameter `name`. Typer reads
    parameters from the signature, so the new command gets a signature with both kinds.
    """
    extra = {p.name: p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in added}
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != name]

    @functools.wraps(command)
    def extended(**values: Any) -> None:
        command(**{name: make({key: values.pop(key) for key in extra})}, **values)

    parameters = [*(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own), *extra.values()]
    extended.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    extended.__annotations__ = {p.name: p.annotation for p in parameters}
    return extended


def _option(item: dataclasses.Field[Any], hint: Any) -> inspect.Parameter:
    """Return the parameter of a command for a field of a pass."""
    from mxtools.pipeline.registry import key_of

    type_ = list[str] | None if _is_list(hint) else hint
    text = item.metadata["help"]
    return inspect.Parameter(
        item.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None if _is_list(hint) else item.default,
        annotation=Annotated[
            type_,
            Option(
                f"--{key_of(item)}",
                metavar=item.metadata["shown"],
                help=f"{text[0].upper()}{text[1:]}.",
                autocompletion=SELECTORS.get(item.name) if _is_list(hint) else None,
            ),
        ],
    )


def _is_list(hint: object) -> bool:
    return getattr(hint, "__origin__", None) is tuple


class OurCommand(TyperCommand):
    """A command whose help shows no type for flags, because they take no value."""

    rest: ClassVar[str] = ""
    """What the words after `--` are, if a command takes any."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters."""
        return prepared(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; a usage error if an option has the next option in the place of its value."""
        options = {name: each for each in self.params for name in (*each.opts, *each.secondary_opts)}
        words = args[: args.index("--")] if "--" in args else args
        for word, following in pairwise(words):
            takes_value = word.startswith("-") and word in options and not getattr(options[word], "is_flag", False)
            if takes_value and following in options and following.startswith("-") and not ctx.resilient_parsing:
                ctx.fail(f"{word} has no value: {following} follows it")
        return super().parse_args(ctx, args)

    def get_help(self, ctx: Any) -> str:
        """Return the help, or show it in colours and return nothing."""
        width = plain_width()
        text = command_page(self, ctx, width) if width else None
        if text is not None:
            return text.removesuffix("\n")
        self.help = _MARKUP.sub(r"\\[", self.help or "")
        return super().get_help(ctx)


def prepared(parameters: list[Any]) -> list[Any]:
    """Prepare typer's parameters: flags show no type, and plain values are read without pydantic. Return them."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        if hasattr(parameter, "get_runtime_param"):  # since typer 0.29, which leaves conversion to pydantic
            parameter.get_runtime_param = partial(_PlainValues, parameter.get_runtime_param)
    return parameters


class _PlainValues:
    """Reads values that need no conversion as typer would; leaves all others to typer, which imports pydantic."""

    def __init__(self, usual: Callable[[], Any]) -> None:
        """Take a function that returns typer's own reader."""
        self._usual = usual

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the given value, or the default, in the parameter's type."""
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
