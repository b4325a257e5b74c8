"""Steps: functions that make nodes of a model smaller, one for each kind of step.

A step is plain data. It names the nodes that it changes, and has the arguments of the tool that it runs:

    {"kind": "dynamic", "nodes": ["/encoder/layer.0/MatMul"], "options": {"weight_type": "QInt8"}}

All functions have the same parameters: the step, the file of the model, the file to write, inputs by name for each set,
and a file for ranges of activations. Most of them ignore the last two.

This file is copied into recipes, which run without mxtools. So it imports nothing of mxtools. numpy, onnx and
onnxruntime are enough, but for steps of other libraries or commands.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

Step = Mapping[str, Any]
FLOAT = onnx.TensorProto.FLOAT
Feeds = Sequence[Mapping[str, Any]]
"""The inputs of the model in each set, by name."""


def dynamic(step: Step, source: Path, target: Path, feeds: Feeds, cache: Path | None) -> None:  # noqa: ARG001
    """Quantise weights now, and activations whenever the model runs, by `quantize_dynamic` of ONNX Runtime."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    options = dict(step["options"])
    weight_type = QuantType[options.pop("weight_type")]
    quantize_dynamic(source, target, nodes_to_quantize=list(step["nodes"]), weight_type=weight_type, **options)


def static(step: Step, source: Path, target: Path, feeds: Feeds, cache: Path | None) -> None:
    """Quantise weights and activations, by `quantize_static` of ONNX Runtime.

    The ranges of activations are those that they have on `feeds`. The file `cache` keeps them: if it is there, they are
    read from it, else written to it. Versions of ONNX Runtime that know no such file find the ranges each time.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    options = dict(step["options"])
    types = {key: QuantType[options.pop(key)] for key in ("weight_type", "activation_type")}
    method = CalibrationMethod[options.pop("calibrate_method")]
    kept = {"calibration_cache_path": cache} if cache and _takes(quantize_static, "calibration_cache_path") else {}
    quantize_static(
        source,
        target,
        _reader(feeds),
        nodes_to_quantize=list(step["nodes"]),
        calibrate_method=method,
        **types,
        **options,
        **kept,
    )
    model = onnx.load(target)
    _leave_others(model.graph, set(step["nodes"]))
    onnx.save(model, target)


def _reader(feeds: Feeds) -> Any:  # noqa: ANN401 - an untyped library's class
    """Return the inputs in the form in which quantisers read them to find the ranges of activations."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # an untyped library's class
        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> dict[str, Any] | None:
            found = next(self.left, None)
            return None if found is None else dict(found)

        def rewind(self) -> None:
            self.left = iter(feeds)

        def get_first(self) -> dict[str, Any]:  # asked for by ModelOpt only
            return dict(feeds[0])

    return Reader()


def _leave_others(graph: onnx.GraphProto, chosen: set[str]) -> None:
    """Let nodes that are not chosen read values as they were before ONNX Runtime quantised them for a chosen node.

    x ─ QuantizeLinear ─ DequantizeLinear ─┬─ MatMul, chosen       x ─┬─ QuantizeLinear ─ DequantizeLinear ─ MatMul
                                           └─ Add                     └─ Add

    Here the Add is the sum of a residual connection. If its input were quantised, most of the error would be there.
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
    """Let the graph return other values in place of some of its outputs, and under the names of these outputs.

    `direct` has such a value by the name of an output; its other names are no outputs, and do not matter here. For
    `{"y": "m"}` the two values change their names:

    MatMul ─ m ─ QuantizeLinear ─ q ─ DequantizeLinear ─ y        MatMul ─ y ─ QuantizeLinear ─ q ─ DequantizeLinear ─ m

    So a node that reads the quantised value, which was y, still does, and the graph returns what the MatMul makes.
    """
    kept = {value.name for value in graph.output}
    made = {name for node in graph.node for name in node.output}
    values = {value: name for name, value in direct.items() if name in kept and value in made and value not in kept}
    swapped = values | {name: value for value, name in values.items()}
    for node in graph.node:
        node.input[:] = [swapped.get(name, name) for name in node.input]
        node.output[:] = [swapped.get(name, name) for name in node.output]


def _remove_unread(graph: onnx.GraphProto, may_go: Callable[[onnx.NodeProto], bool]) -> None:
    """Remove nodes whose results nobody reads, if `may_go` is true of them, until there are no more such nodes."""
    kept = {value.name for value in graph.output}
    while True:
        read = kept | {*_read(graph)}
        gone = [node for node in graph.node if may_go(node) and read.isdisjoint(node.output)]
        if not gone:
            return
        for node in gone:
            graph.node.remove(node)


def weights(step: Step, source: Path, target: Path, feeds: Feeds, cache: Path | None) -> None:  # noqa: ARG001
    """Quantise weights of matrix products in blocks, to 4 or 8 bits, by `MatMulNBitsQuantizer` of ONNX Runtime."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    model = onnx.load(source)
    quantizer = MatMulNBitsQuantizer(model, nodes_to_exclude=_others(model.graph, step), **step["options"])
    quantizer.process()
    quantizer.model.save_model_to_file(os.fspath(target), False)


