"""Find what is new in a part that was cut out of a model and changed since, and where in the model it belongs.

Five nodes of a model, and a part with the input `x` and the output `r` that was cut out of it

    x -> MatMul(x, w) -> m -> Add(m, b) -> a -> Relu -> r -> Gemm -> y          m -> Softmax -> z

and then changed: Gelu replaces Relu. The obvious way deletes everything between the part's inputs and outputs and
inserts the part. Here this would delete MatMul, although Softmax still reads its result `m`. It would also rename and
move nodes that nobody touched, and add second copies of the constants and shape chains that the cut had copied into the
part.

So first the part is compared with the model, in the order of its nodes (`PartChanges`). A node is *kept* if the model
has the same node, byte for byte, and everything it reads is the *same* too: the inputs, equal weights, results of kept
nodes. MatMul and Add are kept, Gelu is new, and of the outputs, `r` is not the same. Then the model is searched
backwards from `r` to the part's inputs (`GraftSite`). A node on this way is *dead* if the part makes its results now,
or if neither the rest of the model nor a new node reads them any more. That is Relu alone.
"""

from __future__ import annotations

from functools import cached_property

from mxtools.errors import InputError
from mxtools.files.weights import WeightStore, is_same
from mxtools.graph.index import NOWHERE, Graph, graph_inputs
from mxtools.graph.walk import nodes_behind
from mxtools.pipeline.working_model import WorkingModel


class PartChanges:
    """What is new in a part.

    Attributes: `index`, the part's; `inputs`, the names of its inputs; `nodes`, the new nodes of its main graph;
    `same`, the names of the values that the model computes as the part does, inputs included; `weights`, the names of
    the new initializers that are needed; `outputs`, the names of the outputs that are not the same; `reads`, the names
    of these outputs and of everything that the new nodes read.
    """

    def __init__(self, graph: Graph, part: WorkingModel, weights: WeightStore) -> None:
        """Compare a part with a model, given the model's index `graph`; InputError if the part is not complete."""
        self.graph = graph
        self.index = index = Graph(part.proto)
        stored = {index.names[v]: v for v in index.stored if index.home[v] == NOWHERE}
        self.inputs = {info.name for info in graph_inputs(part.proto)}
        self.same = self.inputs | {name for name, v in stored.items() if self._is_stored(v, weights, part.weights)}
        self.nodes = []
        for node in index.main:
            if self._is_kept(node):
                self.same.update(index.names[v] for v in index.writes[node])
            else:
                self.nodes.append(node)
        self.outputs = [info.name for info in part.proto.graph.output if info.name not in self.same]
        made = {index.names[v] for n in self.nodes for v in index.writes[n]}
        self.reads = dict.fromkeys((*(index.names[v] for n in self.nodes for v in index.needs[n]), *self.outputs))
        noted = {
            entry.value
            for note in part.proto.graph.quantization_annotation
            if note.tensor_name in made or note.tensor_name in self.outputs
            for entry in note.quant_parameter_tensor_names
        }
        self.weights = stored.keys() & (self.reads.keys() | noted) - self.same
        for name in self.reads:
            if name not in made and name not in self.same and name not in self.weights:
                raise InputError(f"{part.name} does not say which node makes {name!r}", "cut the part out again")

    def _is_stored(self, value: int, weights: WeightStore, others: WeightStore) -> bool:
        """Return whether the model has an equal initializer of the same name."""
        index, graph = self.index, self.graph
        namesake = graph.by_name.get(index.names[value], NOWHERE)
        if value in index.sparse:
            found = graph.sparse.get(namesake)
            return found is not None and found.SerializeToString() == index.sparse[value].SerializeToString()
        tensor = graph.initializers.get(namesake)
        return tensor is not None and is_same(tensor, weights, index.initializers[value], others)

    def _is_kept(self, node: int) -> bool:
        """Return whether the model has the same node as the part, and the node reads the same values there."""
        index, graph = self.index, self.graph
        if not index.writes[node] or not all(index.names[v] in self.same for v in index.needs[node]):
            return False
        value = graph.by_name.get(index.names[index.writes[node][0]], NOWHERE)
        twin = NOWHERE if value == NOWHERE else graph.producer[value]
        return twin != NOWHERE and graph.nodes[twin].SerializeToString() == index.nodes[node].SerializeToString()


class GraftSite:
    """Where a part goes into a model.

    Attributes: `replaced`, the values that the part makes now; `region`, the nodes that led to these, back to the
    part's inputs; `dead`, the nodes of the region that nothing reads any more; `weights`, the initializers that nothing
    reads any more, or that the part replaces.
    """

    def __init__(self, graph: Graph, new: PartChanges) -> None:
        """Find the site; InputError if the region begins at an input of the model that is not an input of the part."""
        self.graph = graph
        self.replaced = {graph.by_name[name] for name in new.outputs}
        self.region = self._behind({graph.by_name[name] for name in new.inputs})
        self._read = {*graph.outputs, *(graph.by_name[name] for name in new.reads if name in new.same)}
        self.dead: set[int] = set()
        for node in sorted(self.region, reverse=True):
            if not any(v not in self.replaced and self._is_read(v) for v in graph.writes[node]):
                self.dead.add(node)
        read = graph.stored.intersection(v for n in self.dead for v in graph.needs[n]).difference(graph.inputs)
        self.weights = {v for v in read if not self._is_read(v)} | (graph.stored & self.replaced)

    @cached_property
    def makers(self) -> list[int]:
        """The nodes that made what the part makes now."""
        return sorted({self.graph.producer[v] for v in self.replaced} - {NOWHERE})

    def _behind(self, inputs: set[int]) -> set[int]:
        graph, ends = self.graph, inputs | self.graph.stored
        nodes = nodes_behind(graph, self.replaced, until=ends.__contains__)
        needed = self.replaced | {v for n in nodes for v in graph.needs[n]}
        value = min((v for v in needed - ends if graph.producer[v] == NOWHERE), default=NOWHERE)
        if value != NOWHERE:
            raise InputError(
                f"the part's outputs depend on {graph.names[value]!r} in the model, which is not an input of the part",
                "keep all inputs of the part, also those that it no longer reads",
            )
        return nodes

    def _is_read(self, value: int) -> bool:
        graph = self.graph
        return value in self._read or any(graph.top(reader) not in self.dead for reader in graph.readers[value])
