"""A profile by module as data, which `mx profile --json` writes and `--against` reads.

The pydantic models below are the schema; `docs/profile.schema.json` is generated from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mxtools.errors import InputError
from mxtools.files.json_text import validated
from mxtools.files.regular import read_regular
from mxtools.profile.kernels import Kernel
from mxtools.profile.timing import Timing


class _ReportRecord(BaseModel):
    model_config = ConfigDict(frozen=True, populate_by_name=True)


class KernelTime(_ReportRecord):
    """What a runtime ran under one name."""

    name: str
    operator: str
    provider: str
    microseconds: Annotated[float, Field(description="median over the runs")]


class ModuleTime(_ReportRecord):
    """One call of a module; its own kernels are those that do not only work for the calls below it."""

    scope: str
    tag: str
    microseconds: Annotated[
        float, Field(description="microseconds of its own kernels and of those of all calls inside it")
    ]
    own: Annotated[float, Field(description="microseconds of its own kernels; the sum over all modules is the total")]
    kernels: tuple[KernelTime, ...]
    alone: Annotated[
        float | None, Field(description="microseconds of a run of the module alone, cut out of the model")
    ] = None
    before: Annotated[float | None, Field(description="its microseconds in the profile that it is compared with")] = (
        None
    )


class Memory(_ReportRecord):
    """What the values between nodes take at the peak of a run, the inputs not counted, with nothing optimised."""

    arena: Annotated[int, Field(description="bytes in ONNX Runtime's arena, with memory patterns off")]
    computed: Annotated[int | None, Field(description="bytes by the shapes of the values, if all are known")] = None


class ProfileReport(_ReportRecord):
    """Where the time goes, by module call."""

    schema_: Annotated[Literal["mxtools.profile/1"], Field(alias="schema")] = "mxtools.profile/1"
    runtime: str
    runs: int
    run_microseconds: Annotated[float | None, Field(description="median time of a whole run, if known")] = None
    microseconds: Annotated[
        float, Field(description="microseconds of all kernels: the sum of `own`, and of those without a module")
    ]
    attributed: Annotated[float, Field(ge=0, le=1, description="share of the kernels' time that has a module")]
    modules: tuple[ModuleTime, ...]
    unattributed: tuple[KernelTime, ...]
    memory: Annotated[Memory | None, Field(description="only if it was asked for")] = None


def report(
    timing: Timing,
    before: ProfileReport | None = None,
    alone: Mapping[str, float] | None = None,
    memory: Memory | None = None,
) -> ProfileReport:
    """Return a profile as data, compared with an earlier one, with the times of modules that ran alone, by scope."""
    earlier = {module.scope: module.microseconds for module in before.modules} if before else {}
    profile = timing.profile
    return ProfileReport(
        runtime=profile.runtime,
        runs=max((len(kernel.times) for kernel in profile.kernels), default=0),
        run_microseconds=median(profile.runs) if profile.runs else None,
        microseconds=timing.total,
        attributed=timing.attributed,
        modules=tuple(
            ModuleTime(
                scope=timed.scope,
                tag=timed.tag,
                microseconds=timed.time,
                own=timed.own,
                alone=(alone or {}).get(timed.scope),
                kernels=tuple(map(_kernel, timed.kernels)),
                before=earlier.get(timed.scope),
            )
            for timed in timing.root.every()
        ),
        unattributed=tuple(map(_kernel, timing.unknown)),
        memory=memory,
    )


def read_report(file: Path) -> ProfileReport:
    """Read a report; InputError if the file is something else."""
    try:
        return validated(ProfileReport, read_regular(file), str(file))
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror})", "give a file that ⟨profiler⟩ wrote") from None
    except ValidationError:
        raise InputError(f"{file} is not a profile by module", "give a file that ⟨profiler⟩ wrote") from None


def schema() -> dict[str, Any]:
    """Return the JSON Schema of reports."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **ProfileReport.model_json_schema(by_alias=True)}


def _kernel(kernel: Kernel) -> KernelTime:
    return KernelTime(name=kernel.name, operator=kernel.operator, provider=kernel.provider, microseconds=kernel.time)
