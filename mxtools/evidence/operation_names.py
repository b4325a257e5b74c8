"""Evidence from names that count operations: torch.export calls the result of the third `linear` `linear_2`.

    linear, relu, linear_1, relu_1          values of the graph; an optimiser took away the metadata of their nodes
    linear  relu  linear    relu            operations of the trace, in `a`, `act`, `b` and, a second time, `act`

So `relu_1` is the second relu, which ran in the second call of `act`. The counts agree only if torch.export saw what
the trace saw. It takes some functions apart, as `normalize` into `linalg_vector_norm`, `div` and others, and then its
numbers run ahead of those of the trace:

    div, div_1, div_2        in the graph, of which only `div_1` was written as a division in the program
         div                 in the trace

Each name therefore has to prove itself. The trace has at least as many operations as the highest number says. A node
that reads a weight is in the module that has it. And no operation reads what ran after it, however many other nodes lie
between. A name that fails once counts nowhere. If two names contradict each other, the one that contradicts more often
goes, or the one that weights confirm less often. Of a name that runs ahead, the nodes that read a module's weights
count if they are as many as the operations of this name that ran in the module; and a node counts if only one operation
of its name ran between those of the nodes before and behind it.
"""

from __future__ import annotations

import builtins
import keyword
import re
import sys
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Container, Mapping, Sequence
from functools import partial
from itertools import accumulate, groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from mxtools.evidence.calls.index import CallIndex, call_index
from mxtools.graph.index import NOWHERE, Graph
from mxtools.matching.surviving_names import QUANTISED, name_before
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.scope import contains
from mxtools.traces.traced_calls import first_equals, outputs_returned, plain_name

if TYPE_CHECKING:
    from onnx import NodeProto

    from mxtools.traces.sidecar import Sidecar

_COUNTED = re.compile(r"([a-z][a-z0-9_]*?)(?:_(\d{1,9}))?(?:__\d{1,9})?")
"""A name as torch.fx gives it, and its number; the first one has none. The end says which of several results it is."""
_TAKEN = frozenset({*dir(builtins), *keyword.kwlist})
"""Names that torch.fx does not give without a number, because Python has them: the first `sum` is `sum_1`."""
_NODE = "node_"
"""What the exporter puts in front of the name of a result to name its node."""
_QUANTISING = "_quant"
"""What ONNX Runtime appends to the name of a node in whose place it puts one that works on quantised numbers."""
ROUNDS = 4
"""How often nodes are searched between known ones: each time more are known. More rounds find hardly any."""
Sharing = tuple[list[int], list[int]]
"""The nodes that share a name, by their numbers, and the operations of this name in the order in which they ran."""
_PARTS = frozenset({"getitem"})
"""Names that count the results of many operations; in the trace they are a function of their own."""


def named_operations(model: WorkingModel) -> dict[int, int]:
    """Return the nodes whose results are named for operations of the trace, each with its operation; for `once`.

    An operation is given by its number in the trace. Returns nothing without a trace.
    """
    index = model.once(call_index)
    if not index or not index.sidecar.operations:
        return {}
    graph, operations = model.graph, index.sidecar.operations
    ran: dict[str, list[int]] = defaultdict(list)
    for number, operation in enumerate(operations):
        ran[plain_name(operation.name)].append(number)
    found: dict[str, dict[int, int]] = {}
    confirmed = Counter[str]()
    counted = _counted(graph, ran)
    for name, nodes in counted.items():
        most = max(len(operations[number].inputs) for number in ran[name])
        alone = [node for node in nodes.values() if len(graph.reads[worker(graph, node)]) <= most]
        owners = {node: owned for node in alone if (owned := owners_of(graph, index, node))}
        modules = {number: index.module[operations[number].call] for number in ran[name]}
        named = _by_count(nodes, ran[name]) or _by_module(owners, modules)
        pairs = ((modules[number], owners[node]) for node, number in named.items() if node in owners)
        if all(any(contains(module, owner) for owner in owned) for module, owned in pairs):
            found[name], confirmed[name] = named, len(owners)
    while wrong := _contradictions(graph, found):
        del found[max(wrong, key=lambda name: (wrong[name], -confirmed[name]))]
    named = {node: number for of_name in found.values() for node, number in of_name.items()}
    if not named:
        return {}
    named = _returning(graph, index.sidecar) | named
    live = first_equals(index.sidecar).keys()  # what does not depend on inputs is a constant of the graph
    sharing = {
        name: ([*nodes.values()], [number for number in ran[name] if not live.isdisjoint(operations[number].outputs)])
        for name, nodes in counted.items()
    }
    for _ in range(ROUNDS):
        further = _only_between(graph, named, sharing)
        named |= further
        if not further:
            break
    return named