def half(step: Step, source: Path, target: Path, feeds: Feeds, cache: Path | None) -> None:  # noqa: ARG001
    """Convert nodes to half precision by `convert_float_to_float16` of ONNX Runtime, and keep all others out of it."""
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(source)
    blocked = _others(model.graph, step)
    converted = convert_float_to_float16(model, node_block_list=blocked, **step["options"])
    _without_detours(converted.graph)
    del converted.graph.value_info[:]  # some still have the types from before
    ONNXModel(converted).topological_sort()  # the converter appends its Casts; other steps need them in order
    onnx.save(converted, target)


def bfloat16(step: Step, source: Path, target: Path, feeds: Feeds, cache: Path | None) -> None:  # noqa: ARG001
    """Store weights as bfloat16, and cast them to float32 when the model runs, since few processors calculate in it.

    The names of the weights are in the options. Nodes that are not chosen read such a weight as it was.
    """
    model, chosen, wanted = onnx.load(source), set(step["nodes"]), set(step["options"]["weights"])
    graph, free = model.graph, ""
    stored = [tensor for tensor in graph.initializer if tensor.name in wanted]
    taken = {*_read(graph), *(name for node in graph.node for name in (node.name, *node.output))}
    while any(f"{name}{kind}{free}" in taken for name in wanted for kind in (".bfloat16", ".float32", ".Cast")):
        free += "_"
    casts = [
        onnx.helper.make_node(
            "Cast", [f"{w.name}.bfloat16{free}"], [f"{w.name}.float32{free}"], f"{w.name}.Cast{free}", to=FLOAT
        )
        for w in stored
    ]
    for node in graph.node:
        if node.name in chosen:
            node.input[:] = [f"{name}.float32{free}" if name in wanted else name for name in node.input]
    nodes, read = [*casts, *graph.node], {*_read(graph), *(value.name for value in graph.output)}
    del graph.node[:]
    graph.node.extend(nodes)
    for tensor in stored:
        rounded = _as_bfloat16(onnx.numpy_helper.to_array(tensor))
        new = graph.initializer.add(name=f"{tensor.name}.bfloat16{free}", data_type=onnx.TensorProto.BFLOAT16)
        new.dims.extend(rounded.shape)
        new.raw_data = rounded.tobytes()
    for unread in [tensor for tensor in stored if tensor.name not in read]:
        graph.initializer.remove(unread)
        for value in [value for value in graph.input if value.name == unread.name]:
            graph.input.remove(value)
    onnx.save(model, target)


def _read(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the names of all values that the nodes of a graph read, in bodies (of If, Loop …) too."""
    for node in graph.node:
        yield from node.input
        for body in _bodies(node):
            yield from _read(body)
            yield from (value.name for value in body.output)


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the bodies of a node."""
    for attribute in node.attribute:
        yield from (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else []))


