"""`mx tune`: the smallest model that meets a target."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import mxtools
from mxtools.errors import InputError, UsageError
from mxtools.scopes.selection import Selection
from mxtools.tuning import quantisers as quantisers_module
from mxtools.tuning.judging import judged_outputs
from mxtools.tuning.metrics import METRICS
from mxtools.tuning.plans import Plans, knapsack
from mxtools.tuning.quantisers import COMMAND, FLOAT, Options, quantisers
from mxtools.tuning.samples import samples
from mxtools.tuning.tuning import Request, tune
from mxtools.tuning.units import Units
from mxtools.tuning.workshop import Workshop
from mxtools_cli.commands import tune as tune_command
from tests.support.commands import Mx
from tests.support.tuned_models import LAYERS, layers, sets, write_sets

CLOSE = 1.02
"""How many times the bytes of the smallest model a found one may have."""


def outputs(model: Path, each: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return list(session.run(None, each))


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("precision", ["int8", "qdq"])
def test_what_is_left_in_float_is_the_module_with_an_outlier(layer: int, precision: str) -> None:
    model = layers(outlier=layer)
    plain = layers().tune(sets(), "sqnr>=10", [precision])
    assert plain.met
    assert not plain.left()
    good = plain.chosen.verdict.value - 6  # decibels that the other modules' noise is allowed
    found = model.tune(sets(), f"sqnr>={good:.3f}", [precision])
    assert found.evaluations[0].verdict.value < good - 3
    assert found.met
    assert found.left() == [f"layers.{layer}.up"]
    assert found.held
    assert found.held.met
    assert len(found.evaluations) <= 4
    measured = found.measured
    assert measured
    worst = max(measured.damages, key=lambda name: max(measured.damages[name].values()))
    assert worst == f"/layers.{layer}/up/MatMul"


def test_everything_is_small_after_one_evaluation_where_that_is_good() -> None:
    found = layers().tune(sets(), "sqnr>=10", ["int4", "int8"])
    assert (len(found.evaluations), found.counts.probes, found.left()) == (1, 0, [])
    assert set(found.chosen.precisions.values()) == {"int4", "int8"}  # the Gemm cannot have blocks
    stored = {tensor.name: tensor.data_type for tensor in found.model.to_proto().graph.initializer}
    assert not any(name.endswith(("up.weight", "down.weight")) for name in stored)


def exhaustive(model: mxtools.Model, target: str, precisions: tuple[str, ...]) -> int:
    """Return the bytes of the smallest of all models that meet a target."""
    from mxtools.files.temporary import Scratch
    from mxtools.tuning.judging import judge
    from mxtools.tuning.metrics import target as parsed

    units, wanted = Units(model, quantisers(precisions, Options())), parsed(target, judged=False)
    data = samples(model.proto, sets(), None, more=False)
    judging = judge(model, data.seen, wanted, None, ["y"])
    with Scratch() as folder:
        shop = Workshop(units, data, judging, lambda verdict: wanted.met(verdict.value, 0.0), folder)
        for choice in product((FLOAT, *precisions), repeat=len(units.all)):
            shop.evaluate({u.name: p for u, p in zip(units.all, choice, strict=True) if p in u.precisions})
        return min(each.size for each in shop.evaluations if each.met)


@pytest.mark.parametrize("target", ["sqnr>=38", "sqnr>=42", "kl<=0.00003", "max-error<=0.012", "cosine>=0.99995"])
def test_the_model_is_nearly_the_smallest_of_all(target: str) -> None:
    model = layers(seed=3)
    best = exhaustive(model, target, ("int8",))
    found = model.tune(sets(), target, ["int8"])
    assert found.met
    assert found.chosen.size <= CLOSE * best
    assert len(found.evaluations) <= 12  # of 128


@pytest.mark.parametrize("seed", range(5))
def test_a_plan_is_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    choices = {
        str(unit): {FLOAT: (100, 0.0), "int8": (int(rng.integers(20, 40)), float(rng.random())), "int4": (15, 1.0)}
        for unit in range(6)
    }
    allowed = 2.0
    every = [
        [choices[name][p] for name, p in zip(choices, each, strict=True)] for each in product(choices["0"], repeat=6)
    ]
    best = min(sum(size for size, _ in each) for each in every if sum(damage for _, damage in each) <= allowed * 0.999)
    found = [choices[name][precision] for name, precision in knapsack(choices, allowed).items()]
    assert sum(damage for _, damage in found) <= allowed
    assert sum(size for size, _ in found) <= best


@pytest.mark.parametrize("seed", range(5))
def test_a_plan_takes_into_account_which_errors_point_in_the_same_direction(seed: int) -> None:
    rng = np.random.default_rng(seed)
    errors = rng.standard_normal((7, 4)) * rng.random((7, 1))
    damages, lengths = np.square(errors).sum(1), np.linalg.norm(errors, axis=1)
    sizes = rng.integers(20, 60, 7)
    choices = {str(u): {FLOAT: (100, 0.0), "int8": (int(sizes[u]), float(damages[u]))} for u in range(7)}
    allowed = 0.4 * damages.sum()
    every = {
        each: (100 * 7 - sum(100 - sizes[u] for u in each), np.square(errors[list(each)].sum(0)).sum())
        for count in range(8)
        for each in combinations(range(7), count)
    }
    best = min(size for size, damage in every.values() if damage <= allowed)
    found = Plans(choices, (errors @ errors.T / np.outer(lengths, lengths)).tolist()).smallest(allowed)
    size, damage = every[tuple(map(int, found.precisions))]
    assert found.damage == pytest.approx(damage)
    assert damage <= allowed
    assert found.cost == size <= 1.1 * best


PRECISIONS: list[tuple[str, ...]] = [("int8",), ("qdq",), ("int4",), ("int8-weights",), ("float16",)]
MIXED: list[tuple[str, ...]] = [("int8", "float16"), ("qdq", "int4", "float16"), ("int4", "int8-weights", "float16")]


@pytest.mark.parametrize("precisions", [*PRECISIONS, *MIXED], ids=" ".join)
def test_the_recipe_makes_the_same_model_without_mxtools(mx: Mx, tmp_path: Path, precisions: tuple[str, ...]) -> None:
    layers(outlier=1).save(tmp_path / "m.onnx")
    write_sets(tmp_path / "sets")
    target = "sqnr>=26" if len(precisions) == 1 else "sqnr>=50"
    line = f"tune m.onnx --inputs sets --target {target} --to {','.join(precisions)} -o t.onnx --recipe r.py"
    done = mx(*line.split(), cwd=tmp_path)
    assert done.returncode in (0, 1), done.stderr.decode()
    blocked = "import sys; sys.modules['mxtools'] = None; import runpy; sys.argv = sys.argv[1:]; runpy.run_path('r.py')"
    recipe = [sys.executable, "-c", blocked, "r.py", "m.onnx", "r.onnx", "sets"]
    subprocess.run(recipe, cwd=tmp_path, check=True, capture_output=True)
    for each in sets(2):
        for a, b in zip(outputs(tmp_path / "t.onnx", each), outputs(tmp_path / "r.onnx", each), strict=True):
            assert np.array_equal(a, b)


def test_only_selected_modules_are_tuned_and_weights_can_have_seven_bits() -> None:
    """Python takes the same selectors and the same `reduce_range` as the command."""
    found = layers().tune(sets(), "sqnr>=10", "int8", scopes="layers.*", exclude="layers.1", reduce_range=True)
    assert {name.split("/")[1] for name in found.chosen.precisions} == {"layers.0", "layers.2"}
    names = ("layers.0.up.weight_quantized", "layers.2.down.weight_quantized")
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in found.model.to_proto().graph.initializer}
    assert all(np.abs(stored[name].astype(np.int32)).max() <= 64 for name in names)
    with pytest.raises(UsageError, match=r"layers\.9"):
        layers().tune(sets(), "sqnr>=10", "int8", scopes="layers.9")


@pytest.mark.usefixtures("exact_int8")
def test_what_is_left_in_float_is_told_to_other_tools(mx: Mx, tmp_path: Path) -> None:
    layers(outlier=1).save(tmp_path / "m.onnx")
    write_sets(tmp_path / "sets")
    mx(
        *["tune", "m.onnx", "--inputs", "sets", "--target", "sqnr>=30", "-o", "t.onnx", "--recipe", "r.json"],
        cwd=tmp_path,
    )
    told = json.loads((tmp_path / "r.json").read_text())
    assert told["ort-quant"] == {"nodes_to_exclude": ["/layers.1/up/MatMul"]}
    assert told["nncf"] == {"names": ["/layers.1/up/MatMul"]}


def test_half_precision_is_only_where_it_is_wanted(tmp_path: Path) -> None:
    """What a blocked node makes may be too large for half precision, as its neighbour's input."""
    model = layers(outlier=1)
    proto = model.to_proto()
    for node in proto.graph.node:
        if node.name == "/layers.1/up/MatMul":
            node.output[0] = "small"
    scale = onnx.numpy_helper.from_array(np.array(1e6, np.float32), "scale")
    proto.graph.initializer.append(scale)
    index = next(i for i, node in enumerate(proto.graph.node) if node.name == "/layers.1/act/Relu")
    proto.graph.node.insert(index, onnx.helper.make_node("Mul", ["small", "scale"], ["u1"], name="/layers.1/up/Mul"))
    large = mxtools.from_proto(proto)
    large.tag()
    found = large.tune(sets(), "sqnr>=40", ["float16"])
    assert found.met
    assert "layers.1.up" in found.left()
    assert found.chosen.size < 0.6 * found.size


