"""The module tree of a tagged model: what each module call holds, itself and below it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from mxtools.annotations import Annotations
from mxtools.scope import ROOT


@dataclass
class Branch:
    """One call of a module with all below it: nodes, nodes by operator, elements of the initializers that they use."""

    scope: str
    tag: str
    nodes: int = 0
    parameters: int = 0
    operators: Counter[str] = field(default_factory=Counter)
    children: list[Branch] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Give the branch as plain data."""
        return {
            "scope": self.scope,
            "tag": self.tag,
            "nodes": self.nodes,
            "parameters": self.parameters,
            "operators": dict(sorted(self.operators.items())),
            "children": [child.to_dict() for child in self.children],
        }


def tree(annotations: Annotations) -> Branch:
    """Build the tree of the calls that nodes bear, in the order of their first nodes that are no constants."""
    graph, hierarchy = annotations.graph, annotations.hierarchy
    sizes = {value: math.prod(tensor.dims) for value, tensor in graph.initializers.items()}
    sizes |= {value: math.prod(tensor.dims) for value, tensor in graph.sparse.items()}
    branches: dict[int, Branch] = {0: Branch(ROOT, hierarchy.tags[0])}
    used: dict[int, set[int]] = {}
    constant = graph.constant
    for node in sorted(range(len(graph.nodes)), key=lambda n: constant.issuperset(graph.writes[n])):
        call = annotations.call[node]
        if call is None:
            continue
        weights = [value for value in graph.reads[node] if value in sizes]
        for at in reversed(list(hierarchy.lineage(call))):
            if at not in branches:
                branches[at] = Branch(hierarchy.scopes[at], hierarchy.tags[at])
                branches[hierarchy.parent[at]].children.append(branches[at])
            branches[at].nodes += 1
            branches[at].operators[graph.nodes[node].op_type] += 1
            used.setdefault(at, set()).update(weights)
    for at, weights_ in used.items():
        branches[at].parameters = sum(sizes[value] for value in weights_)
    return branches[0]
