"""A folder that reproduces what a part of a model computes, for a bug report, or to study a module alone.

case/
README.md      what it is, and how to run it
part.onnx      the part (with part.onnx.data, if its weights are large)
inputs.npz     what it was given
expected.npz   what it should return
actual.npz     what it returned in another runtime, if that is what the case is about
run.py         runs it; needs numpy and onnxruntime only
"""

from __future__ import annotations

import filecmp
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto

from mxtools.errors import OutputError, UsageError
from mxtools.files import VERSION
from mxtools.files.atomic import as_output_error, check_folder
from mxtools.files.temporary import replace, sync_files, temporary_folder
from mxtools.files.weights import WeightStore
from mxtools.files.writing import write_model
from mxtools.graph.functions import model_nodes
from mxtools.graph.types import type_text
from mxtools.runtime.session_values import Value, is_narrow
from mxtools.runtime.tolerances import Metric, Tolerance

PART = "part.onnx"
STACK_TRACE = "stack_trace"
"""How the key of metadata ends that has lines of source code: torch.export's is `pkg.torch.onnx.stack_trace`."""
_README = """# {title}

`part.onnx` is a part of a larger model, with {nodes}. `inputs.npz` holds what it was given, and `expected.npz` what it
should return: {source}.{actual}

Run it with numpy and ONNX Runtime, on the CPU or on another execution provider, at a level of optimisation, or compare
what another program returned, as arrays by the names of the outputs:

    python run.py
    python run.py --provider CUDAExecutionProvider --level basic
    python run.py --outputs FILE.npz

It prints how far each output is from what is expected, and ends with exit status 1 if {judged}.

| input | type |
|---|---|
{inputs}

| output | type |
|---|---|
{outputs}

Made with mxtools {mxtools}, onnx {onnx} and onnxruntime {onnxruntime}.
"""
_RUN = '''"""Run part.onnx on inputs.npz, and compare what it returns with expected.npz."""

import argparse
import sys
from pathlib import Path

import numpy as np
import onnxruntime

here = Path(__file__).parent
parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--provider", default="CPUExecutionProvider", help="execution provider of ONNX Runtime")
parser.add_argument("--level", default="all", choices=["disable_all", "basic", "extended", "all"], help="optimisation")
parser.add_argument("--outputs", help="do not run, and compare the arrays in this .npz file")
parser.add_argument("--tolerance", type=float, default={limit:.6g}, help="what is still right: {judged} is wrong")
given = parser.parse_args()

expected = np.load(here / "expected.npz")
if given.outputs:
    outputs = np.load(given.outputs)
    found = [outputs[name] for name in expected.files]
else:
    known = onnxruntime.get_available_providers()
    if given.provider not in known:
        sys.exit(f"ONNX Runtime has no provider {{given.provider}} here: there are {{', '.join(known)}}")
    options = onnxruntime.SessionOptions()
    level = "ORT_DISABLE_ALL" if given.level == "disable_all" else f"ORT_ENABLE_{{given.level.upper()}}"
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(here / "part.onnx", options, providers=[given.provider])
    found = session.run(expected.files, dict(np.load(here / "inputs.npz")))

is_right = True
for name, value in zip(expected.files, found):
    wanted = expected[name]
    if value.shape != wanted.shape:
        print(f"{{name}}: the shape is {{value.shape}}, not {{wanted.shape}}")
        is_right = False
        continue
    both = np.asarray(value, np.float64), np.asarray(wanted, np.float64)
    apart = np.where(np.isnan(both[0]) & np.isnan(both[1]) | (both[0] == both[1]), 0, np.abs(both[0] - both[1]))
    apart = np.nan_to_num(apart, nan=np.inf)
    place = np.unravel_index(apart.argmax(), apart.shape) if apart.size else ()
    apart = float(apart.max(initial=0))
    largest = float(np.abs(both[1][np.isfinite(both[1])]).max(initial=0))
    relative = apart / largest if largest else apart
    ours, right = (np.nan_to_num(each, posinf=0, neginf=0).ravel() for each in both)
    noise, signal = np.linalg.norm(ours - right) if apart < np.inf else np.inf, np.linalg.norm(right)
    l2 = noise / signal if signal else np.inf if noise else 0.0
    cosine = ours @ right / (np.linalg.norm(ours) * signal) if ours.any() and right.any() else float(not noise)
    with np.errstate(divide="ignore"):
        sqnr = float(-20 * np.log10(l2))
    figures = {{"max-abs": apart, "relative": relative, "relative-l2": l2, "cosine": cosine, "sqnr": sqnr}}
    print(f"{{name}}: largest difference {{apart:.3g}}, {{relative:.3g}} of the largest value, SQNR {{sqnr:.1f}} dB")
    if apart:
        print(f"    at {{[int(i) for i in place]}}: expected {{wanted[place]}}, found {{value[place]}}")
    is_right &= figures["{metric}"] {sign} given.tolerance
sys.exit(not is_right)
'''


