"""Rules for a trace and the model together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mxtools.evidence.absent import absent_scopes, unfound_scopes
from mxtools.evidence.calls.index import OTHER_MODEL_SHARE, call_index
from mxtools.evidence.statements import disagreements
from mxtools.files.json_text import list_of_texts
from mxtools.graph.constants import LARGEST
from mxtools.graph.fingerprints import fingerprint, same_fingerprint
from mxtools.graph.shapes import known_shape, stored_shape, torch_kind, value_infos
from mxtools.scopes import keys
from mxtools.scopes.scope import ROOT, contains, is_scope
from mxtools.traces.traced_calls import callers, full_name
from mxtools.validate.rules import CheckedModel, Fault, Severity, rule
from mxtools.validate.rules_tags import AGAIN, drop_absent

if TYPE_CHECKING:
    from mxtools.traces.sidecar import TracedModule, Weight

TRACE = "trace the model that was exported"
_TOLERANCE = 1e-2
"""How far weights may differ from the traced ones, over their extent: conversion to half precision differs so much."""


@rule("other-model", Severity.ERROR, TRACE)
def _other_model(checked: CheckedModel) -> Iterator[Fault]:
    """The trace has most of the scopes that nodes have."""
    scopes = {props[keys.SCOPE] for props in checked.entries if keys.SCOPE in props} if checked.has_trace else set()
    unknown = scopes - checked.traced.keys()
    if len(unknown) > OTHER_MODEL_SHARE * len(scopes):
        yield Fault(f"the trace lacks {len(unknown)} of the {len(scopes)} scopes in the model")


@rule("unknown-scope", Severity.ERROR, AGAIN, unless=("other-model",))
def _unknown_scope(checked: CheckedModel) -> Iterator[Fault]:
    """Every scope is in the trace."""
    for number, props in enumerate(checked.entries if checked.has_trace else ()):
        scope = props.get(keys.SCOPE, ".")
        if is_scope(scope) and scope not in checked.traced:
            yield Fault(f"the trace has no scope {scope}", number)
        for key, relation in ((keys.MERGED, "merged with"), (keys.EQUAL, "equal in")):
            for other in list_of_texts(props.get(key, "[]")):
                if is_scope(other) and other not in checked.traced:
                    yield Fault(f"it is {relation} {other}, which the trace does not have", number)


@rule("unknown-absent", Severity.ERROR, AGAIN, unless=("other-model",))
def _unknown_absent(checked: CheckedModel) -> Iterator[Fault]:
    """Every absent scope is in the trace."""
    for scope in checked.model.absent if checked.has_trace else ():
        if is_scope(scope) and scope not in checked.traced:
            reason = f"{keys.ABSENT} lists a scope that the trace does not have"
            yield Fault(reason, None, scope, drop_absent(checked, scope))


@rule(
    "unmentioned",
    Severity.NOTE,
    "⟨tag⟩ again, unless the model is a part",
    unless=("other-model", "untagged", "unknown-scope", "invalid-absent", "malformed-scope"),
)
def _unmentioned(checked: CheckedModel) -> Iterator[Fault]:
    """Every scope in the trace has a node, or is listed as absent."""
    known = checked.scopes_with_nodes | set(checked.model.absent)

    def mend() -> str:
        """Write the scopes that no node has."""
        found = absent_scopes(checked.annotations, checked.model.sidecar)
        checked.annotations.write_absent(found)
        return f"listed {len(found)} absent scopes"

    for call in checked.calls:
        parent = checked.calls[call.parent].scope if call.parent is not None else None
        if call.scope not in known and (parent is None or parent in known):
            yield Fault("it has no node, and is not listed as absent", scope=call.scope, mend=mend)


@rule(
    "unfound",
    Severity.WARNING,
    f"{TRACE}, with ⟨recording⟩, unless it is a part",
    unless=("other-model", "untagged", "unknown-scope"),
)
def _unfound(checked: CheckedModel) -> Iterator[Fault]:
    """Most modules of the trace that work with the model's inputs have nodes."""
    absent = checked.model.absent
    if found := unfound_scopes(checked.annotations, checked.model.sidecar, absent if checked.has_trace else {}):
        more = f", like {len(found) - 1} others" if len(found) > 1 else ""
        yield Fault(f"no node was found for it{more}, although its work depends on inputs", scope=found[0])


@rule("other-weights", Severity.ERROR, TRACE, unless=("other-model",))
def _other_weights(checked: CheckedModel) -> Iterator[Fault]:
    """Weights have the same shapes as in the trace."""
    for value, module, weight in _weights(checked):
        dims = list(checked.graph.initializers[value].dims)
        if sorted(dims) != sorted(weight.shape):
            readers = checked.graph.readers[value]
            reason = f"its weight {full_name(module, weight)} has shape {dims}, but in the trace {list(weight.shape)}"
            yield Fault(reason, readers[0] if readers else None)


