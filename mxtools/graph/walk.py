"""Walks: what can be reached from somewhere, forwards or backwards, until something stops the walk.

Each thing is visited once, so a walk takes time in proportion to what it reaches and to the connections of that. An
example with five nodes, which have the names of the values that they make; x is an input of the graph:

    x -> A -> B -> D -> E        A reads x, B and C read A, D reads B and C, E reads D
         A -> C -> D

    nodes_behind(graph, [E], until=lambda value: value == A)    {E, D, B, C}: what makes E from A
    values_after(graph, C)                                      {C, D, E}
    reached([D], graph.sources)                                 D, B, C, A: the order in which they are found
    nearest([E], graph.sources, lambda node: node in (A, C))    C
    components([A, B, E], neighbours)                           {A, B} and {E}: D is not among them
    in_order([D, A, B, C], graph.sources)                       A, B, C, D
    circles([A, B, C, D], graph.sources)                        [A], [B], [C], [D]; if B reads E: [A], [C], [B, D, E]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from graphlib import CycleError
from typing import Protocol, TypeVar

T = TypeVar("T", bound=Hashable)

NOWHERE = -1
"""Stands in the place of a node if there is none."""


class Wired(Protocol):
    """What a walk follows: which nodes make and read each value, what each node needs and writes; see `Graph`."""

    @property
    def producer(self) -> Sequence[int]:
        """The node that makes each value, NOWHERE if none does."""

    @property
    def readers(self) -> Sequence[Sequence[int]]:
        """The nodes that read each value."""

    @property
    def needs(self) -> Sequence[Sequence[int]]:
        """The values that each node needs, for itself and for its bodies."""

    @property
    def writes(self) -> Sequence[Sequence[int]]:
        """The values that each node makes."""


def reached(starts: Iterable[T], following: Callable[[T], Iterable[T]]) -> dict[T, None]:
    """Return what can be reached from some things, including these, in the order in which it is found.

    `following` gives what comes directly after a thing. The walk follows first what it found last.
    """
    found = dict.fromkeys(starts)
    left = list(found)
    while left:
        for other in following(left.pop()):
            if other not in found:
                found[other] = None
                left.append(other)
    return found


def nearest(starts: Iterable[T], following: Callable[[T], Iterable[T]], wanted: Callable[[T], bool]) -> T | None:
    """Return the first wanted thing on a walk that goes step by step in all directions, None if there is none."""
    found = dict.fromkeys(starts)
    left = deque(found)
    while left:
        thing = left.popleft()
        if wanted(thing):
            return thing
        new = [other for other in following(thing) if other not in found]
        found.update(dict.fromkeys(new))
        left.extend(dict.fromkeys(new))
    return None


def components(things: Collection[T], neighbours: Callable[[T], Iterable[T]]) -> Iterator[set[T]]:
    """Yield the groups of connected things; `neighbours` that are not among the things connect nothing."""
    known = set(things)
    left = set(things)
    while left:
        group = set(reached([left.pop()], lambda thing: known.intersection(neighbours(thing))))
        left -= group
        yield group


def in_order(things: Iterable[T], before: Callable[[T], Iterable[T]]) -> list[T]:
    """Return the things, each after all that `before` gives for it; things that are in order stay in their order.

    E, D, A, B, C become A, B, C, D, E: on the way to E the walk goes to D, then to B, then to A. Raises CycleError if a
    thing comes before itself.
    """
    placed: dict[T, None] = {}
    entered: set[T] = set()
    for thing in things:
        left = [thing]
        while left:
            at = left[-1]
            if at in placed:
                left.pop()
            elif at in entered:  # all before it that could be placed is
                if any(other not in placed for other in before(at)):
                    raise CycleError("a thing comes before itself", [at])
                placed[left.pop()] = None
            else:
                entered.add(at)
                left += [other for other in reversed(list(before(at))) if other not in placed]
    return list(placed)


def circles(things: Iterable[T], before: Callable[[T], Iterable[T]]) -> list[list[T]]:
    """Return things in groups, each after all groups that `before` gives of it; those of a circle are one group.

    It is Tarjan's algorithm without recursion. `depth` is the place of a thing among those that were entered and are in
    no group yet, `lowest` the first of these places that can be reached from it; where both are the same, all entered
    since are a group.
    """
    depth: dict[T, int] = {}
    lowest: dict[T, int] = {}
    open_: list[T] = []
    grouped: set[T] = set()
    found: list[list[T]] = []
    for start in things:
        left = [] if start in depth else [(start, iter(before(start)))]
        while left:
            thing, others = left[-1]
            if thing not in depth:
                depth[thing] = lowest[thing] = len(open_)
                open_.append(thing)
            other = next((o for o in others if o not in grouped), None)
            if other is not None and other not in depth:
                left.append((other, iter(before(other))))
                continue
            if other is not None:
                lowest[thing] = min(lowest[thing], depth[other])
                continue
            left.pop()
            if left:
                lowest[left[-1][0]] = min(lowest[left[-1][0]], lowest[thing])
            if lowest[thing] == depth[thing]:
                found.append(open_[depth[thing] :])
                grouped.update(found[-1])
                del open_[depth[thing] :]
    return found


def nodes_behind(graph: Wired, values: Iterable[int], until: Callable[[int], bool]) -> set[int]:
    """Return the nodes that make some values, the nodes that make what these read, and so on.

    The walk stops at values for which `until` is true, and at values that no node makes.
    """
    found: set[int] = set()
    left = list(values)
    while left:
        value = left.pop()
        node = graph.producer[value]
        if node != NOWHERE and node not in found and not until(value):
            found.add(node)
            left.extend(graph.needs[node])
    return found


def values_after(graph: Wired, value: int) -> set[int]:
    """Return the values that depend on a value, including itself."""
    return set(reached([value], lambda v: (made for node in graph.readers[v] for made in graph.writes[node])))
