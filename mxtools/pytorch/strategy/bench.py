"""Compare strategies on one model: what they cost, how good they are, and where they disagree."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from torch import nn

from mxtools.errors import MxError, OutputError
from mxtools.files.temporary import Scratch
from mxtools.graph.index import NOWHERE
from mxtools.matching.traced_values import matched_values
from mxtools.pytorch.exporting.exporters import in_turn
from mxtools.pytorch.sources import Sources
from mxtools.pytorch.strategy.attempt import Demands, Tagged, checked
from mxtools.pytorch.subject import Subject
from mxtools.strategies import table
from mxtools.strategies.metrics import Meter, Metrics, measured

COSTS = ("trace", "export", "tag")
"""The stages that make a tagged model; the other stages check it."""


@dataclass(frozen=True)
class Row:
    """The result of a strategy: an error, or metrics, and the scope of each traced tensor that its graph has, by id."""

    strategy: str
    error: str | None = None
    metrics: Metrics | None = None
    scopes: dict[int, str] | None = None

    @property
    def seconds(self) -> float | None:
        """The seconds of tracing, exporting and tagging; None if the strategy failed."""
        stages = self.metrics.stages if self.metrics else {}
        return sum(stages[name].seconds for name in COSTS if name in stages) if stages else None

    @property
    def peak_memory(self) -> int | None:
        """The highest memory of the process in these stages, in bytes; None if the strategy failed."""
        stages = self.metrics.stages if self.metrics else {}
        return max((stages[name].peak_memory for name in COSTS if name in stages), default=None)


@dataclass(frozen=True)
class Agreement:
    """On how many of the traced tensors that both graphs have two strategies give the same scope."""

    first: str
    second: str
    agreed: int
    compared: int
    differing: tuple[tuple[str, str], ...]
    """The two scopes of a tensor, if they differ; each pair once."""

    @property
    def share(self) -> float:
        """The share of tensors with the same scope; 1 if there is nothing to compare."""
        return self.agreed / self.compared if self.compared else 1.0


def bench(subject: Subject, names: Iterable[str], rounds: int = 1) -> Iterator[Row]:
    """Yield a row for each strategy, in each of some rounds; no strategy uses anything that another one made.

    What an exporter does once per process, it does before, on a model of one layer. What it does once per model counts
    in the first round.
    """
    chosen = {name: table.get(name) for name in names}
    for exporter in dict.fromkeys(e for strategy in chosen.values() for e in in_turn(strategy.exporter)):
        _warm_up(exporter)
    for name in [*chosen] * rounds:
        with Scratch() as folder:
            yield _row(name, subject, folder)


def fastest(rows: Iterable[Row]) -> list[Row]:
    """Return the fastest row of each strategy, in the order of the strategies."""
    best: dict[str, Row] = {}
    for row in rows:
        known = best.get(row.strategy)
        if known is None or known.seconds is None or (row.seconds is not None and row.seconds < known.seconds):
            best[row.strategy] = row
    return list(best.values())


def _warm_up(exporter: str) -> None:
    with Scratch() as folder:
        subject = Subject(nn.Linear(1, 1), {"input": torch.ones(1, 1)}, "warm-up")
        Sources(lambda: subject, folder).export(exporter)


def _row(name: str, subject: Subject, folder: Path) -> Row:
    gc.collect()  # garbage of the last strategy must not count for this one
    meter = Meter()
    sources = Sources(lambda: subject, folder, meter=meter)
    try:
        tagged = checked(name, sources, Demands(verify=True), meter, Meter())
        metrics = measured(tagged.model, meter, tagged.by_pass)
    except OutputError:
        raise
    except MxError as error:
        return Row(name, str(error))
    return Row(name, None, metrics.model_copy(update={"round_trip": tagged.round_trip}), _scopes(tagged, sources))


def _scopes(tagged: Tagged, sources: Sources) -> dict[int, str]:
    """Return, by the tensor's id, the scope of the node that makes each traced tensor that the graph has."""
    sidecar, values = sources.trace(values=True)
    assert values is not None
    model = tagged.against(sidecar, values)
    annotations = model.annotations
    found = {}
    for tensor, equal_values in matched_values(model, sidecar, values).items():
        node = annotations.graph.producer[equal_values[0]]
        call = annotations.call[node] if node != NOWHERE else None
        if call is not None:
            found[tensor] = annotations.hierarchy.scopes[call]
    return found


def agreements(rows: Iterable[Row]) -> list[Agreement]:
    """Return how far any two strategies that succeeded agree."""
    found = []
    for a, b in combinations([row for row in rows if row.scopes is not None], 2):
        assert a.scopes is not None
        assert b.scopes is not None
        pairs = [(a.scopes[t], b.scopes[t]) for t in sorted(a.scopes.keys() & b.scopes.keys())]
        differing = tuple(dict.fromkeys(pair for pair in pairs if pair[0] != pair[1]))
        found.append(Agreement(a.strategy, b.strategy, sum(x == y for x, y in pairs), len(pairs), differing))
    return found
