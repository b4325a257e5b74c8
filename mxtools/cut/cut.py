"""Cut nodes out of a model, as a model that runs on its own.

A cut keeps the chosen nodes, and copies of two kinds of nodes that they need: *constants*, which depend on no input of
the model, and *shape chains*, which compute a shape from tensors that the cut has anyway. All other tensors that the
kept nodes read become inputs; the tensors that the rest of the graph reads become outputs. O(nodes + edges).

Five nodes, of which the module `attention` owns MatMul and Reshape:

    x -> LayerNorm -> h -> MatMul(h, w) -> m -> Reshape(m, u) -> y
                      h -> Shape -> s -> Concat(s, c) -> u            c = Constant

The obvious cut, the chosen nodes and nothing else, has the inputs `h` and `u`: its user would have to compute a shape
by hand. But `u` depends only on `h`, which is an input of the cut anyway, and on the constant `c`. So Shape, Concat and
Constant are copied in, and `h` remains the only input.

To copy everything that leads to `u` is wrong too. If the chain started from `x`, which is outside of the cut, copying
it would make `x` an input, though the module was never given it. So a chain is copied only where all tensors that it
starts from are at hand, and constants that another module computed stay there (`foreign`). For the same reason shapes
and constants, of which other cuts have copies, are outputs only where a cut has no others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property

from onnx import GraphProto, ModelProto, ValueInfoProto

from mxtools.cut.boundary import boundary_infos
from mxtools.errors import AbsentError
from mxtools.files.weights import WeightStore
from mxtools.graph.functions import used_functions
from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.walk import nodes_behind
from mxtools.scopes import keys
from mxtools.scopes.equal_work import EqualWork


class Cut:
    """A cut through the main graph around some of its nodes.

    Attributes: `chosen`, the nodes that were asked for; `nodes`, all that are kept, in list order; `inputs`, `outputs`
    and `initializers`, values of the index.
    """

    def __init__(
        self,
        graph: Graph,
        chosen: set[int],
        foreign: Collection[int] = (),
        outputs: Collection[int] = (),
        copying: bool = True,
        equal: EqualWork | None = None,
    ) -> None:
        """Find the boundary around the chosen nodes of the main graph.

        Results of `foreign` nodes are not copied in; without `copying` nothing is. `outputs`, where given, are the
        values that the cut returns, in this order, instead of those that the rest of the graph reads. `equal` tells
        which readers need no output, since an equal call elsewhere has what they read.
        Raises InputError where a node reads what is computed from its own result.
        """
        graph.require_order()
        self.graph = graph
        self.chosen = chosen
        self._main = graph.main
        self._needs = graph.needs
        self._constant = graph.constants(foreign)
        self._equal = equal
        kept = set(chosen)
        if copying:
            kept |= self._behind({v for n in chosen for v in self._needs[n]}, self._constant)
            kept |= self._shape_chains(kept)
        self.nodes = [n for n in self._main if n in kept]
        made = {v for n in self.nodes for v in graph.writes[n]}
        needed = dict.fromkeys(v for n in self.nodes for v in self._needs[n])
        self.initializers = graph.stored & needed.keys()
        whole = len(chosen) == len(self._main)
        given = (needed.keys() - made - graph.stored) | (needed.keys() & graph.inputs)
        self.inputs = self.ordered(graph.inputs, [v for v in needed if v in given])
        self.outputs = list(dict.fromkeys(outputs)) if outputs else self._returned()
        if whole and not outputs:
            self.inputs = list(graph.inputs)
            self.outputs = list(graph.outputs)
        self.initializers |= graph.stored.intersection(self.outputs + self.inputs)

    def _behind(self, values: set[int], within: set[int]) -> set[int]:
        """Return the nodes that make some values, and so on backwards, through values that are in `within` alone."""
        return nodes_behind(self.graph, values, until=lambda value: value not in within)

    @cached_property
    def _shape_derived(self) -> set[int]:
        """The values that depend on the model's inputs through their shapes alone."""
        return self.graph.shape_derived(self._constant)

    def _shape_chains(self, kept: set[int]) -> set[int]:
        """Return the nodes of the shape chains that the kept nodes read and that start from tensors at hand.

        At hand is what the kept nodes make, and what they read and is no shape itself: it will be an input.
        """
        graph, derived = self.graph, self._shape_derived
        made = {v for n in kept for v in graph.writes[n]}
        read = {v for n in kept for v in self._needs[n]} - made
        at_hand = made | {v for v in read if v not in derived}
        free: set[int] = set()
        for node in self._main:
            asks = graph.operators[node].reads_only_shape
            if any(v in derived for v in graph.writes[node]) and all(
                v in free or v in graph.stored or v in self._constant or (v in at_hand and (asks or v in derived))
                for v in self._needs[node]
            ):
                free.update(graph.writes[node])
        chains = self._behind(read & free, free - made)
        return chains | self._behind({v for n in chains for v in self._needs[n]}, self._constant)

    def _returned(self) -> list[int]:
        """Return the outputs: what the rest of the graph reads, or the model returns.

        Constants and shapes are outputs only where there is nothing else: others have copies of their own. What is
        looked up in weights by a shape, such as a bias for each distance, is no shape; and what a node reads of which
        others have a copy was given to them, whatever it was made of.
        """
        graph = self.graph
        results = set(graph.outputs)
        readers = {
            v: [r for r in graph.readers[v] if graph.top(r) not in self.chosen or self._is_copied(r)]
            for n in self._main
            if n in self.chosen
            for v in graph.writes[n]
        }
        outside = [v for v, nodes in readers.items() if nodes or v in results]
        outside = [v for v in outside if v in results or self._is_wanted(v, readers[v])] or outside
        asked = {v for v, nodes in readers.items() if all(graph.operators[n].reads_only_shape for n in nodes)}
        copied = self._constant | (self._shape_derived - graph.weighted) | asked
        given = {v for v, nodes in readers.items() if not self.chosen.isdisjoint(nodes)} - self._constant
        live = [v for v in outside if v in results or v in given or v not in copied]
        return self.ordered(graph.outputs, live or [v for v in outside if v not in self._constant] or outside)

    def _is_wanted(self, value: int, readers: Iterable[int]) -> bool:
        """Return whether one of a value's readers outside of the cut needs it, and not what an equal call made."""
        equal = self._equal
        return equal is None or any(equal.takes(reader, self.graph.producer[value]) for reader in readers)

    def _is_copied(self, node: int) -> bool:
        """Return whether a chosen node is outside of the cut too, since an equal call has its own copy of it."""
        return self._equal is not None and self._equal.is_copied(node)

    @staticmethod
    def ordered(first: Iterable[int], values: Iterable[int]) -> list[int]:
        """Return some values, each once: in the order of `first` those that it has, then the others."""
        known = dict.fromkeys(values)
        return list(dict.fromkeys([*(v for v in first if v in known), *known]))


