"""Cut nodes out of a model, as a model that runs on its own.

A cut keeps the chosen nodes, and copies of two kinds of nodes that they need: *constants*, which depend on no input of
the model, and *shape chains*, which compute a shape from tensors that the cut has anyway. All other tensors that the
kept nodes read become inputs; tensors that the rest of the graph reads become outputs. O(nodes + edges).

Five nodes, of which MatMul and Reshape belong to the module `attention`:

    x -> LayerNorm -> h -> MatMul(h, w) -> m -> Reshape(m, u) -> y
                      h -> Shape -> s -> Concat(s, c) -> u            c = Constant

The obvious cut, just the chosen nodes, has the inputs `h` and `u`: its user would have to compute a shape by hand. But
`u` depends only on `h`, which is an input of the cut anyway, and on the constant `c`. So Shape, Concat and Constant are
copied in, and `h` remains the only input.

Copying everything that leads to `u` would be wrong too. If the chain began at `x`, which is outside of the cut, `x`
would become an input, although the module was never given it. So a chain is copied only if the cut has all tensors at
which the chain begins, and constants that another module computed are not copied (`foreign`). Other cuts, in turn, have
their own copies of shapes and constants. So these are outputs only if a cut has no other outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from typing import Any

from onnx import GraphProto, ModelProto, ValueInfoProto

from mxtools.cut.boundary import boundary_infos
from mxtools.cut.copied import Copied
from mxtools.errors import AbsentError
from mxtools.files.weights import WeightStore
from mxtools.graph.functions import used_functions
from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.walk import nodes_behind
from mxtools.scopes import keys
from mxtools.scopes.equal_work import EqualWork

FIRST_IR_WITH_FREE_INITIALIZERS = 4
"""Before it, initializers had to be inputs too. Without these, ONNX Runtime loads whole files, but not all parts."""


class Cut:
    """A cut through the main graph around some of its nodes.

    Attributes: `chosen`, the nodes that were asked for; `nodes`, all nodes that are kept, in list order; `inputs`,
    `outputs` and `initializers`, values of the index.
    """

    def __init__(
        self,
        graph: Graph,
        chosen: set[int],
        foreign: Container[int] = (),
        outputs: Collection[int] = (),
        copying: bool = True,
        equal: EqualWork | None = None,
    ) -> None:
        """Find the boundary around the chosen nodes of the main graph.

        Results of `foreign` nodes are not copied in; without `copying`, nothing is. `outputs`, if given, are the values
        that the cut returns, in this order, instead of those that the rest of the graph reads. `equal` tells which
        readers need no output, because an equal call elsewhere makes what they read. Raises InputError if a node reads
        a value that is computed from its own result.
        """
        graph.require_order()
        self.graph = graph
        self.chosen = chosen
        self._needs = graph.needs
        self._copied = Copied(graph, foreign)
        self._equal = equal
        kept = set(chosen)
        if copying:
            kept |= self._constants_for(chosen)
            kept |= self._shape_chains(kept)
        self.nodes = sorted(n for n in kept if not graph.region[n] and graph.owner[n] == NOWHERE)
        made = {v for n in self.nodes for v in graph.writes[n]}
        needed = dict.fromkeys(v for n in self.nodes for v in self._needs[n])
        self.initializers = graph.stored & needed.keys()
        whole = len(chosen) == len(graph.main)
        given = (needed.keys() - made - graph.stored) | (needed.keys() & graph.inputs)
        self.inputs = self.ordered(graph.inputs, [v for v in needed if v in given])
        self.outputs = list(dict.fromkeys(outputs)) if outputs else self._returned()
        if whole and not outputs:
            self.inputs = list(graph.inputs)
            self.outputs = list(graph.outputs)
        self.initializers |= graph.stored.intersection(self.outputs + self.inputs)

    def _constants_for(self, nodes: Iterable[int]) -> set[int]:
        """Return the nodes that make the constants that some nodes need."""
        needed = {v for n in nodes for v in self._needs[n]}
        return nodes_behind(self.graph, needed, until=lambda value: not self._copied.is_constant(value))

    def _shape_chains(self, kept: set[int]) -> set[int]:
        """Return the nodes of the shape chains that the kept nodes read and that begin at tensors at hand.

        Tensors at hand are those that the kept nodes make, and those that they read and that are not shapes themselves:
        these become inputs.
        """
        graph, copied = self.graph, self._copied
        made = {v for n in kept for v in graph.writes[n]}
        read = {v for n in kept for v in self._needs[n]} - made
        at_hand = made | {v for v in read if not copied.is_shape(v)}
        free = copied.from_hand(read, at_hand)
        chains = nodes_behind(graph, read, until=lambda v: v in made or graph.producer[v] not in free)
        return chains | self._constants_for(chains)

    def _returned(self) -> list[int]:
        """Return the outputs: what the rest of the graph reads, or the model returns.

        Constants and shapes are outputs only if there is nothing else, because others have copies of their own. A
        lookup in weights by a shape, such as a bias for each distance, is not a shape. If others have a copy of a node
        that reads a value, the value was given to them, whatever it was made of.
        """
        graph = self.graph
        results = set(graph.outputs)
        readers = {
            v: [r for r in graph.readers[v] if graph.top(r) not in self.chosen or self._is_copied(r)]
            for n in sorted(self.chosen)
            for v in graph.writes[n]
        }
        outside = [v for v, nodes in readers.items() if nodes or v in results]
        outside = [v for v in outside if v in results or self._is_wanted(v, readers[v])] or outside
        asked = {v for v, nodes in readers.items() if all(graph.operators[n].reads_only_shape for n in nodes)}
        is_constant, is_shape = self._copied.is_constant, self._copied.is_shape
        given = {v for v, nodes in readers.items() if not self.chosen.isdisjoint(nodes) and not is_constant(v)}

        def is_elsewhere(value: int) -> bool:
            """Return whether others have a value without this cut."""
            return value in asked or is_constant(value) or (value not in graph.weighted and is_shape(value))

        live = [v for v in outside if v in results or v in given or not is_elsewhere(v)]
        return self.ordered(graph.outputs, live or [v for v in outside if not is_constant(v)] or outside)

    def _is_wanted(self, value: int, readers: Iterable[int]) -> bool:
        """Return whether a reader of a value outside of the cut needs it, and does not read what an equal call made."""
        equal = self._equal
        return equal is None or any(equal.takes(reader, self.graph.producer[value]) for reader in readers)

    def _is_copied(self, node: int) -> bool:
        """Return whether a chosen node is outside of the cut too, because an equal call has its own copy of it."""
        return self._equal is not None and self._equal.is_copied(node)

    @staticmethod
    def ordered(first: Iterable[int], values: Iterable[int]) -> list[int]:
        """Return each value once: first those in `first`, in that order, then the others."""
        known = dict.fromkeys(values)
        return list(dict.fromkeys([*(v for v in first if v in known), *known]))


def extract(model: ModelProto, cut: Cut, weights: WeightStore) -> None:
    """Reduce a model, in place, to a cut through its main graph.

    Raises AbsentError if the rest of the graph reads nothing of the cut, InputError if the type of a tensor at the
    boundary is not in the file and cannot be inferred.
    """
    if not cut.outputs:
        raise AbsentError(
            "the selected nodes compute nothing that the rest of the graph reads", "select the module that calls it"
        )
    for part in extracted(model, [cut], weights):
        model.CopyFrom(part)


def extracted(model: ModelProto, cuts: Sequence[Cut], weights: WeightStore) -> Iterator[ModelProto]:
    """Yield a model for each cut through the main graph of a model; each is made when it is asked for.

    Raises InputError if the type of a tensor at a boundary is not in the file and cannot be inferred.
    """
    names = dict.fromkeys(c.graph.names[v] for c in cuts for v in (*c.inputs, *c.outputs))
    types = boundary_infos(model, cuts[0].graph, weights, names) if cuts else {}
    shell = ModelProto()
    shell.CopyFrom(model)
    for field in ("training_info", "functions"):
        shell.ClearField(field)
    for field in ("node", "initializer", "sparse_initializer", "value_info", "quantization_annotation"):
        shell.graph.ClearField(field)
    tensors = _Tensors(model.graph)
    for cut in cuts:
        part = ModelProto()
        part.CopyFrom(shell)
        _fill(part.graph, tensors, cut, types)
        part.functions.extend(used_functions(model, part.graph.node))
        if not {tensor.name for tensor in part.graph.initializer} <= {value.name for value in part.graph.input}:
            part.ir_version = max(part.ir_version, FIRST_IR_WITH_FREE_INITIALIZERS)
        yield part


class _Tensors:
    """What a graph says about its values, by name, so that no part has to go through all of it."""

    def __init__(self, graph: GraphProto) -> None:
        self.notes = _by_name(graph.quantization_annotation, lambda note: note.tensor_name)
        self.dense = _by_name(graph.initializer, lambda tensor: tensor.name)
        self.sparse = _by_name(graph.sparse_initializer, lambda tensor: tensor.values.name)
        self.infos = _by_name(graph.value_info, lambda info: info.name)


_ByName = dict[str, list[tuple[int, Any]]]


def _by_name(items: Iterable[Any], name: Callable[[Any], str]) -> _ByName:
    """Return items by name, each with its place in the list."""
    found: _ByName = {}
    for place, item in enumerate(items):
        found.setdefault(name(item), []).append((place, item))
    return found


def _of(items: _ByName, names: Iterable[str]) -> list[Any]:
    """Return the items with some names, in the order of the list."""
    found = [entry for name in names for entry in items.get(name, ())]
    return [item for _, item in sorted(found, key=lambda entry: entry[0])]


def _fill(part: GraphProto, whole: _Tensors, cut: Cut, types: dict[str, ValueInfoProto]) -> None:
    """Copy what a cut keeps of a graph, byte for byte and in order, into a graph without nodes and tensors."""
    index = cut.graph
    inputs, outputs = ([index.names[v] for v in values] for values in (cut.inputs, cut.outputs))
    weights = {index.names[v] for v in cut.initializers}
    inner = {index.names[v] for n in cut.nodes for v in index.writes[n]} | weights
    noted, within = inner.union(inputs, outputs), inner.difference(inputs, outputs)
    part.quantization_annotation.extend(_of(whole.notes, noted))
    weights.update(entry.value for note in part.quantization_annotation for entry in note.quant_parameter_tensor_names)
    part.node.extend(index.nodes[n] for n in cut.nodes)
    part.initializer.extend(_of(whole.dense, weights))
    part.sparse_initializer.extend(_of(whole.sparse, weights))
    part.value_info.extend(_of(whole.infos, within))
    for field, values in ((part.input, cut.inputs), (part.output, cut.outputs)):
        del field[:]
        for value in values:
            field.append(types[index.names[value]])
            _note_maker(field[-1], index, value)


def _note_maker(info: ValueInfoProto, index: Graph, value: int) -> None:
    """Note the scope of the node that makes an input or output in the whole model, since names do not always tell it.

    Inputs and outputs of the whole model need no such note, because no tool gives their names to something else.
    """
    if index.producer[value] != NOWHERE and value not in index.outputs:
        keys.set_prop(info, keys.SCOPE, keys.props(index.nodes[index.producer[value]]).get(keys.SCOPE))
