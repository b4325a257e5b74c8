"""Metrics from files: numbers for modules and nodes, as other commands and tools give them."""

from __future__ import annotations

import json
import math

from mxtools.errors import InputError
from mxtools.views.structure import Metric, Structure

BY_SCOPE, BY_NODE = "metrics", "node_metrics"
"""Keys of a report that has numbers by scope, and by node name."""


def add_metrics(structure: Structure, text: str | bytes, where: str) -> int:
    """Add metrics to a structure; give how many of their numbers are of no module or node of the model.

    `text` is JSON: metrics by scope, `{"time": {"encoder.layer.0": 0.12}}`, or a report that has such under `metrics`,
    by node name also under `node_metrics`. What JSON has no number for are the strings `Infinity`, `-Infinity`, `NaN`.
    Raises InputError where it is something else, or none of its numbers is of the model.
    """
    try:
        report = json.loads(text)
    except ValueError as error:
        raise InputError(f"{where} is no JSON ({error}): give a file of metrics by scope") from None
    if not isinstance(report, dict):
        raise InputError(f'{where} is no JSON object: give {{"metric": {{"scope": number}}}}')
    by_scope = report.get(BY_SCOPE, {} if BY_NODE in report else report)
    scopes = {scope.scope: item for item, scope in enumerate(structure.scopes)}
    nodes = {node.name: item for item, node in enumerate(structure.nodes, len(scopes)) if node.name}
    known = unknown = 0
    for numbers, items, kind in ((by_scope, scopes, "scopes"), (report.get(BY_NODE, {}), nodes, "nodes")):
        for name, found in _metrics(numbers, where).items():
            placed = {items[place]: number for place, number in found.items() if place in items}
            getattr(structure.metrics.setdefault(name, Metric()), kind).update(placed)
            known, unknown = known + len(placed), unknown + len(found) - len(placed)
    if not known:
        raise InputError(f"{where} has no number for any module of {structure.title}: give metrics of this model")
    return unknown


def _metrics(metrics: object, where: str) -> dict[str, dict[str, float]]:
    if not isinstance(metrics, dict):
        raise InputError(f'{where} has no metrics by scope: give {{"metric": {{"scope": number}}}}')
    return {name: _numbers(numbers, f"{where}, {name}") for name, numbers in metrics.items()}


def _numbers(numbers: object, where: str) -> dict[str, float]:
    try:
        return {str(place): float(number) for place, number in dict(numbers).items() if number is not None}  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise InputError(f'{where}: not every value is a number: give {{"metric": {{"scope": number}}}}') from None


def as_json(number: float) -> float | str:
    """Give a number as JSON can hold it, as the sidecar does: what it has no number for is a string."""
    if math.isfinite(number):
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
