"""The Python API: its examples, its guide, what it leaves alone, and what it imports."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import mxtools
from mxtools.model.looking import MOST_SHOWN
from mxtools.model.model import Model
from mxtools.scopes import keys
from mxtools.scopes.modules import Module
from mxtools.split.result import Split
from mxtools.traces.trace import Trace
from tests.support.paths import ROOT


@pytest.fixture(scope="session")
def folder(
    built: Callable[..., Path], recorded: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a folder with the files that the examples are about."""
    place = tmp_path_factory.mktemp("api")
    made = built("bert", "dynamo")
    shutil.copy(made / "raw.onnx", place / "bert.onnx")
    shutil.copy(made / "tagged.onnx", place / "bert.tagged.onnx")
    for file in recorded("bert").parent.glob("trace.*"):
        text = file.read_bytes().replace(b'"trace.safetensors"', b'"bert.trace.safetensors"')
        (place / f"bert.{file.name}").write_bytes(text)
    return place


@pytest.fixture
def model(folder: Path) -> Model:
    return mxtools.load(folder / "bert.tagged.onnx")


def python(folder: Path, *arguments: str) -> str:
    """Run Python in a folder; return what it prints."""
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("which", "at_least"), [("plain", 28), ("torch", 3)])
def test_examples_run(folder: Path, tmp_path: Path, which: str, at_least: int) -> None:
    place = shutil.copytree(folder, tmp_path / which)
    assert int(python(place, str(ROOT / "tests" / "run_examples.py"), which)) >= at_least


def test_guide_runs_and_imports_torch_only_where_it_says_so(folder: Path, tmp_path: Path) -> None:
    plain, torch = (ROOT / "docs" / "python.md").read_text().split("## With PyTorch")
    blocks = [re.findall(r"```python\n(.*?)```", part, re.DOTALL) for part in (plain, torch)]
    place = shutil.copytree(folder, tmp_path / "guide")
    check = "import sys\nassert 'torch' not in sys.modules\n"
    printed = python(place, "-c", "\n".join([*blocks[0], check, *blocks[1]]))
    assert "Linear" in printed
    assert "fx succeeded" in printed


@pytest.mark.model
def test_everything_public_is_listed_and_has_an_example() -> None:
    assert set(dir(mxtools)) == {*mxtools.__all__, "__version__"}
    without_example = {"export_model_auto", "export_model_with_fallback", "option"}  # the guide has theirs
    public = [getattr(mxtools, name) for name in mxtools.__all__ if name not in without_example]
    functions = [item for item in public if inspect.isfunction(item)]
    methods = [
        member
        for cls in (Model, Model.__mro__[1])
        for name, member in vars(cls).items()
        if inspect.isfunction(member) and not name.startswith("_") and name != "knowing"
    ]
    for item in (*functions, *methods, Model, Module, Split, Trace):
        assert ">>>" in (item.__doc__ or ""), item


def test_import_alone_is_light(tmp_path: Path) -> None:
    heavy = "{'onnx', 'numpy', 'torch', 'pydantic', 'onnxruntime', 'typer'}"
    assert python(tmp_path, "-c", f"import mxtools, sys; print({heavy} & sys.modules.keys())") == "set()\n"


def test_package_is_typed() -> None:
    assert (ROOT / "mxtools" / "py.typed").is_file()


def test_a_proto_without_weights_says_so(model: Model) -> None:
    """Other libraries refuse it, with the remedy in what they say; the API refuses it too."""
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail, match=r"model\.to_proto\(\)"):
        onnxruntime.InferenceSession(model.proto.SerializeToString())
    with pytest.raises(mxtools.InputError, match=r"does not contain its weights: give `model\.to_proto\(\)`"):
        mxtools.from_proto(model.proto)
    session = onnxruntime.InferenceSession(model.to_proto().SerializeToString())
    expected = dict(zip(model.output_names, session.run(None, model.inputs()), strict=True))
    for name, array in model.run().items():
        np.testing.assert_array_equal(array, expected[name])


def test_proto_goes_out_as_the_file_has_it(model: Model, folder: Path) -> None:
    assert model.to_proto() == onnx.load(folder / "bert.tagged.onnx")


def test_external_data_go_into_the_proto(model: Model, tmp_path: Path) -> None:
    onnx.save(model.to_proto(), tmp_path / "e.onnx", save_as_external_data=True, size_threshold=0)
    found, expected = mxtools.load(tmp_path / "e.onnx").to_proto(), onnx.load(tmp_path / "e.onnx")
    assert found.graph.node == expected.graph.node
    for tensor, wanted in zip(found.graph.initializer, expected.graph.initializer, strict=True):
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), onnx.numpy_helper.to_array(wanted))


def test_given_proto_is_never_changed(folder: Path) -> None:
    proto = onnx.load(folder / "bert.onnx")
    before = proto.SerializeToString()
    mxtools.from_proto(proto).tag(mxtools.load_trace(folder / "bert.trace.json"))
    assert proto.SerializeToString() == before


def test_onnx_ir_goes_in_and_out(model: Model) -> None:
    back = mxtools.from_proto(model.to_ir())
    assert [module.scope for module in back.modules()] == [module.scope for module in model.modules()]
    for name, array in back.run(model.inputs()).items():
        np.testing.assert_allclose(array, model.run()[name], rtol=1e-5)


def test_what_makes_another_model_leaves_this_one(model: Model, folder: Path, tmp_path: Path) -> None:
    before = model.to_proto().SerializeToString()
    layer = model.filter("encoder.layer.0")
    trace = mxtools.load_trace(folder / "bert.trace.json")
    list(model.split(depth=1))
    model.graft(layer)
    model.optimize("ort-basic")
    model.wrap(["cp", "{in}", "{out}"])
    model.compare(layer)
    model.verify(trace, isolate=True)
    model.validate(trace)
    model.profile(runs=1)
    model.view(tmp_path / "page.html")
    model.tree()
    model.run()
    assert model.to_proto().SerializeToString() == before