def extract(model: ModelProto, cut: Cut, weights: WeightStore) -> None:
    """Reduce a model, in place, to a cut through its main graph.

    Raises AbsentError where the rest of the graph reads nothing of the cut, InputError where the type of a tensor at
    the boundary is neither in the file nor can be inferred.
    """
    if not cut.outputs:
        raise AbsentError(
            "what is selected computes nothing that the rest of the graph reads", "select the module that calls it"
        )
    for part in extracted(model, [cut], weights):
        model.CopyFrom(part)


def extracted(model: ModelProto, cuts: Sequence[Cut], weights: WeightStore) -> Iterator[ModelProto]:
    """Yield, for each cut through the main graph of a model, a model of just that; each is made when it is asked for.

    Raises InputError where the type of a tensor at a boundary is neither in the file nor can be inferred.
    """
    names = dict.fromkeys(c.graph.names[v] for c in cuts for v in (*c.inputs, *c.outputs))
    types = boundary_infos(model, cuts[0].graph, weights, names) if cuts else {}
    shell = ModelProto()
    shell.CopyFrom(model)
    for field in ("training_info", "functions"):
        shell.ClearField(field)
    for field in ("node", "initializer", "sparse_initializer", "value_info", "quantization_annotation"):
        shell.graph.ClearField(field)
    for cut in cuts:
        part = ModelProto()
        part.CopyFrom(shell)
        _fill(part.graph, model.graph, cut, types)
        part.functions.extend(used_functions(model, part.graph.node))
        yield part


def _fill(part: GraphProto, whole: GraphProto, cut: Cut, types: dict[str, ValueInfoProto]) -> None:
    """Copy what a cut keeps of a graph, byte for byte and in its order, into a graph without nodes and tensors."""
    index = cut.graph
    inputs, outputs = ([index.names[v] for v in values] for values in (cut.inputs, cut.outputs))
    weights = {index.names[v] for v in cut.initializers}
    inner = {index.names[v] for n in cut.nodes for v in index.writes[n]} | weights
    noted, within = inner.union(inputs, outputs), inner.difference(inputs, outputs)
    part.quantization_annotation.extend(note for note in whole.quantization_annotation if note.tensor_name in noted)
    weights.update(entry.value for note in part.quantization_annotation for entry in note.quant_parameter_tensor_names)
    part.node.extend(index.nodes[n] for n in cut.nodes)
    part.initializer.extend(t for t in whole.initializer if t.name in weights)
    part.sparse_initializer.extend(t for t in whole.sparse_initializer if t.values.name in weights)
    part.value_info.extend(i for i in whole.value_info if i.name in within)
    for field, values in ((part.input, cut.inputs), (part.output, cut.outputs)):
        del field[:]
        for value in values:
            field.append(types[index.names[value]])
            _note_maker(field[-1], index, value)


def _note_maker(info: ValueInfoProto, index: Graph, value: int) -> None:
    """Note on an input or output of a part the scope of the node that makes it in the whole: names do not always tell.

    Inputs and outputs of the whole need no such note, because no tool gives their names to something else.
    """
    if index.producer[value] != NOWHERE and value not in index.outputs:
        keys.set_prop(info, keys.SCOPE, keys.props(index.nodes[index.producer[value]]).get(keys.SCOPE))