def test_a_budget_ends_the_search_with_the_best_so_far(mx: Mx, tmp_path: Path) -> None:
    layers(outlier=2, seed=3).save(tmp_path / "m.onnx")
    write_sets(tmp_path / "sets")
    line = "tune m.onnx --inputs sets --target sqnr>=41 -o t.onnx --report r.json --budget 1"
    done = mx(*line.split(), cwd=tmp_path)
    report = json.loads((tmp_path / "r.json").read_text())
    assert len(report["evaluations"]) == 1
    assert report["exhausted"]
    assert not report["met"]
    assert done.returncode == 1
    assert b"--budget" in done.stderr
    assert (tmp_path / "t.onnx").exists()


def test_a_search_goes_on_where_it_was(tmp_path: Path) -> None:
    model, data = layers(outlier=1, seed=3), samples(layers().proto, sets(), None, more=False)
    made: list[str] = []
    whole = tune(model, data, Request("sqnr>=41"), lambda evaluation: made.append(evaluation.key))
    state = tmp_path / "state.json"
    again: list[str] = []
    tune(model, data, Request("sqnr>=41", budget=2, state=state), lambda evaluation: again.append(evaluation.key))
    assert again == made[:2]
    found = tune(model, data, Request("sqnr>=41", state=state), lambda evaluation: again.append(evaluation.key))
    assert again == made
    assert found.to_dict() == whole.to_dict()
    tune(model, data, Request("sqnr>=41", state=state), lambda evaluation: pytest.fail("it was known"))
    with pytest.raises(UsageError, match="another search"):
        tune(model, data, Request("sqnr>=42", state=state))
    state.write_text("{")
    with pytest.raises(InputError, match="no state"):
        tune(model, data, Request("sqnr>=41", state=state))