_JUDGED = {
    Metric.RELATIVE: "the largest difference, divided by the largest expected value, is above {}",
    Metric.RELATIVE_L2: "the relative L2 error is above {}",
    Metric.MAX_ABS: "the largest difference is above {}",
    Metric.COSINE: "the cosine is below {}",
    Metric.SQNR: "the SQNR is below {}",
}
FILES = frozenset({PART, f"{PART}.data", "inputs.npz", "expected.npz", "actual.npz", "run.py", "README.md"})
"""The files of a case."""


@dataclass(frozen=True)
class Case:
    """A module on its own: a model, its inputs, what it should return, and what it returned elsewhere."""

    part: ModelProto
    given: Mapping[str, Value]
    expected: Mapping[str, Value]
    actual: Mapping[str, Value] = field(default_factory=dict)


def check_case(folder: Path) -> None:
    """Raise OutputError if a case cannot be written to a folder, which must be new, empty, or have the same case."""
    check_folder(folder)
    if folder.is_dir() and not FILES.issuperset(path.name for path in folder.iterdir()):
        raise _not_empty(folder)


def _not_empty(folder: Path) -> OutputError:
    return OutputError(f"the folder {folder} is not empty", "give the name of a new one")


def _without_sources(part: ModelProto) -> ModelProto:
    """Return a copy without the lines and paths of the model's source code, which exporters write on nodes."""
    copy = ModelProto()
    copy.CopyFrom(part)
    for node in model_nodes(copy):
        node.doc_string = ""
        kept = [entry for entry in node.metadata_props if not entry.key.endswith(STACK_TRACE)]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    return copy


def _is_same(one: Path, other: Path) -> bool:
    """Return whether two folders have the same files."""
    names = [sorted(path.name for path in folder.iterdir()) for folder in (one, other)]
    return names[0] == names[1] and all(filecmp.cmp(one / name, other / name, shallow=False) for name in names[0])


def save_case(
    folder: Path, case: Case, weights: WeightStore, tolerance: Tolerance, title: str, source: str, told: str = ""
) -> None:
    """Write a part, its inputs and the expected results to a new folder, with a script that compares them.

    `title` is the subject of the readme, `source` says where the expected values come from, and `told` what the actual
    values are. Raises OutputError if the folder has anything else in it or cannot be written to, UsageError for values
    that numpy's files cannot hold.
    """
    graph = case.part.graph
    for value in (*graph.input, *graph.output):
        element = value.type.tensor_type.elem_type if value.type.HasField("tensor_type") else TensorProto.STRING
        if element == TensorProto.STRING or is_narrow(element):
            kind = type_text(value.type, usual=True)
            raise UsageError(f"numpy's files cannot hold {value.name!r}, which is {kind}", "cut out another part")
    check_case(folder)
    target = Path(os.path.realpath(folder))
    texts = {
        "title": title,
        "source": source,
        "judged": _JUDGED[tolerance.metric].format(tolerance),
        "limit": tolerance.limit,
        "metric": tolerance.metric.value,
        "sign": ">=" if tolerance.is_least else "<=",
        "nodes": f"{len(graph.node)} node{'' if len(graph.node) == 1 else 's'}",
        "actual": f"\n\n{told}" if told else "",
        "inputs": "\n".join(f"| `{value.name}` | {type_text(value.type, usual=True)} |" for value in graph.input),
        "outputs": "\n".join(f"| `{value.name}` | {type_text(value.type, usual=True)} |" for value in graph.output),
        "mxtools": VERSION,
        "onnx": version("onnx"),
        "onnxruntime": version("onnxruntime"),
    }
    with as_output_error(folder), temporary_folder(target) as scratch:
        made = scratch / "case"  # inside another folder, which `write_model` locks
        made.mkdir()
        write_model(_without_sources(case.part), weights, made / PART)
        for name, values in (("inputs", case.given), ("expected", case.expected), ("actual", case.actual)):
            if values or name != "actual":
                np.savez(made / f"{name}.npz", **values)
        (made / "run.py").write_text(_RUN.format(**texts))
        (made / "README.md").write_text(_README.format(**texts))
        if target.is_dir() and any(target.iterdir()):
            if not _is_same(made, target):
                raise _not_empty(folder)
            return
        sync_files(made)
        replace(made, target)
