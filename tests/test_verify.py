"""`mx verify`: a module that was changed after export is found; the figures are those of an independent computation."""

from __future__ import annotations

import copy
import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16

from mxtools.errors import InputError, UsageError
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.distance import distance
from mxtools.runtime.tolerances import EXACT, HALF, QUANTISED, Tolerance, usual_tolerance
from mxtools.traces.sidecar import Sidecar, loads
from mxtools.traces.values import Values
from mxtools.verify.report import Verified
from mxtools.verify.verification import GONE, verify
from tests.support import running
from tests.support.changed_weights import changed
from tests.support.commands import Mx
from tests.support.paths import MODELS
from tests.support.shared_models import Build, Record
from tests.support.small_graphs import HEAD
from tests.support.small_graphs import tagged as tagged_at
from tests.support.small_traces import trace_of, values_of
from tests.support.whole_runs import returned_by_module

QUERY = "encoder.layer.1.attention.self.query"


def in_half(source: Path, target: Path, trace: Path, mx: Mx) -> Path:
    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)
    return target


def in_bytes(source: Path, target: Path, trace: Path, mx: Mx) -> Path:
    logging.disable(logging.WARNING)
    quantize_dynamic(source, target, reduce_range=True)  # else sums overflow on CPUs without VNNI
    logging.disable(logging.NOTSET)
    done = mx("tag", target, "--trace", trace, "-o", target)
    assert done.returncode == 0, done.stderr.decode()
    return target


def as_it_is(source: Path, target: Path, trace: Path, mx: Mx) -> Path:
    return source


WAYS = {"as it is": as_it_is, "float16": in_half, "int8": in_bytes}
CHANGES = {
    "bert": [QUERY, "encoder.layer.0.output.dense", "embeddings.word_embeddings"],
    "llama": ["layers.0.mlp.down_proj", "layers.1.self_attn.k_proj"],
    "convnet": ["stem.1"],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CHANGES)
def test_the_changed_module_is_the_first_wrong_one(
    built: Build, recorded: Record, mx: Mx, tmp_path: Path, name: str, way: str
) -> None:
    source, trace = built(name) / "tagged.onnx", recorded(name)
    done = mx("verify", WAYS[way](source, tmp_path / "right.onnx", trace, mx), "--trace", trace, "--json")
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["first"] is None
    for scope in CHANGES[name]:
        wrong = WAYS[way](changed(source, scope, tmp_path / "c.onnx"), tmp_path / "v.onnx", trace, mx)
        done = mx("verify", wrong, "--trace", trace, "--isolate", "--json")
        assert done.returncode == 1
        report = json.loads(done.stdout)
        assert report["first"] == scope
        assert report["culprits"] == [scope]
        assert f"{scope} is the first module that goes wrong".encode() in done.stderr


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", ["bert", "llama", "convnet", "repeated", "outputs"])
def test_a_raw_export_is_right_everywhere(built: Build, recorded: Record, name: str, exporter: str) -> None:
    found = verified(built(name, exporter) / "tagged.onnx", recorded(name), isolating=True)
    compared = [call for call in found.calls if call.distance]
    assert found.first is None
    assert not found.culprits
    assert found.noisiest is None
    assert len(compared) >= 0.7 * len(found.calls)
    assert all(call.reason for call in found.calls if not call.distance)
    assert max(call.distance.relative for call in compared if call.distance) < 1e-5
    assert max(call.own.relative for call in found.calls if call.own) < 1e-5


def verified(path: Path, trace: Path, tolerance: float = EXACT, isolating: bool = False) -> Verified:
    sidecar, values = loads(trace.read_bytes(), "trace"), Values.open(trace.with_suffix(".safetensors"))
    return verify(WorkingModel.read(path, sidecar=sidecar, values=values), Tolerance(tolerance), isolating)


