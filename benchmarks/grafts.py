"""Check `mx graft` on real models: cut every scope out, change it, put it back, and compare.

grafts.py ZOO.py[:NAME,…]: ZOO.py holds a dictionary `zoo` of callables that give (module, inputs); with both exporters
each model is exported and tagged, and each scope that `mx filter` can cut out is put back

- unchanged: the file has the same bytes as before;
- copied: with a doc string on every node, so that all are replaced: the outputs are equal to the bit;
- optimised, by ONNX Runtime's basic optimisation: the outputs are equal to 1e-4;
- slimmed, by onnxslim where it is installed: the same.

Prints passed / total per model, exporter and way, and every failure. Exit status 1 when there is one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from mxtools.errors import MxError
from mxtools.evidence.absent import calls_with_nodes
from mxtools.files.writing import write_model
from mxtools.passes.filter import Filter
from mxtools.passes.graft import Graft
from mxtools.pipeline.pipeline import Pipeline
from mxtools.pipeline.working_model import WorkingModel
from mxtools.pytorch.exporting.export import export
from mxtools.pytorch.loading.inputs import load_subject
from mxtools.pytorch.nested import tensors
from mxtools.pytorch.tracing import trace
from mxtools.runtime import scripts
from mxtools.strategies import table

TOLERANCE = 1e-4
EXPORTERS = ("torchscript", "dynamo")

Array = np.ndarray[Any, Any]


def main() -> int:
    """Measure the named models; return the exit status."""
    file, _, listed = sys.argv[1].partition(":")
    failures = 0
    for name in listed.split(",") if listed else list(scripts.find(f"{file}:zoo")):
        for exporter in EXPORTERS:
            with tempfile.TemporaryDirectory() as folder:
                failures += measured(f"{file}:{name}", name, exporter, Path(folder))
    return int(bool(failures))


def measured(spec: str, name: str, exporter: str, folder: Path) -> int:
    """Measure one model with one exporter and print the results; return the number of failures."""
    whole = folder / "whole.onnx"
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            feeds = built(spec, exporter, whole)
    except MxError as error:
        print(f"{name:14} {exporter:12} not exported: {str(error)[:100]}")
        return 0
    expected = outputs(whole, feeds)
    passed: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for scope in scopes(whole):
        for way, problem in round_trips(whole, scope, feeds, expected, folder):
            total[way] += 1
            passed[way] += not problem
            if problem:
                print(f"  {name} {exporter} {scope}, {way}: {problem}")
    print(f"{name:14} {exporter:12} " + ", ".join(f"{way} {passed[way]}/{total[way]}" for way in total), flush=True)
    return total.total() - passed.total()


def built(spec: str, exporter: str, path: Path) -> dict[str, Any]:
    """Write a tagged model; return its inputs."""
    subject = load_subject(spec)
    sidecar = trace(subject)
    export(subject, path, exporter)
    loaded = WorkingModel.read(path, sidecar=sidecar)
    table.get("auto").passes().apply(loaded)
    write_model(loaded.proto, loaded.weights, path)
    return {name: tensor.numpy() for name, tensor in tensors(subject.inputs)}


def scopes(path: Path) -> list[str]:
    """Return the scopes of a tagged model that have nodes, and those around them."""
    annotations = WorkingModel.read(path).annotations
    return [annotations.hierarchy.scopes[call] for call in sorted(calls_with_nodes(annotations))]


def round_trips(
    whole: Path, scope: str, feeds: dict[str, Any], expected: list[Any], folder: Path
) -> list[tuple[str, str]]:
    """Cut a scope out and put it back in each way; return way and fault, '' for none; empty if it cannot be cut."""
    part, copied, optimised, slimmed = (folder / f"{stem}.onnx" for stem in ("part", "copied", "optimised", "slimmed"))
    try:
        run(Filter(scope=(scope,)), whole, part)
    except MxError:
        return []
    model = onnx.load(part)
    for node in model.graph.node:
        node.doc_string = "copied"
    onnx.save(model, copied)
    options = session_options(onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)
    options.optimized_model_filepath = str(optimised)
    onnxruntime.InferenceSession(str(part), options)
    ways = [
        ("unchanged", grafted(whole, part, feeds, None)),
        ("copied", grafted(whole, copied, feeds, expected, 0)),
        ("optimised", grafted(whole, optimised, feeds, expected, TOLERANCE)),
    ]
    if importlib.util.find_spec("onnxslim"):
        import onnxslim

        onnx.save(onnxslim.slim(onnx.load(part)), slimmed)
        ways.append(("slimmed", grafted(whole, slimmed, feeds, expected, TOLERANCE)))
    return ways


def grafted(whole: Path, part: Path, feeds: dict[str, Any], expected: list[Any] | None, tolerance: float = 0) -> str:
    """Graft a part; return what is wrong with the result. Without `expected` it must be the same file."""
    out = whole.with_name("out.onnx")
    try:
        run(Graft(str(part)), whole, out)
        if expected is None:
            return "" if out.read_bytes() == whole.read_bytes() else "other bytes"
        onnx.checker.check_model(onnx.load(out))
        worst = max(map(difference, outputs(out, feeds), expected))
    except Exception as error:  # whatever it is, it is a failure to be counted
        return " ".join(str(error).split())[:300] or type(error).__name__
    return "" if worst <= tolerance else f"differs by {worst:.1e}"


def difference(one: Array, other: Array) -> float:
    """Return the largest difference of two results, relative where they are large; 0 if they are equal to the bit."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return float("inf")
    if one.tobytes() == other.tobytes() or np.array_equal(one, other, equal_nan=one.dtype.kind == "f"):
        return 0.0
    a, b = one.astype(np.float64), other.astype(np.float64)
    return float(np.nanmax(np.abs(a - b) / np.maximum(1, np.abs(b))))


def run(step: Filter | Graft, source: Path, target: Path) -> None:
    """Run one pass from file to file."""
    loaded = WorkingModel.read(source)
    Pipeline((step,)).apply(loaded)
    write_model(loaded.proto, loaded.weights, target)


def session_options(level: onnxruntime.GraphOptimizationLevel) -> onnxruntime.SessionOptions:
    """Return options of a session that starts no threads and logs nothing."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return options


def outputs(path: Path, feeds: dict[str, Any]) -> list[Any]:
    """Return the outputs of a model, run without optimisations."""
    options = session_options(onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
    session = onnxruntime.InferenceSession(str(path), options)
    return list(session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()}))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    sys.exit(main())
