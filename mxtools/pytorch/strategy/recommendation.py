"""Recommend a strategy: apply the decision table in `strategies.toml` to the facts of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, get_args

from mxtools.errors import InputError, UsageError
from mxtools.pipeline.field_mapping import FieldMapping
from mxtools.pytorch.strategy.probe import Probe
from mxtools.strategies import table
from mxtools.strategies.table import Priority


@dataclass(frozen=True)
class Recommendation(FieldMapping):
    """A strategy for a model, and the reasons for it."""

    strategy: str
    priority: str
    confidence: float
    """The share, 0 to 1, of measured models for which this decision was right: docs/strategies.md."""
    reasons: tuple[str, ...]
    fallbacks: tuple[str, ...]
    """The strategies to try, in order, if this one fails."""
    facts: dict[str, bool] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)


def select(probe: Probe, priority: str) -> Recommendation:
    """Return the strategy of the first decision whose facts hold.

    Raises UsageError if there is no such priority, InputError if the forward pass raises or no exporter succeeds.
    """
    if priority not in get_args(Priority):
        raise UsageError(f"there is no priority {priority!r}", f"there are {', '.join(get_args(Priority))}")
    decisions = [d for d in table.shipped().decisions if d.priority == priority]
    sidecar = probe.sidecar  # raises if nothing works
    for decision in decisions:
        if all(map(probe.holds, decision.when)):
            properties = probe.properties()
            others = dict.fromkeys(d.strategy for d in decisions if not _failed(d.when, probe))
            return Recommendation(
                strategy=decision.strategy,
                priority=priority,
                confidence=decision.confidence,
                reasons=(decision.reason, *_reasons(properties)),
                fallbacks=tuple(name for name in (*others, "usage") if name != decision.strategy),
                facts=probe.known,
                properties=properties,
            )
    causes = "; ".join(f"{fact}: {cause}" for fact, cause in probe.failures.items())
    remedy = "fix the model, or name a strategy to get the result anyway (⟨strategy⟩)"
    raise InputError(f"no strategy suits {sidecar.model.class_name} ({causes})", remedy)


def _failed(facts: tuple[str, ...], probe: Probe) -> bool:
    """Return whether one of some facts is known not to hold."""
    return any(probe.known.get(fact) is False for fact in facts)


def _reasons(properties: dict[str, Any]) -> list[str]:
    """Return what probing found out, in words."""
    failures = [f"{fact} fails: {cause}" for fact, cause in properties["failures"].items()]
    return failures + [f"it has {case}" for case in properties["edge_cases"]]
