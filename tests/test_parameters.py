"""What counts as a parameter: as PyTorch counts, wherever the exporter put the weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.helper import make_node as node
from onnx.helper import make_tensor_value_info as info

import mxtools
from mxtools.scopes import keys

FLOAT = TensorProto.FLOAT


@pytest.mark.model
@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", ["rms", "conv", "scalar", "buffers"])
def test_a_module_has_as_many_parameters_as_in_pytorch(name: str, exporter: str) -> None:
    import torch
    from torch import nn

    class Buffers(nn.Module):
        """Looks rows up by indices that it holds, and masks them."""

        index: torch.Tensor
        mask: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(8, 4))
            self.register_buffer("index", torch.tensor([1, 3, 5]))
            self.register_buffer("mask", torch.tensor([True, False, True]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = self.table[self.index + (x.sum() > 1e9)]
            return x + torch.where(self.mask[:, None], rows, x)

    class RMSNorm(nn.Module):
        """As Llama writes it."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))

    class Net(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.act = inner, nn.Tanh()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(self.inner(x * 2.5))

    modules: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        "rms": (RMSNorm(), (2, 64)),
        "conv": (nn.Sequential(nn.Conv2d(3, 5, 3), nn.Upsample(scale_factor=2), nn.PReLU()), (1, 3, 8, 8)),
        "scalar": (nn.Sequential(nn.Linear(6, 1), nn.PReLU()), (2, 6)),
        "buffers": (Buffers(), (3, 4)),
    }
    module, shape = modules[name]
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    net, given = Net(module).eval(), (torch.randn(shape),)
    model = mxtools.export(net, given, exporter=exporter)
    model.tag()
    wanted = sum(parameter.numel() for parameter in module.parameters())
    (inner,) = (child for child in model.tree().children if child.scope == "inner")
    assert (inner.parameters, model.tree().parameters) == (wanted, wanted)
    assert model.modules("inner")[0].parameters == wanted


def graph_of(nodes: list[Any], *tensors: TensorProto) -> ModelProto:
    graph = helper.make_graph(nodes, "g", [info("x", FLOAT, None)], [info("y", FLOAT, None)], list(tensors))
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def counted(proto: ModelProto) -> int:
    model = mxtools.from_proto(proto)
    model.tag()
    return model.tree().parameters


def test_weights_in_constant_nodes_count() -> None:
    """Spox and jax2onnx, for functions, write weights so."""
    weight = numpy_helper.from_array(np.ones((4, 3), np.float32))
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("", FLOAT, [1], [1.0]), helper.make_tensor("", TensorProto.INT64, [1], [2]), [3, 3]
    )
    nodes = [
        node("Constant", [], ["w"], name="/m/Constant", value=weight),
        node("Constant", [], ["s"], name="/m/Constant_1", sparse_value=sparse),
        node("Constant", [], ["axis"], name="/m/Constant_2", value_ints=[0]),
        node("MatMul", ["x", "w"], ["a"], name="/m/MatMul"),
        node("MatMul", ["a", "s"], ["b"], name="/m/MatMul_1"),
        node("ReduceSum", ["b", "axis"], ["y"], name="/m/ReduceSum"),
    ]
    assert counted(graph_of(nodes)) == 12 + 9


@pytest.mark.parametrize(
    ("operator", "domain", "element", "is_parameter"),
    [
        ("DequantizeLinear", "", TensorProto.INT8, True),
        ("DequantizeLinear", "", TensorProto.INT32, True),
        ("MatMulNBits", "com.microsoft", TensorProto.UINT8, True),
        ("PackedMatMul", "com.microsoft", TensorProto.INT32, True),
        ("Gather", "", TensorProto.INT32, False),
        ("Gather", "", TensorProto.INT64, False),
        ("Where", "", TensorProto.BOOL, False),
        ("Add", "", TensorProto.BFLOAT16, True),
    ],
)
def test_integers_are_parameters_where_they_are_weights(
    operator: str, domain: str, element: int, is_parameter: bool
) -> None:
    weight = helper.make_tensor("m.w", element, [2, 2], [0, 1, 1, 0])
    given = ["m.w", "x"] if operator in ("DequantizeLinear", "Where") else ["x", "m.w"]
    nodes = [node(operator, given, ["y"], name=f"/m/{operator}", domain=domain)]
    assert counted(graph_of(nodes, weight)) == (math.prod(weight.dims) if is_parameter else 0)


def test_a_single_number_is_a_parameter_where_its_name_says_so() -> None:
    numbers = {"m.scale": True, "const.scale": False, "m.5": False, "eps": False}
    for name, is_parameter in numbers.items():
        nodes = [node("Mul", ["x", name], ["y"], name="/m/Mul")]
        assert counted(graph_of(nodes, helper.make_tensor(name, FLOAT, [1], [2.0]))) == is_parameter, name


def test_settings_are_no_parameters() -> None:
    nodes = [node("Resize", ["x", "", "scales"], ["y"], name="/m/Resize")]
    assert counted(graph_of(nodes, helper.make_tensor("scales", FLOAT, [4], [1.0, 1, 2, 2]))) == 0


@pytest.mark.parametrize("bits", [4, 8])
def test_bytes_that_hold_several_weights_count_as_these(bits: int) -> None:
    """As ONNX Runtime's quantiser packs them; the zero points too, of which each block of 16 has one."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    weights = numpy_helper.from_array(np.random.default_rng(0).standard_normal((40, 6)).astype("f"), "w")
    graph = helper.make_graph(
        [node("MatMul", ["x", "w"], ["y"])], "g", [info("x", FLOAT, [2, 40])], [info("y", FLOAT, [2, 6])], [weights]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    quantiser = MatMulNBitsQuantizer(model, bits=bits, block_size=16, is_symmetric=False)
    quantiser.process()
    packed = quantiser.model.model
    assert [n.op_type for n in packed.graph.node] == ["MatMulNBits"]
    packed.graph.node[0].metadata_props.add(key=keys.SCOPE, value="linear")
    tree = mxtools.from_proto(packed).tree()
    assert tree.parameters == 40 * 6 + 3 * 6 + 3 * 6
    assert tree.multiply_adds == 2 * 40 * 6
    assert tree.bytes == sum(len(t.raw_data) for t in packed.graph.initializer)
