"""Files that tools changed after the export: which module a quantised, fused or packed operation belongs to."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from torch import Tensor, nn

import mxtools
from mxtools.errors import AbsentError
from mxtools.scopes import keys
from mxtools.traces.trace import Trace
from tests.support import golden_text as golden
from tests.support.carried_tags import B, V, W, carried, with_weights
from tests.support.small_traces import trace_of


class Norm(nn.LayerNorm):
    """Normalises the channels of an image."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """As ConvNeXt's, with a scale for what the last Linear returned."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.LayerNorm(8), nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.scale * self.fc(self.norm(self.conv(x).permute(0, 2, 3, 1)))
        return x + y.permute(0, 3, 1, 2)


class Network(nn.Module):
    """As many channels as rows and columns: no shape tells whether an image is turned."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.block = nn.Conv2d(3, 8, 3, padding=1), Norm(8), Block()
        self.deep, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.norm(self.stem(x)))
        result: Tensor = self.last(x + self.deep(x))
        return result


@cache
def exported() -> tuple[mxtools.Trace, mxtools.Model, np.ndarray]:
    """Return a trace, the export that it belongs to, and the input."""
    torch.manual_seed(0)
    module, x = Network().eval(), torch.randn(1, 3, 8, 8)
    return mxtools.trace(module, (x,)), mxtools.export(module, (x,), exporter="torchscript"), x.numpy()


class Once(CalibrationDataReader):  # type: ignore[misc]
    """Gives one input."""

    def __init__(self, name: str, array: np.ndarray) -> None:
        self.rows = iter([{name: array}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.rows, None)


@pytest.mark.model
@pytest.mark.parametrize("way", ["pairs", "operators", "convolutions", "dynamic"])
def test_the_trace_alone_tells_the_modules_of_a_quantised_file(tmp_path: Path, way: str) -> None:
    """The quantiser keeps the names of TorchScript, which say where each operation was."""
    trace, model, x = exported()
    before, after = str(tmp_path / "float.onnx"), str(tmp_path / "quantised.onnx")
    model.save(before)
    if way == "dynamic":
        quantize_dynamic(before, after, weight_type=QuantType.QUInt8)
    else:
        form = QuantFormat.QDQ if way == "pairs" else QuantFormat.QOperator
        types = ["Conv"] if way == "convolutions" else None  # then the Add reads the floats that are quantised
        rows = Once(model.input_names[0], x)
        quantize_static(before, after, rows, quant_format=form, op_types_to_quantize=types)
    found = mxtools.load(after)
    found.tag(trace)
    assert keys.props(found.proto).get(keys.ABSENT, "{}") == "{}"
    for node in found.proto.graph.node:
        module, _, operation = node.name.removeprefix("/").replace("/", ".").rpartition(".")
        if node.name.startswith("/") and "Linear" not in operation and "scale" not in operation:
            assert keys.props(node)[keys.SCOPE] == (module or "."), node.name
    for call in ("stem", "norm", "block", "block.conv", "block.norm", "block.fc", "deep", "last"):
        assert len({name.removesuffix("_quantized") for name in found.filter(call).output_names}) == 1


class Clamped(nn.Module):
    """Ends two modules and itself with Relus, which the quantiser takes away, and gives BatchNorms to convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.LeakyReLU(0.2))
        self.box, self.flat = nn.Conv2d(8, 4, 1), nn.Flatten()
        self.mean, self.spread = nn.Linear(64, 4), nn.Linear(64, 4)
        for norm in (each for each in self.modules() if isinstance(each, nn.BatchNorm2d)):
            nn.init.uniform_(norm.weight, 0.5, 2.0)
            nn.init.uniform_(norm.bias, -0.5, 0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.flat(torch.relu(self.box(self.body(self.stem(x)))))
        return self.mean(y), self.spread(y)


@pytest.mark.model
@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_names_that_count_operations_tell_the_modules_of_a_quantised_file(tmp_path: Path, form: QuantFormat) -> None:
    """The quantiser appends to the names of torch.export, and gives what a Relu made to the convolution before it."""
    torch.manual_seed(0)
    module, x = Clamped().eval(), torch.randn(1, 3, 8, 8)
    trace, model = mxtools.trace(module, (x,)), mxtools.export(module, (x,), exporter="dynamo")
    before, after = str(tmp_path / "float.onnx"), str(tmp_path / "quantised.onnx")
    model.save(before)
    rows = Once(model.input_names[0], x.numpy())
    unsigned = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8}
    quantize_static(before, after, rows, quant_format=form, **unsigned)
    found = mxtools.load(after)
    for node in found.proto.graph.node:
        del node.metadata_props[:]
    found.tag(trace)
    scopes: dict[str, str] = {}
    for node in found.proto.graph.node:
        if node.name.startswith("node_"):
            scopes[node.name.removeprefix("node_").removesuffix("_quant")] = keys.props(node)[keys.SCOPE]
    first = next(name for name in scopes if name.startswith("Conv"))
    wanted = {first: "stem.2", "conv2d_1": "body.0", "instance_norm": "body.1", "leaky_relu": "body.2", "conv2d_2": "."}
    assert scopes.items() >= {**wanted, "linear": "mean", "linear_1": "spread"}.items()
    for call in ("stem.0", "stem.1", "box"):  # a Relu is done with what they returned
        with pytest.raises(AbsentError, match=r"merged into|ends inside"):
            found.filter(call)
    feeds = {model.input_names[0]: x.numpy()}
    with torch.no_grad():
        wanted_stem = module.stem(x).numpy()
    (got,) = found.filter("stem").run(feeds).values()
    if got.dtype == np.float32:  # otherwise the part ends with the quantised numbers
        assert got.min() >= 0
        np.testing.assert_allclose(got, wanted_stem, atol=0.1)