def _as_bfloat16(array: Any) -> Any:  # noqa: ANN401 - arrays of numpy
    """Return float32 numbers as bfloat16, which are their upper 16 bits, rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(array).view(np.uint32).reshape(array.shape)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(array), 0x7FC0, rounded).astype(np.uint16)


def _others(graph: onnx.GraphProto, step: Step) -> list[str]:
    """Return the names of the nodes that a step does not name, those in bodies (of If, Loop …) too."""
    inner = [body for node in graph.node for body in _bodies(node)]
    chosen = set(step["nodes"])
    own = [node.name for node in graph.node if node.name not in chosen]
    return own + [name for body in inner for name in _others(body, step)]


def _without_detours(graph: onnx.GraphProto) -> None:
    """Remove the Casts that the converter puts before blocked nodes, those that it was told to leave in float32.

    Such a node reads weights directly again, and what another blocked node makes, without a detour through half:

    Exp ─ Cast to half ─ Cast to float ─ Log          Exp ─ Log
    weight, a float ─ Cast to float ─ MatMul          weight ─ MatMul
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
    """Run a user's program; raises CalledProcessError if it fails.

    In the arguments `{in}` and `{out}` stand for the files of the model and of the result, `{excluded}` for a file that
    lists the nodes which the program must leave as they are. What it prints goes to stderr.
    """
    excluded = target.with_suffix(".txt")
    excluded.write_text(step["excluded"], encoding="utf-8")
    files = {"{in}": str(source), "{out}": str(target), "{excluded}": str(excluded)}
    first, *arguments = step["options"]["command"]
    for place, file in files.items():
        arguments = [argument.replace(place, file) for argument in arguments]
    subprocess.run([first, *arguments], check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)


def by_nncf(step: Step, source: Path, target: Path, feeds: Feeds, cache: Path | None) -> None:  # noqa: ARG001
    """Quantise weights and activations to 8 bits, by `quantize` of NNCF; it corrects biases too."""
    import nncf

    excluded = nncf.IgnoredScope(**step["excluded"], validate=False)
    found = nncf.quantize(
        onnx.load(source), nncf.Dataset(list(feeds)), subset_size=len(feeds), ignored_scope=excluded, **step["options"]
    )
    onnx.save(found, target)


def by_modelopt(step: Step, source: Path, target: Path, feeds: Feeds, cache: Path | None) -> None:  # noqa: ARG001
    """Quantise weights and activations to 8 bits, by `quantize` of NVIDIA's ModelOpt."""
    from modelopt.onnx.quantization import quantize

    quantize(
        os.fspath(source),
        calibration_data_reader=_reader(feeds),
        output_path=os.fspath(target),
        **step["excluded"],
        **step["options"],
    )


def by_quark(step: Step, source: Path, target: Path, feeds: Feeds, cache: Path | None) -> None:  # noqa: ARG001
    """Quantise weights and activations to 8 bits, by `ModelQuantizer` of AMD's Quark."""
    from quark.onnx import Int8Spec, ModelQuantizer, QConfig, QLayerConfig

    layers = QLayerConfig(activation=Int8Spec(), weight=Int8Spec())
    quantizer = ModelQuantizer(QConfig(layers, **step["excluded"], **step["options"]))
    source, target = source.resolve(), target.resolve()
    with contextlib.chdir(target.parent):  # it writes a table into the working directory
        quantizer.quantize_model(os.fspath(source), os.fspath(target), _reader(feeds))


KINDS: dict[str, Callable[[Step, Path, Path, Feeds, Path | None], None]] = {
    "dynamic": dynamic,
    "static": static,
    "weights": weights,
    "half": half,
    "bfloat16": bfloat16,
    "program": program,
    "nncf": by_nncf,
    "modelopt": by_modelopt,
    "quark": by_quark,
}
"""The functions by the kind of step."""


def _takes(function: Callable[..., Any], name: str) -> bool:
    """Return whether a function has a parameter, which older versions of ONNX Runtime may lack."""
    return name in inspect.signature(function).parameters


def run_steps(steps: Sequence[Step], source: Path, folder: Path, feeds: Feeds, cache: Path | None = None) -> Path:
    """Run steps one after the other; return the file of the result, which is `source` itself if there is no step.

    The results are written to `folder`. `cache` is a file that keeps ranges of activations. Only the first step uses
    it, since only there do the ranges depend on nothing but the model `source` and the inputs `feeds`. Raises
    RuntimeError if a step wrote no file, and whatever the tool of a step raises.
    """
    for number, step in enumerate(steps):
        target = folder / f"{number}.onnx"
        KINDS[step["kind"]](step, source, target, feeds, None if number else cache)
        if not target.exists():
            raise RuntimeError(f"{step['kind']} wrote no model")
        source = target
    return source
