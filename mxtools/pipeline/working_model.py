"""The model that passes work on: a graph without its weights, other knowledge of it, and computed values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, TypeVar, cast

from onnx import ModelProto

from mxtools.carriers.packed import embedded_trace
from mxtools.errors import InputError
from mxtools.files.reading import read_model
from mxtools.files.weights import WeightStore
from mxtools.graph.index import Graph
from mxtools.graph.shapes import Shapes
from mxtools.runtime.session_values import Value
from mxtools.scopes import keys
from mxtools.scopes.annotations import Annotations, read_absent
from mxtools.scopes.hierarchy import Hierarchy

if TYPE_CHECKING:
    from mxtools.costs.costs import Costs
    from mxtools.traces.sidecar import Sidecar
    from mxtools.traces.values import Values

T = TypeVar("T")


class WorkingModel:
    """An ONNX model without its weights, with everything that passes and products need to know of it.

    Attributes: `proto`, the graph, whose large weights are references into `weights`; `name`, which messages call it;
    `sidecar`, its trace; `values`, the values that were recorded with the trace, or inputs to run on; `previous`, the
    tagged model from which a tool made this one; `version`, a number that grows when the graph changes.

    `graph`, `annotations`, `shapes` and whatever `once` computes are computed when they are first asked for, and
    dropped when the graph changes. Code that changes the graph does so inside `changing`:

        with model.changing() as proto:
            del proto.graph.node[0]

    Annotations can be changed at any time. `write_annotations` writes them to the nodes; `changing` calls it, and so
    does every pipeline at its end.
    """

    def __init__(
        self,
        proto: ModelProto,
        weights: WeightStore | None = None,
        name: str = "the model",
        *,
        sidecar: Sidecar | None = None,
        values: Values | None = None,
        previous: WorkingModel | None = None,
    ) -> None:
        """Take a proto and the store of its weights; without a store, the proto has its weights itself."""
        self.proto = proto
        self.weights = weights or WeightStore()
        self.name = name
        self._sidecar, self._fits = sidecar, False
        self.values, self.previous = values, previous
        self.version = 0
        self._graph: Graph | None = None
        self._shapes: Shapes | None = None
        self._annotations: Annotations | None = None
        self._computed: dict[Callable[..., Any], Any] = {}

    @classmethod
    def read(
        cls,
        source: Path | IO[bytes],
        name: str = "",
        *,
        data_dir: Path | None = None,
        sidecar: Sidecar | None = None,
        values: Values | None = None,
    ) -> Self:
        """Read a model from a file or a pipe; its weights stay in their files until they are needed.

        `data_dir` is the folder of external data, if it is not the model's own. Without a `sidecar`, the one in the
        model's metadata is used. Raises InputError if there is no model or only a part of one, or if its external data
        are missing.
        """
        proto, weights = read_model(source, name or str(source), data_dir)
        return cls(proto, weights, name or str(source), sidecar=sidecar or embedded_trace(proto), values=values)

    @property
    def graph(self) -> Graph:
        """The index of the graph."""
        if self._graph is None:
            self._graph = Graph(self.proto)
        return self._graph

    @property
    def shapes(self) -> Shapes:
        """The known element types and shapes of the main graph's values."""
        if self._shapes is None:
            self._shapes = Shapes(self.proto, self.graph.names)
        return self._shapes

    @property
    def annotations(self) -> Annotations:
        """The annotations of the nodes; their call tree belongs to this model only."""
        if self._annotations is None:
            self._annotations = Annotations(self.proto, self.graph, self._tree())
        return self._annotations

    @property
    def sidecar(self) -> Sidecar | None:
        """The trace; if the graph is an export of a part of the traced model, the trace of that part."""
        if self._sidecar and not self._fits:
            from mxtools.traces.part import fitted

            self._sidecar, self._fits = fitted(self.graph, self.weights, self._sidecar), True
        return self._sidecar

    @sidecar.setter
    def sidecar(self, sidecar: Sidecar | None) -> None:
        self._sidecar, self._fits = sidecar, False

    @property
    def traced(self) -> Sidecar | None:
        """The trace whose call numbers the annotations use: that of the earlier model, if there is one."""
        return self.previous.traced if self.previous else self.sidecar

    def costs(self, dims: Mapping[str, int] | None = None, other: int | None = None) -> Costs:
        """Return what nodes and values cost, for some sizes of symbolic dimensions; `other` is that of all others."""
        from mxtools.costs.costs import Costs

        return Costs(self.proto, self.graph, self.weights, self.shapes, dims or {}, other)

    @property
    def is_tagged(self) -> bool:
        """Whether any node has a scope."""
        return any(self.annotations.evidence)

    def require_tagged(self, name: str = "") -> None:
        """Raise InputError if no node has a scope; the message calls the model `name`, if it is given."""
        if not self.is_tagged:
            of, on = (f" of {name}", " on it") if name else ("", "")
            if self.sidecar and any(keys.SCOPE in keys.props(node) for node in self.graph.nodes):
                raise InputError(
                    f"the trace of {self.sidecar.model.class_name} has no scope that a node{of} has",
                    "give the trace of the model that was exported",
                )
            remedy = f"⟨tag⟩{on} first; if a tool made it from a tagged model, ⟨tag-from⟩ that model"
            raise InputError(f"no node{of} has a scope", remedy)

    def inputs(self) -> dict[str, Value]:
        """Return inputs to run on: the recorded or given ones, else made ones; InputError if one cannot be made."""
        from mxtools.traces.model_inputs import model_inputs

        return model_inputs(self.proto, self.sidecar, self.values)

    @property
    def absent(self) -> dict[str, str]:
        """The scopes that a trace knew and no node has, each with its reason."""
        return read_absent(self.proto)

    def once(self, compute: Callable[[Any], T]) -> T:
        """Return `compute(self)`; it is kept until the graph changes, or changed annotations are written."""
        if compute not in self._computed:
            self._computed[compute] = compute(self)
        return cast(T, self._computed[compute])

    @contextmanager
    def changing(self) -> Iterator[ModelProto]:
        """Yield the proto, to be changed inside the block; at its end, everything that was computed is dropped.

        At its beginning, annotations are written to the nodes, so nodes that are copied or moved keep theirs.
        """
        self.write_annotations()
        try:
            yield self.proto
        finally:
            self._drop()

    @contextmanager
    def unchanged_on_error(self) -> Iterator[None]:
        """If the block raises, let the model be afterwards as it was before."""
        self.write_annotations()
        known, proto = dict(vars(self)), ModelProto()
        proto.CopyFrom(self.proto)
        try:
            yield
        except BaseException:
            version = self.version
            vars(self).update(known)
            self.proto.CopyFrom(proto)
            self.version = version
            self._drop()
            raise

    def _drop(self) -> None:
        """Forget everything that was computed from the graph, because it changed."""
        self.version += 1
        self._graph = self._shapes = self._annotations = None
        self._computed.clear()

    def clear_annotations(self) -> None:
        """Forget all annotations; `write_annotations` will remove them from the nodes that get no new ones."""
        self._annotations = Annotations(self.proto, self.graph, self._tree(), blank=True)
        self._computed.clear()

    def write_annotations(self) -> None:
        """Write annotations that changed to the nodes' metadata, and drop what was computed from them."""
        if self._annotations is not None and self._annotations.save():
            self._computed.clear()

    def with_proto(self, proto: ModelProto, name: str = "") -> Self:
        """Return a model of another graph with the same trace and values, whose weights lie in the same store."""
        return type(self)(proto, self.weights, name or self.name, sidecar=self.traced, values=self.values)

    def copy(self) -> Self:
        """Return an independent copy; the weights are shared, since nothing changes them in place."""
        self.write_annotations()
        proto = ModelProto()
        proto.CopyFrom(self.proto)
        return self.with_proto(proto)

    def __copy__(self) -> Self:
        """Return an independent copy: one that shared the graph would be changed by what changes the other."""
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return an independent copy."""
        return self.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        """Let the model be pickled, as process pools do, with its weights; UsageError if it would exceed 2 GiB."""
        from mxtools.files.writing import materialise

        self.write_annotations()
        data = materialise(self.proto, self.weights).SerializeToString()
        return _unpickled, (type(self), data, self.name, self.traced, self.values)

    def _tree(self) -> Hierarchy:
        """Return the call tree for the annotations: that of the trace, or a copy of the earlier model's."""
        if self.previous:
            return self.previous.annotations.hierarchy.copy()
        return Hierarchy(self.sidecar.calls if self.sidecar else ())


def _unpickled(
    kind: type[WorkingModel], data: bytes, name: str, sidecar: Sidecar | None, values: Values | None
) -> WorkingModel:
    return kind(ModelProto.FromString(data), None, name, sidecar=sidecar, values=values)
