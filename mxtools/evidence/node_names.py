"""Evidence from node names: most exporters write into them where in the model an operation stands.

    /encoder/layer.0/attention/MatMul         TorchScript: the modules, then the operation
    model_1/dense_2/BiasAdd                   tf2onnx, Keras: the layers, without a slash before them
    Inline_0__/encoder/layer.0/MatMul         spox: a model that was inlined into another
    /model/layers.0/attn/mask/Sub/Cast        onnxruntime-genai: a Cast that belongs to the operation `mask/Sub`
    Reshape__264, Gather.3, p2o/7             names that only count

With a trace, the modules are known. Then the names of results count too, where an optimiser made a node: ONNX Runtime's
`FusedConv` has the name `/conv/Conv` of its first part and makes the result `/act/Relu_output_0` of its last. Without a
trace, the file itself has to show whether a name contains modules, because no list of exporters' habits is ever
complete:

- A path that is the name of another node is an operation, not a module: `mask/Sub`, if a node has this name.
- The last level is not a module if it names an operator and the rest continues this name or only counts. In
  `query/MatMul/MatMulAddFusion`, a Gemm that ONNX Runtime made, the module is `query`. `Relu/Relu` is a Relu in `Relu`.
- Names that do not begin with a slash count only if the data flow agrees: nodes that have a level in common are
  connected.

The last point is measured over all levels except those that all names share. Of four nodes

    x ─ a/MatMul ─ a/Relu ─ b/MatMul ─ b/Relu ─ y          a: one piece of two nodes, b: one piece, so all joins
    x ─ op/1 ─ fn/1 ─ op/2 ─ fn/2 ─ y                      op: two pieces, fn: two pieces, so nothing joins
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import pairwise, takewhile

import onnx
from onnx import NodeProto

from mxtools.carriers.packed import carriers_of
from mxtools.evidence.altered_weights import is_made_by_tool
from mxtools.evidence.between_values import calls_between
from mxtools.evidence.calls.equal_work import without_repeated
from mxtools.evidence.calls.index import (
    FOREIGN_SHARE,
    CallIndex,
    Candidates,
    call_index,
    require_same_model,
    scope_steps,
)
from mxtools.evidence.calls.placement import assign
from mxtools.evidence.named_values import annotate_by_operations
from mxtools.graph.index import Graph
from mxtools.graph.walk import components
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Evidence
from mxtools.scopes.labels import name_components, name_of_maker
from mxtools.scopes.scope import DEEPEST, escape, is_scope
from mxtools.traces.traced_calls import calls_returning, outputs_returned

Path = tuple[str, ...]
"""The levels of a name, outermost first."""

AGREEING = 0.5
"""The share of possible connections that must exist, so that names without a leading slash count as modules.

