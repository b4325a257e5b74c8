"""The order of the program, where an optimiser has put the nodes of a graph into another order.

The order of the nodes is all that tells many calls of one module apart. Optimisers sort the nodes anew, but they keep
names, and the exporter has counted in them: `/embed/Gemm` and `/embed_1/Gemm`, or `linear` and `linear_1`. If such
numbers do not ascend, the nodes were moved. An example with a cell that reads what it returned before:

    embed, cell, embed_1, cell_1, out        the program
    embed_1, embed, cell, cell_1, out        as the optimiser sorted it

Then each node comes after the makers of what it reads, after the node that was counted before it, and else as late as
possible. The nodes of which the calls are known, and then the last ones, are followed back. Here that is `out`: for it
`cell_1` has to come first; for that `cell`, for that `embed`; and then `embed_1`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable
from graphlib import CycleError
from itertools import pairwise

from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.walk import in_order
from mxtools.scopes.labels import name_of_maker

_COUNTER = re.compile(r"_(\d{1,9})(?![^/_])")


def program_order(graph: Graph, alike: Iterable[tuple[Hashable, int]], known: Iterable[int]) -> list[int] | None:
    """Return the nodes in the order of the program, None if nothing shows that they are in another one.

    `alike` has nodes, each with a key that nodes of the same modules share; `known` has nodes in the order in which
    they ran.
    """
    before = {node: earlier for chain in _counted(graph, alike) for earlier, node in pairwise(chain)}
    if all(earlier < node for node, earlier in before.items()):
        return None

    def needed(node: int) -> list[int]:
        """Return what comes before a node."""
        return [*graph.sources(node), *((before[node],) if node in before else ())]

    last = [maker for value in graph.outputs if (maker := graph.producer[value]) != NOWHERE]
    try:
        return in_order([*known, *last, *range(len(graph.nodes))], needed)
    except CycleError:  # the numbers count something else
        return None


def _counted(graph: Graph, alike: Iterable[tuple[Hashable, int]]) -> Iterable[list[int]]:
    """Return the nodes whose names are equal but for the counters, in the order of these."""
    found: dict[Hashable, list[tuple[dict[int, int], int]]] = defaultdict(list)
    for key, node in alike:
        name = name_of_maker(next(iter(graph.nodes[node].output), ""))
        stem, counters = _taken_apart(name)
        found[key, graph.nodes[node].op_type, stem].append((counters, node))
    for members in found.values():
        places = sorted({place for counters, _ in members for place in counters})
        numbers = {tuple(counters.get(place, 0) for place in places): node for counters, node in members}
        if len(numbers) == len(members) > 1:
            yield [numbers[key] for key in sorted(numbers)]


def _taken_apart(name: str) -> tuple[str, dict[int, int]]:
    """Return a name without its counters, and these by their places in it: `split_2_left` has 2 at 5."""
    counters: dict[int, int] = {}
    removed = 0
    for match in _COUNTER.finditer(name):
        counters[match.start() - removed] = int(match[1])
        removed += len(match[0])
    return _COUNTER.sub("", name), counters
