"""Put a part that was cut out of a model, and changed since, back in its place.

The names of the part's inputs and outputs show the place; `mxtools.graft.changes` finds what is new and what it
replaces. This file changes the model, in four steps: take out what is dead; reduce the part to what is new, under names
that the model does not use; insert the new nodes; add their weights, types, functions and operator sets.

It is not enough to put the new nodes where the old ones were. Four nodes, and the part's node N replaces B:

    A -> a -> B -> b -> D          x -> C -> c          N reads c (the user added an input), makes b

B stood before C in the list, so in B's place N would read `c` before it exists. The nodes are therefore sorted by what
they read. If several can come next, the one that came first in the old list is first: C moves before N, nothing else
moves, and an unchanged model keeps its order. O(nodes + edges), and O(n log n) for that order.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnx import GraphProto, ModelProto, NodeProto

from mxtools.cut.cut import FIRST_IR_WITH_FREE_INITIALIZERS
from mxtools.cut.operator_sets import reconciled
from mxtools.errors import InputError
from mxtools.files.weights import WeightStore, is_external, tensors_of
from mxtools.graft.changes import GraftSite, PartChanges
from mxtools.graft.interface import check_interface
from mxtools.graph.functions import every_node, separate_functions, used_functions
from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.operators import function_key
from mxtools.graph.opsets import import_missing
from mxtools.graph.rename import fresh, names_in, rename_values
from mxtools.pipeline.working_model import WorkingModel


@dataclass
class Grafted:
    """What a graft did.

    Attributes: `kept`, how many of the part's nodes the model had already; `removed`, nodes, and `replaced`, the nodes
    whose results the part makes now, both as numbers in the model's index before the graft; `added`, the places of the
    new nodes in the list of nodes; `renamed`, values of the part, old name to new.
    """

    kept: int
    removed: list[int] = field(default_factory=list)
    replaced: list[int] = field(default_factory=list)
    added: list[int] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)


def graft(model: ModelProto, graph: Graph, weights: WeightStore, part: WorkingModel) -> Grafted:
    """Put a part into a model, in place; `graph` is the model's index, which is out of date afterwards.

    The part must not be used afterwards: its messages are changed and moved. Raises InputError if it does not fit.
    """
    check_interface(model, graph, part.proto)
    part = reconciled(part, model)
    separate_functions(part.proto, model)
    for tensor in filter(is_external, tensors_of(part.proto)):
        weights.adopt(tensor, part.weights)
    new = PartChanges(graph, part, weights)
    site = GraftSite(graph, new)
    result = Grafted(len(new.index.main) - len(new.nodes))
    if not new.nodes and not new.outputs:
        return result
    _take_out(model.graph, site, names_in(part.proto.graph))
    result.renamed = _reduce(part.proto.graph, new, model.graph)
    for tensor in tensors_of(part.proto):
        weights.adopt(tensor, part.weights)
    result.removed, result.replaced = sorted(site.dead), site.makers
    result.added = _insert(model.graph, site, new, result.renamed)
    _merge(model, part.proto, [graph.nodes[n] for n in site.dead])
    return result


def _take_out(graph: GraphProto, site: GraftSite, others: Collection[str]) -> None:
    """Take out of a graph what a part replaces; if a node stays, its replaced outputs get names unlike `others`."""
    index = site.graph
    taken = names_in(graph).union(others)
    replaced = {index.names[v] for v in site.replaced}
    for node in site.makers:
        for position, name in enumerate(index.nodes[node].output):
            if name in replaced and node not in site.dead:
                index.nodes[node].output[position] = fresh(name, taken)
                taken.add(index.nodes[node].output[position])
    dead = {id(index.nodes[n]) for n in site.dead}
    gone = {index.names[v] for n in site.dead for v in index.writes[n]}
    _keep(graph.quantization_annotation, lambda note: note.tensor_name not in gone)
    noted = {entry.value for note in graph.quantization_annotation for entry in note.quant_parameter_tensor_names}
    weights = {index.names[v] for v in site.weights} - (noted - replaced)
    gone |= weights
    _keep(graph.node, lambda node: id(node) not in dead)
    _keep(graph.initializer, lambda tensor: tensor.name not in weights)
    _keep(graph.sparse_initializer, lambda tensor: tensor.values.name not in weights)
    untyped = gone - replaced
    _keep(graph.value_info, lambda info: info.name not in untyped)


def _reduce(part: GraphProto, new: PartChanges, graph: GraphProto) -> dict[str, str]:
    """Reduce a part to what is new, under names that the graph does not use; return the renamed values."""
    nodes = {id(new.index.nodes[n]) for n in new.nodes}
    own = {new.index.names[v] for n in new.nodes for v in new.index.writes[n]} | new.weights
    inner = own.difference(new.outputs)
    _keep(part.node, lambda node: id(node) in nodes)
    _keep(part.initializer, lambda tensor: tensor.name in new.weights)
    _keep(part.sparse_initializer, lambda tensor: tensor.values.name in new.weights)
    _keep(part.value_info, lambda info: info.name in inner)
    _keep(part.quantization_annotation, lambda note: note.tensor_name in own)
    _rename_nodes(part, graph)
    others, present = names_in(graph), names_in(part)
    names: dict[str, str] = {}
    taken = others | present
    for name in sorted((others & present) - new.same.union(new.outputs)):
        names[name] = fresh(name, taken)
        taken.add(names[name])
    return rename_values(part, names)


def _rename_nodes(part: GraphProto, graph: GraphProto) -> None:
    """Give the nodes of a part names that no node of the graph has."""
    others = {node.name for node in every_node(graph.node)}
    taken = others.union(node.name for node in every_node(part.node))
    for node in every_node(part.node):
        if node.name and node.name in others:
            node.name = fresh(node.name, taken)
            taken.add(node.name)


def _insert(graph: GraphProto, site: GraftSite, new: PartChanges, renamed: dict[str, str]) -> list[int]:
    """Insert the new nodes in the place of the first node that they replace, and sort all; return their places."""
    index, inner = site.graph, new.index
    first = min([*site.dead, *site.makers], default=NOWHERE)
    added = [(inner.nodes[n], [renamed.get(inner.names[v], inner.names[v]) for v in inner.needs[n]]) for n in new.nodes]
    before = [n for n in index.main if n < first and n not in site.dead]
    after = [n for n in index.main if n >= first and n not in site.dead]
    stay = [[(index.nodes[n], [index.names[v] for v in index.needs[n]]) for n in part] for part in (before, after)]
    nodes = [*stay[0], *added, *stay[1]]
    order = _ordered([needs for _, needs in nodes], [node for node, _ in nodes])
    del graph.node[:]
    graph.node.extend(nodes[i][0] for i in order)
    return [n for n, i in enumerate(order) if len(before) <= i < len(before) + len(added)]


def _ordered(needs: Sequence[Collection[str]], nodes: Sequence[NodeProto]) -> list[int]:
    """Return an order in which nodes can be computed, as near to the present one as possible; InputError on a cycle.

    This is Kahn's algorithm: a node is ready when its last source is done, and the first of the ready nodes comes next.
    A walk (`graph.walk`) would find the same nodes, but not in this order.
    """
    maker = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    sources = [{maker[name] for name in names if name in maker} for names in needs]
    targets: list[list[int]] = [[] for _ in nodes]
    for i, makers in enumerate(sources):
        for j in makers:
            targets[j].append(i)
    missing = [len(makers) for makers in sources]
    ready = [i for i, count in enumerate(missing) if not count]
    order = []
    while ready:
        order.append(heapq.heappop(ready))
        for i in targets[order[-1]]:
            missing[i] -= 1
            if not missing[i]:
                heapq.heappush(ready, i)
    if len(order) < len(nodes):
        raise _cycle(sources, nodes, {i for i, count in enumerate(missing) if count})
    return order


def _cycle(sources: Sequence[Collection[int]], nodes: Sequence[NodeProto], stuck: set[int]) -> InputError:
    """Return the error that names a tensor on a cycle.

    Each stuck node waits for another stuck one, so a walk from source to source comes back to a node on a cycle.
    """
    node, seen = min(stuck), set[int]()
    while node not in seen:
        seen.add(node)
        node = min(stuck.intersection(sources[node]))
    name = next(filter(None, nodes[node].output), "")
    return InputError(
        f"with the part, {name!r} would depend on itself: the part reads values that are computed from its own outputs",
        "keep the inputs that it was cut out with",
    )


def _merge(model: ModelProto, part: ModelProto, removed: Sequence[NodeProto]) -> None:
    """Add to a model what a part's nodes need: weights, types, functions, operator sets, a high enough IR version."""
    noted = {note.tensor_name for note in model.graph.quantization_annotation}
    model.graph.initializer.extend(part.graph.initializer)
    model.graph.sparse_initializer.extend(part.graph.sparse_initializer)
    model.graph.value_info.extend(part.graph.value_info)
    model.graph.quantization_annotation.extend(
        note for note in part.graph.quantization_annotation if note.tensor_name not in noted
    )
    known = {function_key(f) for f in model.functions}
    model.functions.extend(f for f in used_functions(part, part.graph.node) if function_key(f) not in known)
    unused = {function_key(f) for f in used_functions(model, removed)}
    unused -= {function_key(f) for f in used_functions(model, model.graph.node)}
    _keep(model.functions, lambda function: function_key(function) not in unused)
    import_missing(model, part)
    model.ir_version = max(model.ir_version, part.ir_version)
    if part.graph.initializer:
        model.ir_version = max(model.ir_version, FIRST_IR_WITH_FREE_INITIALIZERS)


def _keep(container: Any, wanted: Callable[[Any], bool]) -> None:  # noqa: ANN401 - protobuf's container
    """Delete all messages of a repeated field except for the wanted ones, which stay untouched."""
    for index in range(len(container) - 1, -1, -1):
        if not wanted(container[index]):
            del container[index]
