"""The Python API in programs: wrong arguments, failures in place, copies and pickles, threads, files that change."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import mxtools
from benchmarks.killing.cases import model as tagged_model
from mxtools.errors import InputError, UsageError
from mxtools.model.model import Model
from mxtools.pytorch import objects
from mxtools.pytorch.exporting.exporters import ExportAttempt, ExportError
from mxtools.runtime.quiet import TURN


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a tagged model whose weight is large enough to stay in its file."""
    path = tmp_path / "a.onnx"
    onnx.save(tagged_model(0), path)
    return path


@pytest.fixture
def model(file: Path) -> Model:
    return mxtools.load(file)


MISUSES: dict[str, Callable[[Model], Any]] = {
    "there is no format 'no': there are names": lambda m: m.select("enc", format="no"),
    "there is no interface 'no': there are tensors, module": lambda m: m.filter("enc", io="no"),
    "there is no choice of auxiliary nodes 'no'": lambda m: m.filter("enc", auxiliary="no"),
    "there is no level 'no'": lambda m: m.profile(level="no"),
    "there is no exporter 'no': there are auto": lambda _: mxtools.export(
        nn.Linear(1, 1), torch.ones(1), exporter="no"
    ),
    "tags cannot be copied to 'docstring': did you mean doc_string": lambda m: m.carry(docstring=True),
    "tags cannot be copied to 'names'": lambda m: m.tag(names=True),
    "'a.json' .str. is no trace: give what `mxtools.load_trace`": lambda m: m.tag("a.json"),
    "'b.json' .str. is no trace": lambda m: m.validate("b.json"),
    "'a.onnx' .str. is no model: give what `mxtools.load`": lambda m: m.tag(earlier="a.onnx"),
    "'b.onnx' .str. is no model": lambda m: mxtools.compare(m, "b.onnx"),
    "'c.onnx' .str. is no model": lambda m: mxtools.join([m, "c.onnx"]),
    "'d.onnx' .str. is no model": lambda m: m.verify(against="d.onnx"),
    ".'enc'. .list. is no selector": lambda m: m.modules(["enc"]),
    "<Module .*> .Module. is no selector": lambda m: m.filter(m.module()),
    "a str is neither an onnx.ModelProto nor": lambda _: mxtools.from_proto("a.onnx"),
    "a function is no torch.nn.Module": lambda _: mxtools.trace(print_nothing, torch.ones(1)),
    "`forward` of Linear names 1 inputs, and 2 were given": lambda _: mxtools.trace(
        nn.Linear(1, 1), (torch.ones(1), torch.ones(1))
    ),
    "the command 'cp {in} {out}' is one text": lambda m: m.wrap("cp {in} {out}"),
    "there is no strategy 'hpt': did you mean": lambda _: mxtools.bench(nn.Linear(1, 1), torch.ones(1), "hpt"),
    "there is no precision 'int7'": lambda m: m.tune([m.inputs()] * 3, "sqnr>=1", to="int7"),
}


def print_nothing() -> None: ...


@pytest.mark.parametrize("message", MISUSES)
def test_a_wrong_argument_is_told(model: Model, message: str) -> None:
    before = model.to_proto()
    with pytest.raises(UsageError, match=message):
        MISUSES[message](model)
    assert model.to_proto() == before


@pytest.mark.parametrize(
    "act",
    [
        lambda m, other, _: m.tag(earlier=other),
        lambda m, _, trace: m.tag(trace),
        lambda m, _, trace: m.apply("untag,filter{scope=enc}"),
    ],
    ids=["earlier", "trace", "pass"],
)
def test_what_fails_leaves_the_model_as_it_was(model: Model, act: Callable[..., Any]) -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    trace = mxtools.trace(module, torch.ones(1, 3))
    other = mxtools.export(module, torch.ones(1, 3), exporter="torchscript")
    other.tag(trace)
    proto, before, modules = model.proto, model.to_proto(), list(map(repr, model.modules()))
    with pytest.raises(InputError):
        act(model, other, trace)
    assert model.proto is proto
    assert model.to_proto() == before
    assert (model.sidecar, model.previous) == (None, None)
    assert list(map(repr, model.modules())) == modules


def test_one_text_stands_for_several(model: Model, tmp_path: Path) -> None:
    [name] = model.output_names
    assert model.run(outputs=name, providers="CPUExecutionProvider").keys() == {name}
    (tmp_path / "m.json").write_text('{"metrics": {"heat": {".": 1}}}')
    assert model.view(tmp_path / "m.html", metrics=str(tmp_path / "m.json")).exists()


def test_tensors_of_torch_go_in() -> None:
    module = nn.Linear(3, 3)
    model = mxtools.export(module, torch.ones(1, 3), exporter="torchscript")
    [result] = model.run({model.input_names[0]: torch.ones(1, 3)}).values()
    assert np.allclose(result, module(torch.ones(1, 3)).detach().numpy(), atol=1e-6)


def test_a_traced_script_goes_in() -> None:
    script = torch.jit.trace(nn.Linear(3, 3).eval(), torch.ones(1, 3))
    assert mxtools.trace(script, torch.ones(1, 3)).scopes == ["."]


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_is_independent(model: Model, again: Callable[[Model], Model]) -> None:
    model.run()
    other = again(model)
    assert other.to_proto() == model.to_proto()
    other.untag()
    assert model.is_tagged
    assert other.run().keys() == model.run().keys()
    for values in zip(other.run().values(), model.run().values(), strict=True):
        assert np.array_equal(*values)


