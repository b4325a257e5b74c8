"""One function for calls of equal structure, and the nodes that call it.

The nodes are those of the first call. What the others have elsewhere differs in four ways:

    what they are given, weights too        inputs of the function
    attributes, such as a constant          attributes of the function, where any two calls differ
    names, doc strings, tags                what the call remembers, in its metadata
    types and shapes of values inside       the function has those that all calls agree on; else the call remembers
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from onnx import AttributeProto, FunctionProto, NodeProto, OperatorSetIdProto, ValueInfoProto

from mxtools.functions.bodies import Body
from mxtools.functions.calls import Callee, Names
from mxtools.functions.record import Codes, Record, info_text
from mxtools.functions.structure import attributes_of, names_made
from mxtools.functions.texts import Predict, prediction, texts_of
from mxtools.graph.functions import every_node
from mxtools.graph.operators import plain_domain
from mxtools.graph.rename import fresh, rename_in_function
from mxtools.scopes import keys
from mxtools.scopes.annotations import Annotations, Evidence
from mxtools.scopes.scope import ROOT
from mxtools.scopes.tags import class_of

DOMAIN = "mxtools"
"""The domain of the functions that modules are folded into."""
VERSION = 1

Infos = Mapping[str, tuple[int, ValueInfoProto]]
"""What the graph says of the types of values, by name, each with its place in the list."""


@dataclass(frozen=True)
class Level:
    """What is folded at one time, in a graph.

    Attributes: `number`; `places`, of each node of the main graph in its list; `infos` and their count, what the graph
    says of the types of values; `imports`, the operators' versions.
    """

    number: int
    places: Mapping[int, int]
    infos: Infos
    info_count: int
    imports: Sequence[OperatorSetIdProto]


class Definition:
    """A function of calls of equal structure."""

    def __init__(self, annotations: Annotations, bodies: Sequence[Body], name: str, level: Level) -> None:
        """Make it of the bodies of calls, of which the first one's nodes are copied."""
        self._annotations, self._level = annotations, level
        self.bodies = list(bodies)
        self.function = FunctionProto(domain=DOMAIN, name=name, output=bodies[0].outputs)
        self.function.node.extend(bodies[0].protos)
        used = {plain_domain(node.domain) for node in every_node(self.function.node)}
        self.function.opset_import.extend(entry for entry in level.imports if plain_domain(entry.domain) in used)
        self._made = [names_made(body.protos) for body in bodies]
        self._inner = [_without(made, body.outputs) for made, body in zip(self._made, bodies, strict=True)]
        self._infos = [self._infos_of(names) for names in self._inner]
        self._attributes = self._parameters()
        self._name_inputs()
        self._describe()

    def calls(self) -> list[NodeProto]:
        """Return a node for each call; none where one would not unfold to the nodes that it stands for."""
        callee = Callee(self.function)
        found = []
        for number, body in enumerate(self.bodies):
            call = self._call(body, number)
            record = self._record(body, number)
            if callee.inlined(call, record, Names(), Names()).nodes != list(body.protos):
                return []
            record.write(call)
            found.append(call)
        return found

    def _infos_of(self, names: Sequence[str]) -> dict[int, tuple[int, str]]:
        """Return what the graph says of values inside, by their number among the names: the place, and the text."""
        found = ((number, self._level.infos.get(name)) for number, name in enumerate(names))
        return {number: (entry[0], info_text(entry[1])) for number, entry in found if entry}

    def _parameters(self) -> list[tuple[str, list[AttributeProto]]]:
        """Turn attributes in which calls differ into parameters; return those, each with the value of every call."""
        columns = zip(*(attributes_of(body.protos) for body in self.bodies), strict=True)
        found: dict[str, list[AttributeProto]] = {}
        for own, values in zip(list(attributes_of(self.function.node)), columns, strict=True):
            if len({value.SerializeToString(deterministic=True) for value in values}) > 1:
                name = fresh(own.name, found)
                found[name] = list(values)
                reference = AttributeProto(name=own.name, type=own.type, ref_attr_name=name)
                own.CopyFrom(reference)
        self.function.attribute.extend(found)
        return list(found.items())

    def _name_inputs(self) -> None:
        """Name the inputs as the first call's values, weights without its scope."""
        scope = self._annotations.hierarchy.scopes[self.bodies[0].call]
        taken = {*self._made[0], *self.bodies[0].inputs}
        names: dict[str, str] = {}
        for name in self.bodies[0].inputs:
            short = name.removeprefix(f"{scope}.") if scope != ROOT else name
            if short != name and short:
                names[name] = fresh(short, taken)
                taken.add(names[name])
        self.function.input.extend(names.get(name, name) for name in self.bodies[0].inputs)
        rename_in_function(self.function, names)

    def _describe(self) -> None:
        """Say which calls it stands for, which operators it uses and which types are those of all calls."""
        hierarchy, first = self._annotations.hierarchy, self.bodies[0].call
        scopes = [hierarchy.scopes[body.call] for body in self.bodies]
        self.function.doc_string = f"{class_of(hierarchy.tags[first])}: {', '.join(scopes)}"
        for key, value in ((keys.SCOPE, hierarchy.scopes[first]), (keys.TAG, hierarchy.tags[first])):
            self.function.metadata_props.add(key=key, value=value)
        for number, (_, text) in self._infos[0].items():
            if all(infos.get(number, (0, ""))[1] == text for infos in self._infos):
                info = self.function.value_info.add()
                info.CopyFrom(self._level.infos[self._inner[0][number]][1])

    def _call(self, body: Body, number: int) -> NodeProto:
        """Return the node of a call, in the place of the module's nodes."""
        hierarchy = self._annotations.hierarchy
        scope, tag = hierarchy.scopes[body.call], hierarchy.tags[body.call]
        call = NodeProto(name=scope, domain=DOMAIN, op_type=self.function.name, input=body.inputs, output=body.outputs)
        for name, values in self._attributes:
            attribute = call.attribute.add()
            attribute.CopyFrom(values[number])
            attribute.name = name
        entries = (scope, tag, self._evidence(body))
        for key, value in zip((keys.SCOPE, keys.TAG, keys.EVIDENCE), entries, strict=True):
            keys.set_prop(call, key, value)
        return call

    def _evidence(self, body: Body) -> Evidence:
        """Return the most direct evidence of a call's nodes."""
        words = {self._annotations.evidence[node] for node in body.nodes}
        return next((word for word in Evidence if word in words), Evidence.DATAFLOW)

    def _record(self, body: Body, number: int) -> Record:
        """Return what a call has to remember of its nodes."""
        predict = self._prediction(body)
        texts = [text.get() for text in texts_of(body.protos)]
        known = [text.get() for text in texts_of(self.function.node)]
        shared = {info.name for info in self.function.value_info}
        return Record(
            level=self._level.number,
            count=len(self._level.places),
            places=[self._level.places[node] for node in body.nodes],
            names=Codes.of(self._inner[number], map(predict, self._inner[0])),
            texts=Codes.of(texts, map(predict, known)),
            info_count=self._level.info_count,
            infos=[
                (value, place, "" if self._inner[0][value] in shared else text)
                for value, (place, text) in self._infos[number].items()
            ],
        )

    def _prediction(self, body: Body) -> Predict:
        """Return what texts of the function are expected to be in a call."""
        hierarchy, first = self._annotations.hierarchy, self.bodies[0].call
        return prediction(*((hierarchy.scopes[call], hierarchy.tags[call]) for call in (first, body.call)))


def _without(names: Sequence[str], left_out: Collection[str]) -> list[str]:
    out = set(left_out)
    return [name for name in names if name not in out]
