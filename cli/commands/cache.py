"""`mx cache`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from ..common import emit, say
from ..options import Json
from ..streams import put


def command(
    place: Annotated[Path, Argument(metavar="DIR", envvar="MX_CACHE", help="Folder that you used with --cache.")],
    prune: Annotated[
        bool, Option("--prune", help="Remove entries: all, or all but those that --days and --megabytes keep.")
    ] = False,
    days: Annotated[
        float | None, Option(min=0, help="With --prune: keep entries that were used in the last DAYS days.")
    ] = None,
    megabytes: Annotated[
        float | None,
        Option(min=0, max=1e12, help="With --prune: keep this many megabytes, the most recently used first."),
    ] = None,
    json: Json = False,
) -> None:
    """An entry is one model with its inputs. Its key is a digest of code, configuration, weights and versions.

    Example: mx cache ~/.cache/mx --prune --days 30
    """
    from mxtools.errors import InputError, UsageError
    from mxtools.strategies.cache import Cache

    if not prune and (days is not None or megabytes is not None):
        raise UsageError("--days and --megabytes limit what --prune keeps", "give --prune too")
    if not place.is_dir():
        raise InputError(f"there is no folder {place}", "give the folder that you used with --cache")
    cache = Cache(place)
    size = None if megabytes is None else int(megabytes * 1e6)
    listed = cache.prune(days, size) if prune else cache.entries()
    if json:
        emit([asdict(entry) for entry in listed])
        return
    for entry in listed:
        used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
        put(f"{entry.digest[:12]}  {entry.size / 1e6:8.1f} MB  {used}  {entry.spec}")
    say(f"mx cache: {'removed ' if prune else ''}{_total(listed)}")


def _total(entries: list[Any]) -> str:
    return f"{len(entries)} entries, {sum(entry.size for entry in entries) / 1e6:.1f} MB"
