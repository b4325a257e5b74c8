"""Exports that people deploy: axes that vary, names of outputs, refused options, and what a trace has frozen."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxscript
import pytest
import torch
import transformers
from onnxscript import opset17
from torch import Tensor, nn

import mxtools
from mxtools.errors import InputError, OutputError, UsageError
from mxtools.pytorch.exporting.check import agreement
from mxtools.pytorch.exporting.export import export
from mxtools.pytorch.exporting.exporters import OPSETS, ExportAttempt, Options, axes_of, check_opset, in_words
from mxtools.pytorch.exporting.other_inputs import trials
from mxtools.pytorch.exporting.varying import export_varying
from mxtools.pytorch.loading.inputs import load_subject
from mxtools.pytorch.sources import sources_of
from mxtools.pytorch.strategy.bench import bench
from mxtools.pytorch.strategy.probe import Probe
from mxtools.pytorch.subject import Subject
from mxtools.strategies.cache import Cache
from tests.support.commands import Mx, shell
from tests.support.folders import folder_of
from tests.support.paths import MODELS

EXPORTERS = ["torchscript", "dynamo"]
BOTH = {0: "batch", 1: "sequence"}
FOLDERS = {
    "bert": ("BertModel", {"input_ids": BOTH, "attention_mask": BOTH, "token_type_ids": BOTH}),
    "t5": (
        "T5ForConditionalGeneration",
        {"input_ids": BOTH, "attention_mask": BOTH, "decoder_input_ids": {0: "batch", 1: "decoder_sequence"}},
    ),
    "vit": ("ViTModel", {"pixel_values": {0: "batch"}}),
}


def attempt_of(model: nn.Module, inputs: dict[str, Any], path: Path, exporter: str, **options: Any) -> ExportAttempt:
    return export_varying(Subject(model.eval(), inputs, "x"), path, exporter, Options(**options))


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("kind", FOLDERS)
def test_batch_and_sequence_of_a_folder_vary_by_default(kind: str, exporter: str, mx: Mx, tmp_path: Path) -> None:
    architecture, axes = FOLDERS[kind]
    extra = {"image_size": 32, "patch_size": 8} if kind == "vit" else {}
    folder = folder_of(tmp_path, kind, architecture, **extra)
    done = mx("export", folder, "--exporter", exporter, "-o", tmp_path / "x.onnx")
    assert done.returncode == 0, done.stderr
    assert done.stderr.decode().startswith("mx export: dynamic axes: batch")
    model = onnx.load(tmp_path / "x.onnx")
    assert axes_of(model) == axes
    assert [value.name for value in model.graph.output] == {
        "bert": ["last_hidden_state", "pooler_output"],
        "t5": ["logits", "encoder_last_hidden_state"],
        "vit": ["last_hidden_state", "pooler_output"],
    }[kind]
    found = agreement(load_subject(str(folder)), mxtools.load(tmp_path / "x.onnx"))
    assert not found.wrong
    assert found.kinds[:2] == ("the example inputs", "other values")
    assert "batch 2" in found.kinds[-1]
    static = mx("export", folder, "--exporter", exporter, "--static", "-o", tmp_path / "y.onnx")
    assert static.stderr == b""
    assert axes_of(onnx.load(tmp_path / "y.onnx")) == {}


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_modules_of_a_dynamic_export_are_right_for_other_sizes(exporter: str, mx: Mx, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "bert", "BertModel")
    raw, trace, other, tagged = (tmp_path / name for name in ("x.onnx", "t.json", "u.json", "y.onnx"))
    for arguments in (
        ("export", folder, "--exporter", exporter, "-o", raw),
        ("trace", folder, "-o", trace),
        ("tag", raw, "--trace", trace, "-o", tagged),
        ("trace", folder, "--input", "input_ids=3x5", "--record", "-o", other),
        ("verify", tagged, "--trace", other, "--isolate"),
    ):
        done = mx(*arguments)
        assert done.returncode == 0, done.stderr.decode()
    assert b"wrong" not in done.stdout


class Fixing(nn.Module):
    """Does something else for five columns, which is what it is exported with."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.shape[1] == 5 else x - 1


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_trace_comes_with_the_export_and_is_that_of_mx_trace(exporter: str, mx: Mx, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "bert", "BertModel")
    done = mx("export", folder, "--exporter", exporter, "--with-trace", tmp_path / "t.json", "-o", tmp_path / "x.onnx")
    assert done.returncode == 0, done.stderr
    assert b"calls of" in done.stderr
    assert mx("trace", folder, "-o", tmp_path / "alone.json").returncode == 0
    assert mx("export", folder, "--exporter", exporter, "-o", tmp_path / "alone.onnx").returncode == 0
    for made, alone in (("t.json", "alone.json"), ("x.onnx", "alone.onnx")):
        assert (tmp_path / made).read_bytes() == (tmp_path / alone).read_bytes()


