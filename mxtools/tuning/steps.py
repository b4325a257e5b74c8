"""What makes nodes of a model smaller: one function for each kind of step, with the arguments of ONNX Runtime's tools.

This file is copied into recipes, which run without mxtools. So it imports nothing of mxtools; numpy, onnx and
onnxruntime are enough. A step is plain data:

    {"kind": "dynamic", "nodes": ["/encoder/layer.0/MatMul"], "options": {"weight_type": "QInt8"}}
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

Step = Mapping[str, Any]
Feeds = Sequence[Mapping[str, Any]]
"""Inputs by name, of each set."""


def dynamic(step: Step, source: Path, target: Path, feeds: Feeds, cache: Path | None) -> None:  # noqa: ARG001 - as the others
    """Quantise weights, and activations when the model runs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    options = dict(step["options"])
    weight_type = QuantType[options.pop("weight_type")]
    quantize_dynamic(source, target, nodes_to_quantize=list(step["nodes"]), weight_type=weight_type, **options)


def static(step: Step, source: Path, target: Path, feeds: Feeds, cache: Path | None) -> None:
    """Quantise weights, and activations to ranges that they have on inputs; `cache` keeps the ranges."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # an untyped library's class
        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> dict[str, Any] | None:
            found = next(self.left, None)
            return None if found is None else dict(found)

    options = dict(step["options"])
    types = {key: QuantType[options.pop(key)] for key in ("weight_type", "activation_type")}
    method = CalibrationMethod[options.pop("calibrate_method")]
    kept = {"calibration_cache_path": cache} if cache and _takes(quantize_static, "calibration_cache_path") else {}
    quantize_static(
        source,
        target,
        Reader(),
        nodes_to_quantize=list(step["nodes"]),
        calibrate_method=method,
        **types,
        **options,
        **kept,
    )
    model = onnx.load(target)
    _leave_others(model.graph, set(step["nodes"]))
    onnx.save(model, target)


def _leave_others(graph: onnx.GraphProto, chosen: set[str]) -> None:
    """Let nodes that are not chosen read what was made, not what quantising made of it for others that read it too.

    A sum of residuals reads what a chosen product reads; with its input quantised, it would have most of the error.
    """
    quantised = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    pairs = (node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in quantised)
    direct = {node.output[0]: quantised[node.input[0]] for node in pairs}
    for node in graph.node:
        if node.name not in chosen and node.op_type != "QuantizeLinear":
            node.input[:] = [direct.get(name, name) for name in node.input]
    _return_directly(graph, direct)
    _remove_unread(graph, lambda node: node.op_type in ("DequantizeLinear", "QuantizeLinear"))


def _return_directly(graph: onnx.GraphProto, direct: Mapping[str, str]) -> None:
    """Let the graph return the values that `direct` has for some of its outputs, by the names of the outputs."""
    kept = {value.name for value in graph.output}
    made = {name: node for node in graph.node for name in node.output}
    results = {value: name for name, value in direct.items() if name in kept and value in made and value not in kept}
    gone = [made[name] for name in results.values()]
    for node in graph.node:
        node.input[:] = [results.get(name, name) for name in node.input]
        if node not in gone:
            node.output[:] = [results.get(name, name) for name in node.output]
    for node in gone:
        graph.node.remove(node)


def _remove_unread(graph: onnx.GraphProto, may_go: Callable[[onnx.NodeProto], bool]) -> None:
    """Remove nodes that may go and whose results nobody reads, and then those that only these read."""
    kept = {value.name for value in graph.output}
    while True:
        read = kept | {name for node in graph.node for name in node.input}
        gone = [node for node in graph.node if may_go(node) and read.isdisjoint(node.output)]
        if not gone:
            return
        for node in gone:
            graph.node.remove(node)


def weights(step: Step, source: Path, target: Path, feeds: Feeds, cache: Path | None) -> None:  # noqa: ARG001
    """Quantise weights of matrix products in blocks, to 4 or 8 bits."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    model = onnx.load(source)
    quantizer = MatMulNBitsQuantizer(model, nodes_to_exclude=_others(model.graph, step), **step["options"])
    quantizer.process()
    quantizer.model.save_model_to_file(os.fspath(target), False)


