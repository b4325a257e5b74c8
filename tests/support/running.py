"""What ONNX Runtime computes with a model: its outputs, the values inside of it, and those of a split's parts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnx import ModelProto

from mxtools.runtime.session_values import run_session


def session(model: ModelProto | Path) -> Any:
    """Load a model as it is, without optimising it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def outputs(model: ModelProto | Path, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outputs of a model by name; `feeds` may hold more than its inputs."""
    loaded = session(model)
    names = [value.name for value in loaded.get_outputs()]
    return dict(zip(names, run_session(loaded, names, feeds), strict=True))


def with_outputs(model: ModelProto, names: Iterable[str]) -> ModelProto:
    """Return a model with more of its values as outputs."""
    copy = ModelProto.FromString(model.SerializeToString())
    known = {value.name for value in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in known)
    return copy


def values(model: ModelProto, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of every tensor of the main graph, inputs among them."""
    made = [name for node in model.graph.node for name in node.output if name]
    return {**feeds, **outputs(with_outputs(model, made), feeds)}


def split_outputs(folder: Path, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Run the parts of a split by nothing but the manifest; each is given only what that says, from where it says."""
    said = json.loads((folder / "manifest.json").read_text())
    made = {"model": {name: feeds[name] for name in said["inputs"]}}
    for part in said["parts"]:
        given = {link["name"]: made[link["source"]][link["name"]] for link in part["inputs"]}
        made[part["file"]] = outputs(folder / part["file"], given)
    return {link["name"]: made[link["source"]][link["name"]] for link in said["outputs"]}
