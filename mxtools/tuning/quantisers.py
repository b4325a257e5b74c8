"""The quantisers: which nodes each of them takes, and the steps that give these nodes its precision.

A step is plain data, which `steps` runs with a tool of ONNX Runtime, another library or a user's command. So a recipe
can hold it.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from onnx import NodeProto, TensorProto

from mxtools.errors import UsageError, suggestion
from mxtools.graph.index import Graph, bodies
from mxtools.tools.external import check_command
from mxtools.tools.node_lists import FORMATS, Format, Selected

FLOAT = "float32"
"""The precision of nodes that no quantiser changes."""
COMMAND = "command"
"""The name that stands for the precision of a user's command."""
_WEIGHT = {"MatMul": 1, "Gemm": 1, "Conv": 1, "ConvTranspose": 1, "Gather": 0}
"""Operators whose weights quantisers know, with the number of the input that is the weight."""
_MATRIX = 2
"""How many dimensions a weight must have to be quantised in blocks."""

Step = dict[str, Any]
"""`kind`, the function in `steps`; `nodes`, the names of the nodes that it changes; `options` of that function."""


@dataclass(frozen=True)
class Chosen:
    """The nodes that get a precision, and all others, which a user's command gets in a format of `mx select`."""

    nodes: Sequence[NodeProto]
    others: Selected


@dataclass(frozen=True)
class Quantiser:
    """What gives nodes one precision.

    Attributes: `precision`, its name; `operators`, those of nodes with a stored weight that it takes; `steps`, a
    function from the chosen nodes to the steps that change them; `follows`, whether it also takes all other operators
    that read stored floats, and nodes without weights together with the units of their module (`Units.steps`);
    `matrices`, whether it takes weights of two dimensions only; `replaces`, whether it saves bytes only if
    all nodes that read a weight are chosen.
    """

    precision: str
    operators: frozenset[str]
    steps: Callable[[Chosen], Iterable[Step]]
    follows: bool = False
    matrices: bool = False
    replaces: bool = False

    def takes(self, graph: Graph, node: int) -> bool:
        """Return whether the quantiser makes the weight of a node smaller."""
        proto = graph.nodes[node]
        is_function = graph.operators[node].asked is None
        if is_function or any(bodies(proto)):
            return False
        weights = [graph.initializers[value] for value in weights_of(graph, node)]
        if not weights or not all(map(_is_float, weights)):
            return False
        if self.matrices and any(len(weight.dims) != _MATRIX for weight in weights):
            return False
        return proto.op_type in self.operators or (self.follows and proto.op_type not in _WEIGHT)


def weights_of(graph: Graph, node: int) -> list[int]:
    """Return the values that are the stored weights of a node.

    Of an operator whose weight quantisers know, that is its weight if it is stored; of others, all stored tensors of
    more than one float32 number.
    """
    proto, stored = graph.nodes[node], graph.initializers
    if proto.op_type in _WEIGHT and proto.domain in ("", "ai.onnx"):
        value = graph.by_name.get(proto.input[_WEIGHT[proto.op_type]])
        return [value] if value in stored and value is not None else []
    return [value for value in graph.reads[node] if value in stored and _is_float(stored[value])]


def _is_float(tensor: TensorProto) -> bool:
    return tensor.data_type == TensorProto.FLOAT and math.prod(tensor.dims) > 1


def names_of(nodes: Sequence[NodeProto]) -> list[str]:
    """Return the names of nodes; for a Gemm also that of the MatMul which ONNX Runtime's quantiser makes of it."""
    return [name for n in nodes for name in ([n.name, f"{n.name}_MatMul"] if n.op_type == "Gemm" else [n.name])]


def _dynamic(chosen: Chosen, per_channel: bool, reduce_range: bool) -> Iterable[Step]:
    """Yield a step for Convs, with unsigned weights, and one for others: ONNX Runtime runs no Conv with signed ones."""
    convolutions = [node for node in chosen.nodes if node.op_type == "Conv"]
    others = [node for node in chosen.nodes if node.op_type != "Conv"]
    for nodes, weight_type in ((others, "QInt8"), (convolutions, "QUInt8")):
        if nodes:
            options = {
                "weight_type": weight_type,
                "per_channel": per_channel,
                "reduce_range": reduce_range,
                "extra_options": {"DefaultTensorType": TensorProto.FLOAT},  # if another step lost the types of values
            }
            yield {"kind": "dynamic", "nodes": names_of(nodes), "options": options}


def _static(chosen: Chosen, per_channel: bool, reduce_range: bool, method: str) -> Iterable[Step]:
    """Yield a step that quantises weights and activations; `method` is how ranges of activations are found."""
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
    """Yield a step that quantises weights to some bits, with one scale for each block of `block_size` elements."""
    options = {"bits": bits, "block_size": block_size, "is_symmetric": True}
    yield {"kind": "weights", "nodes": [node.name for node in chosen.nodes], "options": options}


def _bfloat16(chosen: Chosen) -> Iterable[Step]:
    """Yield a step that stores weights as bfloat16."""
    weights = [node.input[_WEIGHT[node.op_type]] for node in chosen.nodes]
    yield {"kind": "bfloat16", "nodes": [n.name for n in chosen.nodes], "options": {"weights": sorted({*weights})}}


