"""Which models are joined, and what is connected with what: from a manifest, or from what the user says."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError
from pathlib import Path
from typing import Any

from mxtools.errors import InputError, UsageError, suggestion
from mxtools.graph.index import graph_inputs
from mxtools.graph.walk import in_order
from mxtools.pipeline.working_model import WorkingModel
from mxtools.split.joining import Joined, Member
from mxtools.split.manifest import read
from mxtools.split.records import MODEL, Manifest


@dataclass(frozen=True)
class JoinReport:
    """What was joined: nodes, inputs and outputs of the result, and how many weights were stored once for several."""

    models: int
    nodes: int
    inputs: list[str]
    outputs: list[str]
    shared: int

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, for JSON."""
        found = {"models": self.models, "nodes": self.nodes, "inputs": self.inputs, "outputs": self.outputs}
        return found | {"shared": self.shared}


def join_parts(source: Path) -> tuple[WorkingModel, JoinReport]:
    """Return the model that was split into a folder, joined from its parts.

    Raises InputError where there is no manifest, or a part of it cannot be read or does not fit the others.
    """
    manifest, folder = read(source)
    members = _members(manifest, folder, source)
    joined = _added(members, str(source), parts=True)
    known = {name: new for values in joined.values for name, new in values.items()}
    for link in manifest.outputs:
        if link.name not in known:
            raise InputError(f"no part of {source} has the output {link.name!r}", "split the model again")
        joined.put_out(known[link.name], link.name)
    return _finished(joined, len(members), manifest.inputs)


def _members(manifest: Manifest, folder: Path, source: Path) -> list[Member]:
    """Read the parts that a manifest names, each with what it is given by parts before it."""
    members: list[Member] = []
    numbers: dict[str, int] = {}
    for part in manifest.parts:
        model = WorkingModel.read(folder / part.file)
        made = {info.name for info in model.proto.graph.output}
        given = {}
        for link in part.inputs:
            if link.source != MODEL and link.source not in numbers:
                raise InputError(
                    f"{source} names no part {link.source!r} before {part.file!r}", "split the model again"
                )
            if link.source != MODEL:
                given[link.name] = (numbers[link.source], link.name)
        if missing := sorted(set(part.outputs) - made):
            raise InputError(f"{folder / part.file} has no output {missing[0]!r}", "keep the outputs of parts")
        numbers[part.file] = len(members)
        members.append(Member(model, given=given))
    if not members:
        raise InputError(f"{source} names no parts", "split the model again")
    return members


def join_models(
    models: Sequence[tuple[str, WorkingModel]], connections: Mapping[str, str], keep: bool = False
) -> tuple[WorkingModel, JoinReport]:
    """Return several models as one; each is given with its alias, empty where its names and scopes stay.

    `connections` say for inputs which output of another model, or which input, gives them:
    `{"decoder.states": "encoder.hidden"}`. An output that is connected is none of the result, unless `keep` is set.
    Raises UsageError without models, or where an output or input is unknown or belongs to several models, an input is
    given two values, or the models have no order; InputError where types do not fit.
    """
    if not models:
        raise UsageError("there are no models to join", "give two or more")
    ends = _Ends(models)
    found = {ends.of(target, inputs=True): ends.of(source) for target, source in connections.items()}
    if len(found) < len(connections):  # an input can have two names, its own and one with an alias
        raise UsageError("one input is given two values", "give each input one")
    order = _order(len(models), found)
    place = {number: position for position, number in enumerate(order)}
    members = []
    for number in order:
        alias, model = models[number]
        given = {name: (place[s], value) for (t, name), (s, value) in found.items() if t == number}
        members.append(Member(model.copy(), alias, given))
    used = {(place[number], name) for number, name in found.values()}
    joined = _added(members, "the joined model")
    for number in range(len(models)):
        for name in ends.outputs[number]:
            if keep or (place[number], name) not in used:
                joined.put_out(joined.values[place[number]][name], members[place[number]].named(name))
    return _finished(joined, len(members))


def _added(members: Sequence[Member], name: str, parts: bool = False) -> Joined:
    joined = Joined(members, name, parts)
    for member in members:
        joined.add(member)
    return joined


def _finished(joined: Joined, count: int, first: Sequence[str] = ()) -> tuple[WorkingModel, JoinReport]:
    model = joined.finish(first)
    graph = model.proto.graph
    if not graph.output:
        raise UsageError("all outputs are connected, so that the joined model has none", "keep one: ⟨keep⟩")
    inputs, outputs = ([info.name for info in infos] for infos in (graph_inputs(model.proto), graph.output))
    return model, JoinReport(count, len(graph.node), inputs, outputs, joined.shared)


class _Ends:
    """The inputs and outputs of several models, by the names that users give them: `hidden` or `encoder.hidden`."""

    def __init__(self, models: Sequence[tuple[str, WorkingModel]]) -> None:
        self.inputs = [[info.name for info in graph_inputs(model.proto)] for _, model in models]
        self.outputs = [[info.name for info in model.proto.graph.output] for _, model in models]
        self._aliases = [alias for alias, _ in models]

    def of(self, name: str, inputs: bool = False) -> tuple[int, str]:
        """Return the model and the name of an input, or of an output, else an input; UsageError for unknown names."""
        for lists in (self.inputs,) if inputs else (self.outputs, self.inputs):
            found = list(dict.fromkeys(self._matches(name, lists)))
            if len(found) > 1:
                named = " or ".join(f"{self._aliases[number] or 'ALIAS'}.{value}" for number, value in found)
                raise UsageError(f"several models have {name!r}", f"say of which model it is, with ⟨alias⟩: {named}")
            if found:
                return found[0]
        what = "an input" if inputs else "an output or input"
        raise UsageError(f"no model has {what} {name!r}", suggestion(name, self._known(inputs)))

    def _matches(self, name: str, lists: Sequence[Collection[str]]) -> list[tuple[int, str]]:
        found = [(number, name) for number, names in enumerate(lists) if name in names]
        for number, (alias, names) in enumerate(zip(self._aliases, lists, strict=True)):
            value = name.removeprefix(f"{alias}.")
            if alias and value != name and value in names:
                found.append((number, value))
        return found

    def _known(self, inputs: bool) -> list[str]:
        lists = self.inputs if inputs else [a + b for a, b in zip(self.outputs, self.inputs, strict=True)]
        pairs = zip(self._aliases, lists, strict=True)
        return [f"{alias}.{name}" if alias else name for alias, names in pairs for name in names]


def _order(count: int, found: Mapping[tuple[int, str], tuple[int, str]]) -> list[int]:
    """Return the numbers of models, each after those that it is given something by; UsageError on a circle."""
    sources: dict[int, list[int]] = {number: [] for number in range(count)}
    for (target, _), (source, _) in found.items():
        sources[target].append(source)
    try:
        return in_order(range(count), sources.__getitem__)
    except CycleError:
        raise UsageError("models are connected in a circle", "connect each only with models before it") from None
