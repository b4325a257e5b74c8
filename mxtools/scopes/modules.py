"""Module calls as objects, which show the parts of a tagged graph; each is looked up when it is asked for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from onnx import NodeProto

from mxtools.scopes.annotations import Annotations
from mxtools.scopes.parameters import parameter_sizes, stored_tensors
from mxtools.scopes.tags import class_of


class ModuleIndex:
    """The calls of a tagged graph, each with its own nodes and those of the calls below it. O(nodes * depth)."""

    def __init__(self, annotations: Annotations) -> None:
        """Look at the calls of all nodes, including those of bodies and functions."""
        self.annotations = annotations
        self.nodes: dict[int, list[int]] = defaultdict(list)
        for node, call in enumerate(annotations.call):
            for around in annotations.hierarchy.lineage(call) if call is not None else ():
                self.nodes[around].append(node)
        self.children: dict[int, list[int]] = defaultdict(list)
        for call in sorted(self.nodes):
            self.children[annotations.hierarchy.parent[call]].append(call)

    @cached_property
    def parameters(self) -> dict[int, int]:
        """The number of elements of each parameter, by value."""
        return parameter_sizes(self.annotations, stored_tensors(self.annotations.graph))

    def modules(self, calls: Iterable[int]) -> list[Module]:
        """Return the modules of some calls, in the order of the calls; those without nodes are left out."""
        return [Module(self, call) for call in sorted(calls) if call in self.nodes]


@dataclass(frozen=True, repr=False)
class Module:
    """One call of a module in a tagged graph, with everything inside it.

    It shows the graph as it was when you asked for the module.

    >>> module = model.module("encoder.layer.0.attention")
    >>> module
    <Module encoder.layer.0.attention: BertAttention, 29 nodes, 4160 parameters>
    >>> module.tag
    '/BertModel/BertEncoder/BertLayer.0/BertAttention'
    >>> [child.class_name for child in module.children]
    ['BertSelfAttention', 'BertSelfOutput']
    """

    _index: ModuleIndex
    _call: int

    @property
    def scope(self) -> str:
        """Its scope: `encoder.layer.0.attention`."""
        return self._index.annotations.hierarchy.scopes[self._call]

    @property
    def tag(self) -> str:
        """The same place, written with class names."""
        return self._index.annotations.hierarchy.tags[self._call]

    @property
    def class_name(self) -> str:
        """The class of the module, if the file or the trace says so."""
        return class_of(self.tag)

    @property
    def nodes(self) -> list[NodeProto]:
        """The nodes that do its work, in the order of the graph; those of a body come before the node that holds it."""
        nodes = self._index.annotations.graph.nodes
        return [nodes[node] for node in self._index.nodes[self._call]]

    @property
    def operators(self) -> dict[str, int]:
        """The number of nodes by operator."""
        return dict(Counter(node.op_type for node in self.nodes).most_common())

    @property
    def evidence(self) -> dict[str, int]:
        """The number of nodes by evidence, such as `metadata` or `dataflow`."""
        words = self._index.annotations.evidence
        return dict(Counter(str(words[node]) for node in self._index.nodes[self._call]).most_common())

    @property
    def parameters(self) -> int:
        """The number of elements of the parameters that its nodes read; each parameter counts once."""
        reads, sizes = self._index.annotations.graph.reads, self._index.parameters
        read = {value for node in self._index.nodes[self._call] for value in reads[node]}
        return sum(sizes.get(value, 0) for value in read)

    @property
    def children(self) -> list[Module]:
        """The calls that it makes itself, in order."""
        return [Module(self._index, call) for call in self._index.children[self._call]]

    @property
    def parent(self) -> Module | None:
        """The call that makes it; None for the model itself."""
        parent = self._index.annotations.hierarchy.parent[self._call]
        return None if parent < 0 else Module(self._index, parent)

    def __repr__(self) -> str:
        """Return scope, class, nodes and parameters in one line."""
        count = len(self._index.nodes[self._call])
        return f"<Module {self.scope}: {self.class_name}, {count} nodes, {self.parameters} parameters>"
