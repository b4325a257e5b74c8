"""What a pass is, and what it is given besides the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from onnx import ModelProto

from mxtools.errors import InputError
from mxtools.evidence.calls import CallIndex
from mxtools.graph.index import Graph
from mxtools.graph.shapes import Shapes
from mxtools.scopes.annotations import Annotations
from mxtools.scopes.hierarchy import Hierarchy

if TYPE_CHECKING:
    from mxtools.files.weights import WeightStore
    from mxtools.matching.carried import Carried
    from mxtools.traces.sidecar import Sidecar
    from mxtools.traces.values import Values


@dataclass(frozen=True)
class Pass(ABC):
    """One step over a model. Fields are its options, made with `option`; the docstring's first line is its help."""

    name: ClassVar[str]
    annotates: ClassVar[bool] = False
    """True when it changes nothing but `context.annotations`, so that the graph index stays valid."""
    then: ClassVar[str] = ""
    """The passes that have to follow it at once, as a pipeline: they give the nodes that it made their scopes."""

    @abstractmethod
    def apply(self, model: ModelProto, context: Context) -> None:
        """Change the model in place."""


def option(text: str, default: Any = None, shown: str | None = None) -> Any:  # noqa: ANN401 - the type is the field's
    """Make a field of a pass: `text` is its help; with `dataclasses.MISSING` for default it must be given.

    `shown` is what stands for the value in the help of a command, as GLOB.

    Types: str, int, float, bool, their `| None`, tuple[str, ...].
    """
    return field(default=default, metadata={"help": text, "shown": shown})


@dataclass
class Context:
    """What is known besides the model, and what is computed from it once for several passes."""

    weights: WeightStore
    sidecar: Sidecar | None = None
    values: Values | None = None
    """The recorded values of the sidecar's tensors, where there are any."""
    previous: Previous | None = None
    """The tagged model that this one was made from, where it is given."""
    report: dict[str, Any] = field(default_factory=dict)
    """What passes found out, for the command to print; keys are documented by the pass."""
    _graph: Graph | None = None
    _annotations: Annotations | None = None
    _shapes: Shapes | None = None
    _calls: CallIndex | None = None
    _carried: Carried | None = None

    def graph(self, model: ModelProto) -> Graph:
        """Give the index of the model, built when it is first asked for."""
        if self._graph is None:
            self._graph = Graph(model)
        return self._graph

    def annotations(self, model: ModelProto) -> Annotations:
        """Give the annotations of the model's nodes, read when they are first asked for."""
        if self._annotations is None:
            hierarchy = self.previous.annotations.hierarchy if self.previous else Hierarchy(self.sidecar)
            self._annotations = Annotations(model, self.graph(model), hierarchy)
        return self._annotations

    def carried(self, model: ModelProto) -> Carried | None:
        """Give what of the earlier model is where in this one, None without an earlier one."""
        if self.previous and self._carried is None:
            from mxtools.matching.carried import Carried

            self._carried = Carried(model, self, self.previous)
        return self._carried

    def calls(self, model: ModelProto) -> CallIndex | None:
        """Give the index of the traced calls, None without a trace."""
        hierarchy = self.annotations(model).hierarchy
        if hierarchy.sidecar and self._calls is None:
            self._calls = CallIndex(hierarchy, hierarchy.sidecar)
        return self._calls

    def shapes(self, model: ModelProto) -> Shapes:
        """Give what is known of the shapes of the main graph's values, inferred when it is first asked for."""
        if self._shapes is None:
            self._shapes = Shapes(model, self.graph(model).names)
        return self._shapes

    def multiply_adds(self, model: ModelProto) -> dict[int, int]:
        """Give the multiply-adds of convolutions and matrix products by node, where their shapes can be known."""
        from mxtools.graph.multiply_adds import is_product, multiply_adds
        from mxtools.graph.static_shapes import static_shapes

        graph, shapes = self.graph(model), self.shapes(model)
        found = multiply_adds(graph, shapes)
        if len(found) < sum(is_product(graph.nodes[node]) for node in graph.main):
            found = multiply_adds(graph, static_shapes(model, graph, self.weights, shapes))
        return found

    def save(self) -> None:
        """Write changed annotations to the model."""
        if self._annotations is not None:
            self._annotations.save()

    def forget_annotations(self) -> None:
        """Drop the annotations, because what the nodes bear changes; the index of the graph stays."""
        self._annotations = self._calls = self._carried = None

    def forget(self) -> None:
        """Drop what was computed from the model, because it changes."""
        self._graph = self._annotations = self._shapes = self._calls = self._carried = None


@dataclass(frozen=True)
class Previous:
    """An earlier model, with its own context."""

    model: ModelProto
    context: Context

    @property
    def graph(self) -> Graph:
        """Its index."""
        return self.context.graph(self.model)

    @property
    def annotations(self) -> Annotations:
        """Its annotations."""
        return self.context.annotations(self.model)

    def check_tagged(self) -> None:
        """Raise InputError where no node of it has a scope."""
        if not any(self.annotations.evidence):
            raise InputError("no node of the earlier model has a scope: run `mx tag` on it first")
