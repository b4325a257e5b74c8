"""What each node computes from the inputs of the model on, to find what no look at single modules shows.

    x ─ Relu ─a─┐              u ─ Relu ─a─┐
                Sub(a, b)                  Sub(a, b)        one module with the same nodes, and another result
    u ─ Relu ─b─┘              x ─ Relu ─b─┘

The own nodes of modules do not say which of several equal nodes reads what, in which order a body or a function takes
and returns its values, or which versions of operators a function uses. So each value gets a digest of all the work
behind it: of an input its name, of a weight its elements, of a result the operator, its attributes and the digests of
what the node reads. Where two models are alike module by module, but not in these digests, the difference begins at
the nodes whose digest the other model does not have, although it has the digests of all that they read. One walk in the
order of flow is enough. O(nodes + edges + bytes of weights).
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

from mxtools.comparison.contents import Contents, attribute_bytes
from mxtools.graph.functions import function_nodes
from mxtools.graph.operators import OperatorKey, default_attributes, function_key, operator_key, versions
from mxtools.graph.order import graphs_in, in_order_of_flow
from mxtools.graph.walk import in_order

_Known = ChainMap[str, bytes]
"""The digests of the values of a graph, and of those around it, by name."""
_OMITTED = b"omitted"


class WholeWork:
    """The work behind the values of a model.

    Attributes: `outputs`, the digests of the outputs by name; `made`, those of all values that nodes make; `nodes`, by
    number the digest of each node and those of the values that it reads.
    """

    def __init__(self, model: ModelProto, contents: Contents) -> None:
        """Take a model whose nodes have an order, and its contents."""
        self.made: set[bytes] = set()
        self.nodes: dict[int, tuple[bytes, frozenset[bytes]]] = {}
        self._contents, self._operators = contents, contents.graph.operators
        self._numbers = {id(node): number for number, node in enumerate(contents.graph.nodes)}
        self._functions: dict[OperatorKey, bytes] = {}
        self._add_functions({function_key(function): function for function in model.functions})
        known = ChainMap({value.name: _digest("input", value.name) for value in model.graph.input})
        results = self._returned(model.graph, known)
        self.outputs = {value.name: result for value, result in zip(model.graph.output, results, strict=True)}

    def begins(self, other: WholeWork) -> Iterator[int]:
        """Yield the nodes whose work the other model does not do, although it has the values that they read."""
        known = {digest for digest, _ in other.nodes.values()}
        new = self.made - other.made
        yield from (node for node, (digest, reads) in self.nodes.items() if digest not in known and not reads & new)

    def _add_functions(self, functions: dict[OperatorKey, FunctionProto]) -> None:
        def called(key: OperatorKey) -> Iterator[OperatorKey]:
            """Yield the functions that a function calls."""
            return (other for node in function_nodes(functions[key]) if (other := operator_key(node)) in functions)

        for key in in_order(functions, called):
            function = functions[key]
            known = _formal(function.input, ChainMap({}))
            self._add_nodes(function.node, known)
            facts = [f"{domain} {version}" for domain, version in sorted(versions(function.opset_import).items())]
            defaults = sorted(a.SerializeToString(deterministic=True) for a in function.attribute_proto)
            self._functions[key] = _digest(*facts, *defaults, *(known.get(name, _OMITTED) for name in function.output))

    def _returned(self, graph: GraphProto, known: _Known) -> list[bytes]:
        """Return the digests of what a graph returns; `known` has its inputs, and the values of graphs around it."""
        known.update((tensor.name, self._stored(tensor)) for tensor in graph.initializer)
        known.update((sparse.values.name, self._stored(sparse)) for sparse in graph.sparse_initializer)
        self._add_nodes(graph.node, known)
        return [known.get(value.name, _OMITTED) for value in graph.output]

    def _stored(self, tensor: TensorProto | SparseTensorProto) -> bytes:
        held = [tensor.values, tensor.indices] if isinstance(tensor, SparseTensorProto) else [tensor]
        return _digest("weight", *map(str, tensor.dims), *(part for t in held for part in self._contents.weight(t)))

    def _add_nodes(self, nodes: Sequence[NodeProto], known: _Known) -> None:
        """Add the nodes of one graph, and what they make to the values that are known in it."""
        for place in in_order_of_flow(nodes):
            node = nodes[place]
            number = self._numbers[id(node)]
            skipped = default_attributes(self._operators[number].schema)
            given = sorted((a for a in node.attribute if attribute_bytes(a) not in skipped), key=lambda a: str(a.name))
            inside = [part for attribute in given for part in self._attribute(attribute, known)]
            reads = [known.get(name, _OMITTED) for name in _without_last_omitted(node.input)]
            outputs = _without_last_omitted(node.output)
            key = operator_key(node)
            digest = _digest(*key, self._functions.get(key, b""), str(len(outputs)), *reads, "attributes", *inside)
            self.nodes[number] = digest, frozenset((*reads, *inside))
            made = {name: _digest(digest, str(at)) for at, name in enumerate(outputs) if name}
            self.made.update(made.values())
            known.update(made)

    def _attribute(self, attribute: AttributeProto, known: _Known) -> Iterator[bytes]:
        """Yield what an attribute says, the elements of its tensors, and what its graphs return."""
        yield attribute_bytes(attribute)
        held = [attribute.t] if attribute.type == AttributeProto.TENSOR else attribute.tensors
        yield from map(self._stored, held)
        for body in graphs_in([attribute]):
            formal = _formal((value.name for value in body.input), known)
            yield from self._returned(body, formal)


def _formal(names: Iterable[str], around: _Known) -> _Known:
    """Return the inputs of a body or a function: what they are is their place in it, and how deep it is."""
    depth = str(len(around.maps))
    return around.new_child({name: _digest("formal", depth, str(at)) for at, name in enumerate(names)})


def _without_last_omitted(names: Sequence[str]) -> list[str]:
    """Return the inputs or outputs of a node without omitted ones at the end, which may as well not be listed."""
    found = list(names)
    while found and not found[-1]:
        found.pop()
    return found


def _digest(*parts: str | bytes) -> bytes:
    state = blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(b"%d " % len(data) + data)
    return state.digest()
