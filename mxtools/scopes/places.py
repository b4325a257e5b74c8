"""Places: which graph of a model a node lies in, so that modules in bodies can be found and cut out.

A place is the way from the main graph to another graph: the nodes that contain the graphs on this way, the outermost
first, each with the number of its body. Three nodes and their places:

    0  Abs     in the second branch of the If     ((2, 0), (1, 1))
    1  If      in the body of the Loop            ((2, 0),)
    2  Loop    in the main graph                  ()

The graph of a model-local function lies where it is called, if only one node calls it; otherwise it has no place.
"""

from __future__ import annotations

from collections import defaultdict

from onnx import GraphProto, ModelProto

from mxtools.graph.index import NOWHERE, Graph, bodies, graphs_in

Place = tuple[tuple[int, int], ...]
"""The nodes that contain the graphs around a graph, the outermost first, each with the number of its body."""

MAIN: Place = ()
"""The place of the main graph."""


class Places:
    """The places of the nodes of a graph."""

    def __init__(self, graph: Graph) -> None:
        """Find in which body of its holder each node is; O(nodes)."""
        self.graph = graph
        self._seat: dict[int, tuple[int, int]] = {node: (0, position) for position, node in enumerate(graph.main)}
        held: dict[int, list[int]] = defaultdict(list)
        for node, owner in enumerate(graph.owner):
            if owner != NOWHERE:
                held[owner].append(node)
        for owner, nodes in held.items():
            inside = enumerate(bodies(graph.nodes[owner]))
            seats = [(number, position) for number, body in inside for position in range(len(body.node))]
            self._seat.update(zip(nodes, seats, strict=True))

    def of(self, node: int) -> Place | None:
        """Return the place of a node; None in a function that no node calls, or more than one."""
        graph, steps, regions = self.graph, [], set[int]()
        while graph.owner[node] != NOWHERE or graph.region[node]:
            holder, region = graph.owner[node], graph.region[node]
            if holder == NOWHERE:
                sites = graph.sites.get(region, [])
                if len(sites) != 1 or region in regions:
                    return None
                regions.add(region)
                holder = sites[0]
            steps.append((holder, self._seat[node][0] if holder == graph.owner[node] else 0))
            node = holder
        return tuple(reversed(steps))

    def graph_at(self, model: ModelProto, place: Place) -> GraphProto:
        """Return the graph at a place, in this model or a copy of it; the place must not lead through a function."""
        found = model.graph
        for holder, number in place:
            found = list(bodies(found.node[self.position(holder)]))[number]
        return found

    def position(self, node: int) -> int:
        """Return the position of a node in the list of its graph; not for nodes of functions."""
        return self._seat[node][1]

    def is_call(self, step: tuple[int, int]) -> bool:
        """Return whether a step of a place goes into a function, not into a body."""
        return not any(True for _ in bodies(self.graph.nodes[step[0]]))

    def text(self, place: Place) -> str:
        """Return a place for people: the innermost holder and, if it has several bodies, which one it is."""
        if not place:
            return "the main graph"
        holder, number = place[-1]
        node = self.graph.nodes[holder]
        if self.is_call(place[-1]):
            return f"the function {node.op_type!r}"
        names = [attribute.name for attribute in node.attribute for _ in graphs_in([attribute])]
        body = "body" if len(names) == 1 else names[number]
        return f"the {body} of {node.op_type} {node.name!r}"
