"""Peaks of live activations: which values share memory, what symbolic sizes do, and modules below modules."""

from __future__ import annotations

import json
from random import Random

import pytest
from onnx import parser

from mxtools.costs.activations import peak
from mxtools.costs.dimensions import bound, dimension, sizes_of, symbols
from mxtools.errors import UsageError
from mxtools.pipeline.working_model import WorkingModel
from mxtools.views.tree import tree
from tests.support.commands import Mx
from tests.support.random_models import random_model
from tests.support.small_graphs import BODIES, tagged

KB = 4 * 256


def peak_of(body: str, sizes: dict[str, int] | None = None, head: str = "(float[256] x) => (float[256] y)") -> int:
    model = WorkingModel(parser.parse_model(f'<ir_version: 10, opset_import: ["" : 17]> g {head} {{ {body} }}'))
    graph = model.graph
    found = peak(graph, graph.main, model.costs(sizes).size, graph.inputs, graph.outputs)
    assert not found.unsized
    return found.bytes


@pytest.mark.parametrize(
    ("body", "values"),
    [
        pytest.param("y = Sin(x)", 2, id="an input and an output"),
        pytest.param("a = Sin(x) b = Relu(a) y = Sin(b)", 3, id="in place"),
        pytest.param("a = Sin(x) b = Cos(a) y = Sin(b)", 3, id="not in place, and a is free"),
        pytest.param("a = Sin(x) b = Relu(a) y = Add(a, b)", 4, id="read later, so not in place"),
        pytest.param("a = Sin(x) b = Identity(a) c = Sin(a) y = Add(b, c)", 4, id="the same memory"),
        pytest.param("a = Relu(x) y = Sin(a)", 3, id="an input is not written over"),
        pytest.param("a = Sin(x) y = Relu(a)", 3, id="an output has memory of its own"),
        pytest.param("a = Sin(x) b = Sin(a) c = Sin(b) d = Sin(c) y = Add(d, a)", 4, id="skipped over"),
        pytest.param("a = Sin(x) c = Cast<to = 9>(a) y = Where(c, x, x)", 4.25, id="workspace of an operator"),
        pytest.param("c = Constant<value = float[256] {0}>() y = Add(x, c)", 2, id="a constant"),
    ],
)
def test_values_that_are_live_at_once(body: str, values: float) -> None:
    if "float[256] {0}" in body:
        body = body.replace("{0}", "{" + ", ".join(["1"] * 256) + "}")
    assert peak_of(body) == values * KB


HEAD = "(float[n, m] x) => (float[n, m] y)"


def test_symbolic_sizes() -> None:
    body = "s = Shape(x) a = Sin(x) b = Reshape(a, s) y = Cos(b)"
    assert peak_of(body, {"n": 16, "m": 16}, HEAD) == 3 * KB
    assert symbols(parser.parse_model(f'<ir_version: 10, opset_import: ["" : 17]> g {HEAD} {{ y = Sin(x) }}')) == [
        "n",
        "m",
    ]
    model = WorkingModel(parser.parse_model(f'<ir_version: 10, opset_import: ["" : 17]> g {HEAD} {{ {body} }}'))
    graph = model.graph
    some = peak(graph, graph.main, model.costs({"n": 16}).size, graph.inputs, graph.outputs)
    assert (some.bytes, some.unsized) == (16, 3)  # only the two numbers of the shape are known
    rest = peak(graph, graph.main, model.costs({"n": 16}, other=16).size, graph.inputs, graph.outputs)
    assert (rest.bytes, rest.unsized) == (3 * KB, 0)
    with pytest.raises(UsageError, match="no dimension 'k'"):
        bound(model.proto, {"k": 1})


@pytest.mark.parametrize("text", ["batch", "=8", "batch=", "batch=-1", "batch=x", "batch=٣", f"batch={10**13}"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="NAME=SIZE"):
        sizes_of([text])


def test_sizes_by_name() -> None:
    assert sizes_of(["batch=8", "a=b=2"]) == {"batch": 8, "a=b": 2}


def test_a_dimension_is_what_its_parts_come_to() -> None:
    sizes = {"past": 4, "new": 1, "a + b": 7}
    assert dimension("past + new", sizes) == 5
    assert dimension("2*past + 3*new + 1", sizes) == 12
    assert dimension("a + b", sizes) == 7
    assert dimension("past + b", sizes) is None
    assert dimension("past + b", sizes, 8) == 12
    assert dimension("past//2", sizes, 8) == 8
    assert dimension(f"{10**12}*{10**12}", sizes) is None
    assert dimension("9" * 5000, sizes) is None


LADDER = """<ir_version: 10, opset_import: ["" : 17]> g (float[256] x) => (float[256] y) {
    a = Sin(x) b = Sin(a) c = Sin(b) y = Add(c, a)
}"""


def test_modules_have_at_least_the_peak_of_those_in_them() -> None:
    model = WorkingModel(tagged(LADDER, {"a": "m", "b": "m.n", "c": "m.n", "y": "o"}))
    root = tree(model.annotations, model.costs())
    m, o = root.children
    assert (root.activations, m.activations, m.children[0].activations, o.activations) == (
        4 * KB,
        4 * KB,
        3 * KB,
        3 * KB,
    )
    for seed in range(40):
        drawn = WorkingModel(random_model(Random(seed)))
        left = [tree(drawn.annotations, drawn.costs())] if drawn.is_tagged else []
        while left:
            branch = left.pop()
            assert all(child.activations <= branch.activations for child in branch.children)
            left += branch.children


def test_what_is_in_bodies_is_not_known() -> None:
    model = WorkingModel(tagged(BODIES, {"b": "m"}))
    root = tree(model.annotations, model.costs())
    assert root.unsized
    assert root.activations


def test_command(mx: Mx) -> None:
    data = tagged(LADDER.replace("256", "n"), {"a": "m", "b": "m", "c": "m", "y": "o"}).SerializeToString()
    assert " ? " in mx("tree", stdin=data).stdout.decode()
    done = mx("tree", "--dim", "n=256", "--json", stdin=data)
    assert json.loads(done.stdout)["activations"] == 4 * KB
    wrong = mx("tree", "--dim", "m=256", stdin=data)
    assert (wrong.returncode, wrong.stderr.decode()) == (
        2,
        "mx tree: the model has no dimension 'm': there are n\n",
    )
