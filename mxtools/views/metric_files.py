"""Metrics from files: numbers for modules and nodes, from profiles, verification reports and other tools."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mxtools.errors import InputError
from mxtools.files.json_text import decoded
from mxtools.runtime.distance import relative_l2
from mxtools.views.structure import Metric, Structure

BY_SCOPE, BY_NODE, MODULES, UNITS = "metrics", "node_metrics", "modules", "units"
"""Keys of a report: numbers by scope, numbers by node name, rows of modules, and units by metric."""
TIME, OWN_TIME = "time", "own time"
"""What the page calls `microseconds` and `own` of a profile."""
PROFILED = {"microseconds": TIME, "own": OWN_TIME}
ROUNDING = 1.001
"""How many times a module's number the numbers inside it may add up to: those in a file may be rounded."""
EXAMPLE = '{"metric": {"scope": number}}'

Numbers = dict[str, dict[str, float]]
"""Numbers by metric and place."""


@dataclass(frozen=True)
class Added:
    """What a file of metrics added: the names of the metrics, and how many of its modules the model lacks."""

    names: tuple[str, ...]
    unknown: int


def add_metrics(structure: Structure, text: str | bytes, where: str) -> Added:
    """Add the metrics in a JSON text to a structure; return which ones they are.

    `text` has metrics by scope, `{"time": {"encoder.layer.0": 0.12}}`; or it is a report with such an object under
    `metrics`, one by node name under `node_metrics`, and units under `units`; or a report with rows of `modules`, like
    those of `mx profile` and `mx verify`. Numbers that JSON does not have are the strings `Infinity`, `-Infinity` and
    `NaN`. Raises InputError if the text is something else, or none of its numbers belongs to the model.
    """
    try:
        report = decoded(text)
    except ValueError as error:
        raise InputError(f"{where} is no JSON ({error})", "give a file of metrics by scope") from None
    if not isinstance(report, dict):
        raise InputError(f"{where} is no JSON object", f"give {EXAMPLE}")
    try:
        by_scope, by_node = _of_report(report)
        units = _units(report)
    except (TypeError, ValueError, AttributeError, KeyError):
        raise InputError(f"{where}: not every metric is numbers by scope", f"give {EXAMPLE}") from None
    scopes = {scope.scope: item for item, scope in enumerate(structure.scopes)}
    nodes = {node.name: item for item, node in enumerate(structure.nodes, len(scopes)) if node.name}
    added: dict[str, Metric] = {}
    for numbers, items, kind in ((by_scope, scopes, "scopes"), (by_node, nodes, "nodes")):
        for name, found in numbers.items():
            placed = {items[place]: number for place, number in found.items() if place in items}
            if placed:
                added[name] = structure.metrics.setdefault(name, Metric())
                getattr(added[name], kind).update(placed)
    if not added:
        raise InputError(f"{where} has no number for any module of {structure.title}", "give metrics of this model")
    for name, metric in added.items():
        metric.unit = units.get(name, metric.unit)
        metric.total = _total(structure, name, metric)
    return Added(tuple(added), len({scope for found in by_scope.values() for scope in found} - scopes.keys()))


def _total(structure: Structure, name: str, metric: Metric) -> float | None:
    """Return the whole of a metric, if each module's number contains those of the modules inside; else None.

    Times do this, errors do not. A module's own time leaves out the modules inside, so all own times add up to the
    whole.
    """
    numbers = metric.scopes
    if not numbers or not all(number >= 0 and math.isfinite(number) for number in numbers.values()):
        return None
    if name == OWN_TIME:
        return sum(numbers.values()) or None
    inner = defaultdict[int, float](float)
    for item, number in numbers.items():
        inner[structure.parent[item]] += number
    around = (item for item in inner if item in numbers)
    is_whole = name == TIME or (len(numbers) > 1 and all(inner[item] <= ROUNDING * numbers[item] for item in around))
    return numbers.get(0) or None if is_whole else None


def _units(report: Mapping[str, Any]) -> dict[str, str]:
    """Return the units of a report's metrics by name: those that it states, and those of a profile."""
    stated = report.get(UNITS, {}) if not {BY_SCOPE, BY_NODE}.isdisjoint(report) else {}
    if not all(isinstance(unit, str) for unit in stated.values()):
        raise TypeError
    return {TIME: "µs", OWN_TIME: "µs"} if MODULES in report and BY_SCOPE not in report else dict(stated)


def _of_report(report: dict[str, Any]) -> tuple[Numbers, Numbers]:
    """Return the metrics of a report by scope and by node name."""
    if MODULES in report and BY_SCOPE not in report:
        return _of_rows(report[MODULES])
    is_report = not {BY_SCOPE, BY_NODE}.isdisjoint(report)
    return tuple(  # type: ignore[return-value]
        {name: {place: float(n) for place, n in found.items() if n is not None} for name, found in metrics.items()}
        for metrics in (report.get(BY_SCOPE, {}) if is_report else report, report.get(BY_NODE, {}))
    )


def _of_rows(rows: list[dict[str, Any]]) -> tuple[Numbers, Numbers]:
    """Return the numbers of rows of modules by scope, and those of their kernels by name, which may be a node's."""
    by_scope, by_node = defaultdict[str, dict[str, float]](dict), defaultdict[str, dict[str, float]](dict)
    for row in rows:
        for name, number in _of_row(row):
            by_scope[name][row["scope"]] = number
        for kernel in row.get("kernels", ()):
            by_node[TIME][kernel["name"]] = float(kernel["microseconds"])
    return by_scope, by_node


def _of_row(row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a row, those of the module alone first; of its outputs only the largest errors."""
    own = ((f" ({name})", [value]) for name, value in row.items() if isinstance(value, dict) and "relative" in value)
    for suffix, found in (*own, ("", row.get("outputs"))):
        if found:
            if all("sqnr_db" in each for each in found):
                yield f"relative L2 error{suffix}", max(relative_l2(float(each["sqnr_db"])) for each in found)
            yield f"relative error{suffix}", max(float(each["relative"]) for each in found)
    for name, value in row.items():
        if isinstance(value, int | float):
            yield PROFILED.get(name, name), float(value)


def as_json(number: float) -> float | str:
    """Return a number in a form that JSON can hold, a string if it is infinite or not a number, as in the sidecar."""
    if math.isfinite(number):
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
