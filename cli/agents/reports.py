"""The shape of what each command writes to stdout with `--json`, and of the error that it writes to stderr.

`docs/json/*.schema.json` are generated from the types. Commands do not import these files: they write plain data,
and the tests hold every report that a test makes against the schema of its command.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from mxtools.profile import report
from mxtools.split import manifest
from mxtools.strategies.table import Strategy

from .changing import (
    Exported,
    FilterReport,
    FoldReport,
    GraftReport,
    JoinReport,
    RunPartsReport,
    RunReport,
    TagReport,
    TraceReport,
    UnfoldReport,
)
from .choosing import AutoReport, BenchModel, CacheEntry, PassInfo, RecommendReport, TuneReport
from .looking import (
    BisectReport,
    Branch,
    CompareReport,
    RoundTripReport,
    RunValuesReport,
    ValidateReport,
    VerifyReport,
    ViewReport,
)
from .many import BatchReport, FleetReport
from .records import record


@record
class Failure(TypedDict):
    """Why a command failed."""

    command: str
    """The command without `mx`; empty where the command line names none."""
    status: int
    """The exit status."""
    problem: str
    """What is wrong and where."""
    remedy: str
    """What to do; empty where there is no advice."""


@record
class ErrorReport(TypedDict):
    """The last line on stderr of a command that fails with `--json`."""

    error: Failure


def _schema(type_: Any) -> dict[str, Any]:
    found = TypeAdapter(type_).json_schema(by_alias=True, mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def file_of(name: str) -> str:
    """Return the file of a schema in `docs/`."""
    return f"json/{name}.schema.json" if name in REPORTS else f"{name}.schema.json"


REPORTS: dict[str, Any] = {
    "trace": TraceReport,
    "export": list[Exported],
    "tag": TagReport,
    "auto": AutoReport,
    "tree": Branch,
    "view": ViewReport,
    "filter": FilterReport,
    "graft": GraftReport,
    "run-parts": RunPartsReport,
    "join": JoinReport,
    "fold": FoldReport,
    "unfold": UnfoldReport,
    "verify": VerifyReport | BisectReport | RoundTripReport,
    "run-values": RunValuesReport,
    "compare": CompareReport,
    "validate": ValidateReport | list[ValidateReport],  # a list where there are several models
    "wrap": TagReport,
    "run": RunReport,
    "recommend": RecommendReport,
    "bench": dict[str, BenchModel],
    "strategies": dict[str, Strategy],
    "passes": list[PassInfo],
    "cache": list[CacheEntry],
    "tune": TuneReport,
    "batch": BatchReport,
    "report": FleetReport,
    "error": ErrorReport,
}
"""The type of each command's report, and of the error; those that commands read too are defined where they are read."""
SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {
    **{name: partial(_schema, type_) for name, type_ in REPORTS.items()},
    "profile": report.schema,
    "split": manifest.schema,
}
"""What makes the JSON Schema of each."""
