"""What lies around the nodes of a cut: what they were given, what leads to them, and whether they are connected."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from onnx import GraphProto

from mxtools.errors import UsageError, suggestion
from mxtools.graph.index import NOWHERE, Graph, bodies
from mxtools.graph.rename import names_in
from mxtools.graph.walk import components, nodes_behind
from mxtools.scopes.annotations import INDIRECT, Annotations
from mxtools.scopes.places import MAIN, Place, Places


def between(graph: Graph, first: Iterable[str], last: Iterable[str]) -> tuple[set[int], set[int]]:
    """Return the nodes on all paths from the tensors `first` to the tensors `last`, and the values of `last`.

    Without `first`, the paths begin at the model's inputs; without `last`, they end at those of its outputs that they
    reach. Raises UsageError if the graph has no tensor of a name, or no path leads to one of the last, InputError if a
    node reads a value that is computed from its own result.
    """
    graph.require_order()
    begin = _values(graph, first) or set(graph.inputs) - graph.stored
    end = _values(graph, last) or set(graph.outputs)
    after = set(begin)
    for node, needs in enumerate(graph.needs):
        if not after.isdisjoint(needs):
            after.update(graph.writes[node])
    nodes = nodes_behind(graph, end, until=lambda value: value in begin or value not in after)
    reached = end.intersection(value for node in nodes for value in graph.writes[node])
    if not reached:
        raise UsageError("no path leads from the tensors of ⟨from-tensor⟩ to those of ⟨to-tensor⟩", "swap them")
    if last and reached != end:
        name = graph.names[min(end - reached)]
        raise UsageError(f"no path leads from the tensors of ⟨from-tensor⟩ to {name!r}", "leave it out of ⟨to-tensor⟩")
    return nodes, reached


def _values(graph: Graph, names: Iterable[str]) -> set[int]:
    for name in names:
        if name not in graph.by_name:
            raise _unknown(name, graph.by_name)
    return {graph.by_name[name] for name in names}


def place_of_tensors(places: Places, names: Sequence[str], among: Collection[Place | None]) -> Place:
    """Return the place from which all of some tensors can be seen, the outermost one if there are several.

    If several places are equally far inside, the one of the selection counts. Raises UsageError if the graph has no
    tensor of a name, if no place sees them all, or if it is not clear which one.
    """
    graph = places.graph
    known: dict[str, list[Place]] = {name: [] for name in names}
    for value, name in enumerate(graph.names):
        if name in known and (place := _place_of_value(places, value)) is not None:
            known[name].append(place)
    for name, found in known.items():
        if not found:
            raise _unknown(name, graph.names)
    everywhere = dict.fromkeys(place for found in known.values() for place in found)
    seeing = [p for p in everywhere if all(any(p[: len(q)] == q for q in found) for found in known.values())]
    nearest = [p for p in seeing if len(p) == min(map(len, seeing))]
    fitting = nearest if len(nearest) == 1 else [p for p in nearest if p in among]
    if len(fitting) == 1:
        return fitting[0]
    if nearest:
        both = " and in ".join(map(places.text, nearest[:2]))
        raise UsageError(f"{names[0]!r} is in {both}", "choose one with ⟨scope⟩")
    texts = [f"{name!r} is in {places.text(found[0])}" for name, found in known.items()]
    raise UsageError(" and ".join(texts), "give tensors of one body, or of the graphs around it")


def _place_of_value(places: Places, value: int) -> Place | None:
    """Return the place of a value; None if its graph does not define the value, or has no place."""
    graph = places.graph
    if graph.producer[value] != NOWHERE:
        return places.of(graph.producer[value])
    holder = graph.home[value]
    if holder != NOWHERE:
        around = places.of(holder)
        for number, body in enumerate(bodies(graph.nodes[holder])):
            without_nodes = GraphProto()
            without_nodes.CopyFrom(body)
            without_nodes.ClearField("node")
            if around is not None and graph.names[value] in names_in(without_nodes):
                return (*around, (holder, number))
    is_main = graph.by_name.get(graph.names[value]) == value
    return MAIN if is_main else next((places.of(reader) for reader in graph.readers[value]), None)


def _unknown(name: str, known: Collection[str]) -> UsageError:
    return UsageError(f"there is no tensor {name!r}", suggestion(name, known))


class GivenNodes:
    """The nodes whose results some chosen modules were given: nodes of calls beside them, and of their callers.

    A caller's node counts only with direct evidence. Without it, the node may be a constant that the exporter shared
    among the modules that use it, and not a result of the caller.
    """

    def __init__(self, annotations: Annotations, chosen: Collection[int]) -> None:
        """Take the nodes of the chosen modules; each other node is looked at only when somebody asks for it."""
        self._annotations = annotations
        self._inside = {call for n in chosen if (call := annotations.call[n]) is not None}
        lineages = map(annotations.hierarchy.lineage, self._inside)
        self._callers = {ancestor for lineage in lineages for ancestor in lineage} - self._inside

    def __contains__(self, node: object) -> bool:
        """Return whether a node is one of them."""
        if not isinstance(node, int):
            return False
        call, evidence = self._annotations.call[node], self._annotations.evidence[node]
        if call is None or call in self._inside or not self._annotations.graph.reads[node]:
            return False
        return call not in self._callers or evidence not in INDIRECT


def auxiliary_behind(annotations: Annotations, chosen: Collection[int]) -> set[int]:
    """Return the auxiliary nodes that lead to the chosen ones through auxiliary nodes alone."""
    graph = annotations.graph

    def is_end(value: int) -> bool:
        """Return whether the walk ends at a value, because its maker is chosen or not auxiliary."""
        maker = graph.producer[value]
        return maker in chosen or annotations.evidence[maker] not in INDIRECT

    return nodes_behind(graph, (v for n in chosen for v in graph.needs[n]), until=is_end)


def pieces(graph: Graph, chosen: Collection[int]) -> int:
    """Return into how many pieces a selection falls; tensors between its nodes connect, constants do not."""

    def neighbours(node: int) -> Iterator[int]:
        """Yield the nodes that a node reads from, and those that read from it."""
        yield from (graph.producer[v] for v in graph.needs[node])
        yield from map(graph.top, graph.targets(node))

    live = {n for n in chosen if not graph.is_constant(n)}
    return sum(1 for _ in components(live or set(chosen), neighbours))
