"""Optimisers as a pass: the tags are there again afterwards, and the modules are still those of the model."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from mxtools.errors import InputError, UsageError
from mxtools.files.writing import materialise
from mxtools.graph.functions import every_node
from mxtools.pipeline.pipeline import Pipeline
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.strategies import table
from mxtools.tools.optimizers import OPTIMIZERS
from tests.support import golden_text as golden
from tests.support.commands import Mx
from tests.support.paths import MODELS
from tests.support.shared_models import Build
from tests.support.whole_runs import inputs_of

NEG = "g (float[2] x) => (float[2] y) {\n y = Neg(x)     #@ one\n}"


def ran(model: onnx.ModelProto, feeds: dict[str, np.ndarray], names: list[str]) -> list[np.ndarray]:
    """Run a model, not optimised, on the inputs that it has; return tensors of it."""
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(names, {i.name: feeds[i.name] for i in session.get_inputs()})


def passed(file: Path, pipeline: str) -> onnx.ModelProto:
    """Run a pipeline over a file; return the model, with its weights."""
    loaded = WorkingModel.read(file)
    Pipeline.parse(pipeline).apply(loaded)
    return materialise(loaded.proto, loaded.weights)


@pytest.mark.parametrize("tool", OPTIMIZERS)
@pytest.mark.parametrize("raw", [False, True])
def test_sparse_weights_keep_their_numbers(tmp_path: Path, tool: str, raw: bool) -> None:
    model = golden.read("g (float[4] x) => (float[4] y) {\n y = Add(x, w)     #@ one\n}")
    values, places = np.array([1.5, -2], np.float32), np.array([1, 3])
    if raw:
        content = onnx.numpy_helper.from_array(values, "w"), onnx.numpy_helper.from_array(places, "places")
    else:
        content = onnx.helper.make_tensor("w", 1, [2], values), onnx.helper.make_tensor("places", 7, [2], places)
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(*content, [4]))
    onnx.save(model, tmp_path / "m.onnx")
    after = passed(tmp_path / "m.onnx", f"optimize{{with={tool}}}")
    (y,) = ran(after, {"x": np.ones(4, np.float32)}, ["y"])
    np.testing.assert_array_equal(y, np.float32([1, 2.5, 1, -1]))


@pytest.mark.parametrize("tool", OPTIMIZERS)
def test_inputs_keep_their_defaults(tmp_path: Path, tool: str) -> None:
    """Onnxslim takes equal initializers together, also where they are an input's default."""
    nodes = "a = Add(x, w)     #@ one\n y = Add(a, v)     #@ one"
    model = golden.read(f"g (float[2] x, float[2] v, float[2] w) => (float[2] y) {{\n {nodes}\n}}")
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.ones(2, np.float32), name) for name in "vw")
    onnx.save(model, tmp_path / "m.onnx")
    (y,) = ran(passed(tmp_path / "m.onnx", f"optimize{{with={tool}}}"), {"x": np.ones(2, np.float32)}, ["y"])
    np.testing.assert_array_equal(y, np.float32([3, 3]))


@pytest.mark.parametrize("tool", OPTIMIZERS)
def test_modules_are_what_they_were(built: Build, tmp_path: Path, tool: str) -> None:
    """Cut modules out of the optimised graph; they return what those of the graph before return."""
    tagged, out = built("bert") / "tagged.onnx", tmp_path / "out.onnx"
    before, after = onnx.load(tagged), passed(tagged, f"optimize{{with={tool}}}")
    onnx.save(after, out)
    onnx.checker.check_model(after)
    onnxruntime.InferenceSession(out)
    assert all(keys.SCOPE in keys.props(node) for node in every_node(after.graph.node))
    assert len(after.graph.node) <= len(before.graph.node)
    for field in ("input", "output"):
        assert list(getattr(after.graph, field)) == list(getattr(before.graph, field))
    assert list(after.opset_import) == list(before.opset_import)
    feeds = inputs_of(f"{MODELS}:bert")
    for scope in ("encoder.layer.1", "encoder.layer.1.attention", "embeddings", "pooler"):
        parts = [passed(file, f"filter{{scope={scope}}}") for file in (out, tagged)]
        given, whole = [v.name for v in parts[0].graph.input], [v.name for v in parts[1].graph.output]
        inputs = feeds | dict(zip(given, ran(after, feeds, given), strict=True))
        results = ran(parts[0], inputs, [value.name for value in parts[0].graph.output])
        for result, wanted in zip(results, ran(before, feeds, whole), strict=True):
            np.testing.assert_allclose(result.ravel(), wanted.ravel(), rtol=1e-4, atol=1e-5)