def test_a_search_of_other_weights_in_external_data_is_another(tmp_path: Path) -> None:
    state, data = tmp_path / "state.json", samples(layers().proto, sets(), None, more=False)
    for seed in range(2):
        proto = onnx.ModelProto.FromString(layers().proto.SerializeToString())
        for weight in (w for w in proto.graph.initializer if len(w.dims) == 2):  # small ones are in the graph's file
            array = onnx.numpy_helper.to_array(weight) * np.float32(1 + seed)
            weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
        file = tmp_path / str(seed) / "m.onnx"
        file.parent.mkdir()
        onnx.save(proto, file, save_as_external_data=True, location="m.onnx.data", size_threshold=0)
        request = Request("sqnr>=20", state=state)
        if seed:
            with pytest.raises(UsageError, match="the state of another search"):
                tune(mxtools.load(file), data, request)
        else:
            tune(mxtools.load(file), data, request)


def test_an_output_without_a_type_is_compared() -> None:
    model = layers()
    model.proto.graph.output[0].ClearField("type")
    assert judged_outputs(model, METRICS["sqnr"], ()) == ["y"]
    with pytest.raises(UsageError, match="no output 'z' of floats"):
        judged_outputs(model, METRICS["sqnr"], ["z"])


def test_the_command_lists_the_precisions_that_there_are() -> None:
    assert (*tune_command.PRECISIONS, COMMAND) == quantisers_module.PRECISIONS


