"""Fold the repeated modules of models into functions, run them in ONNX Runtime, and unfold them.

    python benchmarks/folds.py FILE.onnx …

The outputs of each folded model must be bit-equal to those of the model itself, without optimisations, and the checker
must take it; unfolded, it must be the same file. Prints a line for each model that has repeated modules: functions and
calls, nodes, bytes of the graph without weights, and seconds that ONNX Runtime takes to load it without and with
optimisations, each before and after. Exit status 1 if a model fails.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mxtools.errors import AbsentError, InputError, MxError, UsageError
from mxtools.files.weights import tensors_of
from mxtools.files.writing import materialise, serialised
from mxtools.model.model import Model
from mxtools.runtime.sessions import Level, load_session, run_model, session_options

ROUNDS = 3


def graph_bytes(model: Model) -> int:
    """Return the bytes of a model without those of its weights."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model.proto)
    for tensor in tensors_of(copy):
        for field in ("raw_data", "external_data", "float_data", "int32_data", "int64_data"):
            tensor.ClearField(field)
    return len(copy.SerializeToString())


def seconds_to_load(model: Model, level: Level) -> float:
    """Return the least seconds that ONNX Runtime takes to load a model."""
    found = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        load_session(model.proto, model.weights, session_options(level))
        found.append(time.perf_counter() - start)
    return min(found)


def apart(one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    """Yield the outputs that are not bit-equal."""
    for name, wanted in one.items():
        a, b = np.asarray(wanted), np.asarray(other[name])
        if a.dtype != b.dtype or a.tobytes() != b.tobytes():
            yield f"{name} differs"


def check(model: Model) -> tuple[str, list[str]]:
    """Fold a model; return what became of it, and what is wrong."""
    folded = model.fold(repeated=True)
    inputs = model.inputs()
    faults = [*apart(run_model(model.proto, model.weights, inputs), run_model(folded.proto, folded.weights, inputs))]
    try:
        onnx.checker.check_model(materialise(folded.proto, folded.weights))
    except onnx.checker.ValidationError as error:
        faults.append(f"the checker refuses it: {error}"[:200])
    unfolded = folded.unfold()
    if serialised(unfolded.proto, unfolded.weights) != serialised(model.proto, model.weights):
        faults.append("unfolded it is another file")
    names = {function.name for function in folded.proto.functions}
    calls = sum(node.op_type in names for node in folded.proto.graph.node)
    nodes = [len(m.proto.graph.node) + sum(len(f.node) for f in m.proto.functions) for m in (model, folded)]
    sizes = [graph_bytes(m) / 1e3 for m in (model, folded)]
    plain, optimised = ([seconds_to_load(m, level) for m in (model, folded)] for level in (Level.NONE, Level.ALL))
    return (
        f"{len(names)} functions, {calls} calls; nodes {nodes[0]} → {nodes[1]}; graph {sizes[0]:.0f} → "
        f"{sizes[1]:.0f} kB; loads in {plain[0]:.3f} → {plain[1]:.3f} s, optimised {optimised[0]:.3f} → "
        f"{optimised[1]:.3f} s"
    ), faults


def main() -> int:
    """Check all models; return the exit status."""
    folded = failed = without = 0
    for file in map(Path, sys.argv[1:]):
        model = Model.read(file)
        try:
            run_model(model.proto, model.weights, model.inputs())
        except InputError:
            print(f"{file.name}: does not run", flush=True)
            continue
        try:
            text, faults = check(model)
        except (UsageError, AbsentError) as error:
            without += 1
            print(f"{file.name}: nothing to fold ({error})", flush=True)
            continue
        except MxError as error:
            text, faults = "", [str(error)]
        folded += not faults
        failed += bool(faults)
        print(f"{file.name}: {text}{''.join(f'; FAILED: {fault}' for fault in faults)}", flush=True)
    print(f"bit-equal: {folded}; failed: {failed}; nothing to fold: {without}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