def test_tag_is_what_the_command_writes(folder: Path, tmp_path: Path) -> None:
    model = mxtools.load(folder / "bert.onnx")
    report = model.tag(mxtools.load_trace(folder / "bert.trace.json"))
    model.save(tmp_path / "a.onnx")
    assert sum(report.evidence.values()) == report.nodes
    other = mxtools.load(tmp_path / "a.onnx")
    assert [(m.scope, m.tag) for m in other.modules()] == [(m.scope, m.tag) for m in model.modules()]


def test_tags_come_from_an_earlier_model(model: Model) -> None:
    smaller = model.optimize("onnxslim")
    smaller.untag()
    report = smaller.tag(earlier=model)
    assert report.evidence["previous"] > report.nodes / 2
    assert smaller.module("encoder.layer.1").class_name == "BertLayer"


def test_a_failing_pass_is_named_with_those_before_it(model: Model) -> None:
    with pytest.raises(mxtools.UsageError) as caught:
        model.apply("resolve-auxiliary,filter{scope=nothing}")
    assert caught.value.__notes__ == ["in the pass filter, after resolve-auxiliary"]


def test_numbers_that_mean_nothing_are_refused(model: Model) -> None:
    with pytest.raises(mxtools.UsageError, match="0 runs are none"):
        model.profile(runs=0)
    with pytest.raises(mxtools.UsageError, match="'batch' cannot have the size -1"):
        model.tree(dims={"batch": -1})
    with pytest.raises(mxtools.UsageError, match="no models to join"):
        mxtools.join([])


def test_modules_show_the_tree(model: Model) -> None:
    root = model.module()
    assert root.scope == "."
    assert root.parent is None
    layers = model.modules(class_name="BertLayer")
    assert [layer.scope for layer in layers] == ["encoder.layer.0", "encoder.layer.1"]
    assert layers[0].parent is not None
    assert layers[0].parent.class_name == "BertEncoder"
    assert sum(layers[0].evidence.values()) == len(layers[0].nodes) == sum(layers[0].operators.values())
    assert root.parameters == model.tree().parameters


def test_a_model_that_changed_has_new_modules(model: Model) -> None:
    count = len(model.modules())
    model.apply("filter{scope=pooler}")
    assert len(model.modules()) < count
    assert model.version == 1


def test_modules_follow_annotations_that_change_while_the_graph_does_not(model: Model) -> None:
    model.apply("untag,project-parameters{alone=true}")
    before = len(model.module().nodes)
    model.apply("resolve-auxiliary")
    assert before < len(model.module().nodes) == len(model.graph.nodes)


def test_notebooks_show_the_tree(model: Model, folder: Path) -> None:
    assert "<details" in model._repr_html_()
    assert "BertLayer" in model._repr_html_()
    assert "not tagged" in mxtools.load(folder / "bert.onnx")._repr_html_()


def shown(model: Model) -> str:
    """Return what IPython shows of a model in a notebook, where IPython is; else what it would ask the model for."""
    try:
        from IPython.core.formatters import DisplayFormatter
    except ImportError:
        return model._repr_html_()
    data, _ = DisplayFormatter().format(model)
    assert set(data) == {"text/plain", "text/html"}
    return str(data["text/html"])


def test_a_notebook_shows_names_as_text(model: Model) -> None:
    proto = model.to_proto()
    evil = "<img src=x onerror=alert(1)>"
    for node in proto.graph.node:
        for entry in node.metadata_props:
            entry.value = entry.value.replace("pooler", evil).replace("BertPooler", evil)
    html = shown(mxtools.from_proto(proto, name=evil))
    assert "<img" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html
    untagged = mxtools.from_proto(proto, name=evil)
    untagged.apply("untag")
    assert "<img" not in shown(untagged)


def test_a_notebook_shows_the_outer_modules_of_a_large_model() -> None:
    nodes = []
    for number in range(3 * MOST_SHOWN):
        node = onnx.helper.make_node("Neg", [f"v{number}"], [f"v{number + 1}"], name=f"n{number}")
        keys.replace_props(
            node,
            frozenset(),
            {keys.SCOPE: f"a{number % 20}.b{number}.c", keys.TAG: f"/M/A.a{number % 20}/B.b{number}/C"},
        )
        nodes.append(node)
    value = onnx.helper.make_tensor_value_info
    ends = ([value(name, onnx.TensorProto.FLOAT, [1])] for name in ("v0", f"v{3 * MOST_SHOWN}"))
    model = mxtools.from_proto(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", *ends)))
    html = shown(model)
    assert html.count(" nodes, ") == MOST_SHOWN
    assert all(f" a{number} " in html or f">a{number} " in html for number in range(20))
    assert "3000 nodes" in html


def test_trace_is_saved_with_its_values(folder: Path, tmp_path: Path) -> None:
    trace = mxtools.load_trace(folder / "bert.trace.json")
    trace.save(tmp_path / "t.json")
    again = mxtools.load_trace(tmp_path / "t.json")
    assert again.sidecar.calls == trace.sidecar.calls
    assert trace.values is not None
    assert again.values is not None
    for name in trace.values.names:
        np.testing.assert_array_equal(again.values.get(name), trace.values.get(name))


def test_inputs_can_be_arrays(model: Model) -> None:
    inputs = {name: np.array(array) for name, array in model.inputs().items()}
    inputs["input_ids"][0, 0] += 1
    assert any(not np.array_equal(array, model.run(inputs)[name]) for name, array in model.run().items())
    assert not model.compare(model, inputs).differing(1e-6)
