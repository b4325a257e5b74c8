"""GraphML with a nested graph for each module. See graphml.graphdrawing.org, `Nested Graphs`.

Ids have the canonical form, `n0`. Names of nodes are data, because not every name is a valid XML name token. An edge
lies in the graph of the innermost module that has both its ends. `yfiles.foldertype` is an extension by which yEd and
networkx recognise groups.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

from mxtools.errors import printable
from mxtools.views.structure import OUTSIDE, Edge, Structure

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n'
TEXTS = ("kind", "label", "name", "scope", "tag", "evidence")


def graphml(structure: Structure) -> str:
    """Return the whole structure as one GraphML document."""
    keys = [f'<key id="{name}" for="node" attr.name="{name}" attr.type="string"/>' for name in TEXTS]
    metrics = {name: f"m{number}" for number, name in enumerate(structure.metrics)}
    keys += [
        f'<key id="{key}" for="node" attr.name={quoteattr("_".join(name.split()))} attr.type="double"/>'
        for name, key in metrics.items()
    ]
    keys.append('<key id="value" for="edge" attr.name="value" attr.type="string"/>')
    return HEAD + "\n".join([*keys, *_Document(structure, metrics).graph(0), "</graphml>"]) + "\n"


class _Document:
    def __init__(self, structure: Structure, metrics: dict[str, str]) -> None:
        self.structure, self.metrics = structure, metrics
        self.children: dict[int, list[int]] = defaultdict(list)
        for item, parent in enumerate(structure.parent):
            self.children[parent].append(item)
        self.edges: dict[int, list[Edge]] = defaultdict(list)
        for edge in structure.edges:
            self.edges[self._common(edge)].append(edge)
        given = (edge.value for edge in structure.edges if edge.source == OUTSIDE)
        self.inputs = {value: f"i{number}" for number, value in enumerate(dict.fromkeys(given))}
        made = (edge.value for edge in structure.edges if edge.target == OUTSIDE)
        self.outputs = {value: f"o{number}" for number, value in enumerate(dict.fromkeys(made))}

    def graph(self, scope: int) -> Iterator[str]:
        """Yield the lines of a module's graph: its items, then its edges."""
        yield f'<graph id="g{scope}" edgedefault="directed">'
        for item in self.children[scope]:
            yield from self._item(item)
        if not scope:
            for kind, ends in (("input", self.inputs), ("output", self.outputs)):
                for number, name in ends.items():
                    yield f'<node id="{name}">{self._data(kind=kind, label=self.structure.values[number].name)}</node>'
        for edge in self.edges[scope]:
            source = self.inputs[edge.value] if edge.source == OUTSIDE else f"n{edge.source}"
            target = self.outputs[edge.value] if edge.target == OUTSIDE else f"n{edge.target}"
            value = escape(printable(self.structure.values[edge.value].name))
            yield f'<edge source="{source}" target="{target}"><data key="value">{value}</data></edge>'
        yield "</graph>"

    def _item(self, item: int) -> Iterator[str]:
        metrics = self._metrics(item)
        if item >= len(self.structure.scopes):
            node = self.structure.node(item)
            scope = self.structure.scopes[node.parent]
            data = self._data(
                kind="node",
                label=node.operator,
                name=node.name,
                scope=scope.scope,
                tag=scope.tag,
                evidence=node.evidence,
            )
            yield f'<node id="n{item}">{data}{metrics}</node>'
            return
        module = self.structure.scopes[item]
        yield f'<node id="n{item}" yfiles.foldertype="group">'
        yield self._data(kind="module", label=self.structure.local(item), scope=module.scope, tag=module.tag) + metrics
        yield from self.graph(item)
        yield "</node>"

    def _data(self, **texts: str) -> str:
        return "".join(f'<data key="{key}">{escape(printable(text))}</data>' for key, text in texts.items())

    def _metrics(self, item: int) -> str:
        found = ((key, self.structure.metrics[name]) for name, key in self.metrics.items())
        numbers = ((key, metric.scopes.get(item, metric.nodes.get(item))) for key, metric in found)
        return "".join(f'<data key="{key}">{_number(n)}</data>' for key, n in numbers if n is not None)

    def _common(self, edge: Edge) -> int:
        """Return the innermost scope that has both ends of an edge."""
        if OUTSIDE in (edge.source, edge.target):
            return 0
        around = set(self.structure.lineage(self.structure.parent[edge.source]))
        return next(item for item in self.structure.lineage(self.structure.parent[edge.target]) if item in around)


def _number(number: float) -> str:
    """Return a number as XML Schema writes a double."""
    return {"inf": "INF", "-inf": "-INF", "nan": "NaN"}.get(str(number), repr(number))
