"""What the exporter says about a node, which scope the node got instead, and how it got it.

An exporter writes the module of a node into its metadata or its name, and can be wrong: it computes once what several
modules share, under the first one's name; it names the work of hooks after the caller; and it folds modules together.
This file reports where the trace overrules it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from mxtools.errors import UsageError
from mxtools.evidence.calls.index import CallIndex, call_index
from mxtools.evidence.exporter_metadata import exporter_paths
from mxtools.graph.index import Graph
from mxtools.pipeline.pipeline import Step
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Annotations


@dataclass(frozen=True)
class Statement:
    """What one source says about a node.

    Attributes: `source`, one of `metadata`, `name` and `parameters`; `text`, as it stands in the file; `scopes`, to
    which it leads, none if the trace knows no such module.
    """

    source: str
    text: str
    scopes: tuple[str, ...]


def disagreements(model: WorkingModel) -> dict[int, Statement]:
    """Return the nodes whose scope the exporter does not name, each with what the exporter says.

    A node that does the work of several modules agrees with a statement that names one of them. Without a trace,
    nothing can overrule the exporter, so nothing is returned.
    """
    index = model.once(call_index)
    if not index:
        return {}
    exporter, annotations = _Exporter(model, index), model.annotations
    said = {
        node: text for name, nodes in model.graph.named.items() if (text := exporter.by_name(name)) for node in nodes
    }
    said |= {node: exporter.by_metadata(paths) for node, paths in model.once(exporter_paths).items()}
    scopes, found = annotations.hierarchy.scopes, {}
    for node, text in said.items():
        call = annotations.call[node]
        if call is not None and scopes[call] in text.scopes and node not in annotations.merged:  # nearly all
            continue
        done = annotations.calls_done(_converted(model.graph, node))
        if done and all(scopes[call] not in text.scopes for call in done):
            found[node] = text
    return found


def _converted(graph: Graph, node: int) -> int:
    """Return the node whose results one only turns into quantised numbers or back; itself if it does more."""
    while graph.operators[node].is_conversion and (source := next(iter(graph.sources(node)), node)) < node:
        node = source
    return node


class _Exporter:
    """What the exporter says of nodes; that of a module is made once, as it stands on many nodes."""

    def __init__(self, model: WorkingModel, index: CallIndex) -> None:
        self._index, self._scopes = index, model.annotations.hierarchy.scopes
        self._of_paths: dict[tuple[str, ...], Statement] = {}

    def by_metadata(self, paths: tuple[str, ...]) -> Statement:
        """Return what the paths in metadata say."""
        if paths not in self._of_paths:
            calls = self._index.by_paths(paths)
            self._of_paths[paths] = Statement("metadata", paths[-1], tuple(self._scopes[call] for call in calls))
        return self._of_paths[paths]

    def by_name(self, module: str) -> Statement | None:
        """Return what a name says, without its last component, if it has the form of one with a module."""
        if module and not module.startswith("/"):
            return None
        calls, _ = self._index.by_name(module)
        return Statement("name", module or "/", tuple(self._scopes[call] for call in calls))


def _statements(model: WorkingModel, index: CallIndex, node: int) -> Iterator[Statement]:
    """Yield what each source says of a node."""
    exporter = _Exporter(model, index)
    if paths := model.once(exporter_paths).get(node):
        yield exporter.by_metadata(paths)
    named = (exporter.by_name(name) for name, nodes in model.graph.named.items() if node in nodes)
    yield from filter(None, named)
    yield from _parameters(model.annotations, index, node)


def _parameters(annotations: Annotations, index: CallIndex, node: int) -> Iterator[Statement]:
    """Yield which traced weights a node reads."""
    graph, scopes = annotations.graph, annotations.hierarchy.scopes
    for value in graph.reads[node]:
        if value in graph.stored and (name := graph.names[value]) in index.weights:
            module, _ = index.weights[name]
            yield Statement("parameters", name, tuple(scopes[call] for call in index.by_module(module.path)))


@dataclass(frozen=True)
class NodeHistory:
    """How a node got its scope.

    Attributes: `node`, its name and operator; `said`, what each source says; `passes`, each pass that gave it a scope,
    with that scope and the evidence (the last one decided); `merged`, the scopes whose work it does, if there are
    several.
    """

    node: str
    said: tuple[Statement, ...]
    passes: tuple[tuple[str, str, str], ...]
    merged: tuple[str, ...]


@dataclass
class Witness:
    """Watches what the passes of a pipeline do with some nodes; their names, or those of their outputs, select them."""

    model: WorkingModel
    names: Collection[str]
    _seen: dict[int, list[tuple[str, str, str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Find the nodes; raise UsageError if no node has one of the names."""
        if not self.names:
            return
        graph = self.model.graph
        by_name = {proto.name: node for node, proto in enumerate(graph.nodes) if proto.name}
        for name in self.names:
            value = graph.by_name.get(name, -1)
            node = by_name.get(name, graph.producer[value] if value >= 0 else -1)
            if node < 0:
                raise UsageError(f"there is no node {name!r}, and no node makes a tensor of that name", "see ⟨tree⟩")
            self._seen[node] = []

    def observe(self, step: Step) -> None:
        """Note the scopes that a pass gave to the nodes."""
        annotations = self.model.annotations
        for node, seen in self._seen.items():
            call, evidence = annotations.call[node], annotations.evidence[node]
            scope = "" if call is None else annotations.hierarchy.scopes[call]
            if scope and (not seen or seen[-1][1:] != (scope, str(evidence))):
                seen.append((step.step.name, scope, str(evidence)))

    def histories(self) -> tuple[NodeHistory, ...]:
        """Return how the nodes got their scopes."""
        annotations, index = self.model.annotations, self.model.once(call_index)
        scopes = annotations.hierarchy.scopes
        histories = []
        for node, seen in self._seen.items():
            proto = annotations.graph.nodes[node]
            said = tuple(_statements(self.model, index, node)) if index else ()
            merged = tuple(scopes[call] for call in annotations.merged.get(node, ()))
            histories.append(NodeHistory(f"{proto.name} ({proto.op_type})", said, tuple(seen), merged))
        return tuple(histories)