@rule("other-values", Severity.WARNING, TRACE, unless=("external-data", "other-model", "other-weights"))
def _other_values(checked: CheckedModel) -> Iterator[Fault]:
    """Weights have the same values as in the trace (up to 4 M elements; not of merged nodes)."""
    for value, module, weight in _weights(checked):
        tensor, traced, readers = checked.graph.initializers[value], weight.fingerprint, checked.graph.readers[value]
        if any(keys.MERGED in checked.entries[reader] for reader in readers):
            continue
        if traced and traced[0] <= LARGEST and stored_shape(tensor).kind == torch_kind(weight.dtype):
            found = fingerprint(checked.model.weights.array(tensor))
            if found and not same_fingerprint(found, traced, _TOLERANCE):
                reason = f"its weight {full_name(module, weight)} has other values than in the trace"
                yield Fault(reason, readers[0] if readers else None)


@rule("foreign-weight", Severity.WARNING, AGAIN, unless=("other-model", "other-weights"))
def _foreign_weight(checked: CheckedModel) -> Iterator[Fault]:
    """A weight is used only in calls of its module or of modules around it (if no other weight equals it)."""
    modules = checked.model.sidecar.modules if checked.model.sidecar else ()
    names = {module.path: (module.path, *module.aliases) for module in modules}
    called = {call.module for call in checked.calls}
    equal = Counter(weight.fingerprint for module in modules for weight in module.weights)
    for value, module, weight in _weights(checked):
        single = weight.fingerprint and equal[weight.fingerprint] == 1 and module.path in called
        for node in checked.graph.readers[value] if single else ():
            if node in checked.scopes and keys.MERGED not in checked.entries[node]:
                own, *around = _modules(checked, checked.scopes[node])
                holds = any(contains(a, b) for a in names[own] for b in names[module.path])
                if not holds and module.path not in around:
                    yield Fault(f"it uses {full_name(module, weight)}, but is in a call of {own}", node)


@rule("other-inputs", Severity.WARNING, TRACE, unless=("other-model",))
def _other_inputs(checked: CheckedModel) -> Iterator[Fault]:
    """Inputs have the same types and shapes as the inputs of that name in the trace."""
    traced = {tensor.name: tensor for tensor in checked.model.sidecar.model.inputs} if checked.model.sidecar else {}
    infos = value_infos(checked.proto)
    for info in checked.proto.graph.input:
        tensor, found = traced.get(info.name), known_shape(infos[info.name])
        if tensor is None or found is None:
            continue
        fits = found.agrees(tensor) if found.dims is not None else found.kind == torch_kind(tensor.dtype)
        if not fits:
            wanted = f"{tensor.dtype}{list(tensor.shape)}"
            yield Fault(f"input {info.name} is {_text(found.dims)}, but in the trace {wanted}")


@rule("exporter-differs", Severity.NOTE, "see ⟨explain⟩", unless=("other-model", "untagged", "unknown-scope"))
def _exporter_differs(checked: CheckedModel) -> Iterator[Fault]:
    """Nodes are in the modules that the exporter names, except where the trace corrects it."""
    found: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for node, said in disagreements(checked.model).items():
        found[said.source, said.text, checked.scopes.get(node, ROOT)].append(node)
    for (source, text, scope), (first, *others) in found.items():
        more = f" and of {len(others)} more nodes" if others else ""
        yield Fault(f"the exporter's {source} of it{more} says {text}", first, scope)


@rule("record", Severity.WARNING, "put the file there, or trace again with ⟨recording⟩")
def _record(checked: CheckedModel) -> Iterator[Fault]:
    """The file of recorded values that a sidecar names is beside it."""
    record = checked.model.sidecar.record if checked.model.sidecar else None
    if record and not (checked.folder / record).is_file():
        yield Fault(f"the file {record} with the recorded values is not beside the sidecar")


def _weights(checked: CheckedModel) -> Iterator[tuple[int, TracedModule, Weight]]:
    """Yield the main graph's initializers that have the name of a traced weight, with its module and the weight."""
    index, by_name = checked.model.once(call_index), checked.graph.by_name
    for name, (module, weight) in index.weights.items() if index else ():
        if (value := by_name.get(name)) in checked.graph.initializers:
            yield value, module, weight


def _modules(checked: CheckedModel, scope: str) -> Iterator[str]:
    """Yield the module of a traced call, and those of the calls around it, innermost first."""
    call = checked.traced[scope]
    yield from (checked.calls[number].module for number in (call, *callers(checked.calls, call)))


def _text(dims: tuple[int | None, ...] | None) -> str:
    return "of unknown rank" if dims is None else str(["?" if d is None else d for d in dims])
