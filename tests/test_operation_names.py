"""Names of values that count operations, as torch.export gives them, after an optimiser took all metadata away."""

from __future__ import annotations

import pytest
from onnx import parser

from mxtools.passes.project_names import ProjectNames
from mxtools.pipeline.working_model import WorkingModel
from tests.support.small_graphs import HEAD
from tests.support.small_traces import trace_of

CALLS = """
. Net x:2 -> y:2
a A x:2 -> p:2
b B p:2 -> q:2
c C q:2 -> y:2
"""


def scopes(nodes: str, run: str) -> dict[str, str | None]:
    """Return by value the scopes that names give to the nodes of a graph from `x` to `y`, but for the last one."""
    model = parser.parse_model(f"{HEAD} g (float[2] x) => (float[2] y) {{ {nodes} }}")
    working = WorkingModel(model, sidecar=trace_of(CALLS + run))
    ProjectNames().apply(working)
    calls, names = working.annotations.call, working.annotations.hierarchy.scopes
    inner = enumerate(list(model.graph.node)[:-1])
    return {node.output[0]: None if (at := calls[n]) is None else names[at] for n, node in inner}


RUN = "run a relu x -> p\nrun b relu p -> q\nrun c exp q -> y"


@pytest.mark.parametrize(
    ("nodes", "run", "expected"),
    [
        ("relu = Relu(x) relu_1 = Relu(relu) y = Exp(relu_1)", RUN, {"relu": "a", "relu_1": "b"}),
        # the optimiser sorted the nodes anew, and removed the first one
        ("relu_1 = Relu(x) y = Exp(relu_1)", RUN, {"relu_1": "b"}),
        # torch.export counted more of them than ran: any of the three can be the one that the trace lacks
        (
            "relu = Relu(x) relu_1 = Relu(relu) relu_2 = Relu(relu_1) y = Exp(relu_2)",
            RUN,
            dict.fromkeys(("relu", "relu_1", "relu_2")),
        ),
        # `relu` would read what ran after it
        ("relu_1 = Relu(x) relu = Relu(relu_1) y = Exp(relu)", RUN, dict.fromkeys(("relu_1", "relu"))),
        # the number runs ahead, but only one ran between the two of which the names are right
        (
            "tanh = Tanh(x) relu_3 = Relu(tanh) sin = Sin(relu_3) y = Exp(sin)",
            "run a tanh x -> t\nrun a relu t -> p\nrun b sin p -> q\nrun c exp q -> y",
            {"tanh": "a", "relu_3": "a", "sin": "b"},
        ),
        # the first `sum` is `sum_1`, because Python has a function `sum`
        (
            "sum_1 = Relu(x) relu = Relu(sum_1) y = Exp(relu)",
            "run a sum x -> p\nrun b relu p -> q\nrun c exp q -> y",
            {"sum_1": "a", "relu": "b"},
        ),
        # results of several operations count as `getitem`, which is an operation of its own in the trace
        (
            "getitem = Relu(x) y = Exp(getitem)",
            "run a __getitem__ x -> p\nrun b relu p -> q\nrun c exp q -> y",
            {"getitem": None},
        ),
    ],
)
def test_a_name_counts_if_it_fits(nodes: str, run: str, expected: dict[str, str | None]) -> None:
    assert scopes(nodes, run) == expected


def test_a_node_that_took_over_the_name_of_a_removed_one() -> None:
    """A padding that did nothing was removed, and the Add before it makes `pad` now."""
    model = f"{HEAD} g (float[2] x) => (float[2] y) {{ [node_add] pad = Add(x, x) y = Exp(pad) }}"
    working = WorkingModel(
        parser.parse_model(model),
        sidecar=trace_of(CALLS + "run a add x x -> p\nrun b pad p -> q\nrun c exp q -> y"),
    )
    ProjectNames().apply(working)
    assert working.annotations.hierarchy.scopes[working.annotations.call[0] or 0] == "a"
