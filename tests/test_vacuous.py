"""Modules that did nothing, and modules that only moved elements, which look the same to fingerprints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from mxtools.evidence.absent import is_vacuous
from mxtools.pipeline.working_model import WorkingModel
from mxtools.pytorch.subject import Subject
from mxtools.pytorch.tracing import trace
from mxtools.strategies import table
from mxtools.traces import sidecar
from mxtools.traces.sidecar import Call, Sidecar

X = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
Y = X + 7


class Does(nn.Module):
    """A module that does what a function does."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *given: Tensor) -> Any:
        return self.function(*given)


class Around(nn.Module):
    """A model with that module in it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self.inner(x, y) if isinstance(self.inner, Does) else self.inner(x)


def traced(inner: nn.Module, x: Tensor = X, y: Tensor = Y) -> Sidecar:
    return trace(Subject(Around(inner).eval(), {"x": x.clone(), "y": y.clone()}, "test"))


def called(found: Sidecar) -> Call:
    return next(call for call in found.calls if call.scope == "inner")


def swapped_in_place(x: Tensor, y: Tensor) -> Tensor:
    return x.copy_(x.clone().flip(0))


NOTHING: dict[str, nn.Module] = {
    "identity": nn.Identity(),
    "dropout": nn.Dropout(),
    "a copy": Does(lambda x, y: x.clone()),
    "copies of both": Does(lambda x, y: (y.clone(), x.clone())),
    "one given on, one copied": Does(lambda x, y: (x, y.clone())),
    "another shape": nn.Flatten(0),
    "another type": Does(lambda x, y: x.to(torch.float64)),
    "nothing in place": nn.ReLU(inplace=True),
}
MOVED: dict[str, nn.Module] = {
    "flip": Does(lambda x, y: x.flip(0)),
    "transpose of a square": Does(lambda x, y: x.T),
    "transpose, stored anew": Does(lambda x, y: x.T.contiguous()),
    "roll": Does(lambda x, y: torch.roll(x, 1)),
    "flip of the second": Does(lambda x, y: y.flip(1)),
    "one given on, one flipped": Does(lambda x, y: (x, y.flip(0))),
    "one copied, one flipped": Does(lambda x, y: {"a": x.clone(), "b": y.flip(0)}),
    "flip and another type": Does(lambda x, y: x.flip(0).to(torch.float64)),
}
ELSE: dict[str, nn.Module] = {
    "something new": Does(lambda x, y: x + 1),
    "something new, and a flip": Does(lambda x, y: (x + 1, x.flip(0))),
}


@pytest.mark.parametrize("name", NOTHING)
def test_a_module_that_did_nothing_is_vacuous_and_the_sidecar_says_no_more_of_it(name: str) -> None:
    found = traced(NOTHING[name])
    assert is_vacuous(called(found))
    assert "reorders" not in sidecar.dumps(found)


@pytest.mark.parametrize("name", MOVED)
def test_a_module_that_moved_elements_is_not_vacuous(name: str) -> None:
    found = traced(MOVED[name])
    assert called(found).reorders
    assert not is_vacuous(called(found))
    assert not is_vacuous(called(sidecar.loads(sidecar.dumps(found), "it")))


@pytest.mark.parametrize("name", ELSE)
def test_what_is_not_vacuous_anyway_is_not_looked_at(name: str) -> None:
    assert not is_vacuous(called(traced(ELSE[name])))
    assert called(traced(ELSE[name])).reorders is None


def test_elements_that_are_no_numbers_are_equal_where_they_stand() -> None:
    x = torch.tensor([[float("nan"), 1.0], [float("inf"), 2.0]])
    assert is_vacuous(called(traced(Does(lambda x, y: x.clone()), x)))
    assert not is_vacuous(called(traced(Does(lambda x, y: x.flip(0)), x)))


def test_a_transpose_that_changes_nothing_is_vacuous() -> None:
    assert is_vacuous(called(traced(Does(lambda x, y: x.T.clone()), X + X.T)))


def test_inputs_that_were_changed_in_place_are_not_compared() -> None:
    assert called(traced(Does(swapped_in_place))).reorders is None


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_all_types_are_compared(dtype: torch.dtype) -> None:
    x = torch.tensor([[1, 0], [0, 0]]).to(dtype)
    assert is_vacuous(called(traced(NOTHING["a copy"], x, x)))
    assert not is_vacuous(called(traced(Does(lambda x, y: x.T.contiguous().view(-1)[[1, 0, 2, 3]]), x, x)))


def test_a_sidecar_of_before_is_read_still() -> None:
    text = sidecar.dumps(traced(MOVED["flip"])).replace(', "reorders": true', "")
    assert is_vacuous(called(sidecar.loads(text, "it")))


class Mirrored(nn.Module):
    """Two layers with a flip between them, which a tool can fold into the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2, bias=False)
        self.flip = Does(lambda x: x.flip(-1))
        self.drop = nn.Dropout()
        self.second = nn.Linear(2, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.drop(self.flip(self.first(x))))


def test_a_flip_without_a_node_is_found_in_the_node_that_does_its_work() -> None:
    found = trace(Subject(Mirrored().eval(), {"x": X}, "test"))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="/first/MatMul"),
        helper.make_node("MatMul", ["a", "v"], ["y"], name="/second/MatMul"),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in "xy")
    weights = [helper.make_tensor(name, TensorProto.FLOAT, [2, 2], [1, 2, 3, 4]) for name in "wv"]
    model = WorkingModel(helper.make_model(helper.make_graph(nodes, "g", [x], [y], weights)), sidecar=found)
    table.get("auto").passes().run(model)
    assert model.absent == {"first": "merged: flip", "drop": "vacuous"}
    scopes = model.annotations.hierarchy.scopes
    merged = {node: [scopes[call] for call in calls] for node, calls in model.annotations.merged.items()}
    assert merged == {0: ["first", "flip"]}
