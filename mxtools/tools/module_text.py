"""Write a model as text, module by module, for programs that compare texts line by line, such as `git diff`.

    module encoder.layer.0.attention.self.query Linear
        MatMul(embeddings.LayerNorm/LayerNormalization, weight float32[32, 32] 9f2c01ab)
        Add(bias float32[32] 77ab01cd, MatMul)

An exporter makes up names and numbers for nodes and tensors, and the next export has others. So the text has none of
them. What a node reads is described by the operator that makes it: with its module, if that is another one, and with a
number, if the module has several nodes of that operator. A weight is described by its type and a digest of its
elements. Headings stand at the beginning of a line and have the whole scope, so `git diff` shows them with the changes
below them.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import blake2b

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, SparseTensorProto, TensorProto

from mxtools.errors import printable
from mxtools.files.weights import is_external
from mxtools.graph.index import NOWHERE
from mxtools.graph.operators import operator_title
from mxtools.graph.types import type_of, type_text
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.scopes.hierarchy import ROOT_CALL
from mxtools.scopes.parameters import Stored, stored_tensors
from mxtools.scopes.tags import class_of

MOST_NUMBERS = 8
"""Elements of a constant that are written out; with more, the line would tell people less than the type does."""
MOST_LETTERS = 60
"""Letters of a text that are written out."""
_DIGITS = 8
"""Hexadecimal digits of a digest: two different digests look the same once in four billion."""
_NUMBERS = frozenset({AttributeProto.FLOAT, AttributeProto.INT, AttributeProto.FLOATS, AttributeProto.INTS})
_INDENT = "    "


def module_text(model: WorkingModel) -> str:
    """Return a model as text: a section on the whole model, then one for each call of a module that has nodes.

    Two models have the same text only if they differ in nothing but weights in other files: the first section has a
    digest of names, metadata and order, which the other sections leave out.
    """
    return heading(model.proto) + sections(model)


def heading(proto: ModelProto) -> str:
    """Return the section on the model as a whole."""
    facts = [f"IR version {proto.ir_version}", f"made by {proto.producer_name} {proto.producer_version}"]
    facts += [f"operators of {entry.domain or 'ai.onnx'} {entry.version}" for entry in proto.opset_import]
    facts += [f"input {value.name} {type_text(value.type, usual=True)}" for value in proto.graph.input]
    facts += [f"output {value.name} {type_text(value.type, usual=True)}" for value in proto.graph.output]
    facts += [f"function {function.domain} {function.name}" for function in proto.functions]
    own = keys.MODEL_KEYS | keys.CARRIER_KEYS
    facts += [f"{entry.key}: {_shortened(entry.value)}" for entry in proto.metadata_props if entry.key not in own]
    facts.append(f"names, metadata, order: {_digest(proto.SerializeToString(deterministic=True))}")
    return "".join(f"{line}\n" for line in ("model", *(_INDENT + printable(fact).rstrip() for fact in facts)))


def sections(model: WorkingModel) -> str:
    """Return the sections of the calls of modules, in the order of the work, those inside a module after it."""
    return "".join(f"{printable(line)}\n" for line in _Sections(model).lines())


def unreadable(data: bytes, reason: str) -> str:
    """Return the text for a file that is not a model: the reason, and a digest of its bytes."""
    return f"no model\n{_INDENT}{reason}\n{_INDENT}{len(data)} bytes, {_digest(data)}\n"


class _Sections:
    """Writes the sections of one model."""

    def __init__(self, model: WorkingModel) -> None:
        self.graph, self.annotations, self.weights = model.graph, model.annotations, model.weights
        self.stored = stored_tensors(self.graph)
        held = {self.graph.producer[value] for value in self.stored}  # Constant nodes, which their readers show
        self.shown = [node for node in range(len(self.graph.nodes)) if node not in held]

    def lines(self) -> Iterator[str]:
        """Yield the lines."""
        hierarchy = self.annotations.hierarchy
        for call in self._calls():
            name = "(untagged)" if call is None else f"{hierarchy.scopes[call]} {class_of(hierarchy.tags[call])}"
            yield f"module {name}".rstrip()
            yield from (_INDENT + self._node(node) for node in self._own[call])

    @cached_property
    def _own(self) -> dict[int | None, list[int]]:
        """The own nodes of each call; None stands for nodes in no module."""
        found: dict[int | None, list[int]] = defaultdict(list)
        for node in self.shown:
            found[self.annotations.call[node]].append(node)
        return found

    def _calls(self) -> Iterator[int | None]:
        """Yield the calls with nodes and those around them, each before those in it; None for nodes in no module."""
        hierarchy = self.annotations.hierarchy
        inside: dict[int, dict[int, None]] = defaultdict(dict)
        for node in sorted(self.shown, key=self.graph.is_constant):
            call = self.annotations.call[node]
            for around in hierarchy.lineage(call) if call is not None else ():
                if around != ROOT_CALL:
                    inside[hierarchy.parent[around]][around] = None
        left = [ROOT_CALL] if inside or ROOT_CALL in self._own else []
        while left:
            call = left.pop()
            yield call
            left += reversed(inside[call])
        if None in self._own:
            yield None

    @cached_property
    def _labels(self) -> dict[int, str]:
        """What the text calls each node: its operator, with a number if its module has several of that operator."""
        nodes, found = self.graph.nodes, {}
        for own in self._own.values():
            counts = Counter(operator_title(nodes[node]) for node in own)
            seen: Counter[str] = Counter()
            for node in own:
                title = operator_title(nodes[node])
                seen[title] += 1
                found[node] = title if counts[title] == 1 else f"{title}.{seen[title]}"
        return found

    def _node(self, node: int) -> str:
        proto, graph, call = self.graph.nodes[node], self.graph, self.annotations.call[node]
        values = iter(graph.reads[node])
        read = [self._argument(next(values), call) if name else "_" for name in proto.input]
        given = [f"{held.name}={self._setting(held)}" for held in sorted(proto.attribute, key=lambda held: held.name)]
        returned = [f"returns {self._argument(value, call)}" for value in values]  # what bodies return
        merged = self.annotations.merged.get(node, ())
        scopes = [self.annotations.hierarchy.scopes[other] for other in merged]
        line = f"{self._labels[node]}({', '.join([*read, *given, *returned])})"
        return f"{line} does the work of {', '.join(scopes)}" if scopes else line

    def _argument(self, value: int, call: int | None) -> str:
        """Return the description of something that a node of a call reads."""
        graph, producer = self.graph, self.graph.producer[value]
        if value in self.stored:
            return self._constant(self.stored[value], self._weight_name(graph.names[value], call))
        if producer == NOWHERE:
            return graph.names[value]
        place = list(graph.writes[producer]).index(value)
        label = self._labels[producer] + (f":{place}" if place else "")
        other = self.annotations.call[producer]
        return label if other == call or other is None else f"{self.annotations.hierarchy.scopes[other]}/{label}"

    def _weight_name(self, name: str, call: int | None) -> str:
        """Return the name of a weight within its module, if a module gave it the name; otherwise nothing."""
        scopes = self.annotations.hierarchy.scopes
        if call is not None and name.startswith(f"{scopes[call]}."):
            return name.removeprefix(f"{scopes[call]}.")
        module = name.rpartition(".")[0]
        return name if module and self.annotations.hierarchy.find(module) is not None else ""

    def _constant(self, tensor: Stored, name: str = "") -> str:
        return " ".join(part for part in (name, type_text(type_of(tensor), usual=True), self._elements(tensor)) if part)

    def _elements(self, tensor: Stored) -> str:
        """Return the elements of a small constant, else their digest; of elements in another file, where they are."""
        if isinstance(tensor, SparseTensorProto):
            return f"sparse {self._elements(tensor.values)} at {self._elements(tensor.indices)}"
        if is_external(tensor):
            location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
            return f"in {location}"
        if math.prod(tensor.dims) <= MOST_NUMBERS and tensor.data_type != TensorProto.STRING:
            numbers = [str(number) for number in self.weights.array(tensor).ravel()]
            return f"[{', '.join(numbers)}]" if len(tensor.dims) else numbers[0]
        return self.weights.digest(tensor).hex()[:_DIGITS]

    def _setting(self, attribute: AttributeProto) -> str:
        """Return the value of an attribute."""
        import numpy as np

        if attribute.ref_attr_name:
            return f"@{attribute.ref_attr_name}"
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, TensorProto | SparseTensorProto):
            return self._constant(value)
        if isinstance(value, bytes):
            return _shortened(value.decode(errors="backslashreplace"))
        if isinstance(value, GraphProto):
            return f"graph of {len(value.node)} nodes"
        if attribute.type in _NUMBERS:
            listed = isinstance(value, Sequence)
            numbers = [np.float32(x) if isinstance(x, float) else x for x in (value if listed else [value])]
            if len(numbers) <= MOST_NUMBERS:
                return f"[{', '.join(map(str, numbers))}]" if listed else str(numbers[0])
        return _digest(attribute.SerializeToString(deterministic=True))


def _shortened(text: str) -> str:
    """Return a text; if it is long, only its beginning and a digest."""
    if len(text) <= MOST_LETTERS:
        return text
    return f"{text[:MOST_LETTERS]}… {_digest(text.encode(errors='backslashreplace'))}"


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=_DIGITS // 2).hexdigest()
