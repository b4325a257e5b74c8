"""Reports of commands for many models."""

from __future__ import annotations

from typing_extensions import TypedDict

from mxtools.fleet.changes import Change
from mxtools.fleet.folder import Gathered

from .records import record


@record
class BatchReport(TypedDict):
    """What became of the jobs of a list; each has a report of its own."""

    done: int
    """Jobs that were done now."""
    failed: int
    """Jobs that failed, now or before."""
    before: int
    """Jobs that were done before."""
    again: int
    """How many were killed or took too long, and may be tried again."""


class FleetReport(Gathered):
    """What the jobs of a folder came to."""

    changes: tuple[Change, ...] | None
    """How they differ from those of another run, with --against; else null."""