def test_tag_reads_the_trace_that_the_export_in_its_pipe_writes(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "bert", "BertModel")
    (tmp_path / "t.json").write_text("the trace of another model")
    done = shell(f"mx export {folder} --with-trace t.json | mx tag --trace t.json -o x.onnx", tmp_path)
    assert done.returncode == 0, done.stderr
    assert b"encoder.layer.0" in (tmp_path / "x.onnx").read_bytes()


def test_an_export_that_fails_leaves_the_trace_that_was_there(mx: Mx, tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        "import torch\n"
        "class Branching(torch.nn.Module):\n"
        "    def forward(self, x): return x * 2 if x.sum() > 0 else x\n"
        "def load(): return Branching(), {'x': torch.ones(2)}\n"
    )
    (tmp_path / "t.json").write_text("earlier")
    done = mx("export", "m.py:load", "--exporter", "dynamo", "--with-trace", "t.json", "-o", "x.onnx", cwd=tmp_path)
    assert done.returncode == 3
    assert (tmp_path / "t.json").read_text() == "earlier"


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_what_does_not_vary_is_static_and_says_why(exporter: str, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    attempt = attempt_of(Fixing(), {"x": torch.randn(2, 5)}, folder / "x.onnx", exporter, varying=True)
    assert attempt.error is None
    axes = axes_of(attempt.read().proto)
    assert 1 not in axes.get("x", {})
    assert attempt.static if not axes else not attempt.static
    assert not agreement(Subject(Fixing(), {"x": torch.randn(2, 5)}, "x"), attempt.read()).wrong


def test_a_cache_remembers_why_axes_are_static_and_what_is_fixed(tmp_path: Path) -> None:
    subject = Subject(Frozen().eval(), {"x": torch.ones(2, 5)}, "x")
    options, cache = Options(varying=True), Cache(tmp_path)
    found = []
    for _ in range(2):
        with sources_of(lambda: subject, options, cache) as sources:
            found.append(sources.export("torchscript")[-1])
    assert found[0].static == found[1].static != ""
    assert found[0].fixed == found[1].fixed != ()


@dataclasses.dataclass
class Answer:
    """A result in a dataclass."""

    scores: Tensor
    states: tuple[Tensor, ...]


class Pair(NamedTuple):
    """A result in a named tuple."""

    mean: Tensor
    x: Tensor


RESULTS: dict[str, tuple[Callable[[Tensor], Any], list[str]]] = {
    "dictionary": (lambda x: {"logits": x + 1, "more": [x + 2, x + 3]}, ["logits", "more.0", "more.1"]),
    "dataclass": (lambda x: Answer(x + 1, (x + 2, x + 3)), ["scores", "states.0", "states.1"]),
    "named tuple": (lambda x: Pair(x.mean(0), x + 1), ["mean", "x_1"]),
    "tensor": (lambda x: x + 1, ["output_0"]),
    "tuple": (lambda x: (x + 1, x + 2), ["output_0", "output_1"]),
    "weights' names": (lambda x: {"weight": x + 1, "add": x + 2}, ["weight_1", "add"]),
}


class Returning(nn.Module):
    """Returns what a function makes of a product."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3))
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x @ self.weight)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", RESULTS)
def test_outputs_are_named_as_the_fields_of_the_result(name: str, exporter: str) -> None:
    function, names = RESULTS[name]
    module, x = Returning(function).eval(), torch.ones(2, 3)
    model = mxtools.export(module, x, exporter=exporter)
    assert model.output_names == names
    assert not agreement(Subject(module, {"x": x}, "x"), model).wrong


def test_operator_sets_that_no_exporter_writes_are_refused_before_work(mx: Mx, tmp_path: Path) -> None:
    for opset in (6, 99):
        done = mx("export", f"{MODELS}:failing", "--opset", opset, "-o", tmp_path / "x.onnx")
        assert done.returncode == 2
        assert f"no exporter writes operator set {opset} (--opset): give 7 to".encode() in done.stderr
    assert mx("auto", f"{MODELS}:failing", "--opset", "99", "-o", tmp_path / "x.onnx").returncode == 2
    for exporter, known in OPSETS.items():
        check_opset(exporter, known[-1])
        with pytest.raises(UsageError, match="operator set"):
            check_opset(exporter, known.stop)


def test_an_operator_set_that_dynamo_cannot_convert_to_is_an_error(tmp_path: Path) -> None:
    attempt = attempt_of(nn.LayerNorm(3), {"input": torch.ones(2, 3)}, tmp_path / "x.onnx", "dynamo", opset=9)
    assert attempt.error is not None
    assert "wrote operator set 18 instead of 9" in attempt.error


class Anything(nn.Module):
    """Takes any keyword and uses one."""

    def forward(self, x: Tensor, **others: Tensor) -> Tensor:
        return x + others["y"] if "y" in others else x * 2


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_inputs_that_a_model_does_nothing_with_are_refused(exporter: str, mx: Mx, tmp_path: Path) -> None:
    x = torch.ones(2, 3)
    assert export(Subject(Anything(), {"x": x, "y": x}, "x"), tmp_path / "x.onnx", exporter).error is None
    with pytest.raises(UsageError, match="does not use the input 'z'"):
        export(Subject(Anything(), {"x": x, "z": x}, "x"), tmp_path / "x.onnx", exporter)
    done = mx("trace", folder_of(tmp_path, "bert", "BertModel"), "--input", "foo=1,3", "-o", tmp_path / "t.json")
    assert done.returncode == 2
    assert b"has no parameter 'foo': it takes input_ids" in done.stderr


def test_values_for_inputs_that_a_graph_does_not_have_are_refused(built: Any, mx: Mx, tmp_path: Path) -> None:
    tagged = built("convnet") / "tagged.onnx"
    name = mxtools.load(tagged).input_names[0]
    np.savez(tmp_path / "x.npz", **{name: np.zeros((1, 3, 8, 8), np.float32), "foo": np.zeros(1)})
    for arguments in (("profile", tagged), ("compare", tagged, tagged), ("tag", tagged, "-o", tmp_path / "y.onnx")):
        done = mx(*arguments, "--inputs", tmp_path / "x.npz")
        assert done.returncode == 2, done.stderr
        assert b"has 'foo', which is not an input of the graph: there are" in done.stderr


class Frozen(nn.Module):
    """Decides by values and by a size, and has checks of the kind that libraries have."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 2 or x.shape[0] > 100:
            raise ValueError("a matrix of a few rows is needed")
        if x.shape[1] > 4:
            x = x * 2
        if x.sum() > 0:
            return x + 1
        return x - 1


class _Twice(torch.autograd.Function):
    """What only a function of onnxscript can stand for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.onnxscript_op(_twice, x).setType(x.type())


@onnxscript.script(onnxscript.values.Opset("tests", 1), default_opset=opset17)
def _twice(x):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202 - onnxscript reads this as text
    return opset17.Add(x, x)


class _Resizing(nn.Module):
    """Shapes that values decide, weights that decide none, and if wished, a function."""

    def __init__(self, calls_function: bool) -> None:
        super().__init__()
        self.conv, self.table, self.calls_function = nn.Conv2d(3, 64, 3), nn.Embedding(500, 4), calls_function

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        larger = nn.functional.interpolate(self.conv(x), scale_factor=(1.5, 2.5)).flatten(2)
        looked_up = self.table(ids + torch.arange(ids.shape[1], 0, -1)).mean(-1).reshape(1, -1)
        result = larger + nn.functional.pad(looked_up, (0, larger.shape[2] - looked_up.shape[1]))
        return _Twice.apply(result) if self.calls_function else result


@pytest.mark.parametrize("calls_function", [False, True])
@pytest.mark.parametrize("keep_modules", [False, True])
def test_what_spares_weights_changes_no_byte_of_an_export(
    keep_modules: bool, calls_function: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = _Resizing(calls_function)
    inputs = {"x": torch.randn(1, 3, 8, 8), "ids": torch.arange(6).reshape(1, 6)}
    dynamic = {"x": {2: "height"}}
    written = []
    for file in ("spared.onnx", "plain.onnx"):
        attempt = attempt_of(model, inputs, tmp_path / file, "torchscript", keep_modules=keep_modules, dynamic=dynamic)
        assert attempt.error is None, attempt.log
        written.append((tmp_path / file).read_bytes())
        monkeypatch.setattr("mxtools.pytorch.exporting.export._weights_left_alone", nullcontext)
    assert written[0] == written[1]
    assert (b"tests" in written[0]) == calls_function


def test_decisions_by_values_are_named(tmp_path: Path) -> None:
    line = Frozen.forward.__code__.co_firstlineno + 5
    attempt = attempt_of(Frozen(), {"x": torch.ones(2, 5)}, tmp_path / "x.onnx", "torchscript")
    assert attempt.fixed == (f"test_exports.py:{line} `if x.sum() > 0:` depends on values, here True",)
    dynamic = {"x": {1: "length"}}
    attempt = attempt_of(Frozen(), {"x": torch.ones(2, 5)}, tmp_path / "y.onnx", "torchscript", dynamic=dynamic)
    assert any("`if x.shape[1] > 4:` depends on sizes, here True" in place for place in attempt.fixed)
    attempt = attempt_of(Frozen(), {"x": torch.ones(2, 5)}, tmp_path / "z.onnx", "dynamo")
    assert attempt.error is not None
    assert attempt.error.endswith(f"(test_exports.py:{line})")


class ClampedTwice(torch.nn.Module):
    """Clamps one tensor at two places, as DETRs do with their reference points."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of what was clamped here and there."""
        y = x.sigmoid()
        return y.clamp(0, 1).clamp(min=1e-5) + y.clamp(0, 1).clamp(min=1e-5) * x


def test_an_export_of_what_nothing_makes_has_failed(tmp_path: Path) -> None:
    """Torch's optimiser of ONNX graphs writes such a file without an error."""
    attempt = attempt_of(ClampedTwice(), {"x": torch.ones(2, 3)}, tmp_path / "x.onnx", "dynamo")
    assert attempt.error == "it wrote a Clip of 'sigmoid_min_1', which nothing makes"
    assert attempt_of(ClampedTwice(), {"x": torch.ones(2, 3)}, tmp_path / "y.onnx", "torchscript").error is None


class Remembering(torch.nn.Module):
    """Adds what it was given to what it keeps, by assigning it or in place, as a buffer or a plain attribute."""

    def __init__(self, kind: str, in_place: bool) -> None:
        super().__init__()
        if kind == "buffer":
            self.register_buffer("state", torch.zeros(2, 3))
        else:
            self.state = torch.zeros(2, 3)
        self.in_place, self.read = in_place, True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the input, and if the state is read, what was given so far."""
        self.state = self.state.add_(x) if self.in_place else self.state + x
        return x * 2 + (self.state if self.read else 0)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("kind", ["buffer", "attribute"])
@pytest.mark.parametrize("in_place", [True, False])
def test_a_state_that_results_depend_on_is_named(tmp_path: Path, exporter: str, kind: str, in_place: bool) -> None:
    model = Remembering(kind, in_place)
    attempt = attempt_of(model, {"x": torch.ones(2, 3)}, tmp_path / "x.onnx", exporter)
    assert attempt.kept == ("state",)
    (warning,) = attempt.warnings
    assert warning.startswith("the model carries `state` over from run to run, which the graph does not")
    model.read = False
    attempt = attempt_of(model, {"x": torch.ones(2, 3)}, tmp_path / "y.onnx", exporter)
    assert (attempt.kept, attempt.warnings) == ((), ())


FROZEN = """
import torch
class Frozen(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Linear(3, 3)
    def forward(self, x):
        y = self.a(x)
        return y if x.sum() > 0 else -y
def frozen():
    return Frozen(), {"x": torch.rand(2, 3)}
"""


def test_what_is_wrong_on_other_values_is_never_called_right(mx: Mx, tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(FROZEN)
    output = tmp_path / "x.onnx"
    done = mx("export", f"{tmp_path}/m.py:frozen", "-o", output)
    assert done.returncode == 0
    assert b"m.py:9 `return y if x.sum() > 0 else -y` depends on values, here True: the graph uses that" in done.stderr
    for extra in ((), ("--verify",), ("--primary", "htp", "--verify")):
        done = mx("auto", f"{tmp_path}/m.py:frozen", *extra, "-o", tmp_path / "y.onnx")
        assert done.returncode == 3
        assert b"on other values output 'output_0' differs from PyTorch's" in done.stderr
        assert b"round trip" not in done.stderr
        assert not (tmp_path / "y.onnx").exists()
    done = mx("auto", f"{tmp_path}/m.py:frozen", "--primary", "htp", "-o", output)
    assert done.returncode == 0
    assert b"on other values output 'output_0' differs from PyTorch's" in done.stderr
    [row] = bench(load_subject(f"{tmp_path}/m.py:frozen"), ["htp"])
    assert row.error
    assert "on other values" in row.error


@pytest.mark.parametrize(("scale", "kind"), [(1.0, "smaller values"), (0.2, "larger values")])
def test_a_decision_by_magnitude_is_found(scale: float, kind: str, mx: Mx, tmp_path: Path) -> None:
    """Negative floats have the same one."""
    condition = FROZEN.replace("x.sum() > 0", "x.abs().max() > 0.5").replace("rand(2, 3)", f"ones(2, 3) * {scale}")
    (tmp_path / "m.py").write_text(condition)
    done = mx("auto", f"{tmp_path}/m.py:frozen", "--verify", "-o", tmp_path / "y.onnx")
    assert done.returncode == 3
    assert f"on {kind} output 'output_0' differs from PyTorch's" in done.stderr.decode()


def test_the_result_says_on_what_it_was_verified(mx: Mx, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "bert", "BertModel")
    done = mx("auto", folder, "--verify", "-o", tmp_path / "x.onnx")
    assert done.returncode == 0, done.stderr
    assert (
        b"(on the example inputs, as a whole also on other values, other sizes (batch 2, sequence 13))" in done.stderr
    )


def test_a_convolution_merged_into_a_new_norm_is_no_failure() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    for row in bench(Subject(model.eval(), {"input": torch.randn(1, 3, 8, 8)}, "x"), ["fx", "htp"]):
        assert row.metrics is not None
        assert row.metrics.round_trip is not None
        assert row.metrics.round_trip.rate == 1
        assert row.metrics.round_trip.gone == 2


class Kept(nn.Module):
    """Computes a table from a parameter in its first run, and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.bias = nn.Linear(4, 4), nn.Parameter(torch.randn(4))
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = self.bias.cumsum(0)
        return self.linear(x) + self.kept


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_what_a_model_keeps_of_its_first_run_is_exported(exporter: str, tmp_path: Path) -> None:
    subject = Subject(Kept().eval(), {"x": torch.randn(2, 4)}, "x")
    attempt = export(subject, tmp_path / "x.onnx", exporter)
    assert attempt.error is None
    assert not agreement(subject, attempt.read()).wrong


class Refusing(nn.Module):
    """Refuses negative numbers, and is random for short inputs."""

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        if torch.jit.is_tracing() is False and bool((x < 0).any()):
            raise ValueError("negative")
        return x.sqrt() + ids


def test_inputs_that_a_model_refuses_say_nothing(tmp_path: Path) -> None:
    subject = Subject(Refusing().eval(), {"x": torch.rand(2, 3), "ids": torch.tensor([[1, 2, 3]])}, "x")
    attempt = export(subject, tmp_path / "x.onnx", "torchscript")
    assert agreement(subject, attempt.read()).kinds == ("the example inputs", "larger values", "smaller values")


def test_other_inputs_are_of_the_same_kind() -> None:
    given = {"ids": torch.tensor([[1, 2, 3, 4, 5]]), "mask": torch.ones(1, 5, dtype=torch.int64), "x": torch.ones(1, 2)}
    given["padded"] = torch.tensor([[1, 1, 1, 0, 0]])
    axes = {"ids": {0: "batch", 1: "length"}, "mask": {0: "batch", 1: "length"}, "x": {0: "batch"}}
    example, values, larger, smaller, sizes = trials(given, axes)
    assert example.choices == (given,)
    other = values.choices[0]
    assert other["ids"].tolist() == [[5, 4, 3, 2, 1]]
    assert other["mask"].tolist() == [[1, 1, 1, 1, 0]]
    assert other["padded"].tolist() == [[1, 1, 0, 0, 0]]  # in reverse order, a causal model would see nothing at first
    assert other["x"].tolist() == [[-1, -1]]
    assert [trial.choices[0]["x"].tolist() for trial in (larger, smaller)] == [[[8, 8]], [[0.125, 0.125]]]
    resized = sizes.choices[0]
    assert {name: tuple(tensor.shape) for name, tensor in resized.items()} == {
        "ids": (2, 2),
        "mask": (2, 2),
        "x": (2, 2),
        "padded": (1, 5),
    }
    assert set(resized["ids"].flatten().tolist()) <= {1, 2, 3, 4, 5}
    assert sizes.kind == "other sizes (batch 2, length 2)"


def test_axes_in_words() -> None:
    assert in_words({"a": {0: "batch"}, "b": BOTH, "c": {0: "batch"}}) == "batch of a, c; batch, sequence of b"


def test_an_axis_that_an_input_lacks_is_refused(mx: Mx, tmp_path: Path) -> None:
    done = mx("export", f"{MODELS}:bert", "--dynamic", "input_ids=2", "-o", tmp_path / "x.onnx")
    assert done.returncode == 2
    assert b"names axis 2 of input_ids, which has shape [1, " in done.stderr


def test_dynamic_and_static_contradict_each_other(mx: Mx, tmp_path: Path) -> None:
    done = mx("export", f"{MODELS}:bert", "--static", "--dynamic", "input_ids=0", "-o", tmp_path / "x.onnx")
    assert done.returncode == 2
    assert b"contradict" in done.stderr


@pytest.mark.parametrize("wraps", [False, True])
def test_a_full_disk_is_no_fault_of_an_exporter(wraps: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Else the next exporter, or the next strategy, would be taken for the better one."""

    def full(*_: object) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            if wraps:
                raise RuntimeError("cannot export") from error
            raise

    monkeypatch.setattr("mxtools.pytorch.exporting.export.EXPORTERS", {"dynamo": full, "torchscript": full})
    subject = Subject(nn.Linear(2, 2), {"input": torch.ones(1, 2)}, "linear")
    cache = Cache(tmp_path)
    with sources_of(lambda: subject, cache=cache) as sources, pytest.raises(OutputError, match="No space left"):
        sources.export("auto")
    with sources_of(lambda: subject, cache=cache) as sources, pytest.raises(OutputError, match="No space left"):
        Probe(sources, 100).holds("dynamo")
    with pytest.raises(OutputError, match="No space left"):
        [*bench(subject, ["fx"])]


def test_an_export_that_fails_in_every_way_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be exported"):
        mxtools.export(Refusing().eval(), (torch.rand(2, 3), torch.ones(2, 3)), exporter="dynamo")


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_mixture_of_experts_is_exported(exporter: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_local_experts": 4, "num_experts_per_tok": 2}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 50}
    torch.manual_seed(0)
    model = transformers.MixtralModel(transformers.MixtralConfig(**sizes, **heads)).eval()
    given = {"input_ids": torch.arange(6)[None], "attention_mask": torch.ones(1, 6, dtype=torch.int64)}
    attempt = export(Subject(model, given, "x"), tmp_path / "m.onnx", exporter)
    assert attempt.error is None
    with torch.no_grad():
        wanted = model(**given).last_hidden_state.numpy()
    found = mxtools.load(tmp_path / "m.onnx").run({name: each.numpy() for name, each in given.items()})
    np.testing.assert_allclose(next(iter(found.values())), wanted, rtol=1e-3, atol=1e-4)
    assert model.get_experts_implementation() == {"": "grouped_mm"}


class Gate(nn.Module):
    """Does more with positive numbers, which a compiled module can still decide when it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.lin(x)
        if bool(x.sum() > 0):
            y = y * 2
        return y


SCRIPT_MODULES = {"scripted": torch.jit.script, "traced": lambda model: torch.jit.trace(model, torch.ones(2, 4))}


@pytest.mark.parametrize("kind", SCRIPT_MODULES)
def test_a_script_module_is_exported_as_it_is_compiled(kind: str, mx: Mx, tmp_path: Path) -> None:
    torch.jit.save(SCRIPT_MODULES[kind](Gate().eval()), tmp_path / "net.pt")
    (tmp_path / "net.py").write_text(
        "import torch\n"
        f"net = torch.jit.load({str(tmp_path / 'net.pt')!r}), {{'x': torch.ones(2, 4)}}\n"
        f"bare = torch.jit.trace(torch.nn.Linear(4, 2), torch.ones(2, 4))\n"
    )
    spec = f"{tmp_path / 'net.py'}:net"
    trace, raw, tagged = (tmp_path / name for name in ("t.json", "x.onnx", "y.onnx"))
    for arguments in (
        ("trace", spec, "-o", trace),
        ("trace", f"{tmp_path / 'net.py'}:bare", "--input", "input=2,4", "-o", tmp_path / "bare.json"),
        ("export", spec, "-o", raw),
        ("tag", raw, "--trace", trace, "--strict", "-o", tagged),
        ("auto", spec, "--verify", "-o", tmp_path / "auto.onnx"),
    ):
        done = mx(*arguments)
        assert done.returncode == 0, done.stderr.decode()
    subject = load_subject(spec)
    assert not agreement(subject, mxtools.load(tagged)).wrong
    assert subject.model.forward.schema  # it is the model's own again