In a tree of modules nearly all of them exist. If names only count, nodes with a common level lie all over the graph.
Half lies far from both.
"""

_COUNTER = re.compile(r"_*\d*$")
"""What exporters append to a name that exists already."""
_FUSED = "fused "
"""What ONNX Runtime puts in front of the name of some nodes with which it fuses the next."""


def annotate_by_names(model: WorkingModel) -> None:
    """Annotate the nodes whose names contain modules or count operations, if metadata say nothing of them."""
    annotations, index = model.annotations, model.once(call_index)
    if index:
        annotate_by_operations(model, index)
    named = {
        name: open_
        for name, nodes in annotations.graph.named.items()
        if (open_ := [node for node in nodes if annotations.call[node] is None])
    }
    if index:
        _by_trace(model, index, named)
        return
    open_ = sorted(node for nodes in named.values() for node in nodes)
    is_ours = "rename" in carriers_of(model.proto)
    for path, nodes in _modules(annotations.graph, open_).items():
        levels = (level if is_ours and is_scope(level) else _escaped(level) for level in path[:DEEPEST])
        annotations.set_all(nodes, annotations.hierarchy.add(scope_steps(filter(None, levels))), Evidence.NAME)


def foreign_modules(model: WorkingModel) -> dict[str, int]:
    """Return the modules that nodes name but the trace lacks, each with its number of nodes.

    Returns nothing if these are few, because then the names come from the code that was traced; nor without a trace.
    """
    index = model.once(call_index)
    if not index:
        return {}
    rooted = {name: len(nodes) for name, nodes in model.graph.named.items() if not name or name.startswith("/")}
    found = Counter[str]()
    for name, count in rooted.items():
        if module := index.foreign_module(name):
            found[module] += count
    return dict(found) if found.total() > FOREIGN_SHARE * sum(rooted.values()) else {}


def _by_trace(model: WorkingModel, index: CallIndex, named: Mapping[str, list[int]]) -> None:
    """Annotate nodes with the modules of the trace that their names, without the last component, give."""
    graph, annotations = model.graph, model.annotations
    of_tools = _results_of_tools(model, index)
    names = {name: [node for node in nodes if node not in of_tools] for name, nodes in named.items()}
    found = {name: known for name in names if (known := index.by_name(name))[0]}
    rooted = {name: nodes for name, nodes in names.items() if name.startswith("/") or not name}
    same = {name for name in found if index.names_module(name)}  # a hook's calls could be another model's
    require_same_model(model.name, index.sidecar, rooted, same, lambda name: name[1:])
    by_module: dict[tuple[Candidates, str], list[int]] = defaultdict(list)
    for name, known in found.items():
        by_module[known] += names[name]
    for node, known in of_tools.items():
        by_module[known].append(node)
    pairs = ((calls, nodes) for (calls, _), nodes in by_module.items())
    chosen = without_repeated(graph, pairs, lambda: index.repeated)
    assign(annotations, chosen, Evidence.NAME, index.origins, partial(calls_between, model), numbered=True)
    used = set(annotations.call)
    for node, (calls, _) in of_tools.items():
        if not (name := _own_name(graph.nodes[node])):
            continue
        at, ending = annotations.call[node], index.by_name(name.rpartition("/")[0])[0]
        if len(ending) != len(calls):  # several modules can have one name; those with nodes do not end here
            ending = tuple(call for call in ending if call not in used)
        if at in calls and len(ending) == len(calls) and ending != calls:
            annotations.merged[node] = (ending[calls.index(at)], at)


def _results_of_tools(model: WorkingModel, index: CallIndex) -> dict[int, tuple[Candidates, str]]:
    """Return the nodes that an optimiser made, with what the names of their results lead to, as `CallIndex.by_name`.

    `FusedConv` with the name `/conv/Conv` makes `/act/Relu_output_0`, so it ends what `/act/Relu` ended. A node with a
    name of its own counts if it reads no weights, as a Reshape: whose weights it has says more. So does a Conv with a
    weight into which a tool computed what came after it. A result of the model leads to the module that returned it.
    """
    graph, annotations = model.graph, model.annotations
    returning = calls_returning(index.sidecar)
    returned = outputs_returned({value: graph.names[value] for value in graph.outputs}, index.sidecar)
    found: dict[int, tuple[Candidates, str]] = {}
    for node, proto in enumerate(graph.nodes):
        if annotations.call[node] is not None or not graph.writes[node]:
            continue
        value = graph.writes[node][0]
        result = graph.names[value]
        if value not in returned and not result.startswith("/"):
            continue
        is_plain = proto.name.startswith("/") and not proto.domain
        if is_plain and result.startswith(proto.name):  # nearly all
            continue
        maker, tensor = name_of_maker(result), returned.get(value)
        is_named = value not in returned and maker != result
        if tensor is not None and tensor in returning:
            known: tuple[Candidates, str] = (returning[tensor][-1],), ""
        elif is_named:
            known = index.by_name(maker.rpartition("/")[0])
        else:
            continue
        name = _own_name(proto)
        if known[0] and (not name or _is_fused(proto, name) or (is_plain and _ends_elsewhere(model, node, known[0]))):
            found[node] = known
    return found


def _ends_elsewhere(model: WorkingModel, node: int, calls: Candidates) -> bool:
    """Return whether a tool put into a node what came after it, so that its result is that of other calls.

    Weights are read only if its own name does not lead to the one call to which that of the result leads.
    """
    graph = model.graph
    index = model.once(call_index)
    own = index.by_name(graph.nodes[node].name.rpartition("/")[0])[0] if index else ()
    is_its_own = len(calls) == 1 and own == calls
    return not is_its_own and any(is_made_by_tool(model, read) for read in graph.reads[node])


def _is_fused(node: NodeProto, name: str) -> bool:
    """Return whether a node does more than the operation that its name says, by an operator that ONNX does not have."""
    return bool(node.domain) and not _names(name.rpartition("/")[2], node.op_type)


def _own_name(node: NodeProto) -> str:
    """Return the name that a node has from the export, even if an optimiser fused it with others; else nothing."""
    name = node.name.removeprefix(_FUSED)
    return name if name.startswith("/") else ""


def _modules(graph: Graph, nodes: Iterable[int]) -> dict[Path, list[int]]:
    """Return the nodes whose names contain a module, by its path; the root's are those whose names say so."""
    operations = {tuple(name_components(_operation(proto))) for proto in graph.nodes if proto.name}
    rooted: dict[Path, list[int]] = defaultdict(list)
    loose: dict[int, Path] = {}
    for node in nodes:
        proto = graph.nodes[node]
        path = _module(proto, operations)
        if proto.name.startswith("/"):
            rooted[path].append(node)
        elif path:
            loose[node] = path
    if _agree(graph, loose):
        for node, path in loose.items():
            rooted[path].append(node)
    return rooted


