"""The pass `project-previous`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx import ModelProto

from mxtools.matching.carried import Carried
from mxtools.pipeline.context import Context, Pass
from mxtools.scopes.annotations import INDIRECT, Evidence


@dataclass(frozen=True)
class ProjectPrevious(Pass):
    """Scopes from the tagged model that this one was made from: by names, weights, and what follows from these."""

    name: ClassVar[str] = "project-previous"
    annotates: ClassVar[bool] = True

    def apply(self, model: ModelProto, context: Context) -> None:
        """Annotate the nodes that make what a node of the earlier model made, or use the weights that one used.

        A node goes to the module whose output it makes. Without an earlier model nothing is done; raises InputError
        where it bears no tags.
        """
        carried = context.carried(model)
        if not carried or not context.previous:
            return
        context.previous.check_tagged()
        annotations, was = context.annotations(model), carried.was
        for node in range(len(carried.made)):
            twins, word = _makers(carried, node), _evidence(carried, node)
            if not twins and node in carried.named:
                twins = {carried.named[node]}
            elif not twins:
                twins, word = set(carried.covered.get(node, ())), Evidence.PARAMETER
            known = sorted(twin for twin in twins if was.call[twin] is not None)
            if known:
                before = was.evidence[known[-1]]
                annotations.set(node, _call(carried, known), before if before in INDIRECT else word)


def _makers(carried: Carried, node: int) -> set[int]:
    """Give the earlier nodes that made what a node makes; of equal values the first alone if its module returned it."""
    found = set[int]()
    for value in carried.graph.writes[node]:
        made = [v for v in carried.of.get(value, ()) if v in carried.made[node]]
        twins = [carried.earlier.producer[v] for v in made]
        is_returned = bool(made) and carried.was.call[twins[0]] in carried.left.get(made[0], ())
        found.update(twins[:1] if is_returned else twins)
    return found


def _call(carried: Carried, twins: list[int]) -> int:
    """Give the call of a node that does the work of some earlier nodes: that of the last, if it works on the others'.

    Else their lowest common ancestor.
    """
    earlier, was = carried.earlier, carried.was
    calls = [call for twin in twins if (call := was.call[twin]) is not None]
    made = [set(earlier.writes[twin]) for twin in twins]
    follow = all(not a.isdisjoint(earlier.reads[twin]) for a, twin in zip(made, twins[1:], strict=False))
    return calls[-1] if follow else was.hierarchy.common(calls)


def _evidence(carried: Carried, node: int) -> Evidence:
    """Give the evidence for what a node makes."""
    found = (carried.known.get(value) for value in carried.graph.writes[node])
    return next((word for word in found if word), Evidence.PREVIOUS)
