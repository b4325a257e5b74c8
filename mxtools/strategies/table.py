"""Strategies: an exporter and a pipeline, as data; the shipped ones and the user's.

The user's are read from the nearest folder, from the working directory up, with a `mxtools.toml`
(`[strategies.NAME]`) or a `pyproject.toml` that has a table `[tool.mxtools]` (`[tool.mxtools.strategies.NAME]`).
"""

from __future__ import annotations

import difflib
import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mxtools.errors import InputError, UsageError
from mxtools.passes.carry import Carry
from mxtools.passes.optimize import Optimize
from mxtools.passes.record_absent import RecordAbsent
from mxtools.pipeline.base import Pass
from mxtools.pipeline.pipeline import Pipeline
from mxtools.tools.optimizers import OPTIMIZERS

DEFAULT = "auto"

Exporter = Literal["auto", "dynamo", "torchscript"]
Priority = Literal["coverage", "speed", "fidelity", "compatibility"]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, serialize_by_alias=True)


class Strategy(_Entry):
    """An exporter, what of the model is traced, the passes that project it, and what optimises the result."""

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
    def _is_pipeline(cls, text: str) -> str:
        try:
            return str(Pipeline.parse(text))
        except UsageError as error:
            raise ValueError(str(error)) from None

    @field_validator("optimize")
    @classmethod
    def _is_optimizer(cls, text: str | None) -> str | None:
        if text is not None and text not in OPTIMIZERS:
            raise ValueError(f"no optimiser is called {text!r}: there are {', '.join(OPTIMIZERS)}")
        return text

    def optimized(self, by: str | None) -> Strategy:
        """Give the strategy with another optimiser, where one is given; UsageError where there is none of that name."""
        if by is None:
            return self
        if by not in OPTIMIZERS:
            raise UsageError(f"no optimiser is called {by!r}", f"there are {', '.join(OPTIMIZERS)}")
        return self.model_copy(update={"optimize": by})

    def passes(self, strict: bool = False, carry: Carry | None = None) -> Pipeline:
        """Give the pipeline, with the optimiser; it ends with what records the result, and copies tags elsewhere.

        With `strict` nodes of which nothing is known are refused.
        """
        ends = (RecordAbsent, Carry)
        steps: list[Pass] = [step for step in Pipeline.parse(self.pipeline).passes if not isinstance(step, ends)]
        last = RecordAbsent(strict)
        if self.optimize:
            steps += [last, Optimize(self.optimize)]
        return Pipeline((*steps, last, carry or Carry()))


class Decision(_Entry):
    """For a priority: the strategy to take where facts of a model hold, and how often that was measured to be right."""

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
    """Give the strategies and decisions that come with the package."""
    return _read(
        tomllib.loads(resources.files("mxtools.strategies").joinpath("strategies.toml").read_text()), "strategies.toml"
    )


def known(folder: Path | None = None) -> dict[str, Strategy]:
    """Give all strategies by name: the shipped ones, and the user's as seen from a folder, else the working directory.

    Raises InputError where the user's file is wrong, or gives a shipped name another meaning: commands that do not
    name a strategy must not run what a folder says.
    """
    own = shipped().strategies
    found = _users((folder or Path()).absolute())
    if not found:
        return dict(own)
    place, table = found
    users = _read(table, str(place)).strategies
    for name in users.keys() & own.keys():
        raise InputError(f"{place} redefines the strategy {name!r}", "give yours another name")
    return own | users


def get(name: str) -> Strategy:
    """Give the strategy of a name; UsageError, with the nearest names, where there is none.

    The shipped ones are found without a look at the user's files.
    """
    if name in shipped().strategies:
        return shipped().strategies[name]
    strategies = known()
    if name not in strategies:
        near = difflib.get_close_matches(name, strategies, n=3) or strategies
        raise UsageError(f"no strategy is called {name!r}", f"there are {', '.join(near)} (see `mx strategies`)")
    return strategies[name]


def _users(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Give the nearest file with a user's settings and these, None where there is none."""
    for place in (folder, *folder.parents):
        own, project = place / "mxtools.toml", place / "pyproject.toml"
        if own.is_file():
            return own, _toml(own)
        if project.is_file() and (table := _toml(project).get("tool", {}).get("mxtools")) is not None:
            return project, table
    return None


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as TOML ({error})", "repair it") from None


def _read(table: dict[str, Any], place: str) -> _File:
    try:
        return _File.model_validate(table)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{place}: {where}: {first['msg'].removeprefix('Value error, ')}", "see `mx strategies`"
        ) from None