def _operation(node: NodeProto) -> str:
    """Return the name of a node's operation; the first one, if the name has several (`a/Relu;a/BiasAdd`)."""
    return node.name.partition(";")[0]


def _module(node: NodeProto, operations: set[Path]) -> Path:
    """Return the path of the module in a node's name."""
    *levels, last = name_components(_operation(node)) or [""]  # of `/`
    path = tuple(levels)
    while path and path in operations:
        path = path[:-1]
    if path and not _names(last, node.op_type) and onnx.defs.has(operator := _COUNTER.sub("", path[-1])):
        path = path[:-1] if last.isdecimal() or last.startswith(operator) else path
    return path


def _names(text: str, operator: str) -> bool:
    """Return whether a text is the name of an operator, in any case and perhaps followed by a counter."""
    return _COUNTER.sub("", text).casefold() == operator.casefold()


def _agree(graph: Graph, paths: Mapping[int, Path]) -> bool:
    """Return whether nodes that have a level in common are connected, as the nodes of a module are.

    If no two nodes share a level that others lack, the flow shows nothing. Then most names have to end with the
    operators of their nodes, as names of places do.
    """
    live = {node: path for node, path in paths.items() if not graph.is_constant(node)}
    if not live:
        return False
    shared = len(_common(min(live.values()), max(live.values())))
    prefixes = {path[:depth] for path in live.values() for depth in range(shared + 1, len(path) + 1)}
    possible = sum(len(path) - shared for path in live.values()) - len(prefixes)
    if possible > 0:
        return _joined(graph, live, shared) >= AGREEING * possible
    protos = [graph.nodes[node] for node in live]
    ending = sum(_names(name_components(_operation(proto))[-1], proto.op_type) for proto in protos)
    return 2 * ending >= len(live)


def _joined(graph: Graph, paths: Mapping[int, Path], shared: int) -> int:
    """Return how many nodes the links join to others on their level, summed over all levels below the `shared` ones.

    On a level, links between nodes that have this level in common join them to pieces: n nodes in p pieces count n - p.
    The links with the most levels in common come first: a link that joins two pieces joins them on all levels above
    too.
    """
    leader = {node: node for node in paths}

    def piece(node: int) -> int:
        """Return the node that stands for the piece of a node."""
        while leader[node] != node:
            leader[node] = node = leader[leader[node]]
        return node

    joined = 0
    links = [(len(_common(paths[a], paths[b])), a, b) for a, b in _links(graph, paths)]
    for depth, a, b in sorted(links, reverse=True):
        if depth > shared and piece(a) != piece(b):
            leader[piece(a)] = piece(b)
            joined += depth - shared
    return joined


def _links(graph: Graph, paths: Mapping[int, Path]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of named nodes that are connected, by a value or by a connected group of nodes without names.

    Around such a group, only nodes that follow each other in the order of their paths are paired. This is enough, since
    all nodes that share a level follow each other in this order.
    """

    def neighbours(node: int) -> Iterator[int]:
        """Yield the nodes beside a node, except for constants, which connect nothing."""
        for other in (*graph.sources(node), *graph.targets(node)):
            if not graph.is_constant(other):
                yield other

    for node in paths:
        yield from ((node, other) for other in neighbours(node) if other in paths)
    unnamed = {n for n in range(len(graph.nodes)) if n not in paths and not graph.is_constant(n)}
    for group in components(unnamed, neighbours):
        around = {other for node in group for other in neighbours(node) if other in paths}
        yield from pairwise(sorted(around, key=lambda node: (paths[node], node)))


def _common(one: Path, other: Path) -> Path:
    """Return the levels with which two paths begin."""
    return tuple(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _escaped(level: str) -> str:
    """Return a level of a name as a scope writes it; the parts between dots are never empty there."""
    return ".".join(escape(part) for part in level.split(".") if part)