def test_the_noise_of_a_module_is_found_below_the_tolerance(built: Build, recorded: Record, tmp_path: Path) -> None:
    """A module is named though nothing is wrong yet, and the modules after it return more error than they make."""
    scope = "encoder.layer.0.intermediate.dense"
    path = changed(built("bert") / "tagged.onnx", scope, tmp_path / "noisy.onnx", factor=1.02)
    found = verified(path, recorded("bert"), tolerance=0.1, isolating=True)
    assert found.first is None
    assert not found.culprits
    assert found.noisiest
    assert found.noisiest.scope == scope


def test_modules_that_only_pass_an_error_on_are_marked(built: Build, recorded: Record, mx: Mx, tmp_path: Path) -> None:
    path = changed(built("bert") / "tagged.onnx", "encoder.layer.0.intermediate.dense", tmp_path / "wrong.onnx")
    done = mx("verify", path, "--trace", recorded("bert"), "--isolate")
    assert done.returncode == 1
    marks = {
        re.sub(r"^\W*(\S+) .*", r"\1", line): line.rpartition("  ")[2]
        for line in done.stdout.decode().splitlines()
        if line.endswith(("wrong", "passed on"))
    }
    assert (marks["layer.0"], marks["layer.1"], marks["pooler"]) == ("wrong", "passed on", "passed on")
    assert b"wrong on its own: encoder.layer.0.intermediate.dense;" in done.stderr


def formulas(found: Any, wanted: Any) -> list[float]:
    """Compute maximum, relative error, cosine and SQNR as they are defined."""
    a, b = found.astype(np.longdouble).ravel(), wanted.astype(np.longdouble).ravel()
    largest = np.abs(a - b).max()
    cosine = (a * b).sum() / np.sqrt((a * a).sum()) / np.sqrt((b * b).sum())
    noise = ((a - b) ** 2).sum()
    decibels = 10 * np.log10((b * b).sum() / noise) if noise else np.inf
    return [float(v) for v in (largest, largest / np.abs(b).max(), cosine, decibels)]


@pytest.mark.parametrize("way", WAYS)
def test_figures_equal_an_independent_computation(
    built: Build, recorded: Record, mx: Mx, tmp_path: Path, way: str
) -> None:
    """PyTorch's modules with hooks, and the graph with all its tensors as outputs, compared by the formulas."""
    model = changed(built("bert") / "tagged.onnx", QUERY, tmp_path / "c.onnx")
    model = WAYS[way](model, tmp_path / "v.onnx", recorded("bert"), mx)
    returned, feeds = returned_by_module(f"{MODELS}:bert")
    values = running.values(onnx.load(model), feeds)
    done = mx("verify", model, "--trace", recorded("bert"), "--json")
    rows = {row["scope"]: row for row in json.loads(done.stdout)["modules"]}
    for scope in (".", QUERY, "encoder.layer.0.intermediate", "encoder.layer.1", "pooler.activation"):
        for output, wanted in zip(rows[scope]["outputs"], returned[scope], strict=True):
            figures = [output[key] for key in ("max_abs", "relative", "cosine", "sqnr_db")]
            assert figures == pytest.approx(formulas(values[output["tensor"]], wanted), rel=1e-6)


def test_the_own_error_is_that_of_the_changed_module_in_pytorch(built: Build, recorded: Record, tmp_path: Path) -> None:
    """A module before it is changed too, so that what it is given in the graph is wrong."""
    first = "encoder.layer.0.output.dense"
    once = changed(built("bert") / "tagged.onnx", first, tmp_path / "once.onnx", factor=100.0)
    found = verified(changed(once, QUERY, tmp_path / "twice.onnx"), recorded("bert"), isolating=True)
    rows = {call.scope: call for call in found.calls}
    assert [call.scope for call in found.culprits] == [first, QUERY]
    assert found.first is rows[first]
    import torch

    from mxtools.pytorch.loading.inputs import load_subject

    subject = load_subject(f"{MODELS}:bert")
    module = subject.model.get_submodule(QUERY)
    given: list[torch.Tensor] = []
    module.register_forward_hook(lambda _module, inputs, _result: given.append(inputs[0].clone()))
    negated = copy.deepcopy(module)
    with torch.no_grad():
        subject.model(**subject.inputs)
        negated.weight.neg_()
        expected = formulas(negated(given[0]).numpy(), module(given[0]).numpy())
    own = rows[QUERY].own
    assert own is not None
    assert list(vars(own).values())[:4] == pytest.approx(expected, rel=1e-4)
    apart = rows[QUERY].distance
    assert apart is not None
    assert apart.relative != pytest.approx(own.relative, rel=1e-3)
    after = rows["encoder.layer.1.output.LayerNorm"]
    assert after.distance is not None
    assert after.distance.relative > 100 * EXACT
    assert after.own is not None
    assert after.own.relative < 1e-5


