"""What `tune` does with unusual functions, inputs, budgets and models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser

import mxtools
from mxtools.errors import InputError, UsageError
from mxtools.runtime.processor import int8_overflows
from mxtools.tuning.judging import Verdict, found_function, judged_outputs, takes_sets
from mxtools.tuning.metrics import METRICS
from mxtools.tuning.own_errors import Measured
from mxtools.tuning.samples import samples
from mxtools.tuning.search import Search
from mxtools.tuning.tuning import Request, tune
from mxtools.tuning.units import Unit
from mxtools.tuning.workshop import Evaluation
from tests.support.commands import Mx
from tests.support.small_graphs import HEAD, tagged
from tests.support.tuned_models import layers, sets


class Figure:
    """A figure as an object, or as its method."""

    def __call__(self, session: Any, sets: Any) -> float:
        return 0.0

    def of_session(self, session: Any) -> float:
        return 0.0


@pytest.mark.parametrize(
    ("function", "takes"),
    [
        (lambda session: 0.0, False),
        (lambda session, sets: 0.0, True),
        (lambda session, sets=(): 0.0, True),
        (lambda session, verbose=False: 0.0, False),
        (lambda *given: 0.0, True),
        (Figure().of_session, False),
        (Figure(), True),
    ],
)
def test_a_function_is_given_sets_if_it_takes_them(function: Callable[..., float], takes: bool) -> None:
    assert takes_sets(function) == takes


def test_a_search_whose_function_was_changed_is_another(tmp_path: Path) -> None:
    data, script = samples(layers().proto, sets(), None, more=False), tmp_path / "figure.py"

    def search(answer: int) -> None:
        script.write_text(f"def figure(session):\n    return {answer}\n")
        function = found_function(f"{script}:figure")
        tune(layers(), data, Request(">=base", function=function, state=tmp_path / "state.json", budget=1))

    search(1)
    search(1)
    with pytest.raises(UsageError, match="the state of another search"):
        search(2)


def test_a_function_judges_a_model_without_outputs_of_floats() -> None:
    proto = onnx.ModelProto.FromString(layers(outlier=1).proto.SerializeToString())
    proto.graph.node.append(helper.make_node("ArgMax", ["y"], ["best"], axis=1, keepdims=0, name="/ArgMax"))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("best", TensorProto.INT64, ["batch"]))
    model = mxtools.from_proto(proto)
    with pytest.raises(UsageError, match="the model has no output of floats"):
        judged_outputs(model, METRICS["top1"], ())
    wanted = [model.run(each)["best"] for each in sets()]

    def agreement(session: Any, sets: Any) -> float:
        found = [session.run(None, {"x": each["x"]})[0] for each in sets]
        return float(np.mean([np.mean(a == b) for a, b in zip(found, wanted, strict=False)]))

    found = model.tune(sets(), ">=0.97", ["int8"], function=agreement, held=sets())
    assert found.met
    assert found.chosen.precisions


def test_no_inputs_and_no_budget_are_told() -> None:
    model = layers()
    with pytest.raises(UsageError, match="there is no set of inputs"):
        samples(model.proto, [], sets(), more=False)
    with pytest.raises(UsageError, match="there is no set of inputs"):
        samples(model.proto, sets(), [], more=False)
    with pytest.raises(UsageError, match="the budget is 0"):
        tune(model, samples(model.proto, sets(), None, more=False), Request("sqnr>=10", budget=0))


@pytest.mark.parametrize(("other", "pieces"), [("batch", 12), ("length", 1)])
def test_only_a_batch_is_divided(tmp_path: Path, other: str, pieces: int) -> None:
    model = parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 17]> g (float[batch, 4] x, float[{other}, 4] m) => (float[batch, k] y)'
        "{ t = Transpose (m) y = MatMul (x, t) }"
    )
    arrays = {"x": np.ones((24, 4), np.float32), "m": np.ones((24, 4), np.float32)}
    np.savez(tmp_path / "inputs.npz", **arrays)
    held = [{name: array[:2] for name, array in arrays.items()}]
    assert len(samples(model, tmp_path / "inputs.npz", held, more=False).seen) == pieces


@pytest.mark.parametrize("precisions", [["int8"], ["int8", "float16"]])
def test_a_model_of_which_nothing_may_be_small_stays_as_it_is(precisions: list[str]) -> None:
    found = layers().tune(sets(), "sqnr>=500", precisions)
    assert found.met
    assert found.chosen.precisions == {}


def test_a_scalar_agrees_with_itself() -> None:
    one = np.float32(1)
    assert METRICS["top1"].parts({"y": np.asarray(one)}, {"y": np.asarray(one)}) == {"y": (1.0, 1.0)}


def test_a_precision_that_another_one_beats_is_no_dead_end() -> None:
    """`a` in int4 is larger than in int8, and only `b` does harm: everything small but for `b` is good."""
    units = [Unit((0,), "a", 0, "a", 40, ("int4", "int8")), Unit((1,), "b", 0, "b", 40, ("int4",))]
    sizes = {"a": {"int4": 20, "int8": 10}, "b": {"int4": 10}}
    damages = {"a": {"int4": 0.1, "int8": 0.1}, "b": {"int4": float("inf")}}
    measured = Measured(damages, damages, sizes, [[1.0, 0.0], [0.0, 1.0]])
    evaluations: list[Evaluation] = []

    def evaluate(precisions: dict[str, str]) -> Evaluation:
        size = sum(sizes[u.name][precisions[u.name]] if u.name in precisions else u.size for u in units)
        damage = float("inf") if "b" in precisions else 0.1
        evaluations.append(Evaluation(dict(precisions), size, Verdict(damage, 0.0, damage), damage < 1))
        return evaluations[-1]

    def damage(precisions: dict[str, str]) -> float:
        return sum(damages[name][precision] for name, precision in precisions.items())

    workshop: Any = SimpleNamespace(
        units=SimpleNamespace(all=units, model=layers()),
        evaluations=evaluations,
        known={},
        evaluate=evaluate,
        is_timed=False,
    )
    rehearsal: Any = SimpleNamespace(measured=lambda: measured, damage=damage, known=measured, rest=lambda: None)
    search = Search(workshop, rehearsal, 1.0, 5)
    search.run()
    assert search.best
    assert search.best.precisions == {"a": "int8"}


def test_why_models_could_not_be_made_is_told(mx: Mx, tmp_path: Path) -> None:
    """The converter to half precision does not see what a body captures."""
    text = """ g (float[8, 8] x, bool c) => (float[8, 8] y) {
        a = Exp(x)
        b = If (c) <
            then_branch = t () => (float[8, 8] p) { p = Neg(a) },
            else_branch = e () => (float[8, 8] q) { q = Abs(a) }
        >
        y = MatMul(b, w)
    }"""
    model = tagged(HEAD + text, {"a": "m", "b": "m", "y": "n"})
    for node in model.graph.node:
        node.name = f"/{node.op_type}"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(8, dtype=np.float32), "w"))
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "in").mkdir()
    for number in range(3):
        np.savez(tmp_path / "in" / f"{number}.npz", x=np.full((8, 8), number, np.float32), c=np.array(number > 0))
    line = ["tune", "m.onnx", "--inputs", "in", "--target", "sqnr>=30", "--to", "float16", "-o", "t.onnx"]
    said = mx(*line, cwd=tmp_path).stderr.decode()
    assert "mx tune: 1 of 2 models could not be made or run: the quantiser (half) failed: " in said


@pytest.mark.parametrize("options", [(), ("--reduce-range",), ("--to", "int4")])
def test_it_is_said_that_products_overflow_on_this_processor(mx: Mx, tmp_path: Path, options: tuple[str, ...]) -> None:
    layers().save(tmp_path / "m.onnx")
    (tmp_path / "in").mkdir()
    for number, arrays in enumerate(sets()[:3]):
        np.savez(tmp_path / "in" / f"{number}.npz", **arrays)
    line = ["tune", "m.onnx", "--inputs", "in", "--target", "sqnr>=0", "-o", "t.onnx"]
    done = mx(*line, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (b"try --reduce-range" in done.stderr) == (int8_overflows() and not options)


def test_a_folded_model_is_to_be_unfolded_first() -> None:
    """Quantisers would leave what is in functions in float32, and the report would not list it."""
    folded = layers().fold(repeated=True)
    with pytest.raises(InputError, match="modules of the model are functions, into which quantisers do not look"):
        folded.tune(sets(), "sqnr>=0")
