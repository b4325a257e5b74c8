"""Traces of a few calls, as text.

A line is `scope class inputs -> outputs`, and `| leaves` after it; tensors are `name:shape`, `x:2x4`. A line
`run scope function inputs -> outputs`, with the names of tensors alone, is an operation.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mxtools.scopes.scope import contains
from mxtools.scopes.tags import tags_of
from mxtools.traces.sidecar import Call, Operation, Sidecar, TracedModel, TracedModule, TracedTensor, Weight
from mxtools.traces.values import Values


def trace_of(
    text: str, weights: dict[str, list[int]] | None = None, arrays: dict[str, np.ndarray] | None = None
) -> Sidecar:
    """Return a trace from lines `scope class inputs -> outputs`; the weights are by full name."""
    ids: dict[str, int] = {}

    def tensors(words: Iterable[str]) -> tuple[TracedTensor, ...]:
        found = []
        for word in words:
            name, _, shape = word.partition(":")
            number = ids.setdefault(name, len(ids))
            array = (arrays or {}).get(name)
            summary = None
            if array is not None:
                flat = array.astype(np.float64).ravel()
                summary = (flat.size, flat.min(), flat.max(), flat.sum(), float(flat @ flat))
            dims = tuple(int(d) for d in shape.split("x"))
            found.append(TracedTensor(name=name, id=number, shape=dims, dtype="float32", fingerprint=summary))
        return tuple(found)

    rows, run = [], []
    for line in text.strip().splitlines():
        before, _, after = line.partition("->")
        if before.split()[0] == "run":
            run.append((before.split()[1:], after.split()))
            continue
        scope, class_name, *given = before.split()
        returned, _, left = after.partition("|")
        rows.append((scope, class_name, tensors(given), tensors(returned.split()), tensors(left.split())))
    scopes = [row[0] for row in rows]
    parents = [
        max((i for i, above in enumerate(scopes[:n]) if contains(above, scope)), default=None)
        for n, scope in enumerate(scopes)
    ]
    tags = tags_of(zip(scopes, parents, (row[1] for row in rows), strict=True))
    calls = [
        Call(scope=s, tag=t, module=_module(s), parent=p, inputs=i, outputs=o, leaves=leaves)
        for (s, _, i, o, leaves), t, p in zip(rows, tags, parents, strict=True)
    ]
    owned: dict[str, list[Weight]] = {}
    for name, shape in (weights or {}).items():
        module, _, own = name.rpartition(".")
        owned.setdefault(module, []).append(Weight(name=own, kind="parameter", shape=tuple(shape), dtype="float32"))
    classes = {_module(s): c for s, c, *_ in reversed(rows)}
    classes |= {path: "Module" for path in owned if path not in classes}  # never called
    modules = {
        path: TracedModule(path=path, class_name=c, qualified_class=c, weights=tuple(owned.get(path, ())))
        for path, c in classes.items()
    }
    model = TracedModel(class_name=rows[0][1], qualified_class="", spec="", inputs=rows[0][2])
    operations = tuple(
        Operation(scopes.index(scope), name, _ids(ids, given), _ids(ids, made)) for (scope, name, *given), made in run
    )
    return Sidecar(producer={}, model=model, modules=tuple(modules.values()), calls=tuple(calls), operations=operations)


def _ids(ids: dict[str, int], names: Iterable[str]) -> tuple[int, ...]:
    """Return the numbers of tensors; one that no call was given or returned gets the next number."""
    return tuple(ids.setdefault(name, len(ids)) for name in names)


def _module(scope: str) -> str:
    return ".".join(part.partition("@")[0] for part in scope.split(".")) if scope != "." else "."


def values_of(arrays: dict[str, np.ndarray], names: str) -> Values:
    """Return the values of a trace's tensors, whose names are in the order of their numbers, and of its inputs."""
    found = arrays | {str(i): arrays[name] for i, name in enumerate(names.split())}
    return Values(found.keys(), found.__getitem__)