class Swish(nn.Module):
    """A convolution, whose BatchNorm the exporter puts into it, and an activation of two nodes."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, 8, 3, groups=groups, bias=False), nn.BatchNorm2d(8)
        self.act = nn.SiLU()
        nn.init.uniform_(self.norm.weight, 0.5, 2.0)
        nn.init.uniform_(self.norm.bias, -0.5, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.act(self.norm(self.conv(x)))
        return result


@pytest.mark.model
@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_a_quantised_convolution_ends_where_its_norm_ends(tmp_path: Path, exporter: str, form: QuantFormat) -> None:
    """What stands around it, or takes the place of a Sigmoid, is only there because numbers are quantised."""
    torch.manual_seed(0)
    module, x = nn.Sequential(Swish(3, 1), Swish(8, 8)).eval(), torch.randn(1, 3, 12, 12)
    trace, model = mxtools.trace(module, (x,)), mxtools.export(module, (x,), exporter=exporter)
    before, after = str(tmp_path / "float.onnx"), str(tmp_path / "quantised.onnx")
    model.save(before)
    unsigned = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8}
    quantize_static(before, after, Once(model.input_names[0], x.numpy()), quant_format=form, **unsigned)
    found = mxtools.load(after)
    report = found.tag(trace)
    placed: dict[str, list[str]] = {}
    for node in found.proto.graph.node:
        placed.setdefault(node.op_type.removeprefix("QLinear"), []).append(keys.props(node)[keys.SCOPE])
    assert placed["Conv"] == ["0.norm", "1.norm"]
    assert placed["Sigmoid"] == placed["Mul"] == ["0.act", "1.act"]
    assert report.disagreements == 0
    assert {reason for scope, reason in report.absent.items() if "conv" in scope} <= {
        "merged: 0.norm",
        "merged: 1.norm",
    }
    for call in ("0.conv", "1.conv"):
        with pytest.raises(AbsentError, match=r"merged into|ends inside"):
            found.filter(call)
    assert len(found.filter("0.norm").output_names) == len(found.filter("0").output_names) == 1


GELU = """
. Net x:2x4 -> y:2x4
fc Linear x:2x4 -> h:2x4
act GELU h:2x4 -> g:2x4
out Linear g:2x4 -> y:2x4
run fc linear x -> h
run act gelu h -> g
run out linear g -> y
"""


def test_an_activation_with_the_bias_before_it_ends_a_linear() -> None:
    """Neither the name of the node nor that of its result tells, and the weight is what it was."""
    weights = {"fc.weight": [4, 4], "fc.bias": [4], "out.weight": [4, 4]}
    stored = {"fc.weight": W[:4, :4], "fc.bias": B[:4], "out.weight": V[:4, :4]}
    text = (
        "g (float[2, 4] x) => (float[2, 4] y) { m = MatMul(x, fc__weight) "
        "n = com.microsoft.FastGelu(m, fc__bias) y = MatMul(n, out__weight) }"
    )
    model = mxtools.Model(with_weights(golden.untagged(text), **stored))
    model.tag(Trace(trace_of(GELU, weights)))
    assert model.filter("act").proto.graph.node[-1].op_type == "FastGelu"
    with pytest.raises(AbsentError, match="fc ends inside FastGelu"):
        model.filter("fc")


SUM = """
. Net x:2x4 -> y:2x4
layer Layer x:2x4 -> y:2x4
layer.conv Conv s:2x4 -> c:2x4
layer.conv.norm LayerNorm s:2x4 -> n:2x4
run layer neg x -> a
run layer add x a -> s
run layer.conv.norm layer_norm s -> n
run layer.conv exp n -> c
run layer mul s c -> y
"""


def test_a_module_that_begins_in_the_node_with_the_sum_before_it_is_refused() -> None:
    """What the module was given is a result of that node: the node is its caller's, and the module lacks its norm."""
    stored = {"layer.conv.norm.weight": B[:4], "layer.conv.norm.bias": B[4:]}
    text = (
        "g (float[2, 4] x) => (float[2, 4] y) { a = Neg(x) n, , , s = com.microsoft.SkipLayerNormalization"
        "(x, a, layer__conv__norm__weight, layer__conv__norm__bias) c = Exp(n) y = Mul(s, c) }"
    )
    proto = with_weights(golden.untagged(text), **stored)
    for node, name in zip(proto.graph.node, ("/layer/Neg", "", "/layer/conv/Exp", "/layer/Mul"), strict=True):
        node.name = name
    model = mxtools.Model(proto)
    model.tag(Trace(trace_of(SUM, {name: [4] for name in stored})))
    assert [keys.props(node)[keys.SCOPE] for node in model.proto.graph.node][:2] == ["layer", "layer"]
    assert len(model.filter("layer").proto.graph.node) == 4
    with pytest.raises(AbsentError, match="does the work of layer too"):
        model.filter("layer.conv")


