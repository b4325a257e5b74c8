"""Evidence from parameters: a node that uses a module's parameter or buffer belongs to that module."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Literal

from onnx import TensorProto

from mxtools.errors import InputError
from mxtools.evidence.between_values import calls_between
from mxtools.evidence.calls.index import CallIndex, Candidates, call_index
from mxtools.evidence.calls.placement import assign
from mxtools.evidence.state_names import agreeing, module_path
from mxtools.files.regular import read_regular
from mxtools.files.weights import WeightStore
from mxtools.graph.index import NOWHERE, Graph
from mxtools.graph.walk import reached
from mxtools.matching.surviving_names import name_before
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes.annotations import Evidence
from mxtools.scopes.scope import escape
from mxtools.traces.values import Values

_STATE = re.compile(r"\w+(\.\w+)+")
"""A name as state dicts have them: `encoder.layer.0.dense.weight`."""
_CODES: dict[int, Literal["f", "d", "i", "q"]] = {
    TensorProto.FLOAT: "f",
    TensorProto.DOUBLE: "d",
    TensorProto.INT32: "i",
    TensorProto.INT64: "q",
}
"""Element types whose numbers Python itself can read from bytes, with the codes for it."""
_FEW = 64
"""Numbers of eight bytes, or more of fewer, that are compared first: those of a weight are hardly ever equal."""


def annotate_by_parameters(model: WorkingModel, names: Path | None = None, alone: bool = False) -> None:
    """Annotate nodes without evidence that read an initializer with the name of a module's weight.

    With a trace, these are the weights of the traced modules; if a module is called several times, the order of the
    nodes tells its calls apart. Without a trace, the names themselves form the hierarchy, and all calls of a module are
    one scope. Then a name counts if the rest of the file agrees with it (`state_names`); with `alone`, if it looks like
    the name of a weight; with `names`, if it is in that file. Raises InputError if an initializer does not have the
    shape of the traced weight, or the file cannot be read.
    """
    graph, annotations = model.graph, model.annotations
    index = model.once(call_index)
    candidates = _traced(graph, index) if index else _named(model, _read(names) if names else None, alone)
    found = {node: calls for node, calls in candidates.items() if annotations.call[node] is None}
    origins = index.origins if index else None
    narrow = partial(calls_between, model)
    assign(annotations, ((calls, (node,)) for node, calls in found.items()), Evidence.PARAMETER, origins, narrow)


def _traced(graph: Graph, index: CallIndex) -> dict[int, Candidates]:
    """Return the nodes that read a weight of the trace, each with the calls of the weight's module.

    The weight can be quantised or packed, with a name that says so, and nodes between can reshape it or turn it back
    into floats:

        c1.weight_quantized ─ ConvInteger       c1.bias ─ Reshape ─ Add       all three nodes are in c1

    A node that copies it into another module's weight, which equals it, is part of that module.
    """
    found: dict[int, Candidates] = {}
    stored = _stored(graph)
    weights = {value for value, name, _ in stored if name in index.weights}

    def is_other_weight(node: int) -> bool:
        """Return whether a node copies a weight into another one."""
        return not weights.isdisjoint(_copies(graph, node))

    # what many nodes read says least: tools keep one of equal tensors, such as the statistics of new BatchNorms
    for value, name, dims in sorted(stored, key=lambda one: -len(graph.readers[one[0]])):
        named = name if name in index.weights else name_before(name)
        if named not in index.weights:
            continue
        module, weight = index.weights[named]
        is_packed = any(graph.operators[node].packed for node in graph.readers[value])
        if not is_packed and sorted(dims) != sorted(weight.shape):
            raise InputError(
                f"the sidecar belongs to another model: its {name!r} has shape {list(weight.shape)}, here {list(dims)}",
                "trace the model that was exported",
            )
        if calls := index.by_module(module.path):
            forms = reached((value,), lambda form: (v for v in _other_forms(graph, form) if v not in weights))
            readers = (node for form in forms for node in graph.readers[form] if not is_other_weight(node))
            found |= dict.fromkeys((*readers, *({graph.producer[value]} - {NOWHERE})), calls)
    return found


def _other_forms(graph: Graph, value: int) -> Iterator[int]:
    """Yield a weight reshaped, or turned back into floats, by the nodes that read it."""
    for node in graph.readers[value]:
        operator = graph.operators[node]
        if (operator.keeps_elements or operator.dequantises) and graph.reads[node][0] == value:
            yield from graph.writes[node][:1]


def _named(model: WorkingModel, names: Collection[str] | None, alone: bool) -> dict[int, Candidates]:
    """Return the nodes that read a weight whose name names a module, or is in `names`, each with that module.

    If several biases are all zeros, exporters keep only one of them. If several nodes read it, nothing is known of
    them. But TorchScript makes copies with the names of the others, and a node that reads no copy belongs to the one
    that is left:

        enc.norm.bias ─┬─ Add                                       in enc.norm
                       └─ Identity ─ head.norm.bias ─ Add           the second Add is in head.norm
    """
    graph, hierarchy = model.graph, model.annotations.hierarchy
    stored = {value: name for value, name, _ in _stored(graph)}
    if names is None:
        stored = {value: name for value, name in stored.items() if _STATE.fullmatch(name)}
        names = set(stored.values()) if alone else agreeing(graph, hierarchy, stored)
    found: dict[int, Candidates] = {}
    for value, name in stored.items():
        readers = graph.readers[value] if name in names else ()
        if len(readers) > 1 and _is_uniform(graph, model.weights, value):
            readers = [node for node in readers if not any(stored.get(copy) in names for copy in _copies(graph, node))]
            readers = readers if len(readers) == 1 else ()
        if readers:
            found |= dict.fromkeys(readers, (hierarchy.add([(escape(part), "") for part in module_path(name)]),))
    return found


def _is_uniform(graph: Graph, weights: WeightStore, value: int) -> bool:
    """Return whether all elements of a stored value are one number; mostly without numpy, and piece by piece."""
    tensor = graph.initializers.get(value)
    if tensor is None or not prod(tensor.dims):
        return False
    has_bytes = tensor.HasField("raw_data") or tensor.data_location == TensorProto.EXTERNAL
    if has_bytes and (code := _CODES.get(tensor.data_type)):
        few = weights.beginning(tensor, _FEW * 8).cast("B").cast(code)
        if any(number != few[0] for number in few):
            return False
        one, pieces = few[:1].tobytes(), map(bytes, weights.streamed(tensor))
        if all(piece == one * (len(piece) // len(one)) for piece in pieces):
            return True
    array = weights.array(tensor)
    return bool((array == array.flat[0]).all())


def _stored(graph: Graph) -> list[tuple[int, str, Collection[int]]]:
    """Return the value, name and shape of every initializer, and of the copies that exporters make of equal weights."""
    shapes: dict[int, Collection[int]] = {value: tensor.dims for value, tensor in graph.initializers.items()}
    shapes.update((value, tensor.dims) for value, tensor in graph.sparse.items())

    def copies(value: int) -> Iterator[int]:
        """Yield the copies of a value that Identity nodes make."""
        return (copy for node in graph.readers[value] for copy in _copies(graph, node))

    for value in reached(shapes, copies):
        if value not in shapes:
            shapes[value] = next(shapes[v] for v in graph.reads[graph.producer[value]] if v in shapes)
    return [(value, graph.names[value], dims) for value, dims in shapes.items()]


def _copies(graph: Graph, node: int) -> Sequence[int]:
    """Return the results of a node if it only copies."""
    return graph.writes[node] if graph.operators[node].is_named("Identity") else ()


def _read(file: Path) -> Collection[str]:
    """Read the names of a state dict; InputError if that cannot be done."""
    if file.suffix == ".safetensors":
        return Values.open(file).names
    try:
        return frozenset(read_regular(file).decode().split())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file} cannot be read as names ({error})", "give a file with one name per line, or .safetensors"
        ) from None