def _counted(graph: Graph, known: Container[str]) -> dict[str, dict[int, int]]:
    """Return the nodes of the main graph by the `known` name in that of their result, and by its number, from 0.

    If the result has another name, such as an output of the graph, the node's own counts: `node_linear_3`. That counts
    first if it is what the node does. Then the result has the name of an operation that did nothing and was removed.
    """
    found: dict[str, dict[int, int]] = defaultdict(dict)
    nodes = (node for node in graph.main if not graph.nodes[node].name.startswith("/"))  # those are of TorchScript
    for node in sorted(nodes, key=partial(_is_of_quantiser, graph)):
        proto = graph.nodes[node]
        texts = [result_name(graph, node), own_name(proto)]
        for text in sorted(texts, key=lambda text: taken_apart(text)[0] != plain_name(proto.op_type)):
            name, number = taken_apart(text)
            if name in known and name not in _PARTS:
                found[name].setdefault(number - (name in _TAKEN), node)
                break
    return {name: dict(sorted(nodes.items())) for name, nodes in found.items() if min(nodes) >= 0}


def _is_of_quantiser(graph: Graph, node: int) -> int:
    """Return 1 for a node with quantised results or a name from a quantiser, 2 for a DequantizeLinear, otherwise 0.

    A ConvInteger only begins what the node with the name of the result ends, and behind a QLinearConv with this name,
    a DequantizeLinear only repeats it.
    """
    named = (
        graph.nodes[node].name.endswith(_QUANTISING),
        *(graph.names[v].endswith(QUANTISED) for v in graph.writes[node]),
    )
    return 2 if graph.operators[node].dequantises else int(any(named))


def own_name(node: NodeProto) -> str:
    """Return the name of a node, without what the exporter and a quantiser added: `linear_3`."""
    return node.name.removeprefix(_NODE).removesuffix(_QUANTISING)


def result_name(graph: Graph, node: int) -> str:
    """Return the name of a node's first result, without what a quantiser appended to it; empty if it has none."""
    return next((graph.names[value].removesuffix(QUANTISED) for value in graph.writes[node]), "")


def taken_apart(text: str) -> tuple[str, int]:
    """Return the name and the number in a text: 3 for `linear_3`, 0 for `linear` and for `topk__1`."""
    match = _COUNTED.fullmatch(text)
    return (match[1], int(match[2] or 0)) if match else ("", 0)


def worker(graph: Graph, node: int) -> int:
    """Return the node itself; for one that only reshapes, such as a Reshape behind a Gemm, the one before it."""
    maker = graph.producer[graph.reads[node][0]] if graph.operators[node].keeps_elements else NOWHERE
    return node if maker == NOWHERE else maker


def owners_of(graph: Graph, index: CallIndex, node: int) -> frozenset[str]:
    """Return the modules whose weights a node reads; several can have the same one."""
    names = [graph.names[value] for value in graph.stored_reads(worker(graph, node))]
    known = [name if name in index.owners else name_before(name) for name in names]
    return frozenset(owner for name in known for owner in index.owners.get(name, ()))


def _by_count(nodes: Mapping[int, int], ran: Sequence[int]) -> dict[int, int]:
    """Return the operation of each node that its number says; nothing if the trace has too few operations."""
    return {node: ran[number] for number, node in nodes.items()} if max(nodes) < len(ran) else {}


