"""The table of strategies, each an exporter and a pipeline, as data: the shipped ones and the user's.

The user's are in a `mxtools.toml` (`[strategies.NAME]`) or in a `pyproject.toml` with a table `[tool.mxtools]`
(`[tool.mxtools.strategies.NAME]`), in the working directory or the nearest folder above it that has such a file.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Literal

from mxtools.errors import InputError, UsageError, suggestion
from mxtools.files.regular import read_toml
from mxtools.passes.carry import Carry
from mxtools.passes.record_absent import RecordAbsent
from mxtools.pipeline.base import Pass
from mxtools.pipeline.pipeline import Pipeline

DEFAULT = "auto"

Exporter = Literal["auto", "cheapest", "dynamo", "torchscript"]
Priority = Literal["coverage", "speed", "fidelity", "compatibility"]


def _key(name: str) -> str:
    """Return the key that a field has in files."""
    return name.replace("_", "-")


_AS_IN_FILES: dict[str, Any] = {"extra": "forbid", "alias_generator": _key, "use_attribute_docstrings": True}
"""How pydantic validates the user's strategies and describes all of them. It is imported only for these two tasks."""


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """An exporter, what is traced, the passes that tag the export, and what optimises the result."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _AS_IN_FILES

    help: str = ""
    exporter: Exporter = "auto"
    trace: Literal["none", "calls", "values"] = "calls"
    """nothing, the calls, or their values too"""
    keep_modules: bool = False
    """fold nothing across modules, so that weights keep their names"""
    pipeline: str
    optimize: str | None = None

    def optimized(self, optimizer: str | None) -> Strategy:
        """Return the strategy with another optimiser, if one is given; UsageError if it does not exist."""
        return self if optimizer is None else replace(self, optimize=_optimizer(optimizer))

    def to_dict(self) -> dict[str, Any]:
        """Return the strategy as data, with the keys that it has in files."""
        return {_key(item.name): getattr(self, item.name) for item in fields(self)}

    def passes(self, strict: bool = False, carry: Carry | None = None) -> Pipeline:
        """Return the pipeline, with the optimiser; its last passes record the result and copy tags elsewhere.

        With `strict`, a node of which nothing is known is an error.
        """
        ends = (RecordAbsent, Carry)
        steps: list[Pass] = [step for step in Pipeline.parse(self.pipeline).passes if not isinstance(step, ends)]
        last = RecordAbsent(strict)
        if self.optimize:
            from mxtools.passes.optimize import Optimize

            steps += [last, Optimize(self.optimize)]
        return Pipeline((*steps, last, carry or Carry()))


@dataclass(frozen=True)
class _Settings:
    """What a user's file has."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _AS_IN_FILES

    strategies: dict[str, Strategy] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """For a priority: the strategy to take if some facts of a model hold, and how often that was right.

    Attributes: `taken`, the number of measured models for which it was taken; `right`, for how many it was right.
    """

    priority: Priority
    when: tuple[str, ...]
    strategy: str
    taken: int
    right: int
    reason: str

    def __post_init__(self) -> None:
        """Raise ValueError if it was not measured."""
        if not 0 <= self.right <= self.taken or not self.taken:
            raise ValueError(f"right for {self.right} of {self.taken} models")

    @property
    def confidence(self) -> float:
        """The share of the measured models, 0 to 1, for which the decision was right."""
        return self.right / self.taken


@dataclass(frozen=True)
class Shipped:
    """The strategies and decisions that come with the package."""

    strategies: dict[str, Strategy]
    decisions: tuple[Decision, ...]


@cache
def shipped() -> Shipped:
    """Return the strategies and decisions that come with the package.

    Their pipelines are not parsed, because that imports every pass of every strategy; a test does it.
    """
    table = tomllib.loads(resources.files("mxtools.strategies").joinpath("strategies.toml").read_text())
    entries = {name: {k.replace("-", "_"): v for k, v in entry.items()} for name, entry in table["strategies"].items()}
    strategies = {
        name: Strategy(**entry | {"pipeline": "".join(entry["pipeline"].split())}) for name, entry in entries.items()
    }
    decisions = (Decision(**entry | {"when": tuple(entry["when"])}) for entry in table["decisions"])
    return Shipped(strategies, tuple(decisions))


def known(folder: Path | None = None) -> dict[str, Strategy]:
    """Return all strategies by name: the shipped ones, and the user's as seen from a folder (the working directory).

    Raises InputError if the user's file is wrong, or defines a shipped name: a command that names no strategy must not
    run what some folder defines.
    """
    own = shipped().strategies
    found = _users((folder or Path()).absolute())
    if not found:
        return dict(own)
    place, table = found
    users = _read(table, place)
    for name in users.keys() & own.keys():
        raise InputError(
            f"{place} redefines the strategy {name!r}, which comes with mxtools", "give yours another name"
        )
    return own | users


def get(name: str) -> Strategy:
    """Return the strategy of a name; UsageError, with the nearest names, if there is none.

    The user's files are read only for names that are not shipped.
    """
    if name in shipped().strategies:
        return shipped().strategies[name]
    strategies = known()
    if name not in strategies:
        raise UsageError(f"there is no strategy {name!r}", f"{suggestion(name, strategies)} (see ⟨strategies⟩)")
    return strategies[name]


def _users(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the nearest file with a user's settings, and the settings; None if there is none."""
    for place in (folder, *folder.parents):
        own, project = place / "mxtools.toml", place / "pyproject.toml"
        if own.is_file():
            return own, read_toml(own)
        if project.is_file():
            tools = read_toml(project).get("tool")
            if isinstance(tools, dict) and tools.get("mxtools") is not None:
                return project, tools["mxtools"]
    return None


def _optimizer(name: str) -> str:
    """Return the name of an optimiser; UsageError if there is none of that name."""
    from mxtools.tools.optimizers import check_optimizer

    check_optimizer(name)
    return name


def _read(table: dict[str, Any], place: Path) -> dict[str, Strategy]:
    """Return a user's strategies; InputError, with the place, for what is wrong."""
    from pydantic import TypeAdapter, ValidationError

    try:
        found = TypeAdapter(_Settings).validate_python(table)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        # for an unknown key, pydantic's message is about an argument, because the fields are a dataclass's arguments
        said = "Extra inputs are not permitted" if first["type"] == "unexpected_keyword_argument" else first["msg"]
        raise InputError(f"{place}: {where}: {said}", "see ⟨strategies⟩") from None
    return {name: _sound(strategy, f"{place}: strategies.{name}") for name, strategy in found.strategies.items()}


def _sound(strategy: Strategy, where: str) -> Strategy:
    """Return a strategy with its pipeline in the usual form; InputError if the pipeline or the optimiser is wrong."""
    key = "pipeline"
    try:
        pipeline, key = str(Pipeline.parse(strategy.pipeline)), "optimize"
        optimize = None if strategy.optimize is None else _optimizer(strategy.optimize)
    except UsageError as error:
        raise InputError(f"{where}.{key}: {error}", "see ⟨strategies⟩") from None
    return replace(strategy, pipeline=pipeline, optimize=optimize)