def _half(chosen: Chosen) -> Iterable[Step]:
    """Yield a step that converts nodes to half precision; inputs and outputs of the model keep their types."""
    yield {"kind": "half", "nodes": [node.name for node in chosen.nodes], "options": {"keep_io_types": True}}


def _tool(chosen: Chosen, kind: str, options: Mapping[str, Any]) -> Iterable[Step]:
    """Yield a step that runs another library's quantiser, with the arguments that keep all other nodes as they are."""
    excluded = FORMATS[Format(kind)](chosen.others)
    yield {"kind": kind, "nodes": [], "options": dict(options), "excluded": excluded}


def _program(chosen: Chosen, command: Sequence[str], format_: Format) -> Iterable[Step]:
    """Yield a step that runs a command; it has the text of the file which lists the nodes that must stay."""
    found = FORMATS[format_](chosen.others)
    text = "".join(f"{name}\n" for name in found) if isinstance(found, list) else json.dumps(found, indent=2)
    yield {"kind": "program", "nodes": [], "options": {"command": list(command)}, "excluded": text}


@dataclass(frozen=True)
class Options:
    """Options of all quantisers; each uses those that concern it.

    Attributes: `per_channel`, whether each channel of a weight has a scale, or the whole weight one; `reduce_range`,
    whether weights have 7 bits, which x86 processors without VNNI need so that sums do not overflow; `method`, how
    ranges of activations are found, one of METHODS; `block_size`, the number of elements of a weight that share a
    scale; `command`, a user's quantiser as in a shell, with the places `{in}`, `{out}` and `{excluded}`, empty if there
    is none; `format` of the file for `{excluded}`, which lists the nodes that the command must leave as they are.
    """

    per_channel: bool = True
    reduce_range: bool = False
    method: str = "MinMax"
    block_size: int = 32
    command: str = ""
    format: Format = Format.NAMES


METHODS = ("MinMax", "Entropy", "Percentile", "Distribution")
"""The methods by which ONNX Runtime finds ranges of activations (its `CalibrationMethod`)."""
TOOLS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "nncf": ("nncf", "nncf", {}),
    "modelopt": (
        "modelopt.onnx",
        "nvidia-modelopt[onnx]>=0.47",
        {"calibration_eps": ["cpu"], "dq_only": True, "high_precision_dtype": "fp32"},
    ),
    "quark": ("quark.onnx", "amd-quark", {}),
}
"""Other libraries that quantise to 8 bits: the module that is imported, the package to install, and options."""
PRECISIONS = ("int4", "int8", "qdq", "int8-weights", "float16", "bfloat16", *TOOLS, COMMAND)
"""The precisions that quantisers make.

`int8` quantises activations when the model runs, `qdq` by ranges that are found before. `int4` and `int8-weights`
quantise only the weights of matrix products, in blocks. `bfloat16` stores weights in half the bytes, and calculates as
before.
"""
CALIBRATED = ("static", *TOOLS)
"""The kinds of steps that find ranges of activations on inputs."""
ORDER = ("half", "bfloat16", *CALIBRATED, "weights", "dynamic", "program")
"""The kinds of steps, in the order in which they run.

Half is first: after other steps, it would convert the sums of small integers that they make, which do not fit into it.
"""


def quantisers(precisions: Sequence[str], options: Options) -> list[Quantiser]:
    """Return the quantisers of some precisions, and of the user's command if the options have one.

    Raises UsageError if there is no such precision or none is given, or if the command is missing or lacks a place.
    """
    found = []
    for precision in dict.fromkeys((*precisions, *((COMMAND,) if options.command else ()))):
        if precision not in PRECISIONS:
            raise UsageError(f"there is no precision {precision!r}", suggestion(precision, PRECISIONS))
        found.append(_quantiser(precision, options))
    if not found:
        raise UsageError("no precision is given", f"there are {', '.join(PRECISIONS)}")
    return found


def _is_installed(module: str) -> bool:
    """Return whether a module can be imported; packages around it are imported to find out."""
    try:
        return find_spec(module) is not None
    except ImportError:
        return False


def _quantiser(precision: str, options: Options) -> Quantiser:
    """Return the quantiser of a known precision."""
    products, all_ = frozenset({"MatMul"}), frozenset(_WEIGHT)
    per_channel, reduced = options.per_channel, options.reduce_range
    if precision == "int8":
        taken = all_ - {"ConvTranspose"}
        return Quantiser(precision, taken, lambda chosen: _dynamic(chosen, per_channel, reduced))
    if precision == "qdq":
        return Quantiser(precision, all_, lambda chosen: _static(chosen, per_channel, reduced, options.method))
    if precision == "float16":
        return Quantiser(precision, all_, _half, follows=True)
    if precision == "bfloat16":
        return Quantiser(precision, all_, _bfloat16, replaces=True)
    if precision in TOOLS:
        module, package, given = TOOLS[precision]
        if not _is_installed(module):
            raise UsageError(f"{precision} is not installed", f"pip install '{package}'")
        return Quantiser(precision, all_ - {"Gather"}, lambda chosen: _tool(chosen, precision, given))
    if precision == COMMAND:
        command = shlex.split(options.command)
        check_command(command)
        return Quantiser(precision, all_ - {"Gather"}, lambda chosen: _program(chosen, command, options.format))
    bits = 4 if precision == "int4" else 8
    return Quantiser(precision, products, lambda chosen: _blocks(chosen, bits, options.block_size), matrices=True)
