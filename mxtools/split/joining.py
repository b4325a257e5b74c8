"""Join models into one: the parts of a split, models end to end, models side by side.

Each model in turn is brought to one set of operator versions, its names are made unlike those that are there, and its
nodes, weights and functions are added. Two models, of which the output `h` of the first is the input `x` of the second:

    first     a -> MatMul(a, w) -> h              second     x -> MatMul(x, w) -> h
    joined    a -> MatMul(a, w) -> h -> MatMul(h, w_1) -> h_1             w_1, unless both w are the same bytes

Parts of one model are joined by the names of their tensors, and have copies of constants and shape chains: what is
there already is not added again. Nobody's nodes are moved, but for the order of the models. O(nodes + edges), and the
bytes of weights that may be equal.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from mxtools.cut.operator_sets import reconciled
from mxtools.errors import InputError
from mxtools.files.weights import WeightStore, bytes_of, is_same, tensors_of
from mxtools.graph.functions import every_node, separate_functions
from mxtools.graph.index import bodies
from mxtools.graph.operators import function_key, is_same_operator, plain_domain
from mxtools.graph.rename import fresh, names_in, replace_values
from mxtools.graph.types import type_text, types_fit
from mxtools.pipeline.working_model import WorkingModel
from mxtools.split.prefixes import Prefix

_Content = tuple[int, tuple[int, ...], bytes]

SHARED = 1024
"""Bytes of the smallest weights of two models that are stored once where they are equal."""


@dataclass
class Member:
    """A model that is joined with others, and is used up by that.

    `alias` is what its scopes, inputs and outputs are put under, empty where they stay. `given` says where inputs come
    from: the number of an earlier member, and the name of an output or input of that.
    """

    model: WorkingModel
    alias: str = ""
    given: dict[str, tuple[int, str]] = field(default_factory=dict)

    def named(self, name: str) -> str:
        """Return what an input or output is called in the joined model."""
        return f"{self.alias}.{name}" if self.alias else name


class Joined:
    """The model that members are added to, one after the other.

    Attributes: `model`; `values`, for each member what its inputs and outputs are called now; `shared`, how many
    weights were there already. With `parts`, the members are parts of one model: equal names mean equal values.
    """

    def __init__(self, members: Sequence[Member], name: str, parts: bool = False) -> None:
        """Begin with what all members need: operator versions, and what a split model says of itself."""
        protos = [member.model.proto for member in members]
        self._parts = parts
        self._proto = ModelProto(ir_version=max(proto.ir_version for proto in protos))
        self._proto.graph.name = protos[0].graph.name if parts else "joined"
        if parts:
            _describe(self._proto, protos[0])
        versions: dict[str, int] = {}
        for entry in (entry for proto in protos for entry in proto.opset_import):
            domain = plain_domain(entry.domain)
            versions[domain] = max(entry.version, versions.get(domain, 0))
        for domain, version in versions.items():
            self._proto.opset_import.add(domain=domain, version=version)
        self.model = WorkingModel(self._proto, WeightStore(), name)
        self.values: list[dict[str, str]] = []
        self.shared = 0
        self._taken: set[str] = set()
        self._node_names: set[str] = set()
        self._made: dict[str, NodeProto] = {}
        self._stored: dict[str, TensorProto] = {}
        self._by_content: dict[_Content, str] = {}
        self._infos: dict[str, ValueInfoProto] = {}
        self._dims: set[str] = set()

    def add(self, member: Member) -> None:
        """Add a member; InputError where an input is given what it does not take, or operators cannot be converted."""
        part = reconciled(member.model, self._proto)
        graph = part.proto.graph
        separate_functions(part.proto, self._proto)
        for tensor in tensors_of(part.proto):
            self.model.weights.adopt(tensor, part.weights)
        given = {name: self.values[number][source] for name, (number, source) in member.given.items()}
        self._unify(part.proto, member, given)
        names, copies = self._names(graph, member, given)
        ends = [info.name for info in (*graph.input, *graph.output)]
        dropped = {name for name, new in names.items() if new in self._taken}  # weights that are there, and inputs
        kept = [node for place, node in enumerate(graph.node) if place not in copies]
        inputs = [info for info in graph.input if info.name not in dropped]
        weights = [tensor for tensor in graph.initializer if tensor.name not in dropped]
        sparse = [tensor for tensor in graph.sparse_initializer if tensor.values.name not in dropped]
        known = {info.name for info in (*self._proto.graph.value_info, *self._proto.graph.input)}
        replace_values(graph, names)
        if member.alias:
            Prefix(member.alias, part.proto).apply(part.proto, self._proto)
        self._rename_nodes(kept)
        self._proto.graph.node.extend(kept)
        self._proto.graph.input.extend(info for info in inputs if info.name not in known)
        self._proto.graph.initializer.extend(weights)
        self._proto.graph.sparse_initializer.extend(sparse)
        known |= {info.name for info in inputs}
        for info in (*graph.value_info, *graph.output):
            if info.name not in known and (info.name in self._made or info.name not in self._taken):
                known.add(info.name)
                self._proto.graph.value_info.add().CopyFrom(info)
        noted = {note.tensor_name for note in self._proto.graph.quantization_annotation}
        notes = (note for note in graph.quantization_annotation if note.tensor_name not in noted)
        self._proto.graph.quantization_annotation.extend(notes)
        functions = {function_key(function) for function in self._proto.functions}
        self._proto.functions.extend(f for f in part.proto.functions if function_key(f) not in functions)
        self._learn(graph, kept, weights)
        self.values.append({name: names.get(name, name) for name in ends})

    def _learn(self, graph: GraphProto, nodes: Iterable[NodeProto], weights: Iterable[TensorProto]) -> None:
        """Remember what was added, for the members that follow."""
        self._taken |= names_in(graph)
        self._made |= {name: node for node in nodes for name in node.output if name}
        self._stored |= {tensor.name: tensor for tensor in weights}
        self._infos |= {info.name: info for info in (*graph.input, *graph.output)}
        self._dims |= {dim.dim_param for info in _all_infos(graph) for dim in info.type.tensor_type.shape.dim}

    def _unify(self, part: ModelProto, member: Member, given: dict[str, str]) -> None:
        """Check the types of what a part is given, and rename its symbolic dimensions: equal ones, and strangers."""
        infos = {info.name: info for info in part.graph.input}
        renamed: dict[str, str] = {}
        for name, source in given.items():
            known, wanted = self._infos.get(source), infos.get(name)
            if known is None or wanted is None:
                continue
            if not types_fit(known.type, wanted.type):
                raise InputError(
                    f"{member.named(name)!r} takes {type_text(wanted.type)}, and {source!r} is {type_text(known.type)}",
                    "connect values of one type, or put a conversion between them",
                )
            pairs = zip(known.type.tensor_type.shape.dim, wanted.type.tensor_type.shape.dim, strict=False)
            renamed |= {b.dim_param: a.dim_param for a, b in pairs if a.dim_param and b.dim_param}
        all_infos = list(_all_infos(part.graph))
        own = {dim.dim_param for info in all_infos for dim in info.type.tensor_type.shape.dim} - {""}
        taken = self._dims | own
        for name in sorted((own & self._dims) - renamed.keys()) if not self._parts else ():
            renamed[name] = fresh(member.named(name), taken)
            taken.add(renamed[name])
        for info in all_infos:
            for dim in info.type.tensor_type.shape.dim:
                if dim.dim_param in renamed:
                    dim.dim_param = renamed[dim.dim_param]

    def _names(self, graph: GraphProto, member: Member, given: dict[str, str]) -> tuple[dict[str, str], set[int]]:
        """Return the new names of a graph's values, and the places of nodes that are there already."""
        names = _Names(given, self._taken, names_in(graph))
        outputs = {info.name for info in graph.output}
        self._name_weights(graph, names)
        for info in graph.input:
            if self._parts:
                names.new.setdefault(info.name, info.name)
            else:
                names.make(info.name, member.named(info.name))
        copies = set()
        for place, node in enumerate(graph.node):
            if self._parts and self._is_there(node, names.new):
                copies.add(place)
                names.new.update((name, name) for name in node.output)
            else:
                for name in filter(None, node.output):
                    names.make(name, member.named(name) if name in outputs else name)
        for name in sorted(names.present):  # values of bodies, and those that are only read
            names.make(name, name)
        return names.new, copies

    def _name_weights(self, graph: GraphProto, names: _Names) -> None:
        """Name the weights of a graph: as the equal ones that are there, else as they are called."""
        contents: dict[_Content, str] = {}
        for tensor in graph.initializer:
            content = self._content(tensor)
            known = self._by_content.get(content, "") if content else self._stored_part(tensor)
            if known and tensor.name not in names.new:
                names.new[tensor.name] = known
                self.shared += 1
            names.make(tensor.name, tensor.name)
            if content:
                contents.setdefault(content, names.new.get(tensor.name, tensor.name))
        self._by_content = contents | self._by_content

    def _content(self, tensor: TensorProto) -> _Content | None:
        """Return what a weight shares with equal ones; None where it is small, or of a part, whose names tell more."""
        if self._parts or bytes_of(tensor) < SHARED:
            return None
        return tensor.data_type, tuple(tensor.dims), self.model.weights.digest(tensor)

    def _stored_part(self, tensor: TensorProto) -> str:
        """Return the name of a part's weight if it was added with another part, else an empty one."""
        known, store = self._stored.get(tensor.name) if self._parts else None, self.model.weights
        return str(tensor.name) if known is not None and is_same(known, store, tensor, store) else ""

    def _is_there(self, node: NodeProto, names: dict[str, str]) -> bool:
        """Return whether a node of a part is the copy of one that was added, and reads the same values."""
        other = self._made.get(next(filter(None, node.output), ""))
        if other is None or list(other.output) != list(node.output) or any(True for _ in bodies(node)):
            return False
        read = [names.get(name, name) for name in node.input]
        return read == list(other.input) and is_same_operator(node, other)

    def _rename_nodes(self, nodes: Iterable[NodeProto]) -> None:
        """Give nodes names that no node has that was added before."""
        own = list(every_node(nodes))
        taken = self._node_names.union(node.name for node in own)
        for node in own:
            if node.name and node.name in self._node_names:
                node.name = fresh(node.name, taken)
                taken.add(node.name)
        self._node_names |= taken

    def put_out(self, value: str, name: str) -> None:
        """Make a value an output; one that no node makes, or that is an output already, under another name."""
        graph = self._proto.graph
        made = value
        if not self._parts and (value not in self._made or any(info.name == value for info in graph.output)):
            made = fresh(name, self._taken)
            self._taken.add(made)
            graph.node.add(op_type="Identity", input=[value], output=[made])
        info = graph.output.add()
        if value in self._infos:
            info.CopyFrom(self._infos[value])
        info.name = made

    def finish(self, inputs: Sequence[str] = ()) -> WorkingModel:
        """Return the joined model, with some inputs first; what is an output now is no inner value any more."""
        graph = self._proto.graph
        place = {name: number for number, name in enumerate(inputs)}
        given = sorted(graph.input, key=lambda info: place.get(info.name, len(place)))
        del graph.input[:]
        graph.input.extend(given)
        ends = {info.name for info in (*graph.output, *graph.input)}
        inner = [info for info in graph.value_info if info.name not in ends]
        del graph.value_info[:]
        graph.value_info.extend(inner)
        return self.model


