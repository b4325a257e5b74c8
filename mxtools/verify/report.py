"""What a verification comes to: the errors of all calls, and which of them tell where an error comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from mxtools.runtime.distance import EQUAL, UNLIKE, Distance, worst
from mxtools.runtime.tolerances import Tolerance
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.scopes.tags import class_of
from mxtools.verify.output_matches import has_no_effect


@dataclass(frozen=True)
class Output:
    """A tensor that a module returned: its name there, the one that stands for it in the graph, and how far that is."""

    name: str
    tensor: str
    distance: Distance
    harmless: bool = False
    """It differs without an effect on what the caller returned: it is no result of the module, or does not matter."""


@dataclass
class Checked:
    """One call of a module."""

    scope: str
    tag: str
    outputs: list[Output] = field(default_factory=list)
    reason: str = ""
    """Why nothing is compared, or why the call does not run on its own."""
    own: Distance | None = None
    """Its error when it is fed what PyTorch's module was fed."""
    mean: float | None = None
    """The mean of its relative L2 error over several sets of inputs, if there are several."""
    children: list[Checked] = field(default_factory=list)

    @property
    def class_name(self) -> str:
        """The class of the module."""
        return class_of(self.tag)

    @property
    def distances(self) -> list[Distance]:
        """How far its outputs are off, without harmless ones if there are others."""
        counted = [output.distance for output in self.outputs if not output.harmless]
        return counted or [output.distance for output in self.outputs]

    @property
    def distance(self) -> Distance | None:
        """The one of these that has the largest relative error, None without outputs."""
        return worst(self.distances)

    @property
    def error(self) -> float:
        """The largest relative L2 error of what it and the calls in it return; 0 where nothing is compared."""
        here = self.distance.relative_l2 if self.distance else 0.0
        return max(here, *(child.error for child in self.children), 0.0)

    @property
    def own_error(self) -> float:
        """The same of it and the calls in it when each runs alone."""
        here = self.own.relative_l2 if self.own else 0.0
        return max(here, *(child.own_error for child in self.children), 0.0)


NOISY = 80.0
"""SQNR in dB above which noise is that of rounding to float32, or little more; half precision has 60 to 70 dB."""


@dataclass(frozen=True)
class Verified:
    """What became of all calls, in the order of the trace, and the first one that has a wrong output."""

    calls: list[Checked]
    tolerance: Tolerance
    first: Checked | None
    untagged: int
    """The number of nodes that had no scope and got that of their neighbours."""

    def __repr__(self) -> str:
        """Return the number of calls, and the first one that has a wrong output, in one line."""
        wrong = f"{self.first.scope} is the first that is wrong" if self.first else "none is wrong"
        return f"<Verified: {len(self.calls)} calls, {wrong}>"

    @property
    def furthest(self) -> Checked | None:
        """The call with the largest error that is not harmless, None where nothing is compared.

        Errors are compared as multiples of those that are just right for the class.
        """
        counted = [call for call in self.calls if call.outputs and not all(output.harmless for output in call.outputs)]
        return max(counted, key=self._excess, default=None)

    def is_right(self, call: Checked, tolerance: Tolerance | None = None) -> bool:
        """Return whether each output of a call is right or harmless, by a tolerance, or by the one of the report."""
        limit = (tolerance or self.tolerance).of(call.class_name)
        return all(output.harmless or limit.is_right(output.distance) for output in call.outputs)

    def worst(self, call: Checked) -> Distance | None:
        """Return how far the output of a call is off that is furthest in the metric of the tolerance."""
        return self.tolerance.worst(call.distances)

    @property
    def culprits(self) -> list[Checked]:
        """The innermost calls that are wrong when they are fed what PyTorch's modules were fed.

        A call inside one that is right on its own is not among them.
        """
        return list(self._culprits(self.calls[ROOT_CALL], UNLIKE))

    @property
    def noisiest(self) -> Checked | None:
        """The innermost call that adds the most noise when it runs alone, None if none adds any that counts.

        Its error may be far below the tolerance, which is compared with the largest value: a single large weight makes
        the largest value of a result large, and hides the error of all others.
        """
        alone = [call for call in self.calls if call.own and not any(child.own for child in call.children)]
        found = min(alone, key=lambda call: call.own.sqnr if call.own else inf, default=None)
        return found if found and found.own and found.own.sqnr < NOISY else None

    def _excess(self, call: Checked) -> float:
        found = self.worst(call)
        return self.tolerance.excess(found, call.class_name) if found else 0.0

    def _culprits(self, call: Checked, around: Distance) -> Iterator[Checked]:
        own = call.own or EQUAL
        inner = [c for child in call.children for c in self._culprits(child, call.own or around)]
        is_right = self.tolerance.is_right(own, call.class_name)
        if not inner and not is_right and not has_no_effect(own, around, self.tolerance):
            yield call
        yield from inner


@dataclass(frozen=True)
class Bisected:
    """The smallest module that is wrong on its own, None if the whole model is right; its error; the parts that ran."""

    scope: str | None
    own: Distance | None
    parts_run: int


def combined(found: Sequence[Verified]) -> Verified:
    """Return what several sets of inputs showed of the same calls: the largest errors, and the means of all.

    The first call that goes wrong is that of the first set in which one does.
    """
    tolerance = found[0].tolerance
    calls = [_combined(rows, tolerance) for rows in zip(*(each.calls for each in found), strict=True)]
    number = {id(call): place for each in found for place, call in enumerate(each.calls)}
    for call in calls:
        call.children = [calls[number[id(child)]] for child in call.children]
    first = next((calls[number[id(each.first)]] for each in found if each.first), None)
    return Verified(calls, tolerance, first, found[0].untagged)


def _combined(rows: Sequence[Checked], tolerance: Tolerance) -> Checked:
    """Return a call with the largest errors of several sets."""
    largest = max(rows, key=lambda row: max(map(tolerance.error, row.distances), default=-1.0))
    own = tolerance.worst(row.own for row in rows if row.own)
    errors = [row.distance.relative_l2 for row in rows if row.distance]
    return replace(largest, own=own, mean=sum(errors) / len(errors) if len(errors) > 1 else None)
