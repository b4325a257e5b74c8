"""One function for calls of equal structure, and the nodes that call it.

The nodes are those of one call, the first that has no copies of others. What the others have differs in four ways:

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
from mxtools.functions.local_names import shorten
from mxtools.functions.record import COPIED, Codes, Record, info_text
from mxtools.functions.structure import attributes_of, names_made
from mxtools.functions.texts import path_of, prediction, texts_of
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
INPUT = "input"
"""What an input of a function is called that is no stored tensor."""

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
        """Make it of the bodies of calls, of which one gives its nodes."""
        self._annotations, self._level = annotations, level
        self._first = next((number for number, body in enumerate(bodies) if not body.copied), 0)
        places = [level.places[node] for node in bodies[self._first].order]
        order = sorted(range(len(places)), key=places.__getitem__)
        self.bodies = bodies = [body.in_order(order) for body in bodies]
        self.function = FunctionProto(domain=DOMAIN, name=name, output=bodies[self._first].outputs)
        self.function.node.extend(bodies[self._first].protos)
        used = {plain_domain(node.domain) for node in every_node(self.function.node)}
        self.function.opset_import.extend(entry for entry in level.imports if plain_domain(entry.domain) in used)
        self._made = [names_made(body.protos) for body in bodies]
        self._inner = [_without(made, body.outputs) for made, body in zip(self._made, bodies, strict=True)]
        self._infos = [self._infos_of(*entry) for entry in zip(self._inner, bodies, strict=True)]
        self._attributes = self._parameters()
        self._name_inputs()
        self._describe()
        shorten(self.function, path_of(*self._place(bodies[self._first])))

    def calls(self) -> list[NodeProto]:
        """Return a node for each call; none where one would not unfold to the nodes that it stands for."""
        callee = Callee(self.function)
        found = []
        for number, body in enumerate(self.bodies):
            call = self._call(body, number)
            record = self._record(body, number, callee.texts)
            made = {name: node for node in body.copies for name in node.output}
            own = [proto for node, proto in zip(body.order, body.protos, strict=True) if node not in body.copied]
            if callee.inlined(call, record, Names(), Names(), made).nodes != own:
                return []
            record.write(call)
            found.append(call)
        return found

    def _infos_of(self, names: Sequence[str], body: Body) -> dict[int, tuple[int, str]]:
        """Return what the graph says of values inside, by their number among the names: the place, and the text."""
        copied = set(names_made(body.copies))
        found = ((number, self._level.infos.get(name)) for number, name in enumerate(names) if name not in copied)
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
        """Name the inputs: weights as those of the call that gives the nodes, without its scope."""
        graph, body = self._annotations.graph, self.bodies[self._first]
        scope = self._annotations.hierarchy.scopes[body.call]
        taken = {*self._made[self._first], *body.inputs}
        names: dict[str, str] = {}
        for name in body.inputs:
            short = name.removeprefix(f"{scope}.") if scope != ROOT else name
            if graph.by_name[name] not in graph.stored:  # the name says what another module makes
                short = INPUT
            if short != name and short:
                names[name] = fresh(short, taken)
                taken.add(names[name])
        self.function.input.extend(names.get(name, name) for name in body.inputs)
        rename_in_function(self.function, names)

    def _describe(self) -> None:
        """Say which calls it stands for, which operators it uses and which types are those of all calls."""
        scope, tag = self._place(self.bodies[self._first])
        scopes = [self._place(body)[0] for body in self.bodies]
        self.function.doc_string = f"{class_of(tag)}: {', '.join(scopes)}"
        for key, value in ((keys.SCOPE, scope), (keys.TAG, tag)):
            self.function.metadata_props.add(key=key, value=value)
        for number in self._shared_infos():
            info = self.function.value_info.add()
            info.CopyFrom(self._level.infos[self._inner[self._first][number]][1])

    def _shared_infos(self) -> list[int]:
        """Return the numbers of the values inside whose types are those of all calls that say any."""
        own = self._infos[self._first].items()
        texts = [{number: text for number, (_, text) in infos.items()} for infos in self._infos]
        copied = [body.copied for body in self.bodies]
        found = []
        for number, (_, text) in own:
            others = (known.get(number, text if made else "") for known, made in zip(texts, copied, strict=True))
            if all(other == text for other in others):
                found.append(number)
        return found

    def _place(self, body: Body) -> tuple[str, str]:
        """Return the scope and the tag of a call."""
        hierarchy = self._annotations.hierarchy
        return hierarchy.scopes[body.call], hierarchy.tags[body.call]

    def _call(self, body: Body, number: int) -> NodeProto:
        """Return the node of a call, in the place of the module's nodes."""
        scope, tag = self._place(body)
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

    def _record(self, body: Body, number: int, known: Sequence[str]) -> Record:
        """Return what a call has to remember of its nodes; of copies, only what their results are called."""
        predict = prediction(self._place(self.bodies[self._first]), self._place(body))
        first, infos = self._inner[self._first], self._infos[number]
        texts = [
            (text.get(), node in body.copied)
            for node, proto in zip(body.order, body.protos, strict=True)
            for text in texts_of([proto])
        ]
        predicted = [predict(text) for text in known]
        shared = set(self._shared_infos())
        return Record(
            level=self._level.number,
            count=len(self._level.places),
            places=[COPIED if node in body.copied else self._level.places[node] for node in body.order],
            names=Codes.of(self._inner[number], map(predict, first)),
            texts=Codes.of([p if is_copy else t for (t, is_copy), p in zip(texts, predicted, strict=True)], predicted),
            info_count=self._level.info_count,
            infos=[(value, place, "" if value in shared else text) for value, (place, text) in infos.items()],
        )


def _without(names: Sequence[str], left_out: Collection[str]) -> list[str]:
    out = set(left_out)
    return [name for name in names if name not in out]
