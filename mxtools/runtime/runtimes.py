"""Runtimes other than ONNX Runtime in this process: a command, and OpenVINO."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from mxtools.errors import InputError, UsageError
from mxtools.files.json_text import decoded
from mxtools.files.regular import read_regular
from mxtools.files.temporary import Scratch
from mxtools.files.weights import WeightStore
from mxtools.files.writing import write_model
from mxtools.runtime.processes import filled, run_command
from mxtools.runtime.session_values import Value
from mxtools.runtime.sessions import Run

MODEL, INPUTS, OUTPUTS = "{model}", "{inputs}", "{outputs}"
"""What stands in a command's arguments for the two files that it reads and the one that it writes."""


@dataclass(frozen=True)
class CommandRuntime:
    """A program that runs a model: it gets the files of a model and of its inputs, and writes a file of the outputs.

    The inputs are a .npz file with an array for each input, and the outputs should be one with an array for each output
    of the model; the format of `trtexec --exportOutput` is understood too.
    """

    command: tuple[str, ...]

    @property
    def name(self) -> str:
        """The command."""
        return f"`{shlex.join(self.command)}`"

    def __post_init__(self) -> None:
        """Refuse a command without a place for its files."""
        for placeholder in (MODEL, OUTPUTS):
            if not any(placeholder in argument for argument in self.command[1:]):
                raise UsageError(
                    f"the command has no {placeholder} among its arguments", "write 'TOOL {model} {inputs} {outputs}'"
                )

    def load(self, model: ModelProto, weights: WeightStore) -> Run:
        """Return a function that runs the command for some outputs of a model; the model then has no others."""

        def run(names: Sequence[str], feeds: Mapping[str, Value]) -> Sequence[Value]:
            with Scratch() as folder:
                files = {MODEL: "model.onnx", INPUTS: "inputs.npz", OUTPUTS: "outputs.npz"}
                files = {placeholder: str(folder / file) for placeholder, file in files.items()}
                write_model(_with_outputs_only(model, names), weights, Path(files[MODEL]))
                np.savez(files[INPUTS], **feeds)
                run_command(filled(self.command, files), sys.stderr.buffer)
                found = self._outputs(Path(files[OUTPUTS]))
            missing = next((name for name in names if name not in found), None)
            if missing is not None:
                raise InputError(
                    f"{self.command[0]} wrote no array for the output {missing!r}", "write one for each output"
                )
            return [found[name] for name in names]

        return run

    def _outputs(self, file: Path) -> dict[str, Value]:
        """Return the arrays that the command wrote."""
        if not file.is_file():
            raise InputError(f"{self.command[0]} succeeded but did not write {{outputs}}", "check where it writes to")
        try:
            if read_regular(file)[:2] == b"PK":
                with np.load(file, allow_pickle=False) as arrays:
                    return dict(arrays)
            entries = decoded(read_regular(file))
            return {entry["name"]: _of_trtexec(entry) for entry in entries}
        except (OSError, ValueError, TypeError, KeyError) as error:
            text = " ".join(str(error).split())
            raise InputError(f"the outputs of {self.command[0]} cannot be read ({text})", "write a .npz file") from None


def _with_outputs_only(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """Return a copy of a model with only some of its outputs."""
    copy = ModelProto()
    copy.CopyFrom(model)
    by_name = {value.name: value for value in model.graph.output}
    del copy.graph.output[:]
    copy.graph.output.extend(by_name[name] for name in names)
    return copy


def _of_trtexec(entry: Mapping[str, Any]) -> Value:
    """Return an output as `trtexec --exportOutput` writes it: `{"name": "y", "dimensions": "1x8", "values": […]}`."""
    dims = [int(size) for size in str(entry["dimensions"]).split("x") if size]
    return np.asarray(entry["values"], np.float32).reshape(dims)


@dataclass(frozen=True)
class OpenVino:
    """OpenVINO, on one of its devices, in single precision unless the model says otherwise."""

    device: str = "CPU"

    @property
    def name(self) -> str:
        """The device."""
        return f"OpenVINO ({self.device})"

    def load(self, model: ModelProto, weights: WeightStore) -> Run:
        """Compile a model; UsageError if OpenVINO is not installed."""
        try:
            import openvino
        except ImportError:
            raise UsageError("OpenVINO is not installed", "pip install openvino") from None
        with Scratch() as folder:
            write_model(model, weights, folder / "model.onnx")
            try:
                core = openvino.Core()
                hints = {"INFERENCE_PRECISION_HINT": "f32"}
                compiled = core.compile_model(core.read_model(folder / "model.onnx"), self.device, hints)
            except Exception as error:  # C++ exceptions, which have no class in common
                raise InputError(f"{self.name} cannot load the graph ({_short(error)})") from None

        def run(names: Sequence[str], feeds: Mapping[str, Value]) -> Sequence[Value]:
            try:
                found = compiled(dict(feeds))
                return [np.asarray(found[compiled.output(name)]) for name in names]
            except Exception as error:
                raise InputError(f"{self.name} cannot run the graph ({_short(error)})") from None

        return run


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
