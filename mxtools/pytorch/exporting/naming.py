"""Names of an exported graph's inputs and outputs: those of `forward`'s parameters, and of the fields of its result."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from torch import nn

from mxtools.graph.rename import fresh
from mxtools.pytorch.nested import tensors


def output_names(result: Any, model: nn.Module, inputs: Iterable[str]) -> list[str]:  # noqa: ANN401 - any nesting
    """Return names for the tensors of a result: `logits`, `hidden_states.0`, and `output_0` for results by position.

    No output gets the name of an input or of a weight, because all of them are values of one graph.
    """
    taken = {*inputs, *dict(model.named_parameters()), *dict(model.named_buffers())}
    found = []
    for place, _ in tensors(result):
        found.append(fresh(f"output_{place}" if place[0].isdecimal() else place, taken))
        taken.add(found[-1])
    return found


def rename_interface(graph: Any, inputs: list[str], outputs: list[str]) -> None:  # noqa: ANN401 - onnx_ir's Graph
    """Give the inputs and outputs of an onnx_ir graph names; inner values that have one of these get others.

    If the graph has another number of inputs, the inputs keep their names: torch.export leaves some kinds of arguments
    out.
    """
    named = list(zip(graph.outputs, outputs, strict=len(graph.outputs) == len(outputs)))
    if len(graph.inputs) == len(inputs):
        named += list(zip(graph.inputs, inputs, strict=True))
    wanted, ours = {name for _, name in named}, {id(value) for value, _ in named}
    _move_away(graph, wanted, ours)
    for value, name in named:
        value.name = name


def _move_away(graph: Any, wanted: Collection[str], ours: Collection[int]) -> None:  # noqa: ANN401
    """Rename the values that nodes make, if other values need their names."""
    made = [value for node in graph.all_nodes() for value in node.outputs]
    taken = {*wanted, *(value.name for value in made)}
    for value in made:
        if value.name in wanted and id(value) not in ours:
            value.name = fresh(value.name, taken)
            taken.add(value.name)