class _Names:
    """The new names of a graph's values, `new`, by the old ones; what stays has an entry too once it was asked for."""

    def __init__(self, given: dict[str, str], taken: Collection[str], present: Collection[str]) -> None:
        """Begin with the values that are given, the names that are taken elsewhere, and those in the graph."""
        self.new = dict(given)
        self.present = present
        self._taken = taken
        self._used = {*taken, *present}

    def make(self, name: str, wanted: str) -> None:
        """Give a value the wanted name, or the first free one like it, if it has no new name yet."""
        if name in self.new:
            return
        is_free = wanted not in self._used or (wanted == name and name not in self._taken)
        self.new[name] = wanted if is_free else fresh(wanted, self._used)
        self._used.add(self.new[name])


def _describe(joined: ModelProto, part: ModelProto) -> None:
    """Take over what a part of a split model says of the whole."""
    joined.metadata_props.extend(part.metadata_props)
    joined.graph.metadata_props.extend(part.graph.metadata_props)
    joined.graph.doc_string = part.graph.doc_string
    joined.producer_name, joined.producer_version = part.producer_name, part.producer_version
    joined.domain, joined.doc_string, joined.model_version = part.domain, part.doc_string, part.model_version


def _all_infos(graph: GraphProto) -> Iterator[ValueInfoProto]:
    """Yield what a graph and its bodies say of types."""
    yield from (*graph.input, *graph.output, *graph.value_info)
    for node in graph.node:
        for body in bodies(node):
            yield from _all_infos(body)
