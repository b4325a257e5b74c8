"""Run the parts of a split one after the other, with the weights of one part in memory at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import GraphProto, ModelProto, ValueInfoProto

from mxtools.errors import InputError
from mxtools.graph.index import graph_inputs
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.output_check import output_difference, require_close
from mxtools.runtime.session_values import Value
from mxtools.runtime.sessions import REFERENCE, Runtime, run_model
from mxtools.runtime.tolerances import tolerance_of_parts
from mxtools.split.records import MODEL, Manifest, PartFile
from mxtools.traces.model_inputs import model_inputs
from mxtools.traces.values import Values, require_known


@dataclass(frozen=True)
class PartRun:
    """A part that was run: its file, and the seconds that this took with loading it."""

    file: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, for JSON."""
        return {"file": self.file, "seconds": self.seconds}


def inputs_of(manifest: Manifest, folder: Path, given: Values | None = None, source: str = "") -> dict[str, Value]:
    """Return inputs for the model that was split: the given ones, else made ones, as for the whole model.

    `source` is what messages call the given ones. Raises InputError if one is missing that cannot be made, or if the
    model has no input of a given name.
    """
    shell = ModelProto()
    for part in manifest.parts:
        wanted = {link.name for link in part.inputs if link.source == MODEL}
        wanted -= {info.name for info in shell.graph.input}
        infos = graph_inputs(WorkingModel.read(folder / part.file).proto) if wanted else []
        shell.graph.input.extend(info for info in infos if info.name in wanted)
    if given:
        known = {info.name for info in shell.graph.input}
        unread = [ValueInfoProto(name=name) for name in manifest.inputs if name not in known]
        require_known(given, ModelProto(graph=GraphProto(input=[*shell.graph.input, *unread])), None, source)
    return model_inputs(shell, None, given)


def run_parts(
    manifest: Manifest,
    folder: Path,
    inputs: Mapping[str, Value],
    runtime: Runtime = REFERENCE,
    done: Callable[[PartRun], None] | None = None,
) -> dict[str, Value]:
    """Return the outputs of the model that was split, computed by its parts, which lie in a folder.

    A part is loaded when it is its turn, and forgotten then; a value is kept until the last part that reads it. `done`
    is told of each part. Raises InputError if a part cannot be read or run, the manifest does not fit the parts, or the
    inputs are not those of the model.
    """
    _require_inputs(manifest, inputs)
    values = dict(inputs)
    needed = {link.name for link in manifest.outputs}
    last = {link.name: number for number, part in enumerate(manifest.parts) for link in part.inputs}
    for number, part in enumerate(manifest.parts):
        start = time.perf_counter()
        values |= _run(part, folder, values, runtime)
        for name in [name for name in values if name not in needed and last.get(name, -1) <= number]:
            del values[name]
        if done:
            done(PartRun(part.file, time.perf_counter() - start))
    missing = next((link.name for link in manifest.outputs if link.name not in values), None)
    if missing is not None:
        raise InputError(f"no part has the output {missing!r}", "split the model again")
    return {link.name: values[link.name] for link in manifest.outputs}


def _require_inputs(manifest: Manifest, inputs: Mapping[str, Value]) -> None:
    if unknown := inputs.keys() - {*manifest.inputs}:
        raise InputError(f"the model has no input {min(unknown)!r}", f"it has {', '.join(manifest.inputs)}")
    wanted = (link.name for part in manifest.parts for link in part.inputs if link.source == MODEL)
    missing = next((name for name in wanted if name not in inputs), None)
    if missing is not None:
        raise InputError(f"no value for the model's input {missing!r}", "give ⟨inputs⟩ with the model's inputs")


def _run(part: PartFile, folder: Path, values: Mapping[str, Value], runtime: Runtime) -> dict[str, Value]:
    model = WorkingModel.read(folder / part.file)
    missing = next((link.name for link in part.inputs if link.name not in values), None)
    if missing is not None:
        raise InputError(f"no part before {part.file} has the output {missing!r}", "split the model again")
    feeds = {link.name: values[link.name] for link in part.inputs}
    return run_model(model.proto, model.weights, feeds, runtime)


def differences(outputs: Mapping[str, Value], whole: WorkingModel, inputs: Mapping[str, Value]) -> Iterator[Any]:
    """Yield how far outputs are from those of the whole model; InputError where it cannot be run, or has not these.

    Inputs of the whole model that no part reads are made.
    """
    is_whole = all(info.name in inputs for info in graph_inputs(whole.proto))
    expected = run_model(whole.proto, whole.weights, inputs if is_whole else {**whole.inputs(), **inputs})
    for name, array in expected.items():
        if name not in outputs:
            raise InputError(f"the parts have no output {name!r}, as {whole.name} has", "give the model that was split")
        yield output_difference(name, outputs[name], array)


def check_split(whole: WorkingModel, manifest: Manifest, folder: Path) -> None:
    """Run the parts of a model, and compare their outputs with its.

    Raises CheckError where one differs by more than `tolerance_of_parts`, InputError where ONNX Runtime cannot run one.
    """
    inputs = whole.inputs()
    outputs = run_parts(manifest, folder, inputs)
    require_close([*differences(outputs, whole, inputs)], tolerance_of_parts(whole.proto))