def test_batches_change_nothing(
    built: Build, recorded: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = changed(built("llama") / "tagged.onnx", "layers.0.mlp.up_proj", tmp_path / "c.onnx")
    once = verified(model, recorded("llama"), isolating=True)
    monkeypatch.setattr("mxtools.runtime.sessions.BATCH_BYTES", 5000)
    assert verified(model, recorded("llama"), isolating=True) == once


def test_nodes_without_scope_are_given_their_neighbours(built: Build, recorded: Record, mx: Mx, tmp_path: Path) -> None:
    model = changed(built("bert") / "tagged.onnx", QUERY, tmp_path / "c.onnx")
    logging.disable(logging.WARNING)
    quantize_dynamic(model, tmp_path / "q.onnx", reduce_range=True)
    logging.disable(logging.NOTSET)
    done = mx("verify", tmp_path / "q.onnx", "--trace", recorded("bert"), "--json")
    assert json.loads(done.stdout)["first"] == QUERY
    assert b"nodes had no scope and got that of their neighbours" in done.stderr


def test_tolerances_follow_the_weights(built: Build, tmp_path: Path, recorded: Record, mx: Mx) -> None:
    source = built("bert") / "tagged.onnx"
    made = {
        way: WorkingModel.read(make(source, tmp_path / f"{way}.onnx", recorded("bert"), mx))
        for way, make in WAYS.items()
    }
    found = {way: usual_tolerance(model.proto, model.graph) for way, model in made.items()}
    assert found == {"as it is": EXACT, "float16": HALF, "int8": QUANTISED}


CHAIN = HEAD + " g (float[4] x) => (float[4] d) { a = Exp(x) b = Neg(a) c = Abs(b) d = Sqrt(c) }"
TRACE = """
.     Net  x:4 -> d:4
one   One  x:4 -> a:4
two   Two  a:4 -> c:4
two.n Neg  a:4 -> b:4
two.m Abs  b:4 -> c:4
three S    c:4 -> d:4
"""
X = np.linspace(-1, 1, 4, dtype=np.float32)
ARRAYS = {"x": X, "a": np.exp(X), "b": -np.exp(X), "c": np.exp(X), "d": np.sqrt(np.exp(X))}


def small(text: str, scopes: dict[str, str], trace: str = TRACE, names: str = "x d a c b") -> Verified:
    """Verify a model from text with scopes by output, on a trace whose tensors have the values of ARRAYS."""
    sidecar = trace_of(trace, arrays=ARRAYS)
    model = WorkingModel(tagged_at(text, scopes), sidecar=sidecar, values=values_of(ARRAYS, names))
    return verify(model, Tolerance(EXACT), isolating=True)


def outputs(found: Verified) -> dict[str, str]:
    """Return the tensor that stands for what each call returned, or why none does."""
    return {call.scope: " ".join(o.tensor for o in call.outputs) or call.reason for call in found.calls}


FOUR = {"a": "one", "b": "two.n", "c": "two.m", "d": "three"}


def test_what_stands_for_what() -> None:
    found = small(CHAIN, FOUR)
    assert outputs(found) == {".": "d", "one": "a", "two": "c", "two.n": "b", "two.m": "c", "three": "d"}
    assert found.furthest is not None
    assert found.furthest.distance is not None
    assert found.furthest.distance.relative < 1e-6


@pytest.mark.parametrize(("operator", "first"), [("Exp", "one"), ("Neg", "two.n"), ("Sqrt", "three")])
def test_the_first_wrong_one_is_the_innermost_and_earliest(operator: str, first: str) -> None:
    text = CHAIN.replace(f"{operator}(", "Sin(")
    found = small(text, FOUR)
    assert found.first is not None
    assert found.first.scope == first
    assert [call.scope for call in found.culprits] == [first]


def test_a_node_that_does_the_next_module_work_is_that_modules() -> None:
    """`b` is not in the graph: one node computes both, and is tagged as the first of the two."""
    text = HEAD + " g (float[4] x) => (float[4] d) { a = Exp(x) c = Identity(a) d = Sqrt(c) }"
    found = small(text, {"a": "one", "c": "two.n", "d": "three"})
    assert outputs(found) == {".": "d", "one": "a", "two": "c", "two.n": GONE, "two.m": "c", "three": "d"}
    assert found.first is None
    wrong = small(text.replace("Identity", "Sin"), {"a": "one", "c": "two.n", "d": "three"})
    assert wrong.first is not None
    assert wrong.first.scope == "two.n"


def test_a_tensor_that_makes_nothing_wrong_is_none_of_the_module() -> None:
    """`two.n` has a node, but what it returned is nowhere: the optimiser reordered what follows."""
    text = HEAD + " g (float[4] x) => (float[4] d) { a = Exp(x) n = Sqrt(a) c = Mul(n, n) d = Sqrt(c) }"
    found = small(text, {"a": "one", "n": "two.n", "c": "two.m", "d": "three"})
    assert (found.calls[3].reason, found.calls[3].outputs[0].harmless) == ("differs, but without effect", True)
    assert found.first is None
    assert not found.culprits


def test_of_two_results_one_is_not_a_wrong_version_of_the_other() -> None:
    trace = ".   Net x:4 -> d:4\none One x:4 -> a:4 b:4\ntwo Two a:4 -> d:4"
    text = HEAD + " g (float[4] x) => (float[4] d) { a = Exp(x) d = Sqrt(a) }"
    found = small(text, {"a": "one", "d": "two"}, trace, "x d a b")
    assert outputs(found) == {".": "d", "one": "a", "two": "d"}
    assert found.first is None


def test_what_the_caller_computes_between_is_computed_of_recorded_values() -> None:
    """`two` is given a sum that no module returned; `one` is wrong, and `two` on its own is not."""
    trace = ".   Net x:4 -> d:4\none One x:4 -> a:4\ntwo Two c:4 -> d:4"
    arrays = ARRAYS | {"c": np.exp(X) + X, "d": np.tanh(np.exp(X) + X)}
    text = HEAD + " g (float[4] x) => (float[4] d) { a = Sin(x) c = Add(a, x) d = Tanh(c) }"
    sidecar, values = trace_of(trace, arrays=arrays), values_of(arrays, "x d a c")
    model = WorkingModel(tagged_at(text, {"a": "one", "d": "two"}), sidecar=sidecar, values=values)
    found = verify(model, Tolerance(EXACT), isolating=True)
    assert [call.scope for call in found.culprits] == ["one"]
    two = found.calls[2]
    assert two.distance is not None
    assert two.own is not None
    assert two.distance.relative > 0.1
    assert two.own.relative < 1e-6


@pytest.mark.parametrize(
    ("sidecar", "values", "text", "error", "message"),
    [
        (None, None, CHAIN, UsageError, "record=True"),
        (trace_of(TRACE, arrays=ARRAYS), None, CHAIN, UsageError, "record=True"),
        (
            trace_of(TRACE, arrays=ARRAYS), values_of(ARRAYS, "x d a c b"), CHAIN.replace("] x", "] x, float[1] z"),
            InputError, "no value for the graph's input 'z'",
        ),
    ],
)  # fmt: skip
def test_errors(
    sidecar: Sidecar | None, values: Values | None, text: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        verify(WorkingModel(tagged_at(text, FOUR), sidecar=sidecar, values=values), Tolerance(EXACT))


def test_a_graph_without_scopes_is_refused(built: Build, recorded: Record, mx: Mx) -> None:
    done = mx("verify", built("convnet") / "raw.onnx", "--trace", recorded("convnet"))
    assert done.returncode == 3
    assert b"run `mx tag` first" in done.stderr


def test_the_command(built: Build, recorded: Record, mx: Mx, tmp_path: Path) -> None:
    model = changed(built("bert") / "tagged.onnx", QUERY, tmp_path / "c.onnx")
    trace = recorded("bert")
    done = mx("verify", "-", "--trace", trace, "--isolate", "--depth", 1, stdin=model.read_bytes())
    assert done.returncode == 1
    lines = done.stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == ["module", ".", "├─", "├─", "└─"]
    assert f"wrong on its own: {QUERY}".encode() in done.stderr
    done = mx("verify", model, "--trace", trace, "--fail-over", 10)
    assert done.returncode == 0
    assert f"{QUERY} is the first module that goes wrong".encode() in done.stderr
    assert b"first wrong" in done.stdout
    done = mx("verify", model, "--trace", trace, "--tolerance", 10)
    assert done.returncode == 0
    assert b"has the largest error" in done.stderr
    done = mx("verify", built("llama") / "tagged.onnx", "--trace", trace)
    assert done.returncode in (1, 3)


NOISY = "encoder.layer.0.intermediate.dense"
"""A module whose weights are 2 % too large: its results have that relative L2 error, or an SQNR of 34 dB."""


@pytest.mark.parametrize(
    ("metric", "factor", "right", "wrong"),
    [
        ("relative", 1.02, 0.025, 0.015),
        ("relative-l2", 1.02, 0.025, 0.015),
        ("max-abs", 1.02, 1.0, 1e-4),
        ("cosine", -1, 0.0, 0.9),  # which no factor above 0 changes
        ("sqnr", 1.02, 30, 40),
    ],
)
def test_each_metric_has_a_tolerance(
    built: Build, recorded: Record, mx: Mx, tmp_path: Path, metric: str, factor: float, right: float, wrong: float
) -> None:
    model = changed(built("bert") / "tagged.onnx", NOISY, tmp_path / "noisy.onnx", factor)
    given = ("verify", model, "--trace", recorded("bert"), "--json", "--metric", metric, "--tolerance")
    done = mx(*given, right)
    report = json.loads(done.stdout)
    assert (report["metric"], report["tolerance"]) == (metric, right)
    if factor > 0:
        assert (done.returncode, report["first"]) == (0, None)
    done = mx(*given, wrong)
    assert (done.returncode, json.loads(done.stdout)["first"]) == (1, NOISY)


def test_without_a_tolerance_all_metrics_judge_alike(built: Build, recorded: Record, mx: Mx, tmp_path: Path) -> None:
    model = changed(built("bert") / "tagged.onnx", NOISY, tmp_path / "noisy.onnx", factor=1.02)
    for metric in ("relative", "relative-l2", "cosine", "sqnr"):
        for path, status in ((model, 1), (built("bert") / "tagged.onnx", 0)):
            done = mx("verify", path, "--trace", recorded("bert"), "--metric", metric)
            assert done.returncode == status, done.stderr.decode()
    done = mx("verify", model, "--trace", recorded("bert"), "--metric", "max-abs")
    assert done.returncode == 2
    assert b"give --tolerance" in done.stderr


def test_classes_have_tolerances_of_their_own(built: Build, recorded: Record, mx: Mx, tmp_path: Path) -> None:
    model = changed(built("bert") / "tagged.onnx", NOISY, tmp_path / "noisy.onnx", factor=1.02)
    limits = tmp_path / "limits.toml"
    given = (
        "verify",
        model,
        "--trace",
        recorded("bert"),
        "--metric",
        "sqnr",
        "--tolerance",
        25,
        "--tolerances",
        limits,
    )
    limits.write_text("Linear = 40\nConv2d = 7")
    done = mx(*given)
    assert done.returncode == 1
    assert f"{NOISY} is the first module that goes wrong".encode() in done.stderr
    assert b"(tolerance 40 dB)" in done.stderr
    assert b"the tolerances of Conv2d are of no module here" in done.stderr
    wrong = [line for line in done.stdout.decode().splitlines() if line.endswith("wrong")]
    assert wrong
    assert all(" Linear " in line for line in wrong)
    done = mx(*given, "--bisect")
    assert done.returncode == 1
    assert f"{NOISY} is the smallest module that is wrong".encode() in done.stderr
    limits.write_text("LayerNorm = 20")
    assert mx(*given).returncode == 0
    for text, message in (
        ("Linear = 'a'", b"the tolerance of 'Linear' is no number from 0 on"),
        ("Linear", b"cannot be read as TOML"),
        ("Linear = -1", b"the tolerance of 'Linear' is no number from 0 on"),
    ):
        limits.write_text(text)
        done = mx(*given)
        assert done.returncode == 3
        assert message in done.stderr
    done = mx("verify", model, "--trace", recorded("bert"), "--metric", "cosine", "--tolerance", 2)
    assert done.returncode == 2


def test_a_case_is_judged_by_the_metric_that_found_it(built: Build, recorded: Record, mx: Mx, tmp_path: Path) -> None:
    model = changed(built("bert") / "tagged.onnx", NOISY, tmp_path / "noisy.onnx", factor=1.02)
    for metric, limit in (("sqnr", 40), ("relative-l2", 1e-3), ("max-abs", 1e-4)):
        case = tmp_path / metric
        given = ("--metric", metric, "--tolerance", limit, "--save-case", case)
        assert mx("verify", model, "--trace", recorded("bert"), *given).returncode == 1
        for outputs, status in ((case / "actual.npz", 1), (case / "expected.npz", 0)):
            run = [sys.executable, case / "run.py", "--outputs", outputs]
            assert subprocess.run(run, check=False, capture_output=True).returncode == status


def test_half_precision_that_overflows_is_told(mx: Mx, tmp_path: Path) -> None:
    half = "{ h = Cast <to = 10> (x) s = Mul(h, h) y = Cast <to = 1> (s) }"
    for name, body in (("one", "{ y = Mul(x, x) }"), ("two", half)):
        model = tagged_at(f"{HEAD} g (float[2] x) => (float[2] y) {body}", dict.fromkeys("hsy", "square"))
        onnx.save(model, tmp_path / f"{name}.onnx")
    (tmp_path / "i.json").write_text('{"x": [300, 1]}')
    done = mx("verify", "two.onnx", "--against", "one.onnx", "--inputs", "i.json", cwd=tmp_path)
    assert done.returncode == 1
    told = "1 elements are inf or nan; right are values up to 9e+04, and float16 ends at 65504"
    assert told in done.stdout.decode()


def test_errors_are_counted_by_their_size() -> None:
    found = distance(np.array([1.0, 0.5, 0.25, 0.0]), np.array([1.0, 0.501, 0.25 + 2e-7, 3e-5]))
    assert found.largest == 1.0
    assert found.histogram == (1, 0, 1, 0, 1, 0, 1, 0, 0, 0)
    assert distance(np.ones(2), np.ones(2)).histogram == ()


@pytest.mark.parametrize(("name", "begin"), [("p.png", b"\x89PNG"), ("p.svg", b"<?xml")])
def test_pictures_are_the_same_each_time(
    built: Build, recorded: Record, mx: Mx, tmp_path: Path, name: str, begin: bytes
) -> None:
    found = []
    for _ in range(2):
        done = mx("verify", built("convnet") / "tagged.onnx", "--trace", recorded("convnet"), "--plot", tmp_path / name)
        assert done.returncode == 0, done.stderr.decode()
        found.append((tmp_path / name).read_bytes())
    assert found[0].startswith(begin)
    assert found[0] == found[1]


def test_a_picture_that_cannot_be_made_is_refused_first(built: Build, recorded: Record, mx: Mx, tmp_path: Path) -> None:
    for place, status in ((tmp_path / "p.pdf", 2), (tmp_path / "no" / "p.png", 3)):
        done = mx("verify", built("convnet") / "tagged.onnx", "--trace", recorded("convnet"), "--plot", place)
        assert done.returncode == status
        assert not done.stdout
