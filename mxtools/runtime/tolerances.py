"""How far results may be off and still count as right: by metric, class, and the types that a graph computes in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from onnx import ModelProto, TensorProto

from mxtools.errors import InputError, UsageError
from mxtools.files.regular import read_toml
from mxtools.files.weights import tensors_of
from mxtools.graph.functions import model_nodes
from mxtools.graph.index import Graph
from mxtools.runtime.distance import Distance, relative_l2

if TYPE_CHECKING:
    from pathlib import Path

EXACT, HALF, QUANTISED = 1e-3, 2e-2, 0.1
"""Relative errors that still count as right, of graphs in single precision, in half precision, in small integers."""
SAME = 1e-4
"""The relative error of a graph in single precision beside another graph: both have the same operators, or nearly."""
_OF_PARTS = 1e-5
"""The relative error of parts of a graph beside the whole: the same kernels compute both."""
_HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
_SMALL = frozenset({TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4})
_LEAST_WEIGHT_ELEMENTS = 64
"""Elements from which on a tensor counts as a weight: scales, masks and zero points have fewer."""


class Metric(StrEnum):
    """What says how far a result is off: see `Distance`."""

    RELATIVE = "relative"
    RELATIVE_L2 = "relative-l2"
    MAX_ABS = "max-abs"
    COSINE = "cosine"
    SQNR = "sqnr"

    @classmethod
    def named(cls, name: str) -> Metric:
        """Return the metric of a name; UsageError if there is none."""
        if name not in list(cls):
            raise UsageError(f"there is no metric {name!r}", f"give one of {', '.join(cls)}")
        return cls(name)


@dataclass(frozen=True)
class Tolerance:
    """The limit up to which results are right, in a metric; `by_class` has other limits for modules of some classes.

    A limit of the cosine or of the SQNR (in dB) is the least that is right, of the other metrics the largest.

    >>> from mxtools.runtime.distance import Distance
    >>> tolerance = Tolerance(30.0, Metric.SQNR, {"LayerNorm": 60.0})
    >>> noisy = Distance(max_abs=0.1, relative=0.01, cosine=0.9999, sqnr=40.0)
    >>> tolerance.is_right(noisy), tolerance.is_right(noisy, "LayerNorm")
    (True, False)
    """

    limit: float
    metric: Metric = Metric.RELATIVE
    by_class: Mapping[str, float] = field(default_factory=dict)

    def of(self, class_name: str) -> Tolerance:
        """Return the tolerance for modules of a class alone."""
        return Tolerance(self.by_class.get(class_name, self.limit), self.metric)

    def error(self, distance: Distance) -> float:
        """Return how far a result is off, 0 if it is equal, on a scale on which twice the noise is twice the error.

        That is the metric itself, or for the cosine and the SQNR the relative L2 error that they stand for. Where
        elements are not finite, or there are others in number, it is infinite.
        """
        return self._error(self._figure(distance)) if math.isfinite(distance.relative) else math.inf

    def excess(self, distance: Distance, class_name: str = "") -> float:
        """Return the error as a multiple of the one that is just right."""
        error, limit = self.error(distance), self.of(class_name).largest_error
        return error / limit if limit else math.inf if error else 0.0

    def is_right(self, distance: Distance, class_name: str = "") -> bool:
        """Return whether a result of a module of a class is right."""
        return self.error(distance) <= self.of(class_name).largest_error

    def worst(self, distances: Iterable[Distance]) -> Distance | None:
        """Return the distance with the largest error, None if there is none."""
        return max(distances, key=self.error, default=None)

    def text(self, distance: Distance) -> str:
        """Return how far a result is off, in words."""
        return _TEXTS[self.metric].format(self._figure(distance))

    def everywhere(self, limit: float) -> Tolerance:
        """Return a tolerance with another limit, for modules of all classes."""
        return Tolerance(limit, self.metric)

    @property
    def largest_error(self) -> float:
        """The limit on the scale of errors."""
        return self._error(self.limit)

    @property
    def unit(self) -> str:
        """What errors are."""
        units = {Metric.RELATIVE: "largest difference over largest value", Metric.MAX_ABS: "largest difference"}
        return units.get(self.metric, "relative L2 error")

    @property
    def is_least(self) -> bool:
        """Whether the limit is the least that is right, not the largest."""
        return self.metric in (Metric.COSINE, Metric.SQNR)

    def __str__(self) -> str:
        """Return the limit with its unit."""
        return f"{self.limit:g} dB" if self.metric is Metric.SQNR else f"{self.limit:.6g}"

    def _figure(self, distance: Distance) -> float:
        figure: float = getattr(distance, self.metric.replace("-", "_"))
        return figure

    def _error(self, figure: float) -> float:
        if self.metric is Metric.SQNR:
            return relative_l2(figure)
        return math.sqrt(max(0.0, 2 - 2 * figure)) if self.metric is Metric.COSINE else figure


_TEXTS = {
    Metric.RELATIVE: "{:.2g} of its largest value",
    Metric.RELATIVE_L2: "a relative L2 error of {:.2g}",
    Metric.MAX_ABS: "an error of {:.2g}",
    Metric.COSINE: "a cosine of {:.6g}",
    Metric.SQNR: "an SQNR of {:.1f} dB",
}


def tolerance_of(
    model: ModelProto,
    graph: Graph,
    limit: float | None = None,
    metric: Metric = Metric.RELATIVE,
    by_class: Mapping[str, float] | None = None,
    exact: float = EXACT,
) -> Tolerance:
    """Return a tolerance; without a limit, one that fits the types of the weights, as `usual_tolerance` says.

    Raises UsageError for limits that no metric has, and for an absolute error without a limit.
    """
    for given in (() if limit is None else (limit,)) + tuple((by_class or {}).values()):
        if metric is Metric.COSINE and given > 1:
            raise UsageError(f"no cosine is above 1, as a tolerance of {given:g} asks for", "give one below 1")
    if limit is None:
        limit = _usual(metric, usual_tolerance(model, graph, exact))
    return Tolerance(limit, metric, dict(by_class or {}))


def _usual(metric: Metric, relative: float) -> float:
    """Return the limit in a metric of errors that are as small, relative to all values."""
    if metric is Metric.MAX_ABS:
        raise UsageError("max-abs has no default tolerance, because values can be of any size", "give ⟨tolerance⟩")
    if metric is Metric.SQNR:
        return -20 * math.log10(relative)
    return 1 - relative**2 / 2 if metric is Metric.COSINE else relative


def read_limits(file: Path) -> dict[str, float]:
    """Return the limits by class in a TOML file, `LayerNorm = 1e-5`; InputError for a file that cannot be read so."""
    found = read_toml(file)
    wrong = next((name for name, limit in found.items() if not _is_limit(limit)), None)
    if wrong is not None:
        raise InputError(f"{file}: the tolerance of {wrong!r} is no number from 0 on", f"write {wrong} = 0.001")
    return {name: float(limit) for name, limit in found.items()}


def _is_limit(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def usual_tolerance(model: ModelProto, graph: Graph, exact: float = EXACT) -> float:
    """Return the relative error that still counts as right in a graph that quantises, or has weights of some types.

    `exact` is that of one that does not.
    """
    if any(operator.quantises for operator in graph.operators):
        return QUANTISED
    types = {tensor.data_type for tensor in tensors_of(model) if math.prod(tensor.dims) >= _LEAST_WEIGHT_ELEMENTS}
    return QUANTISED if types & _SMALL else HALF if types & _HALVES else exact


def tolerance_of_parts(model: ModelProto) -> float:
    """Return how far parts of a model may be off, relative to the largest value.

    The same kernels compute the parts and the whole, but in half precision ONNX Runtime rounds at the boundary of a
    part, and not between two nodes that it computes in single precision.
    """
    types = {tensor.data_type for tensor in tensors_of(model)}
    types |= {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    types |= {a.i for node in model_nodes(model) if node.op_type == "Cast" for a in node.attribute if a.name == "to"}
    return HALF if types & _HALVES else _OF_PARTS
