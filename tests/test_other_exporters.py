"""Files of exporters other than PyTorch's: a tree where the names hold one, and none where they do not.

The names are those that the tools themselves wrote for small models: tf2onnx 1.17 (also by Keras 3.15's
`model.export(format="onnx")`), spox 0.18, paddle2onnx 2.1, skl2onnx 1.20, jax2onnx 0.17; those of onnxruntime-genai's
builder, of TFLite converters and of models that spox inlined are written by hand in the form of these tools.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.helper import make_node as node
from onnx.helper import make_tensor_value_info as info

import mxtools
from mxtools.errors import InputError
from mxtools.scopes import keys
from mxtools.traces.sidecar import dumps
from tests.support.commands import Mx

FLOAT = TensorProto.FLOAT
Chain = Sequence[tuple[str, str]]
"""Operators and names of nodes, each of which reads the one before."""

KERAS = """
MatMul net_1/block_0_attn_1/query_1/MatMul, Reshape net_1/block_0_attn_1/query_1/Reshape_1, Unsqueeze Unsqueeze__236,
Transpose Transpose__244, Softmax net_1/block_0_attn_1/Softmax, Squeeze Squeeze__209,
Reshape net_1/block_0_attn_1/attention_output_1/Reshape, MatMul net_1/block_0_attn_1/attention_output_1/MatMul,
Add net_1/add_1/Add, ReduceMean net_1/layer_normalization_1/moments/mean, Sub net_1/layer_normalization_1/sub,
Reshape net_1/head_1/Tensordot/Reshape, MatMul net_1/head_1/Tensordot/MatMul, Reshape net_1/head_1/Tensordot,
Add net_1/head_1/BiasAdd
"""
CONVOLUTIONAL = """
Transpose cnn_1/batch_normalization_1/batchnorm/mul_1__756, Conv cnn_1/batch_normalization_1/batchnorm/mul_1,
Relu cnn_1/re_lu_1/Relu, Conv cnn_1/inner_1/conv2d_1/convolution, Relu cnn_1/inner_1/re_lu_1_1/Relu,
Transpose Transpose__778, Shape Shape__780, Gather Gather__783, Cast cnn_1/flatten_1/Shape__764,
Slice cnn_1/flatten_1/strided_slice, Concat cnn_1/flatten_1/Reshape/shape_Concat__774,
Cast cnn_1/flatten_1/Reshape__775, Reshape cnn_1/flatten_1/Reshape, MatMul cnn_1/dense_4_1/MatMul
"""
TF_MODULE = "MatMul blk/matmul, Relu blk/Relu, MatMul blk/matmul_1, Relu blk/Relu_1"
INLINED = """
Gather Inline_0__/embed/Gather, MatMul Inline_0__/layers/layers.0/MatMul, Add Inline_0__/layers/layers.0/Add,
MatMul Inline_0__/layers/layers.1/MatMul, Add Inline_0__/layers/layers.1/Add, Abs Abs_0
"""
GENAI = """
ReduceSum /model/attn_mask_reformat/attn_mask_subgraph/ReduceSum, Sub /model/attn_mask_reformat/attn_mask_subgraph/Sub,
Cast /model/attn_mask_reformat/attn_mask_subgraph/Sub/Cast, Gather /model/attn_mask_reformat/attn_mask_subgraph/Gather,
Cast /model/attn_mask_reformat/attn_mask_subgraph/Gather/Cast,
MatMul /model/layers.0/attn/q_proj/MatMul, MatMul /model/layers.0/attn/o_proj/MatMul, MatMul /lm_head/MatMul
"""
OPTIMISED = """
Gemm /encoder/query/MatMul/MatMulAddFusion, Softmax /encoder/Softmax, Relu /encoder/act/Relu, Relu /Relu/Relu,
Gelu /encoder/mlp/Gelu
"""
TFLITE = (
    "Conv net/conv/Relu;net/conv/BiasAdd;net/conv/Conv2D, Relu net/act/Relu, MatMul net/head/MatMul;net/head/BiasAdd"
)
SPOX = "MatMul Inline_0__MatMul_0, Relu Inline_0__Relu_0, MatMul Inline_1__MatMul_0, Relu Inline_1__Relu_0, Abs Abs_0"
PADDLE = "MatMul MatMul.0, Add Add.0, Identity Identity.0, Relu Relu.0, ReduceMean ReduceMean.0, Sub Sub.0, Sqrt Sqrt.0"
SKLEARN = "Cast Cast, MatMul MatMul, Add Add, Relu Relu, MatMul MatMul1, Add Add1, Relu Relu1, Sub Sub, Concat Concat"
JAX = "Gemm node_Gemm_0, Relu node_Relu_1, ReduceMean node_ReduceMean_2, Sub node_Sub_3, Mul node_Mul_4, Sub node_Sub_5"
COUNTED = "MatMul op/0, Relu fn/0, MatMul op/1, Relu fn/1, MatMul op/2, Relu fn/2, MatMul op/3, Relu fn/3"
OPERATORS = "MatMul MatMul/0, Relu Relu/0, MatMul MatMul/1, Relu Relu/1"


def chain(text: str, *weights: TensorProto) -> ModelProto:
    """Return a model of nodes `OPERATOR NAME`, each of which reads the one before, and a weight where there is one."""
    nodes, before = [], "x"
    for number, words in enumerate(part.split() for part in text.split(",")):
        given = [before, weights[number].name] if number < len(weights) else [before]
        nodes.append(node(words[0], given, [f"v{number}"], name=words[1]))
        before = f"v{number}"
    graph = helper.make_graph(nodes, "g", [info("x", FLOAT, [4, 4])], [info(before, FLOAT, [4, 4])], list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def scopes(model: ModelProto) -> dict[str, str]:
    """Return the scopes of the nodes that a model gets, by the names of the nodes."""
    tagged = mxtools.from_proto(model)
    tagged.tag()
    return {n.name: keys.props(n)[keys.SCOPE] for n in tagged.proto.graph.node}


TREES = {
    "Keras": (KERAS, {
        "net_1", "net_1.block_0_attn_1", "net_1.block_0_attn_1.query_1", "net_1.block_0_attn_1.attention_output_1",
        "net_1.add_1", "net_1.layer_normalization_1", "net_1.layer_normalization_1.moments", "net_1.head_1",
    }),
    "tf2onnx": (CONVOLUTIONAL, {
        "cnn_1", "cnn_1.batch_normalization_1", "cnn_1.batch_normalization_1.batchnorm", "cnn_1.re_lu_1",
        "cnn_1.inner_1", "cnn_1.inner_1.conv2d_1", "cnn_1.inner_1.re_lu_1_1", "cnn_1.flatten_1", "cnn_1.dense_4_1",
    }),
    "one module": (TF_MODULE, {"blk"}),
    "TFLite": (TFLITE, {"net", "net.conv", "net.act", "net.head"}),
    "spox, a PyTorch model inlined": (INLINED, {
        "Inline_0__", "Inline_0__.embed", "Inline_0__.layers", "Inline_0__.layers.0", "Inline_0__.layers.1",
    }),
    "onnxruntime-genai": (GENAI, {
        "model", "model.attn_mask_reformat", "model.attn_mask_reformat.attn_mask_subgraph", "model.layers.0",
        "model.layers.0.attn", "model.layers.0.attn.q_proj", "model.layers.0.attn.o_proj", "lm_head",
    }),
    "ONNX Runtime's fusions": (OPTIMISED, {"encoder", "encoder.query", "encoder.act", "encoder.mlp", "Relu"}),
    "spox": (SPOX, set()),
    "Paddle": (PADDLE, set()),
    "scikit-learn": (SKLEARN, set()),
    "JAX": (JAX, set()),
    "counters": (COUNTED, set()),
    "operators with counters": (OPERATORS, set()),
}  # fmt: skip


@pytest.mark.parametrize("exporter", TREES)
def test_the_tree_is_what_the_names_hold(exporter: str) -> None:
    text, wanted = TREES[exporter]
    model = mxtools.from_proto(chain(text))
    model.tag()
    known = {module.scope for module in model.modules()} - {"."}
    assert known == wanted


def test_nodes_without_names_are_resolved_by_the_flow() -> None:
    found = scopes(chain(KERAS))
    assert found["Transpose__244"] == "net_1.block_0_attn_1"
    assert found["net_1/head_1/Tensordot"] == found["net_1/head_1/Tensordot/MatMul"] == "net_1.head_1"


def test_the_names_of_other_tools_are_cut_by(tmp_path: Path, mx: Mx) -> None:
    weights = [numpy_helper.from_array(np.eye(4, dtype=np.float32), f"w{i}") for i in range(3)]
    model = chain("MatMul a/b/MatMul, Add a/b/BiasAdd, Mul a/c/mul, Relu d/Relu, Tanh d/Tanh", *weights)
    onnx.save(model, tmp_path / "m.onnx")
    assert mx("tag", "m.onnx", "-o", "t.onnx", cwd=tmp_path).returncode == 0
    for scope in ("a", "a.b", "a.c", "d"):
        assert mx("filter", "t.onnx", "--scope", scope, "--verify", "-o", "p.onnx", cwd=tmp_path).returncode == 0


NAMES = {
    "/a@b/Relu": "a%40b",
    "/a@1/Relu": "a%401",
    "/50%/Relu": "50%25",
    "/a%40b/Relu": "a%2540b",
    "/a\x07b/Relu": "a%07b",
    "/x\u0085y/z@/Relu": "x%85y.z%40",
    "//a//b/Relu": "a.b",
    "/a..b./c/Relu": "a.b.c",
}


@pytest.mark.parametrize("name", NAMES)
def test_what_a_scope_cannot_hold_is_escaped(name: str, tmp_path: Path, mx: Mx) -> None:
    model = chain("Relu first, Tanh /c/Tanh")
    model.graph.node[0].name = name
    assert scopes(model)[name] == NAMES[name]
    onnx.save(model, tmp_path / "m.onnx")
    assert mx("tag", "m.onnx", "-o", "t.onnx", cwd=tmp_path).returncode == 0
    for command in (["tree"], ["validate"], ["filter", "--scope", NAMES[name], "-o", "p.onnx"], ["view", "-f", "dot"]):
        assert mx(command[0], "t.onnx", *command[1:], cwd=tmp_path).returncode == 0
    tag = keys.props(onnx.load(tmp_path / "t.onnx").graph.node[0])[keys.TAG]
    assert tag.isprintable()


def test_names_that_mxtools_wrote_keep_their_calls() -> None:
    """`--rename` writes scopes into names; without the metadata the names are read as what they are."""
    model = chain("Relu /a@1/Relu, Tanh /a%40b/Tanh")
    keys.replace_props(model, frozenset({keys.CARRIERS}), {keys.CARRIERS: "rename"})
    assert set(scopes(model).values()) == {"a@1", "a%40b"}


def test_what_torch_export_notes_of_sizes_is_no_module() -> None:
    """As torch 2.13 writes it on the Shape nodes of an export with dynamic shapes."""
    hook = "_empty_nn_module_stack_from_metadata_hook"
    model = chain("Shape node_Shape_0, Neg node_Neg_1, Abs node_abs")
    notes = [
        ([hook, "sym_size_int_11"], [hook, "aten.sym_size.int"]),
        (["", "enc", "neg"], ["__main__.Net", "__main__.Enc", "aten.neg.default"]),
        (["", "abs"], ["__main__.Net", "aten.abs.default"]),
    ]
    for proto, (names, classes) in zip(model.graph.node, notes, strict=True):
        proto.metadata_props.add(key=keys.TORCH_NAME_SCOPES, value=repr(names))
        proto.metadata_props.add(key=keys.TORCH_CLASS_HIERARCHY, value=repr(classes))
    assert set(scopes(model).values()) == {"enc", "."}


def test_a_model_of_another_tool_is_none_of_a_trace(tmp_path: Path) -> None:
    from tests.support.small_traces import trace_of

    sidecar = trace_of(". M x:4x4 -> z:4x4\nenc E x:4x4 -> y:4x4")
    model = mxtools.from_proto(chain("Relu /dec/Relu, Tanh /dec/Tanh"))
    model.sidecar = sidecar
    with pytest.raises(InputError, match="the sidecar belongs to another model"):
        model.tag()
    loose = mxtools.from_proto(chain("Relu enc/Relu, Tanh other/Tanh"))
    loose.sidecar = sidecar
    loose.tag()
    assert keys.props(loose.proto.graph.node[0])[keys.SCOPE] == "enc"


TRACED = """
. Llama ids:1x4 -> logits:1x4x8
model Model ids:1x4 -> h:1x4x4
model.embed Embedding ids:1x4 -> e:1x4x4
model.layers.0 Layer e:1x4x4 -> h:1x4x4
model.layers.0.self_attn Attention e:1x4x4 -> a:1x4x4
model.layers.0.self_attn.q_proj Linear e:1x4x4 -> q:1x4x4
model.layers.0.mlp MLP a:1x4x4 -> h:1x4x4
lm_head Linear h:1x4x4 -> logits:1x4x8
"""
BUILT = """
Gather /model/embed/Gather, MatMul /model/layers.0/attn/q_proj/MatMul, GroupQueryAttention /model/layers.0/attn/GQA,
MatMul /model/layers.0/attn/o_proj/MatMul, MatMul /model/layers.0/mlp/MatMul, MatMul /lm_head/MatMul
"""


def test_a_trace_of_other_code_is_used_where_it_fits_and_that_is_said(tmp_path: Path, mx: Mx) -> None:
    """As of a model by onnxruntime-genai's builder, whose names are those of no PyTorch module."""
    from tests.support.small_traces import trace_of

    onnx.save(chain(BUILT), tmp_path / "m.onnx")
    (tmp_path / "t.json").write_text(dumps(trace_of(TRACED)))
    done = mx("tag", "m.onnx", "--trace", "t.json", "-o", "t.onnx", cwd=tmp_path)
    assert done.returncode == 0
    assert (
        b"the trace was made from other code: 3 nodes name modules that it does not have, such as model/layers.0/attn"
        in done.stderr
    )
    found = {n.name: keys.props(n)[keys.SCOPE] for n in onnx.load(tmp_path / "t.onnx").graph.node}
    assert [found[f"/model/layers.0/attn/{name}"] for name in ("q_proj/MatMul", "GQA")] == ["model.layers.0"] * 2
    assert (found["/model/embed/Gather"], found["/model/layers.0/mlp/MatMul"]) == ("model.embed", "model.layers.0.mlp")
    report = mx("tag", "m.onnx", "--trace", "t.json", "--json", "-o", "t.onnx", cwd=tmp_path)
    assert json.loads(report.stdout)["foreign"] == {"model/layers.0/attn": 3}


def test_a_stray_name_is_no_other_code() -> None:
    from tests.support.small_traces import trace_of

    text = ", ".join([f"MatMul /model/layers.0/mlp/MatMul_{i}" for i in range(10)] + ["Cast /model/extra/Cast"])
    model = mxtools.from_proto(chain(text))
    model.sidecar = trace_of(TRACED)
    assert model.tag().foreign == {}
