"""Load the model that a MODEL spec names: `./bert`, `org/name`, `file.py:NAME` or `package.module:NAME`."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from mxtools.errors import InputError, MxError, listed
from mxtools.files.regular import note_reads
from mxtools.pytorch.eval_mode import evaluate
from mxtools.pytorch.subject import by_name
from mxtools.runtime import scripts
from mxtools.runtime.quiet import error_line, quiet, where_raised

_READ = (
    "config.json",
    "*_config.json",
    "*.index.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "*_model*.safetensors",
    "*.bin",
    "*.py",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "*.model",
)
"""Files of a Hugging Face folder that its libraries read."""

MOST_MISSING = 3
"""How many names of parameters without weights a warning lists."""
_DRIVE = re.compile(r"^[A-Za-z]:(?=[\\/])")
"""How a path of Windows begins: its colon stands before no NAME."""
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def load_model(
    spec: str, task: str | None = None, trust_remote_code: bool = False
) -> tuple[nn.Module, dict[str, Any] | None]:
    """Return the module that a spec names, and its inputs, None if the spec's code returns none.

    Raises InputError if there is no such model, or if its code raises.
    """
    if Path(spec).is_dir() or ":" not in _DRIVE.sub("", spec):
        return _pretrained(spec, task, trust_remote_code), None
    return _built(scripts.find(spec), spec)


def _pretrained(spec: str, task: str | None, trust_remote_code: bool) -> nn.Module:
    """Load a Hugging Face model from a folder or the hub, with the library's own loading code."""
    if not Path(spec).is_dir() and (
        Path(spec).exists() or spec.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(spec)
    ):
        raise _no_model(Path(spec))
    if Path(spec).is_dir():
        note_reads(file for file in Path(spec).iterdir() if any(map(file.match, _READ)))
    with quiet():
        from mxtools.pytorch.loading import pretrained

        try:
            model, missing = pretrained.load(spec, task, trust_remote_code)
        except MxError:
            raise
        except Exception as error:  # a configuration can make the library and the model's class raise anything
            raise InputError(
                f"{spec} cannot be loaded as a Hugging Face model ({error_line(error)})", "check the folder or the id"
            ) from error
    if missing:
        named = listed(missing, MOST_MISSING)
        warnings.warn(f"{spec} has no weights for {named}: they are random", stacklevel=2)
    return model


_WEIGHTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".pkl")


def _no_model(path: Path) -> InputError:
    """Return the error for a path that is not a MODEL, with advice for its kind of file."""
    if not path.exists():
        return InputError(
            f"there is no model {str(path)!r}",
            "give a Hugging Face folder or hub id, FILE.py:NAME or package.module:NAME",
        )
    if path.suffix == ".py":
        return InputError(f"{path} is a file of models", f"say which one: {path}:NAME")
    if path.suffix == ".onnx":
        return InputError(f"{path} is already an ONNX graph, not a PyTorch model", "⟨tag⟩ on it")
    if path.suffix in _WEIGHTS:
        return InputError(
            f"{path} contains only weights",
            "write a FILE.py that makes the model and loads the weights, and give FILE.py:NAME",
        )
    return InputError(f"{path} is not a model", "give a Hugging Face folder or hub id, or FILE.py:NAME")


def _built(found: Any, spec: str) -> tuple[nn.Module, dict[str, Any] | None]:  # noqa: ANN401
    """Return the module and inputs that a spec names: a module, a pair of both, or a callable that returns these."""
    if not isinstance(found, nn.Module) and callable(found):
        found = _called(found, spec)
    model, inputs = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{spec} gives a {type(model).__name__}, not a torch.nn.Module",
            "make it give a module, or (module, inputs)",
        )
    evaluate(model)
    return model, None if inputs is None else by_name(model, inputs)


def _called(function: Callable[[], Any], spec: str) -> Any:  # noqa: ANN401
    try:
        needed = [
            p.name
            for p in inspect.signature(function).parameters.values()
            if p.default is p.empty and p.kind < p.VAR_POSITIONAL
        ]
    except (TypeError, ValueError):
        needed = []
    if needed:
        raise InputError(
            f"{spec} needs arguments ({', '.join(needed)})", "name a function without arguments that returns the module"
        )
    try:
        with quiet():
            return function()
    except Exception as error:
        raise InputError(f"{spec} raised {error_line(error)} ({where_raised(error)})", "fix it") from error