@pytest.mark.parametrize(("weight", "place"), [("one__w_Q4", "one parameter"), ("packed", "act dataflow")])
def test_a_node_with_a_packed_weight_is_no_part_of_what_came_before(weight: str, place: str) -> None:
    """The node with the bias reads what that node makes, and not what the Gemm of both read."""
    before = """
g (float[2, 8] x) => (float[2, 8] y) {
    s = Add (x, x)                                  #@ .
    n = LayerNormalization (s, norm__w, norm__b)    #@ norm
    g = Gemm (n, one__w, one__b)                    #@ one
    h = Gelu (g)                                    #@ act
    y = MatMul (h, two__w)                          #@ two
}"""
    after = f"""
g (float[2, 8] x) => (float[2, 8] y) {{
    v1 = com.microsoft.SkipLayerNormalization (x, x, norm__w, norm__b)    #@ norm parameter
    v2 = com.microsoft.MatMulNBits <K = 8, N = 8, bits = 4, block_size = 16> (v1, {weight}, scales)    #@ {place}
    v3 = com.microsoft.BiasGelu (v2, one__b)        #@ act previous one act
    y = MatMul (v3, two__w)                         #@ two previous
}}"""
    kept = {"one__b": B, "two__w": V, "norm__w": -B, "norm__b": 2 * B}
    packed = {weight: np.ones((8, 1, 8), np.uint8), "scales": np.ones((8, 1), np.float32)}
    source = with_weights(golden.read(before), one__w=W, **kept)
    assert carried(source, with_weights(golden.untagged(after), **kept, **packed)) == golden.tags(after)