def _by_module(owners: Mapping[int, Collection[str]], modules: Mapping[int, str]) -> dict[int, int]:
    """Return the operations of the nodes that read weights, one after the other, where a module has as many of both.

    `owners` has the modules of each node, `modules` that of each operation.
    """
    ran: dict[str, list[int]] = defaultdict(list)
    for number, module in modules.items():
        ran[module].append(number)
    owned = {node: min(ran.keys() & paths, default=None) for node, paths in owners.items()}
    times = Counter(owned.values())
    taken = {module: iter(numbers) for module, numbers in ran.items() if len(numbers) == times[module]}
    return {node: next(taken[module]) for node, module in owned.items() if module in taken}


def _returning(graph: Graph, sidecar: Sidecar) -> dict[int, int]:
    """Return the nodes that make the outputs of the graph, with the operations that made what the model returned."""
    made = {tensor: number for number, operation in enumerate(sidecar.operations) for tensor in operation.outputs}
    returned = outputs_returned({value: graph.names[value] for value in graph.outputs}, sidecar)
    ends = {graph.producer[value]: made[tensor] for value, tensor in returned.items() if tensor in made}
    return {node: number for node, number in ends.items() if node != NOWHERE}


def _only_between(graph: Graph, named: Mapping[int, int], counted: Mapping[str, Sharing]) -> dict[int, int]:
    """Return the nodes of which only one operation can be theirs, with this operation; an operation has one such node.

    It ran after those of the nodes before and of lower numbers, and before those of the nodes behind and of higher
    numbers. If so many ran between as there are nodes, each node has one of them.
    """
    after, before = dict(named), dict(named)
    for node in graph.main:
        if node not in named:
            after[node] = max((after[maker] for maker in graph.sources(node) if maker in after), default=NOWHERE)
    for node in reversed(graph.main):
        if node not in named:
            before[node] = min((before[n] for n in graph.targets(node) if n in before), default=sys.maxsize)
    found: dict[int, int] = {}
    for nodes, ran in counted.values():
        earliest = [*accumulate((named.get(node, NOWHERE) for node in nodes), max)]
        latest = [*accumulate((named.get(node, sys.maxsize) for node in reversed(nodes)), min)][::-1]
        begins = accumulate((after[node] for node in nodes), max)
        ends = reversed([*accumulate((before[node] for node in reversed(nodes)), min)])
        ranges = [(bisect_right(ran, begin), bisect_left(ran, end)) for begin, end in zip(begins, ends, strict=True)]
        places = [place for place, node in enumerate(nodes) if node not in named]
        for _, row in groupby(places, key=lambda place: (earliest[place], latest[place])):
            taken = _one_for_each([(place, ranges[place]) for place in row])
            found |= {nodes[place]: ran[number] for place, number in taken.items()}
    times = Counter([*named.values(), *found.values()])
    return {node: number for node, number in found.items() if times[number] == 1}


def _one_for_each(rows: Sequence[tuple[int, tuple[int, int]]]) -> dict[int, int]:
    """Return which number each place has, if its range begins and ends with it, or is shared by as many places.

    Places come in order, each with its range of numbers, such as `(4, (7, 9))` for 7 and 8.
    """
    first, last = rows[0][1][0], rows[-1][1][1]
    if last - first == len(rows):
        return {place: number for number, (place, own) in enumerate(rows, first) if number in range(*own)}
    found: dict[int, int] = {}
    for own, group in groupby(rows, key=itemgetter(1)):
        places = [place for place, _ in group]
        if len(range(*own)) == len(places):
            found |= zip(places, range(*own), strict=True)
    return found


def _contradictions(graph: Graph, found: dict[str, dict[int, int]]) -> Counter[str]:
    """Return the names by which a node reads what was made at the same time or later, with how often that is so."""
    known = {node: (number, name) for name, named in found.items() for node, number in named.items()}
    latest: dict[int, tuple[int, str]] = {}
    wrong = Counter[str]()
    for node in graph.main:  # in the order of the data flow
        sources = [latest[maker] for maker in graph.sources(node) if maker in latest]
        before, own = max(sources, default=None), known.get(node)
        if own and before and before[0] >= own[0]:
            wrong.update({own[1], before[1]})
        if at := own or before:
            latest[node] = at
    return wrong
