"""Which values a tool gave the names of others, and which names they had before.

    earlier   x ─ Conv ─c─ Relu ─r─ MaxPool ─ y
    now       x ─ Conv ─r─ QuantizeLinear ─q─ DequantizeLinear ─d─ MaxPool ─ y
    renamed   x ─ Conv ─c─ QuantizeLinear ─q─ DequantizeLinear ─r─ MaxPool ─ y

Anything that reads r by name means the result of the Relu, such as a part that was cut out of the earlier model and is
to be put back. So each name goes back to the value that stands for the one that had it.
"""

from __future__ import annotations

from mxtools.graph.rename import fresh
from mxtools.matching.earlier_model import EarlierModelMatch


def restored_names(match: EarlierModelMatch) -> dict[str, str]:
    """Return new names for the values whose names a tool took from others, by their present names."""
    graph, earlier = match.graph, match.earlier
    fixed = {*graph.inputs, *graph.outputs, *graph.stored}
    own = {value: earlier.names[match.earlier_values[value][0]] for value in match.misunderstood if value not in fixed}
    wrong = {v: match.misunderstood[v] for v, name in own.items() if name != graph.names[v]}
    found: dict[int, str] = {}
    taken = set(graph.names)
    for value, other in wrong.items():
        found[value] = fresh(own[value], taken)
        taken.add(found[value])
        rightful = next((v for v in match.values_now.get(other, ()) if v not in fixed and v not in wrong), None)
        if rightful is not None and graph.names[value] == earlier.names[other]:
            found[rightful] = graph.names[value]
    return {graph.names[value]: name for value, name in found.items()}
