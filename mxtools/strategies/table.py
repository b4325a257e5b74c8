"""The table of strategies: an exporter and a pipeline each, as data; the shipped ones and the user's.

The user's are in `mxtools.toml` (`[strategies.NAME]`) or in a `pyproject.toml` with a table `[tool.mxtools]`
(`[tool.mxtools.strategies.NAME]`), in the working directory or the nearest folder above it that has one of these.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from mxtools.errors import InputError, UsageError, suggestion
from mxtools.files.regular import read_regular
from mxtools.passes.carry import Carry
from mxtools.passes.record_absent import RecordAbsent
from mxtools.pipeline.base import Pass
from mxtools.pipeline.pipeline import Pipeline

DEFAULT = "auto"

SHIPPED: dict[str, Any] = {}
"""The context in which the shipped strategies are validated: a test parses their pipelines."""

Exporter = Literal["auto", "dynamo", "torchscript"]
Priority = Literal["coverage", "speed", "fidelity", "compatibility"]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, serialize_by_alias=True)


class Strategy(_Entry):
    """An exporter, what is traced of the model, the passes that tag the export, and what optimises the result."""

    help: str = ""
    exporter: Exporter = "auto"
    trace: Annotated[
        Literal["none", "calls", "values"], Field(description="nothing, the calls, or their values too")
    ] = "calls"
    keep_modules: Annotated[
        bool, Field(alias="keep-modules", description="fold nothing across modules, so that weights keep their names")
    ] = False
    pipeline: str
    optimize: str | None = None

    @field_validator("pipeline")
    @classmethod
    def _is_pipeline(cls, text: str, info: ValidationInfo) -> str:
        if info.context is SHIPPED:  # not parsed, because that imports every pass of every strategy
            return "".join(text.split())
        try:
            return str(Pipeline.parse(text))
        except UsageError as error:
            raise ValueError(str(error)) from None

    @field_validator("optimize")
    @classmethod
    def _is_optimizer(cls, text: str | None) -> str | None:
        try:
            return None if text is None else _optimizer(text)
        except UsageError as error:
            raise ValueError(str(error)) from None

    def optimized(self, optimizer: str | None) -> Strategy:
        """Return the strategy with another optimiser, where one is given; UsageError where no such one exists."""
        return self if optimizer is None else self.model_copy(update={"optimize": _optimizer(optimizer)})

    def passes(self, strict: bool = False, carry: Carry | None = None) -> Pipeline:
        """Return the pipeline, with the optimiser; its last passes record the result and copy tags elsewhere.

        With `strict` a node of which nothing is known is an error.
        """
        ends = (RecordAbsent, Carry)
        steps: list[Pass] = [step for step in Pipeline.parse(self.pipeline).passes if not isinstance(step, ends)]
        last = RecordAbsent(strict)
        if self.optimize:
            from mxtools.passes.optimize import Optimize

            steps += [last, Optimize(self.optimize)]
        return Pipeline((*steps, last, carry or Carry()))


class Decision(_Entry):
    """For a priority: the strategy to take where some facts of a model hold, and how often that was found right."""

    priority: Priority
    when: tuple[str, ...]
    strategy: str
    taken: Annotated[int, Field(gt=0, description="models of the measurement for which it was taken")]
    right: Annotated[int, Field(ge=0, description="those of them for which it was right")]
    reason: str

    @property
    def confidence(self) -> float:
        """The share of the measured models on which the decision was right, 0 to 1."""
        return self.right / self.taken


class _File(_Entry):
    strategies: dict[str, Strategy] = {}
    decisions: tuple[Decision, ...] = ()


@cache
def shipped() -> _File:
    """Return the strategies and decisions that come with the package."""
    text = resources.files("mxtools.strategies").joinpath("strategies.toml").read_text()
    return _read(tomllib.loads(text), "strategies.toml", SHIPPED)


def known(folder: Path | None = None) -> dict[str, Strategy]:
    """Return all strategies by name: the shipped ones, and the user's as seen from a folder (the working directory).

    Raises InputError where the user's file is wrong, or defines a shipped name: a command that names no strategy must
    not run what some folder says.
    """
    own = shipped().strategies
    found = _users((folder or Path()).absolute())
    if not found:
        return dict(own)
    place, table = found
    users = _read(table, str(place)).strategies
    for name in users.keys() & own.keys():
        raise InputError(
            f"{place} redefines the strategy {name!r}, which comes with mxtools", "give yours another name"
        )
    return own | users


def get(name: str) -> Strategy:
    """Return the strategy of a name; UsageError, with the nearest names, where there is none.

    The user's files are read only for names that are not shipped.
    """
    if name in shipped().strategies:
        return shipped().strategies[name]
    strategies = known()
    if name not in strategies:
        raise UsageError(f"there is no strategy {name!r}", f"{suggestion(name, strategies)} (see ⟨strategies⟩)")
    return strategies[name]


def _users(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the nearest file with a user's settings, and the settings; None where there is none."""
    for place in (folder, *folder.parents):
        own, project = place / "mxtools.toml", place / "pyproject.toml"
        if own.is_file():
            return own, _toml(own)
        if project.is_file():
            tools = _toml(project).get("tool")
            if isinstance(tools, dict) and tools.get("mxtools") is not None:
                return project, tools["mxtools"]
    return None


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_regular(file).decode())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read as TOML ({error})", "fix it") from None


def _optimizer(name: str) -> str:
    """Return the name of an optimiser; UsageError where there is none of that name."""
    from mxtools.tools.optimizers import check_optimizer

    check_optimizer(name)
    return name


def _read(table: dict[str, Any], place: str, context: dict[str, Any] | None = None) -> _File:
    try:
        return _File.model_validate(table, context=context)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{place}: {where}: {first['msg'].removeprefix('Value error, ')}", "see ⟨strategies⟩"
        ) from None