def test_the_same_bytes_whatever_the_order_of_sets(built: Build, mx: Mx) -> None:
    line = ("run", built("bert") / "tagged.onnx", "-p", "optimize{with=onnxslim},optimize{with=ort-basic}")
    made = [mx(*line, env={"PYTHONHASHSEED": seed}) for seed in "12"]
    assert made[0].returncode == 0, made[0].stderr
    assert made[0].stderr.count(b"\n") == 1
    assert made[0].stdout == made[1].stdout


def test_weights_beside_the_file_stay_there(built: Build, mx: Mx, tmp_path: Path) -> None:
    model = onnx.load(built("bert") / "tagged.onnx")
    onnx.save(model, tmp_path / "in.onnx", save_as_external_data=True, location="in.data", size_threshold=0)
    done = mx("run", "in.onnx", "-p", "optimize{with=ort-basic}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert b"in.data" in done.stdout
    weights = (tmp_path / "in.data").stat().st_size
    assert len(done.stdout) < weights
    (tmp_path / "out.onnx").write_bytes(done.stdout)
    onnxruntime.InferenceSession(tmp_path / "out.onnx")


def test_a_strategy_optimises(tmp_path: Path) -> None:
    own = '[strategies.slim]\npipeline = "untag,project-names,resolve-auxiliary"\noptimize = "onnxslim"\n'
    (tmp_path / "mxtools.toml").write_text(own)
    passes = table.known(tmp_path)["slim"].passes(strict=True)
    last = "record-absent{strict=true}"
    assert str(passes) == f"untag,project-names,resolve-auxiliary,{last},optimize{{with=onnxslim}},{last},carry"
    (tmp_path / "mxtools.toml").write_text(own.replace("onnxslim", "onnxfat"))
    with pytest.raises(InputError, match=r"strategies\.slim\.optimize: there is no optimiser 'onnxfat'"):
        table.known(tmp_path)


def test_auto_optimises_and_verifies(built: Build, mx: Mx, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    line = ("auto", f"{MODELS}:bert", "--primary", "htp", "--verify", "--min-quality", "0.95", "-o")
    done = mx(*line, out, "--optimize", "onnxslim")
    assert done.returncode == 0, done.stderr
    assert len(onnx.load(out).graph.node) < len(onnx.load(built("bert") / "tagged.onnx").graph.node)
    done = mx(*line, tmp_path / "no.onnx", "--optimize", "onnxfat")
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert b"there are onnxscript, onnxslim, ort-basic" in done.stderr
    assert not (tmp_path / "no.onnx").exists()


def test_what_runs_after_it_is_the_strategy_for_earlier_models() -> None:
    assert str(table.get("previous").passes()) == Pipeline.parse("optimize{with=onnxslim}").passes[0].then


def test_a_tool_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxslim", None)
    with pytest.raises(UsageError, match=r"onnxslim is not installed.*pip install onnxslim"):
        Pipeline.parse("optimize{with=onnxslim}").apply(WorkingModel(golden.read(NEG)))


def test_a_graph_without_tags(built: Build, mx: Mx) -> None:
    done = mx("run", built("bert") / "raw.onnx", "-p", "optimize{with=onnxscript}")
    assert (done.returncode, done.stdout) == (3, b"")
    assert b"run `mx tag` on it first" in done.stderr
