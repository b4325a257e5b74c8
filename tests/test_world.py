"""How models outside of transformers are written: each module that is cut out is the module that PyTorch ran."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import onnx
import onnxruntime
import onnxslim
import pytest

import mxtools
from mxtools.errors import UsageError
from mxtools.graph.order import sort_nodes
from mxtools.scopes import keys
from mxtools.verify.round_trip import round_trip
from tests.support.commands import Mx
from tests.support.paths import ROOT

pytestmark = pytest.mark.model
WORLD = ROOT / "fixtures" / "world.py"
NAMES = (
    "shared_activation",
    "shared_bias",
    "cache",
    "sequentials",
    "hooks",
    "recurrent",
    "activated_norm",
    "adapters",
    "results",
    "called_by_two",
    "odd_names",
    "separable",
    "ignored_feature",
    "functional_norm",
    "siblings",
    "memory",
    "changed_argument",
    "refined",
    "estimated",
    "tokens",
    "activations",
    "towers",
    "hook_of_two",
    "traced_by_fx",
    "detector",
    "channels_last",
    "two_results",
    "rotated",
    "sliced",
    "time_first",
    "squeezed",
    "located",
    "two_resolutions",
    "partly_normalised",
    "gated",
    "states",
    "square",
    "fused_ends",
    "normed_features",
    "activated_features",
    "encoded_twice",
    "quantised_twice",
    "perceptual",
    "counted",
    "copied",
)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, mx: Mx) -> dict[str, Path]:
    """Return for each model the folder with its recorded trace."""
    folders = {}
    for name in NAMES:
        folders[name] = tmp_path_factory.mktemp(name)
        mx("trace", f"{WORLD}:{name}", "--record", "-o", "t.json", cwd=folders[name])
    return folders


def tagged(folder: Path, name: str, exporter: str, mx: Mx) -> mxtools.Model:
    """Return the model as an exporter writes it, tagged by its trace."""
    raw = folder / f"{exporter}.onnx"
    if not raw.exists():
        mx("export", f"{WORLD}:{name}", "--exporter", exporter, "-o", raw.name, cwd=folder)
    model = mxtools.load(raw)
    model.tag(mxtools.load_trace(folder / "t.json"))
    return model


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", NAMES)
def test_every_module_is_what_pytorch_ran(traced: dict[str, Path], name: str, exporter: str, mx: Mx) -> None:
    model = tagged(traced[name], name, exporter, mx)
    wrong = [v for v in round_trip(model) if v.word not in ("exact", "gone")]
    assert not wrong


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", sorted({*NAMES} - {"changed_argument", "refined"}))
def test_tags_do_not_depend_on_the_order_of_the_nodes(
    traced: dict[str, Path], name: str, exporter: str, mx: Mx
) -> None:
    """In the two that are left out, only the order tells in which of two calls some nodes ran."""
    ordered = scopes(tagged(traced[name], name, exporter, mx))
    mixed = mxtools.load(traced[name] / f"{exporter}.onnx")
    nodes = list(mixed.proto.graph.node)
    Random(0).shuffle(nodes)
    del mixed.proto.graph.node[:]
    mixed.proto.graph.node.extend(nodes)
    sort_nodes(mixed.proto)
    trace = mxtools.load_trace(traced[name] / "t.json")
    for values in (trace.values, None):
        mixed.tag(mxtools.Trace(trace.sidecar, values))
        assert scopes(mixed) == ordered


@pytest.mark.parametrize("level", ["ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED"])
@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", sorted({*NAMES} - {"refined"}))
def test_onnx_runtime_leaves_names_that_tell_where_its_nodes_belong(
    traced: dict[str, Path], name: str, exporter: str, level: str, mx: Mx, tmp_path: Path
) -> None:
    """Without recorded values. In the model that is left out, only the order tells two calls apart."""
    before = scopes(tagged(traced[name], name, exporter, mx))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "fast.onnx"), 4
    onnxruntime.InferenceSession(traced[name] / f"{exporter}.onnx", options)
    fast = mxtools.load(tmp_path / "fast.onnx")
    fast.tag(mxtools.Trace(mxtools.load_trace(traced[name] / "t.json").sidecar))
    after = {made: scope for made, scope in scopes(fast).items() if made in before}
    assert after == {made: before[made] for made in after}


@pytest.mark.parametrize("name", sorted({*NAMES} - {"hooks", "refined"}))
def test_names_that_count_operations_tell_where_nodes_belong(traced: dict[str, Path], name: str, mx: Mx) -> None:
    """The optimiser takes the metadata away, and no values were recorded.

    Left out: a hook before a call, whose work the metadata put into this call; and an attention that PyTorch runs as
    one operation, whose nodes have other names.
    """
    before = scopes(tagged(traced[name], name, "dynamo", mx))
    slim = mxtools.Model(onnxslim.slim(onnx.load(traced[name] / "dynamo.onnx")))
    slim.tag(mxtools.Trace(mxtools.load_trace(traced[name] / "t.json").sidecar))
    after = {made: scope for made, scope in scopes(slim).items() if made in before}
    assert after == {made: before[made] for made in after}


def scopes(model: mxtools.Model) -> dict[str, str]:
    """Return the scopes of all nodes but of constants, by what they make."""
    nodes = [node for node in model.proto.graph.node if node.op_type != "Constant"]
    return {node.output[0]: keys.props(node)[keys.SCOPE] for node in nodes}


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", ["masked_blocks", "hooked", "attended", "stacks", "acted", "lit"])
def test_every_module_is_what_pytorch_ran_as_long_as_no_tool_merges_more(
    name: str, exporter: str, mx: Mx, tmp_path: Path
) -> None:
    mx("trace", f"{WORLD}:{name}", "--record", "-o", "t.json", cwd=tmp_path)
    model = tagged(tmp_path, name, exporter, mx)
    assert not [v for v in round_trip(model) if v.word not in ("exact", "gone")]


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_calls_in_a_hook_have_the_nodes_that_pytorch_names_after_its_caller(
    exporter: str, mx: Mx, tmp_path: Path
) -> None:
    mx("trace", f"{WORLD}:hooked", "-o", "t.json", cwd=tmp_path)
    found = {*scopes(tagged(tmp_path, "hooked", exporter, mx)).values()}
    assert {
        "first.adapters.first.1",
        "second.layer.adapters.layer.1",
        "adapters.before.1",
    } <= found  # hooks before a call are not in it
    assert {"first", "second.layer"} <= found  # what the hooks do with the results


def test_a_call_is_cut_out_whole_where_another_reads_the_mask_that_a_third_made(mx: Mx, tmp_path: Path) -> None:
    mx("trace", f"{WORLD}:masked_blocks", "-o", "t.json", cwd=tmp_path)
    model = tagged(tmp_path, "masked_blocks", "torchscript", mx)
    for number in (0, 1):
        part = model.filter(f"convolutions.{number}").proto.graph
        assert [v.type.tensor_type.elem_type for v in part.input].count(onnx.TensorProto.BOOL) == 1
        assert [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in part.input if "Less" in v.name] == [[2, 4]]
        assert len(part.output) == 1


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_every_call_of_a_module_that_calls_itself_is_what_pytorch_ran(exporter: str, mx: Mx, tmp_path: Path) -> None:
    mx("trace", f"{WORLD}:recursive", "--record", "-o", "t.json", cwd=tmp_path)
    model = tagged(tmp_path, "recursive", exporter, mx)
    assert not [v for v in round_trip(model) if v.word not in ("exact", "gone")]


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_convolution_that_its_caller_normalises_is_merged(traced: dict[str, Path], exporter: str, mx: Mx) -> None:
    model = tagged(traced["functional_norm"], "functional_norm", exporter, mx)
    assert model.absent == {"0.conv": "merged: 0"}


def test_equal_calls_can_each_be_cut_out(traced: dict[str, Path], mx: Mx, tmp_path: Path) -> None:
    model = tagged(traced["shared_activation"], "shared_activation", "torchscript", mx)
    assert model.absent["blocks.1.act@1"] == "merged: blocks.0.act@1"
    model.save(tmp_path / "tagged.onnx")
    read = mxtools.load(tmp_path / "tagged.onnx")
    part = read.filter("blocks.1")
    assert [o.name for o in part.proto.graph.output] == ["/blocks.1/Add_1_output_0"]
    assert "blocks.1.act@1" in {keys.props(node)[keys.SCOPE] for node in part.proto.graph.node}
    assert "blocks.1.act@1" not in part.absent
    alone = read.filter("blocks.2.act@1")
    t = np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 6)
    (result,) = alone.run({alone.proto.graph.input[0].name: t}).values()
    np.testing.assert_allclose(result, t / (1 + np.exp(-t)), rtol=1e-5)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_repeated_call_is_equal_to_the_one_on_the_same_tensor(
    traced: dict[str, Path], exporter: str, mx: Mx, tmp_path: Path
) -> None:
    model = tagged(traced["towers"], "towers", exporter, mx)
    assert {s: reason for s, reason in model.absent.items() if "." not in s.partition("@")[2]} == {
        "left.tower@1": "merged: left.tower",
        "left.tower@2": "merged: right.tower",
    }
    model.save(tmp_path / "tagged.onnx")
    read = mxtools.load(tmp_path / "tagged.onnx")
    assert [i.name for i in read.filter("left.tower@2").proto.graph.input] == ["b"]
    left = read.filter("left").proto.graph  # the root called the tower again, so `left` need not return its result
    assert [[d.dim_value for d in o.type.tensor_type.shape.dim] for o in left.output] == [[2, 4]]


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_module_whose_last_node_does_work_outside_of_it_is_not_cut_out(
    traced: dict[str, Path], exporter: str, mx: Mx
) -> None:
    model = tagged(traced["separable"], "separable", exporter, mx)
    with pytest.raises(mxtools.AbsentError, match=r"^separable ends inside Conv .* which does the work of norm too"):
        model.filter("separable")
    assert [node.op_type for node in model.filter("separable.0").proto.graph.node] == ["Conv"]


def test_a_module_that_ends_in_a_concat_of_its_caller_is_not_cut_out(traced: dict[str, Path], mx: Mx) -> None:
    model = tagged(traced["detector"], "detector", "torchscript", mx)
    with pytest.raises(mxtools.AbsentError, match=r"^encode ends inside Concat .* which does the work of \. too"):
        model.filter("encode")
    assert [node.op_type for node in model.filter("encode.conv").proto.graph.node] == ["Conv"]


def test_what_a_module_was_given_is_what_its_list_held_when_it_was_called(traced: dict[str, Path]) -> None:
    (head,) = (c for c in mxtools.load_trace(traced["detector"] / "t.json").calls if c.scope == "head")
    assert [t.shape[1] for t in head.inputs] == [6, 8]
    assert [t.shape[1] for t in head.outputs] == [7, 7, 7]


def test_a_part_with_a_copy_of_shared_work_goes_back(traced: dict[str, Path], mx: Mx) -> None:
    model = tagged(traced["shared_activation"], "shared_activation", "torchscript", mx)
    feeds = {name: model.values.get(name) for name in ("x", "t")}
    before = model.run(feeds)
    model.graft(model.filter("blocks.1"))
    after = model.run(feeds)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)


def test_a_block_returns_what_pytorch_returned_and_not_what_others_do_too(
    traced: dict[str, Path], mx: Mx, tmp_path: Path
) -> None:
    tagged(traced["shared_bias"], "shared_bias", "torchscript", mx).save(tmp_path / "tagged.onnx")
    read = mxtools.load(tmp_path / "tagged.onnx")
    before = read.run({"x": np.ones((2, 3, 8), np.float32)})
    first, second = read.filter("blocks.0"), read.filter("blocks.1")
    bias = "/blocks.0/Transpose_output_0"
    assert bias in {o.name for o in first.proto.graph.output}
    assert bias in {i.name for i in second.proto.graph.input}
    assert [n.op_type for n in second.proto.graph.node].count("Tanh") == 1
    assert "/blocks.0/Tanh_output_0" not in {name for n in second.proto.graph.node for name in n.output}
    read.graft(second)
    for name, array in read.run({"x": np.ones((2, 3, 8), np.float32)}).items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_modules_that_begin_with_the_same_transposition_are_each_cut_out(
    traced: dict[str, Path], exporter: str, mx: Mx, tmp_path: Path
) -> None:
    tagged(traced["normed_features"], "normed_features", exporter, mx).save(tmp_path / "tagged.onnx")
    model = mxtools.load(tmp_path / "tagged.onnx")
    stages, norm = (model.filter(scope).proto.graph for scope in ("stages", "norms.0"))
    assert [[d.dim_value for d in o.type.tensor_type.shape.dim] for o in stages.output] == [[1, 4, 7, 7], [1, 5, 5, 5]]
    assert [node.op_type for node in norm.node] == ["Transpose", "LayerNormalization", "Transpose"]


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_modules_that_begin_with_the_same_activation_are_each_cut_out(
    traced: dict[str, Path], exporter: str, mx: Mx, tmp_path: Path
) -> None:
    tagged(traced["activated_features"], "activated_features", exporter, mx).save(tmp_path / "tagged.onnx")
    model = mxtools.load(tmp_path / "tagged.onnx")
    stages, head = (model.filter(scope).proto.graph for scope in ("stages", "head"))
    first = next(node.output[0] for node in stages.node if node.op_type == "Conv")
    assert {o.name for o in stages.output} >= {first}
    assert [i.name for i in head.input] == [first]


def test_what_leaves_by_the_side_has_a_name_of_its_own(traced: dict[str, Path], mx: Mx) -> None:
    model = tagged(traced["cache"], "cache", "torchscript", mx)
    part = model.filter("attention", io="module")
    assert [o.name for o in part.proto.graph.output] == ["output", "side_0", "side_1"]


def test_a_selector_goes_by_who_called(traced: dict[str, Path], mx: Mx) -> None:
    model = tagged(traced["called_by_two"], "called_by_two", "torchscript", mx)
    scopes = {keys.props(node)[keys.SCOPE] for node in model.filter("owner").proto.graph.node}
    assert scopes == {"owner.norm", "owner.dense"}
    assert "owner.norm@1" in {keys.props(node)[keys.SCOPE] for node in model.proto.graph.node}


def test_explain_says_what_each_source_said(traced: dict[str, Path], mx: Mx) -> None:
    folder = traced["hooks"]
    tagged(folder, "hooks", "torchscript", mx)
    arguments = ("tag", "torchscript.onnx", "--trace", "t.json", "-o", "tagged.onnx", "--explain", "/Mul")
    said = mx(*arguments, cwd=folder).stderr.decode()
    assert said.splitlines()[0] == "/Mul (Mul)"
    assert "move-to-operations   a (dataflow)" in said
    assert "not where the exporter says" in said
    report = json.loads(mx(*arguments, "--json", cwd=folder).stdout)
    assert report["explained"][0]["said"] == [{"source": "name", "text": "/", "scopes": ["."]}]
    assert report["explained"][0]["passes"][-1] == ["move-to-operations", "a", "dataflow"]
    assert report["disagreements"] > 0
    found = json.loads(mx("validate", "tagged.onnx", "--trace", "t.json", "--json", cwd=folder).stdout)
    assert "exporter-differs" in {finding["rule"] for finding in found["findings"]}


def test_explain_of_no_node(traced: dict[str, Path], mx: Mx) -> None:
    model = tagged(traced["hooks"], "hooks", "torchscript", mx)
    with pytest.raises(UsageError, match="there is no node 'nothing'"):
        model.tag(explain=["nothing"])
    assert not model.tag().explained
    assert onnx.checker.check_model(model.to_proto()) is None
