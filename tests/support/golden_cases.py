"""Cases in files, `tests/golden/*.txt`: what a pipeline makes of a small graph.

A file begins with a sentence that says what it shows, and then the pipeline: a spec, or `match`, which is what
`mx tag --from` runs. The sections follow:

    --- trace     lines as of `small_traces.trace_of`; weights as `+ name shape`; with `+ values` all tensors of the
                  graph are recorded, as a run on made inputs gives them
    --- before    the graph as golden text
    --- earlier   the tagged graph that a tool made it from
    --- part      the graph that `graft{part=part.onnx}` puts into it
    --- script    the Python file that `surgeon{script=script.py:edit}` runs
    --- after     the graph that the pipeline makes of it
    --- report    what the passes report
    --- error     the error, where that is what it comes to

The last three are written by `pytest tests/test_golden.py --update-golden`; the others are written by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.helper import tensor_dtype_to_np_dtype
from onnx.reference import ReferenceEvaluator

from mxtools.errors import MxError
from mxtools.files import VERSION
from mxtools.pipeline.pipeline import Pipeline
from mxtools.pipeline.working_model import WorkingModel
from mxtools.strategies import table
from mxtools.traces.sidecar import Sidecar
from mxtools.traces.values import Values
from tests.support import golden_text
from tests.support.paths import ROOT
from tests.support.small_traces import trace_of

FOLDER = ROOT / "tests" / "golden"
RESULTS = ("after", "report", "error")

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Case:
    """What a file says: the sentence, the pipeline, and the sections by name."""

    title: str
    pipeline: str
    sections: Mapping[str, str]

    @classmethod
    def read(cls, file: Path) -> Case:
        """Read a file."""
        head, *rest = re.split(r"^--- *(\w+)\n", file.read_text(), flags=re.MULTILINE)
        title, _, pipeline = head.strip().rpartition("\npipeline: ")
        return cls(title, pipeline, dict(zip(rest[::2], (text.strip("\n") for text in rest[1::2]), strict=True)))

    def __str__(self) -> str:
        """Return the text of the file."""
        sections = (f"--- {name}\n{text}\n" for name, text in self.sections.items())
        return "\n".join([f"{self.title}\npipeline: {self.pipeline}\n", *sections])

    def passes(self) -> Pipeline:
        """Return the pipeline."""
        return table.get("previous").passes() if self.pipeline == "match" else Pipeline.parse(self.pipeline)

    def model(self) -> WorkingModel:
        """Return the graph before, with what is known of it."""
        proto = golden_text.read(self.sections["before"], self._tags())
        sidecar, values = self._trace(proto)
        earlier = self.sections.get("earlier")
        previous = WorkingModel(golden_text.read(earlier)) if earlier else None
        return WorkingModel(proto, sidecar=sidecar, values=values, previous=previous)

    def put_files(self, folder: Path) -> None:
        """Write the files that the pipeline names."""
        if "part" in self.sections:
            onnx.save(golden_text.read(self.sections["part"]), folder / "part.onnx")
        if "script" in self.sections:
            (folder / "script.py").write_text(self.sections["script"])

    def run(self, folder: Path) -> tuple[Case, onnx.ModelProto]:
        """Return the case with the results that the pipeline has now, and the graph after."""
        self.put_files(folder)
        model = self.model()
        given = {name: text for name, text in self.sections.items() if name not in RESULTS}
        try:
            with chdir(folder):
                report = self.passes().run(model)
        except MxError as error:
            results = {"error": f"{type(error).__name__}: {error}"}
        else:
            results = {"after": _settled(golden_text.shown(model.proto, self._tags())).rstrip("\n")}
            if reported := report.to_dict():
                results["report"] = "\n".join(f"{kind} {json.dumps(said)}" for kind, said in reported.items())
        return Case(self.title, self.pipeline, given | results), model.proto

    def _tags(self) -> dict[str, str]:
        """Return the tags of the trace, by scope."""
        calls, _ = self._calls()
        return {call.scope: call.tag for call in trace_of(calls).calls} if calls else {}

    def _calls(self) -> tuple[str, list[list[str]]]:
        """Return the lines of the trace's calls, and the words of its other lines."""
        lines = self.sections.get("trace", "").splitlines()
        calls = "\n".join(line for line in lines if not line.startswith("+"))
        return calls, [line[1:].split() for line in lines if line.startswith("+")]

    def _trace(self, proto: onnx.ModelProto) -> tuple[Sidecar | None, Values | None]:
        calls, notes = self._calls()
        if not calls:
            return None, None
        weights = {name: _shape(shape) for name, *shapes in notes for shape in shapes}
        if ["values"] not in notes:
            return trace_of(calls, weights), None
        arrays = _computed(proto)
        sidecar = trace_of(calls, weights, arrays)
        tensors = {t for call in sidecar.calls for t in (*call.inputs, *call.outputs) if t.name in arrays}
        found = arrays | {str(tensor.id): arrays[tensor.name] for tensor in tensors}
        return sidecar, Values(found.keys(), found.__getitem__)


def files() -> list[Path]:
    """Return the files of all cases."""
    return sorted(FOLDER.glob("*.txt"))


def _computed(proto: onnx.ModelProto) -> Arrays:
    """Return what every value of a graph is, on inputs that are made evenly from -1 to 1."""
    feeds = {}
    for value in proto.graph.input:
        kind = value.type.tensor_type
        shape = [dim.dim_value for dim in kind.shape.dim]
        array = np.linspace(-1, 1, int(np.prod(shape))).reshape(shape)
        feeds[value.name] = array.astype(tensor_dtype_to_np_dtype(kind.elem_type))
    found: Arrays = ReferenceEvaluator(proto).run(None, feeds, intermediate=True)
    return {name: array for name, array in found.items() if name}


def _shape(text: str) -> list[int]:
    return [int(size) for size in text.split("x")]


def _settled(text: str) -> str:
    """Return a text without what differs from one version of mxtools, or of zlib, to the next."""
    text = text.replace(f'"{VERSION}"', '"VERSION"')
    return re.sub(r'("pkg\.mxtools\.(?:scopes|trace)": )"eN[^"]*"', r'\1"PACKED"', text)
