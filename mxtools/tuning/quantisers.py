"""The quantisers by the precision that they make, behind one door: which nodes they take, and their steps."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from onnx import NodeProto, TensorProto

from mxtools.errors import UsageError, suggestion
from mxtools.graph.index import Graph
from mxtools.tools.external import check_command
from mxtools.tools.node_lists import FORMATS, Format, Selected

FLOAT = "float32"
"""What a node is in that no quantiser changes."""
COMMAND = "command"
"""The precision that a user's command makes."""
_WEIGHT = {"MatMul": 1, "Gemm": 1, "Conv": 1, "ConvTranspose": 1, "Gather": 0}
"""The input that is the weight of an operator."""
_MATRIX = 2
"""Dimensions of a weight that is quantised in blocks."""

Step = dict[str, Any]


@dataclass(frozen=True)
class Chosen:
    """The nodes that get a precision, and all others as `mx select` knows them."""

    nodes: Sequence[NodeProto]
    others: Selected


@dataclass(frozen=True)
class Quantiser:
    """What makes one precision: `operators` it takes, of nodes with a stored weight, and a function for its steps.

    `follows` says whether nodes without weights go along with those that they share a module with, `matrices` that
    weights must have two dimensions.
    """

    precision: str
    operators: frozenset[str]
    steps: Callable[[Chosen], Iterable[Step]]
    follows: bool = False
    matrices: bool = False

    def takes(self, graph: Graph, node: int) -> bool:
        """Return whether it makes the weight of a node smaller."""
        proto = graph.nodes[node]
        weights = [graph.initializers[value] for value in weights_of(graph, node)]
        if not weights or not all(map(_is_float, weights)):
            return False
        if self.matrices and any(len(weight.dims) != _MATRIX for weight in weights):
            return False
        return proto.op_type in self.operators or (self.follows and proto.op_type not in _WEIGHT)


def weights_of(graph: Graph, node: int) -> list[int]:
    """Return the stored weights of a node: of operators that quantisers know the weight, of others all of floats."""
    proto, stored = graph.nodes[node], graph.initializers
    if proto.op_type in _WEIGHT and proto.domain in ("", "ai.onnx"):
        value = graph.by_name.get(proto.input[_WEIGHT[proto.op_type]])
        return [value] if value in stored and value is not None else []
    return [value for value in graph.reads[node] if value in stored and _is_float(stored[value])]


def _is_float(tensor: TensorProto) -> bool:
    return tensor.data_type == TensorProto.FLOAT and math.prod(tensor.dims) > 1


def names_of(nodes: Sequence[NodeProto]) -> list[str]:
    """Return the names of nodes, with those that ONNX Runtime's quantiser gives to what it makes of a Gemm."""
    return [name for n in nodes for name in ([n.name, f"{n.name}_MatMul"] if n.op_type == "Gemm" else [n.name])]


def _dynamic(chosen: Chosen, per_channel: bool, reduce_range: bool) -> Iterable[Step]:
    """Yield a step for convolutions and one for others: ONNX Runtime has no convolution for signed weights."""
    convolutions = [node for node in chosen.nodes if node.op_type == "Conv"]
    others = [node for node in chosen.nodes if node.op_type != "Conv"]
    for nodes, weight_type in ((others, "QInt8"), (convolutions, "QUInt8")):
        if nodes:
            options = {"weight_type": weight_type, "per_channel": per_channel, "reduce_range": reduce_range}
            yield {"kind": "dynamic", "nodes": names_of(nodes), "options": options}


def _static(chosen: Chosen, per_channel: bool, reduce_range: bool, method: str) -> Iterable[Step]:
    options = {
        "weight_type": "QInt8",
        "activation_type": "QUInt8",
        "calibrate_method": method,
        "per_channel": per_channel,
        "reduce_range": reduce_range,
        "op_types_to_quantize": sorted(_WEIGHT),
    }
    yield {"kind": "static", "nodes": names_of(chosen.nodes), "options": options}


def _blocks(chosen: Chosen, bits: int, block_size: int) -> Iterable[Step]:
    options = {"bits": bits, "block_size": block_size, "is_symmetric": True}
    yield {"kind": "weights", "nodes": [node.name for node in chosen.nodes], "options": options}


def _half(chosen: Chosen) -> Iterable[Step]:
    yield {"kind": "half", "nodes": [node.name for node in chosen.nodes], "options": {"keep_io_types": True}}


def _program(chosen: Chosen, command: Sequence[str], format_: Format) -> Iterable[Step]:
    found = FORMATS[format_](chosen.others)
    text = "".join(f"{name}\n" for name in found) if isinstance(found, list) else json.dumps(found, indent=2)
    yield {"kind": "program", "nodes": [], "options": {"command": list(command)}, "excluded": text}


@dataclass(frozen=True)
class Options:
    """How quantisers work.

    Attributes: `per_channel`, a scale for each channel of a weight; `reduce_range` of weights to 7 bits, which
    processors without VNNI need; `method`, by which ranges of activations are found; `block_size`, elements of a weight
    that share a scale; `command`, a user's, and the `format` of the list of nodes that it is to leave.
    """

    per_channel: bool = True
    reduce_range: bool = False
    method: str = "MinMax"
    block_size: int = 32
    command: str = ""
    format: Format = Format.NAMES


METHODS = ("MinMax", "Entropy", "Percentile", "Distribution")
"""How ONNX Runtime finds the ranges of activations."""
PRECISIONS = ("int4", "int8", "qdq", "int8-weights", "float16", COMMAND)
"""What quantisers make: `int8` quantises activations when the model runs, `qdq` before."""
ORDER = ("half", "static", "weights", "dynamic", "program")
"""The order of steps: the sums of small integers that quantisers make do not fit into half precision."""


def quantisers(precisions: Sequence[str], options: Options) -> list[Quantiser]:
    """Return the quantisers of some precisions; UsageError for an unknown one, or a command that is missing."""
    found = []
    for precision in dict.fromkeys((*precisions, *((COMMAND,) if options.command else ()))):
        if precision not in PRECISIONS:
            raise UsageError(f"there is no precision {precision!r}", suggestion(precision, PRECISIONS))
        found.append(_quantiser(precision, options))
    if not found:
        raise UsageError("no precision is given", f"there are {', '.join(PRECISIONS)}")
    return found


def _quantiser(precision: str, options: Options) -> Quantiser:
    products, all_ = frozenset({"MatMul"}), frozenset(_WEIGHT)
    per_channel, reduced = options.per_channel, options.reduce_range
    if precision == "int8":
        taken = all_ - {"ConvTranspose"}
        return Quantiser(precision, taken, lambda chosen: _dynamic(chosen, per_channel, reduced))
    if precision == "qdq":
        return Quantiser(precision, all_, lambda chosen: _static(chosen, per_channel, reduced, options.method))
    if precision == "float16":
        return Quantiser(precision, all_, _half, follows=True)
    if precision == COMMAND:
        command = shlex.split(options.command)
        check_command(command)
        return Quantiser(precision, all_ - {"Gather"}, lambda chosen: _program(chosen, command, options.format))
    bits = 4 if precision == "int4" else 8
    return Quantiser(precision, products, lambda chosen: _blocks(chosen, bits, options.block_size), matrices=True)
