"""The nodes that a call of a function stands for, with the names and tags that they have in its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from onnx import FunctionProto, NodeProto, ValueInfoProto

from mxtools.cut.inlining import names_of_call, nodes_of_call
from mxtools.functions.local_names import restored
from mxtools.functions.record import Record, info_from
from mxtools.functions.structure import names_made
from mxtools.functions.texts import Predict, prediction, texts_of
from mxtools.graph.functions import every_node
from mxtools.scopes import keys


class Names:
    """Names that are taken; others are made from them by numbers, each found in one step."""

    def __init__(self, taken: Iterable[str] = (), in_bodies: Iterable[str] = ()) -> None:
        """Begin with some names, and with those of them that only values in bodies have."""
        self._taken = set(taken)
        self._in_bodies = set(in_bodies)
        self._given: set[str] = set()
        self._count: dict[str, int] = {}

    def take(self, name: str) -> str:
        """Return a name that was free, and is taken now: the name itself, else with the first free number."""
        free, count = name, self._count.get(name, 0)
        while free in self._taken:
            count += 1
            free = f"{name}_{count}"
        self._count[name] = count
        self._taken.add(free)
        self._given.add(free)
        return free

    def restore(self, name: str) -> str:
        """Return a name that a node had: the name itself, also if another node had it too, unless it was taken here."""
        if name in self._given:
            return self.take(name)
        self._taken.add(name)
        return name

    def restore_in_body(self, name: str) -> str:
        """Return a name that a value in a body had: the name itself, also if only values in other bodies have it."""
        if name in self._taken and name not in self._in_bodies:
            return self.take(name)
        self._taken.add(name)
        self._in_bodies.add(name)
        return name


@dataclass(frozen=True)
class Inlined:
    """What a call stands for: nodes, and infos of values, each with the place that is remembered, else -1."""

    nodes: list[NodeProto]
    infos: list[tuple[int, ValueInfoProto]]


class Callee:
    """A function that is put in the place of its calls; what all calls need of it is found once."""

    def __init__(self, function: FunctionProto) -> None:
        """Look at the names and texts of a function."""
        self.function = function = restored(function)
        outputs = set(function.output)
        made = names_made(function.node)
        self._inner = [name for name in made if name not in outputs]
        self._made = set(made)
        self._in_bodies = self._made.difference(*(node.output for node in function.node))
        self.texts = [text.get() for text in texts_of(function.node)]
        self._infos = {info.name: info for info in function.value_info}
        known = {entry.key: entry.value for entry in function.metadata_props}
        self._tag = known.get(keys.SCOPE, ""), known.get(keys.TAG, "")

    def inlined(
        self,
        call: NodeProto,
        record: Record | None,
        values: Names,
        nodes: Names,
        made: Mapping[str, NodeProto],
        in_body: bool = False,
    ) -> Inlined:
        """Return what a call stands for; `values` and `nodes` are the names that are taken already.

        With `in_body` the call is in a body, so that bodies that it stands for are not beside those of other calls.
        Copies that the call has of nodes of the graph are left out; `made` are the graph's nodes by their results.
        """
        props = keys.props(call)
        own = props.get(keys.SCOPE, ""), props.get(keys.TAG, "")
        predict = prediction(self._tag, own) if all((*self._tag, *own)) else str
        recorded = record.names.texts(self._inner, predict) if record else [predict(name) for name in self._inner]
        originals = dict(zip(self._inner, recorded, strict=True))
        copies = self._copies(call, record, originals, made)
        names = names_of_call(self.function, call) | {name: originals[name] for name in names_made(copies.values())}
        for name, text in originals.items():
            if name not in names:
                is_own = record is not None and not in_body and name in self._in_bodies  # bodies side by side
                names[name] = (values.restore_in_body if is_own else values.take)(text or name)
        for name in self.function.output:
            if name not in names and name in self._made:  # the call omits it
                names[name] = values.take(name)
        found = nodes_of_call(self.function, call, names)
        count = len(self.function.node)
        self._set_texts(found[:count], record, predict)
        inside = [node for place, node in enumerate(found[:count]) if place not in copies]
        for node in filter(lambda node: node.name, every_node(inside)):
            if record is not None:
                node.name = nodes.restore(node.name)
        for node in found if record is None else found[count:]:
            _complete(node, props, nodes)
        return Inlined([*inside, *found[count:]], self._infos_of(record, names))

    def _copies(
        self, call: NodeProto, record: Record | None, names: Mapping[str, str], made: Mapping[str, NodeProto]
    ) -> dict[int, NodeProto]:
        """Return the nodes, by place, that a call has copies of, if the graph still has all of them; else none."""
        places = record.copied if record else []
        copies = {place: self.function.node[place] for place in places if place < len(self.function.node)}
        if not copies or not all(name in names for name in names_made(copies.values())):
            return {}
        part = FunctionProto(input=self.function.input, node=copies.values())
        inside = {name: names[name] for name in names_made(copies.values())}
        for node in nodes_of_call(part, call, names_of_call(part, call) | inside):
            other = made.get(next(filter(None, node.output), ""))
            if other is None or not _is_equal(node, other):
                return {}
        return copies

    def _set_texts(self, nodes: list[NodeProto], record: Record | None, predict: Predict) -> None:
        """Give nodes the texts that they had; without a record those that are expected in the place of the call."""
        known = self.texts
        texts = record.texts.texts(known, predict) if record else [predict(text) for text in known]
        for place, text in zip(texts_of(nodes), texts, strict=True):
            place.set(text)

    def _infos_of(self, record: Record | None, names: dict[str, str]) -> list[tuple[int, ValueInfoProto]]:
        """Return the types of values inside: those that are remembered, else those of the function."""
        found: list[tuple[int, ValueInfoProto]] = []
        if record and record.names.count == len(self._inner):
            for number, place, text in record.infos:
                name = self._inner[number] if 0 <= number < len(self._inner) else ""
                known = self._infos.get(name)
                info = info_from(text, names[name]) if text and name else known and _renamed(known, names[name])
                if info is not None:
                    found.append((place, info))
            return found
        return [(-1, _renamed(info, names[name])) for name, info in self._infos.items() if names.get(name)]


def _is_equal(one: NodeProto, other: NodeProto) -> bool:
    """Return whether two nodes compute the same under the same names, whatever their texts are."""
    copy = NodeProto()
    copy.CopyFrom(one)
    for text, wanted in zip(texts_of([copy]), texts_of([other]), strict=False):
        text.set(wanted.get())
    if not other.metadata_props:
        copy.ClearField("metadata_props")
    return bool(copy == other)


def refill(field: Any, items: Iterable[Any]) -> None:  # noqa: ANN401 - a repeated field
    """Replace what a repeated field holds; some of the items may be in it."""
    kept = list(items)
    del field[:]
    field.extend(kept)


def _renamed(info: ValueInfoProto, name: str) -> ValueInfoProto:
    copy = ValueInfoProto()
    copy.CopyFrom(info)
    copy.name = name
    return copy


def _complete(node: NodeProto, props: dict[str, str], names: Names) -> None:
    """Give a node, and those in its bodies, a name of its own, and where they have no scope that of the call."""
    if node.name:
        node.name = names.take(node.name)
    for inner in every_node([node]):
        if keys.SCOPE in props and keys.SCOPE not in keys.props(inner):
            for key in (keys.SCOPE, keys.TAG, keys.EVIDENCE):
                keys.set_prop(inner, key, props.get(key))