@pytest.mark.usefixtures("exact_int8")
def test_an_interrupt_gives_the_best_so_far() -> None:
    model, data = layers(outlier=1, seed=3), samples(layers().proto, sets(), None, more=False)
    count = 0

    def told(evaluation: Any) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt

    found = tune(model, data, Request("sqnr>=41"), told)
    assert found.interrupted
    assert len(found.evaluations) >= 2
    assert found.model.is_tagged


ACCURACY = """
import numpy as np

def accuracy(session, sets):
    right = [np.mean(session.run(["y"], {"x": s["x"]})[0].argmax(-1) == s["labels"]) for s in sets]
    return float(np.mean(right))

def own(session):
    return float(session.run(["y"], {"x": np.ones((4, 32), np.float32)})[0].sum())

def fails(session):
    raise ValueError("no data")

def stops(session):
    stops.count += 1
    if stops.count > 3:
        raise KeyboardInterrupt
    return 1.0

stops.count = 0
number = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = layers(outlier=1)
    model.save(tmp_path / "m.onnx")
    model.untag()
    for node in model.to_proto().graph.node:
        node.ClearField("name")
    labels = np.concatenate([outputs(tmp_path / "m.onnx", each)[0].argmax(-1) for each in sets()])
    labels[::7] = 0
    write_sets(tmp_path / "sets", labels)
    write_sets(tmp_path / "plain")
    (tmp_path / "eval.py").write_text(ACCURACY)
    return tmp_path


def test_a_users_figure_is_met(mx: Mx, folder: Path) -> None:
    line = "tune m.onnx --inputs sets --eval eval.py:accuracy --target >=base-0.02 --to int4,int8"
    done = mx(*line.split(), "-o", "t.onnx", "--report", "r.json", cwd=folder)
    report = json.loads((folder / "r.json").read_text())
    assert done.returncode == 0, done.stderr.decode()
    assert report["value"] >= report["base"] - 0.02 == report["wanted"]
    assert report["base_noise"] == 0
    assert report["held_back"]["base"] > 0.7
    assert report["bytes"]["after"] < 0.8 * report["bytes"]["before"]


def test_a_function_with_its_own_inputs_has_none_held_back(mx: Mx, folder: Path) -> None:
    line = "tune m.onnx --inputs plain --eval eval.py:own --target >=-1000 -o t.onnx --json"
    done = mx(*line.split(), cwd=folder)
    assert json.loads(done.stdout)["held_back"] is None


def test_a_target_that_nothing_meets_is_no(mx: Mx, folder: Path) -> None:
    line = "tune m.onnx --inputs sets --eval eval.py:accuracy --target >=1.5*base -o t.onnx --report r.json"
    done = mx(*line.split(), cwd=folder)
    assert done.returncode == 1
    assert b"no smaller model meets the target; the nearest" in done.stderr
    report = json.loads((folder / "r.json").read_text())
    assert not report["met"]
    assert all(not each["met"] for each in report["evaluations"])
    assert mxtools.load(folder / "t.onnx").is_tagged


def test_an_interrupt_on_the_command_line_writes_the_best_so_far(mx: Mx, folder: Path) -> None:
    line = "tune m.onnx --inputs plain --eval eval.py:stops --target >=2 -o t.onnx"
    done = mx(*line.split(), cwd=folder)
    assert done.returncode in (1, 130), done.stderr.decode()


@pytest.mark.usefixtures("exact_int8")
def test_the_report_is_shown_and_drawn(mx: Mx, folder: Path) -> None:
    line = "tune m.onnx --inputs plain --target sqnr>=30 -o t.onnx --report r.json --plot p.svg"
    done = mx(*line.split(), cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    assert b"chosen" in done.stdout
    assert b"6 int8, 1 float32" in done.stdout
    assert b"left in float32: layers.1.up" in done.stderr
    assert b"on inputs held back (target 30)" in done.stderr
    drawn = (folder / "p.svg").read_bytes()
    assert b"sqnr (dB)" in drawn or b"svg" in drawn
    shown = mx("view", "t.onnx", "--metric", "r.json", "-o", "v.html", cwd=folder)
    assert shown.returncode == 0
    again = mx(*line.split(), cwd=folder)
    assert again.stdout == done.stdout
    assert (folder / "p.svg").read_bytes() == drawn


QUANTISER = """
import sys
from onnxruntime.quantization import quantize_dynamic
source, target, excluded = sys.argv[1:]
quantize_dynamic(source, target, nodes_to_exclude=open(excluded).read().split("\\n"), per_channel=True)
"""


@pytest.mark.usefixtures("exact_int8")
def test_a_users_quantiser_is_told_what_to_leave(mx: Mx, folder: Path) -> None:
    (folder / "quantise.py").write_text(QUANTISER)
    command = f"{sys.executable} quantise.py {{in}} {{out}} {{excluded}}"
    line = ["tune", "m.onnx", "--inputs", "plain", "--target", "sqnr>=30", "-o", "t.onnx", "--command", command]
    done = mx(*line, "--to", "command", "--recipe", "r.py", cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    assert b"left in float32: layers.1.up" in done.stderr
    subprocess.run([sys.executable, "r.py", "m.onnx", "r.onnx"], cwd=folder, check=True, capture_output=True)
    each = sets(1)[0]
    assert np.array_equal(outputs(folder / "t.onnx", each)[0], outputs(folder / "r.onnx", each)[0])


def test_nodes_that_share_a_weight_get_one_precision() -> None:
    proto = layers().to_proto()
    for node in proto.graph.node:
        node.input[:] = [name.replace("layers.2.up.weight", "layers.0.up.weight") for name in node.input]
    del proto.graph.initializer[[t.name for t in proto.graph.initializer].index("layers.2.up.weight")]
    model = mxtools.from_proto(proto)
    units = Units(model, quantisers(("int8",), Options()))
    shared = [unit for unit in units.all if len(unit.nodes) > 1]
    assert [unit.scope for unit in shared] == ["layers.0.up"]
    assert len(units.all) == 2 * LAYERS


def test_only_what_is_selected_is_tuned(mx: Mx, folder: Path) -> None:
    line = (
        "tune m.onnx --inputs plain --target sqnr>=10 --scope layers.* --exclude layers.0 --op MatMul -o t.onnx --json"
    )
    done = mx(*line.split(), cwd=folder)
    scopes = {choice["scope"] for choice in json.loads(done.stdout)["choices"]}
    assert scopes == {f"layers.{layer}.{part}" for layer in (1, 2) for part in ("up", "down")}


WRONG = {
    "no comparison": ("m.onnx --inputs plain --target 30", 2, "is no comparison: write 'sqnr>=30'"),
    "an unknown metric": ("m.onnx --inputs plain --target sqrn>=30", 2, "did you mean sqnr"),
    "the wrong direction": ("m.onnx --inputs plain --target sqnr<=30", 2, "larger is better"),
    "base without a function": ("m.onnx --inputs plain --target sqnr>=0.9*base", 2, "user's function"),
    "a metric and a function": ("m.onnx --inputs sets --eval eval.py:accuracy --target sqnr>=3", 2, "names a metric"),
    "an unknown precision": ("m.onnx --inputs plain --target sqnr>=30 --to int9", 2, "did you mean int"),
    "an unknown output": ("m.onnx --inputs plain --target sqnr>=30 --compared z", 2, "no output 'z'"),
    "labels without a function": ("m.onnx --inputs sets --target sqnr>=30", 2, "not an input of the graph"),
    "one set": ("m.onnx --inputs one.json --target sqnr>=30", 2, "--held-back"),
    "no input": ("m.onnx --inputs other.json --target sqnr>=30", 3, "no value for the graph's input 'x'"),
    "no file": ("m.onnx --inputs none.npz --target sqnr>=30", 3, "there is no file"),
    "an empty folder": ("m.onnx --inputs empty --target sqnr>=30", 2, "has no .npz"),
    "no function": ("m.onnx --inputs plain --eval eval.py:number --target >=1", 2, "is no function"),
    "an unknown function": ("m.onnx --inputs plain --eval eval.py:accurcy --target >=1", 3, "did you mean accuracy"),
    "a function that fails": ("m.onnx --inputs plain --eval eval.py:fails --target >=1", 3, "ValueError: no data"),
    "a command without places": ("m.onnx --inputs plain --target sqnr>=30 --command cp", 2, "{in}"),
    "another recipe": ("m.onnx --inputs plain --target sqnr>=30 --recipe r.txt", 2, "is no .py or .json"),
    "a model without scopes": ("raw.onnx --inputs plain --target sqnr>=30", 3, "no node has a scope"),
    "nodes without names": ("nameless.onnx --inputs plain --target sqnr>=30", 3, "has no name"),
    "nothing to make smaller": ("m.onnx --inputs plain --target sqnr>=30 --op Relu", 2, "no selected node has weights"),
    "the input as the report": ("m.onnx --inputs plain --target sqnr>=30 --report m.onnx", 3, "is given twice"),
    "json and the model": ("m.onnx --inputs plain --target sqnr>=30 --json -o -", 2, "both go to stdout"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_line(mx: Mx, folder: Path, case: str) -> None:
    model = mxtools.load(folder / "m.onnx")
    proto = model.to_proto()
    for node in proto.graph.node:
        node.ClearField("name")
    onnx.save(proto, folder / "nameless.onnx")
    model.untag()
    model.save(folder / "raw.onnx")
    (folder / "one.json").write_text(json.dumps({"x": sets(1, 1)[0]["x"].tolist()}))
    (folder / "other.json").write_text('{"z": [1.0]}')
    (folder / "empty").mkdir()
    line, status, words = WRONG[case]
    given = line.split()
    done = mx("tune", *given, *(() if "-o" in given else ("-o", "t.onnx")), cwd=folder)
    said = done.stderr.decode()
    assert done.returncode == status, said
    assert said.count("\n") == 1
    assert words in said
    assert said.startswith('{"error"' if "--json" in given else "mx tune: ")
    assert not (folder / "t.onnx").exists()


def test_metrics_are_what_their_names_say() -> None:
    rng = np.random.default_rng(0)
    wanted = rng.standard_normal((6, 5))
    found = wanted + 0.01 * rng.standard_normal((6, 5))

    def value(name: str) -> float:
        metric = METRICS[name]
        return metric.total(
            [metric.parts({"y": f}, {"y": w}) for f, w in zip(np.split(found, 3), np.split(wanted, 3), strict=True)]
        )

    noise = ((found - wanted) ** 2).sum()
    assert value("sqnr") == pytest.approx(10 * math.log10((wanted**2).sum() / noise))
    assert value("cosine") == pytest.approx((found * wanted).sum() / np.linalg.norm(found) / np.linalg.norm(wanted))
    ratios = [abs(f - w).max() / abs(w).max() for f, w in zip(np.split(found, 3), np.split(wanted, 3), strict=True)]
    assert value("max-error") == pytest.approx(max(ratios))
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (wanted, found))
    assert value("kl") == pytest.approx((p * np.log(p / q)).sum(-1).mean())
    assert value("top1") == (found.argmax(-1) == wanted.argmax(-1)).mean()


def test_the_spread_of_a_value_is_that_of_its_sets() -> None:
    rng = np.random.default_rng(0)
    metric = METRICS["top1"]
    hits = rng.integers(0, 2, 40)
    parts = [{"y": (float(hit), 1.0)} for hit in hits]
    assert metric.spread(parts) == pytest.approx(hits.std(ddof=1) / math.sqrt(len(hits)))
    assert metric.spread(parts[:1]) == 0


def only(model: mxtools.Model, scope: str) -> float:
    """Return the damage of a model in which only one module is small, which is really made."""
    data = samples(model.proto, sets(), None, more=False)
    request = Request("sqnr>=90", selection=Selection(scopes=(scope,)), budget=1)
    return tune(model, data, request).evaluations[0].verdict.damage


@pytest.mark.usefixtures("exact_int8")
def test_damages_that_were_measured_are_those_of_models_with_one_small_module() -> None:
    model = layers(outlier=1)
    found = model.tune(sets(), "sqnr>=90", ["int8"], budget=1)
    assert found.measured
    for unit in found.units.all:
        damage = found.measured.damages[unit.name]["int8"]
        assert damage == pytest.approx(only(model, unit.scope), rel=0.7), unit.scope
    together = sum(each["int8"] for each in found.measured.damages.values())
    assert together == pytest.approx(found.evaluations[0].verdict.damage, rel=0.5)
