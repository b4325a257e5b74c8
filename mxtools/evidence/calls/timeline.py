"""When the calls of a trace ran, and where in that time the nodes of a graph stand.

    calls: 0 the root, 1 `norm`, 2 `act`, 3 `conv`, 4 `act@1`           the root ran again after each of the others

    time   1       2         3        4       5        6        7        8         9      10
           root    norm      root     act     root     conv     root     act@1     root
           begins  begins    again    begins  again    begins   again    begins    again  is over

The clock ticks when a call begins and when one ends, so between two ticks exactly one call is the innermost that runs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from mxtools.scopes.hierarchy import ROOT_CALL, Hierarchy
from mxtools.traces.traced_calls import ticks

Anchor = tuple[int, int]
"""A node, and the time at which it ran."""


class Timeline:
    """The times of the calls of a hierarchy; calls are numbered in the order in which they began.

    Attributes, by call: `begun` and `ended`.
    """

    def __init__(self, hierarchy: Hierarchy) -> None:
        """Let the clock run through all calls."""
        self._hierarchy = hierarchy
        count = len(hierarchy)
        self.begun, self.ended = [0] * count, [0] * count
        self._running = [ROOT_CALL]
        open_: list[int] = []
        for call, begins in ticks(hierarchy.parent):
            (self.begun if begins else self.ended)[call] = len(self._running)
            if begins:
                open_.append(call)
            else:
                open_.pop()
            self._running.append(open_[-1] if open_ else ROOT_CALL)

    def runs_next(self, call: int, time: int) -> int | None:
        """Return the first time from `time` on at which a call is the innermost running one, None if it has ended."""
        time = max(time, self.begun[call])
        if time >= self.ended[call]:
            return None
        innermost = self._running[time]
        return time if innermost == call else self.ended[self._hierarchy.path_below(call, innermost)[-1]]

    def is_leaf(self, call: int) -> bool:
        """Return whether a call made no calls."""
        return self.ended[call] == self.begun[call] + 1


def in_order(anchors: Sequence[Anchor]) -> list[Anchor]:
    """Return a longest sequence of some anchors, sorted by node, in which time does not run backwards.

    This leaves out nodes that an exporter moved to another place, as it does with work that many modules share:

        (node 0, time 2), (node 1, time 9), (node 2, time 4), (node 3, time 6)    without node 1
    """
    ends: list[int] = []
    last: list[int] = []
    before: list[int | None] = []
    for position, (_, time) in enumerate(anchors):
        length = bisect_right(ends, time)
        ends[length : length + 1] = [time]
        last[length : length + 1] = [position]
        before.append(last[length - 1] if length else None)
    at = last[-1] if last else None
    kept = []
    while at is not None:
        kept.append(anchors[at])
        at = before[at]
    return kept[::-1]
