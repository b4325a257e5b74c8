"""Which part of the traced model a graph was exported from: all of it, or one of its modules.

Encoders and decoders are often exported one by one. The names in such a file begin at the part, not at the root:

    /block.0/layer.0/SelfAttention/q/MatMul      encoder.block.0.layer.0.SelfAttention.q of the whole, a T5
    final_layer_norm.weight                      encoder.final_layer_norm

If most names fit the whole model, the graph is the whole model. Otherwise it is the module that most names fit. Several
modules can fit equally well, such as an encoder and a decoder with the same layers. Then it is the one with the fewest
modules that the file does not name. If there are still several, such as two towers, it is the one with the file's
weights. If even this does not decide, the part is unknown, and the trace lacks what the file names.
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
"""The share of the names that must be modules inside a part, for the same reason as `OTHER_MODEL_SHARE`."""

_STATE = re.compile(r"\w+(\.\w+)+")
"""The name of a parameter, as state dicts have them."""


def fitted(graph: Graph, weights: WeightStore, sidecar: Sidecar) -> Sidecar:
    """Return the trace of what a graph was exported from; the trace of a part has the scopes of the whole model.

    The calls around the part stay, but with the part's work only: their inputs and outputs become those of the part. If
    the part is called several times, the first call counts.
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
    """Return the path of the traced module that a graph was exported from; the root unless another one is clear."""
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
    """Yield the paths of the modules that a graph's nodes or parameters name, except for the root."""
    paths = {
        node: found for node, proto in enumerate(graph.nodes) if proto.metadata_props and (found := paths_on(proto))
    }
    yield from (listed[-1] for listed in set(paths.values()) if listed[-1] != ROOT)
    for name, nodes in graph.named.items():
        if name.startswith("/") and name.strip("/") and any(node not in paths for node in nodes):
            yield ".".join(name_components(name))
    for value in graph.stored:
        if _STATE.fullmatch(name := graph.names[value]):
            yield name.rpartition(".")[0]


def _parts(named: Collection[str], known: Iterable[str]) -> Iterator[str]:
    """Yield the part that each module named in it suggests: `a.b` for `c.d`, if `a.b.c.d` is known."""
    for path in known:
        dot = path.find(".")
        while dot >= 0:
            if path[dot + 1 :] in named:
                yield path[:dot]
            dot = path.find(".", dot + 1)


def _by_weights(graph: Graph, weights: WeightStore, sidecar: Sidecar, parts: Iterable[str]) -> str:
    """Return the part that has the most of a graph's weights, by name and value; the root if several do."""
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
