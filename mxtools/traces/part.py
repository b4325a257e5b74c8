"""Which part of the traced model a graph is an export of: all of it, or one of its modules.

Encoders and decoders are often exported one by one. What the file of one names begins at the part, not at the root:

    /block.0/layer.0/SelfAttention/q/MatMul      encoder.block.0.layer.0.SelfAttention.q of the whole, a T5
    final_layer_norm.weight                      encoder.final_layer_norm

The graph is of the whole if most names fit that. Otherwise it is of the module which most names fit. Several can be
alike, as an encoder and a decoder that have the same layers. Then it is the module with the fewest others inside that
nothing in the file names; and if that is still the same, as of two towers, the one with the file's weights. If
nothing of this tells, nothing is clear, and what the file names is not in the trace.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from mxtools.files.weights import WeightStore
from mxtools.graph.fingerprints import fingerprint, same_fingerprint
from mxtools.graph.index import Graph
from mxtools.scopes.labels import name_components, paths_on
from mxtools.scopes.scope import ROOT, contains, join
from mxtools.traces.traced_calls import call_ends, callers

if TYPE_CHECKING:
    from mxtools.graph.fingerprints import Fingerprint
    from mxtools.traces.sidecar import Sidecar

MOST = 0.5
"""The share of the names that have to be of modules inside a part, for the same reason as `OTHER_MODEL_SHARE`."""

_STATE = re.compile(r"\w+(\.\w+)+")
"""The name of a parameter, as state dicts have them."""


def fitted(graph: Graph, weights: WeightStore, sidecar: Sidecar) -> Sidecar:
    """Return the trace of what a graph is an export of: that of a part has the scopes of the whole.

    Of the calls around the part only the part's own work is left: they are given what it is given, and return what it
    returns. If the part is called several times, it is the first call.
    """
    if sidecar.model.part or (part := traced_part(graph, weights, sidecar)) == ROOT:
        return sidecar
    start = next(number for number, call in enumerate(sidecar.calls) if call.module == part)
    own, around = sidecar.calls[start], sorted(callers(sidecar.calls, start))
    kept = [*around, *range(start, call_ends(sidecar)[start])]
    number = {call: place for place, call in enumerate(kept)}
    calls = [
        sidecar.calls[call].model_copy(
            update={"parent": None if place == 0 else number[sidecar.calls[call].parent or 0]}
        )
        for place, call in enumerate(kept)
    ]
    ends = {"inputs": own.inputs, "outputs": own.outputs, "reorders": own.reorders, "leaves": ()}
    calls[: len(around)] = [call.model_copy(update=ends) for call in calls[: len(around)]]
    inside = (o for o in sidecar.operations if o.call in number and o.call >= start)
    return sidecar.model_copy(
        update={
            "model": sidecar.model.model_copy(update={"inputs": own.inputs, "part": part}),
            "calls": tuple(calls),
            "operations": tuple(o._replace(call=number[o.call]) for o in inside),
        }
    )


def traced_part(graph: Graph, weights: WeightStore, sidecar: Sidecar) -> str:
    """Return the path of the traced module that a graph is an export of; the root if nothing else is clear."""
    named = set(_named_modules(graph))
    known = {name: module.path for module in sidecar.modules for name in (*module.aliases, module.path)}
    if not named or len(named - known.keys()) <= MOST * len(named):
        return ROOT
    called = {call.module for call in sidecar.calls}
    fitting = Counter(part for part in _parts(named, known) if known.get(part) in called)
    fitting = Counter({part: count for part, count in fitting.items() if count > MOST * len(named)})
    if not fitting:
        return ROOT
    inside = Counter(part for name in called for part in fitting if contains(part, name))
    share = {part: count / (len(named) + inside[part]) for part, count in fitting.items()}
    best = {known[part]: None for part in fitting if share[part] == max(share.values())}
    return next(iter(best)) if len(best) == 1 else _by_weights(graph, weights, sidecar, best)


def _named_modules(graph: Graph) -> Iterator[str]:
    """Yield the paths of the modules that the nodes or the parameters of a graph name, without that of the root."""
    names = set()
    for proto in graph.nodes:
        if paths := paths_on(proto):
            yield from paths[-1:] if paths[-1] != ROOT else ()
        elif proto.name.startswith("/"):
            names.add(proto.name.rstrip("/").rpartition("/")[0])
    yield from filter(None, (".".join(name_components(name)) for name in names))
    for value in graph.stored:
        if _STATE.fullmatch(name := graph.names[value]):
            yield name.rpartition(".")[0]


def _parts(named: Collection[str], known: Iterable[str]) -> Iterator[str]:
    """Yield for each named module of a part the path of that part: `a.b` for `c.d` if `a.b.c.d` is known."""
    for path in known:
        dot = path.find(".")
        while dot >= 0:
            if path[dot + 1 :] in named:
                yield path[:dot]
            dot = path.find(".", dot + 1)


def _by_weights(graph: Graph, weights: WeightStore, sidecar: Sidecar, parts: Iterable[str]) -> str:
    """Return the one of some parts that has the most weights of a graph, by name and value; the root for several."""
    traced: Mapping[str, Fingerprint | None] = {
        join(name, weight.name): weight.fingerprint
        for module in sidecar.modules
        for name in (*module.aliases, module.path)
        for weight in module.weights
    }
    equal = Counter(dict.fromkeys(parts, 0))
    for value, tensor in graph.initializers.items():
        candidates = {part: traced.get(join(part, graph.names[value])) for part in equal}
        found = fingerprint(weights.array(tensor)) if len({*candidates.values()}) > 1 else None
        for part, wanted in candidates.items():
            equal[part] += bool(found and wanted and same_fingerprint(found, wanted))
    (first, most), *others = equal.most_common()
    return first if not others or most > others[0][1] else ROOT