def half(step: Step, source: Path, target: Path, feeds: Feeds, cache: Path | None) -> None:  # noqa: ARG001
    """Convert nodes to half precision, and block all others."""
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(source)
    blocked = _others(model.graph, step)
    converted = convert_float_to_float16(model, node_block_list=blocked, **step["options"])
    _without_detours(converted.graph)
    del converted.graph.value_info[:]  # some have the types from before
    ONNXModel(converted).topological_sort()  # the converter appends its casts, and quantisers go by the order
    onnx.save(converted, target)


def _others(graph: onnx.GraphProto, step: Step) -> list[str]:
    """Return the names of the nodes that a step does not name, also in bodies."""
    inner = [
        body
        for node in graph.node
        for attribute in node.attribute
        for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else []))
    ]
    chosen = set(step["nodes"])
    own = [node.name for node in graph.node if node.name not in chosen]
    return own + [name for body in inner for name in _others(body, step)]


def _without_detours(graph: onnx.GraphProto) -> None:
    """Let blocked nodes read weights, and what other blocked nodes make, directly: the converter puts casts in between.

    Exp -> Cast to half -> Cast to float -> Log          Exp -> Log
    weight, a float -> Cast to float -> MatMul           weight -> MatMul
    """
    made = {name: node for node in graph.node for name in node.output}
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    direct = {}
    for node in (node for node in graph.node if _casts_to(node, onnx.TensorProto.FLOAT)):
        before = made.get(node.input[0])
        if node.input[0] in floats:
            direct[node.output[0]] = node.input[0]
        elif before is not None and _casts_to(before, onnx.TensorProto.FLOAT16):
            direct[node.output[0]] = before.input[0]
    for node in graph.node:
        node.input[:] = [direct.get(name, name) for name in node.input]
    _return_directly(graph, direct)
    _remove_unread(graph, lambda node: node.op_type == "Cast")


def _casts_to(node: onnx.NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i == kind for a in node.attribute)


def program(step: Step, source: Path, target: Path, feeds: Feeds, cache: Path | None) -> None:  # noqa: ARG001
    """Run another program, which finds in a file which nodes it is to leave as they are."""
    excluded = target.with_suffix(".txt")
    excluded.write_text(step["excluded"], encoding="utf-8")
    files = {"{in}": str(source), "{out}": str(target), "{excluded}": str(excluded)}
    first, *arguments = step["options"]["command"]
    for place, file in files.items():
        arguments = [argument.replace(place, file) for argument in arguments]
    subprocess.run([first, *arguments], check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)


KINDS: dict[str, Callable[[Step, Path, Path, Feeds, Path | None], None]] = {
    "dynamic": dynamic,
    "static": static,
    "weights": weights,
    "half": half,
    "program": program,
}
"""The functions by kind."""


def _takes(function: Callable[..., Any], name: str) -> bool:
    """Return whether a function has a parameter: older versions lack some."""
    return name in inspect.signature(function).parameters


def run_steps(steps: Sequence[Step], source: Path, folder: Path, feeds: Feeds, cache: Path | None = None) -> Path:
    """Apply steps one after the other; return the file of the result, which lies in a folder unless there is no step.

    `cache` is a file that keeps the ranges of activations, for a static step that comes first: they depend on the model
    as it is and on the inputs alone.
    """
    for number, step in enumerate(steps):
        target = folder / f"{number}.onnx"
        KINDS[step["kind"]](step, source, target, feeds, None if number else cache)
        if not target.exists():
            raise RuntimeError(f"{step['kind']} wrote no model")
        source = target
    return source