def test_a_trace_and_its_values_are_pickled() -> None:
    trace = mxtools.trace(nn.Linear(3, 3), torch.ones(1, 3), record=True)
    again = pickle.loads(pickle.dumps(trace))
    assert again.sidecar == trace.sidecar
    assert np.array_equal(again.values.get("input"), trace.values.get("input"))


def test_errors_are_pickled_and_shown_in_words() -> None:
    error = ExportError("Net", [ExportAttempt("dynamo", Path("x"), "no")])
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.attempts) == (ExportError, str(error), error.attempts)
    assert 'try exporter="torchscript"' in repr(error)
    assert "⟨" not in repr(error)


THREADS = """
import sys, threading, time
import mxtools, torch
from torch import nn

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3)

    def forward(self, x):
        time.sleep(x.max().item())
        return self.a(x)

module, found = Slow().train(), []
mxtools.trace(module, torch.zeros(1, 3))
def work(number):
    time.sleep(0.1 * number)
    found.append(mxtools.trace(module, torch.full((1, 3), 0.3)).scopes)
threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(found, module.training, module.a.training)
print("here", file=sys.stderr)
"""


def test_threads_take_turns_and_leave_streams_and_modes() -> None:
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=False)
    assert done.stdout == "[['.', 'a'], ['.', 'a']] True True\n", done.stderr
    assert "here" in done.stderr


def test_threads_export_the_same_module() -> None:
    module, found = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), []

    def work(exporter: str) -> None:
        model = mxtools.export(module, torch.ones(1, 3), exporter=exporter)
        found.append(len(model.graph.nodes) > 0)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("torchscript", "dynamo") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4


@pytest.mark.parametrize("work", [mxtools.trace, mxtools.export, objects.subject_of])
def test_a_module_is_not_looked_at_while_another_thread_exports_it(work: Callable[..., object]) -> None:
    module, found = nn.Linear(3, 3), []
    thread = threading.Thread(target=lambda: found.append(work(module, torch.ones(1, 3))))
    forward = module.forward
    with TURN:
        module.forward = lambda *arguments: forward(*arguments)  # as the exporters patch it
        thread.start()
        thread.join(timeout=0.5)
        del module.forward
    thread.join()
    assert len(found) == 1


def test_a_provider_that_is_not_there_is_not_replaced_by_another(model: Model) -> None:
    with pytest.raises(UsageError, match="no provider 'NoExecutionProvider' here: there are"):
        model.run(providers=["NoExecutionProvider"])


@pytest.mark.parametrize("external", [False, True])
def test_a_file_that_was_written_to_is_no_longer_read(file: Path, external: bool) -> None:
    proto = onnx.load(file)
    if external:
        onnx.save(proto, file, save_as_external_data=True, location="a.data", size_threshold=0)
    loaded = mxtools.load(file)
    written = file.with_name("a.data") if external else file
    with written.open("r+b") as opened:
        opened.seek(written.stat().st_size // 2)
        opened.write(b"\1")
    for act in (loaded.run, loaded.to_proto, lambda: loaded.save(file.with_name("b.onnx"))):
        with pytest.raises(InputError, match="written to since"):
            act()
    assert not file.with_name("b.onnx").exists()


def test_files_are_closed_without_a_warning(file: Path) -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        mxtools.load(file).run()
    assert not warned


def test_results_show_themselves_in_one_line(model: Model) -> None:
    split, compared, verified = model.split(parts=2), model.compare(model), model.verify(against=model)
    assert repr(split) == f"<Split of {model.name}: the rest, the rest>"
    assert repr(compared) == "<Comparison: 4 modules, 0 differ>"
    assert repr(verified) == "<Verified: 4 calls, none is wrong>"
    assert "enc.1" not in repr(model.tree())
    assert "<b>Layer" in model.tree()._repr_html_()


@pytest.mark.parametrize(
    "act",
    [
        lambda m, x: m.run(x),
        lambda m, x: m.compare(m, x),
        lambda m, x: m.profile(x, runs=1),
        lambda m, x: m.tag(inputs=x),
    ],
)
def test_inputs_under_other_names_are_refused(model: Model, act: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="has no input 'y': it has x"):
        act(model, {"y": np.zeros((2, 24), np.float32)})


def test_a_model_runs_from_another_folder(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(onnx.load(file), file, save_as_external_data=True, location="a.data", size_threshold=0)
    monkeypatch.chdir(file.parent)
    loaded = mxtools.load(file.name)
    monkeypatch.chdir("/")
    assert loaded.run()
    assert loaded.filter("enc.1").run()


def test_a_tuned_model_has_the_name_and_the_methods_of_the_model(model: Model, file: Path) -> None:
    found = model.tune([model.inputs() for _ in range(3)], "sqnr>=10", to="int8")
    assert found.model.name == model.name
    found.model.save(file.with_name("small.onnx"))
    assert mxtools.load(file.with_name("small.onnx")).is_tagged
