"""The reference of the Python API, from the docstrings of what `mxtools` lists."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import mxtools
from mxtools.model.model import Model
from mxtools.scopes.modules import Module
from mxtools.split.result import Split
from mxtools.traces.trace import Trace

HEAD = """# Python reference

Everything in `mxtools`, each with an example that the tests run. Read [the guide](python.md) first.

In the examples, `bert.onnx` is a small BERT that torch exported, `bert.trace.json` is its trace with recorded values,
and `model` is `mxtools.load("bert.tagged.onnx")`, the same model with tags.
"""

CLASSES = (Model, Module, Split, Trace)
"""The classes whose members are listed too; the others are described in pages of their own."""


def python_reference() -> str:
    """Return the page as Markdown."""
    functions = [name for name in mxtools.__all__ if inspect.isfunction(getattr(mxtools, name))]
    classes = [name for name in mxtools.__all__ if inspect.isclass(getattr(mxtools, name))]
    parts = [HEAD, "## Functions\n"]
    for name in functions:
        parts += _entry(f"mxtools.{name}", getattr(mxtools, name))
    for cls in CLASSES:
        parts += _class(cls)
    parts.append("## Further classes\n")
    for name in classes:
        cls = getattr(mxtools, name)
        if cls not in CLASSES:
            parts.append(f"- `mxtools.{name}`: {_first_line(cls)}")
    return "\n".join([*parts, ""])


def _class(cls: type) -> Iterator[str]:
    yield f"## {cls.__name__}\n"
    yield from _text(cls)
    for name, member in _members(cls):
        if isinstance(member, property):
            yield f"- `.{name}`: {_first_line(member)}"
    yield ""
    for name, member in _members(cls):
        if inspect.isfunction(member) or isinstance(member, classmethod):
            yield from _entry(f"{cls.__name__}.{name}", getattr(cls, name))


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the public members that the class and its nearer bases define, in the order of their definition."""
    seen: set[str] = set()
    for owner in (owner for owner in cls.__mro__ if owner.__module__.startswith("mxtools.")):
        for name, member in vars(owner).items():
            is_public = not name.startswith("_") and bool(getattr(member, "__doc__", ""))
            if is_public and name not in seen and (owner is cls or owner.__name__ != "WorkingModel"):
                seen.add(name)
                yield name, member


def _entry(name: str, member: Any) -> Iterator[str]:
    signature = inspect.signature(member)
    named = [p.replace(annotation=p.empty) for p in signature.parameters.values() if p.name not in ("self", "cls")]
    shown = signature.replace(parameters=named, return_annotation=signature.empty)
    yield f"### `{name}{shown}`\n"
    yield from _text(member)


def _text(member: Any) -> Iterator[str]:
    """Yield a docstring, its examples as blocks of code."""
    text = inspect.cleandoc(member.__doc__ or "")
    for paragraph in re.split(r"\n\n(?=>>>|(?<!>>> ))", text):
        yield f"```pycon\n{paragraph}\n```\n" if paragraph.startswith(">>>") else f"{paragraph}\n"


def _first_line(member: Any) -> str:
    return " ".join(inspect.cleandoc(member.__doc__ or "").split("\n\n")[0].split())
