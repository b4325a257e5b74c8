"""Statically quantised models: tags that `earlier` carries over, and what `verify`, `graft` and `split` make of them.

A quantiser leaves the work of Relu and ReLU6 to the quantisation behind them, gives what they were given the name of
what they made, and shares scales through reshapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import mxtools
from mxtools.errors import AbsentError, CheckError, InputError
from tests.support.commands import Mx

TOLERANCE = 0.1
"""Relative error up to which a quantised result is right; one without its Relu is off by more than a half."""

Feeds = dict[str, Any]


class Calibration(CalibrationDataReader):  # type: ignore[misc]  # the package has no types
    def __init__(self, feeds: Feeds) -> None:
        self.feeds = iter([feeds])

    def get_next(self) -> Feeds | None:
        return next(self.feeds, None)


def network(activation: str) -> Any:
    """Return convolutions with normalisations, a depthwise one, a sum before an activation, and a linear layer."""
    import torch
    from torch import nn

    make = {"relu": nn.ReLU, "relu6": nn.ReLU6, "clip": lambda: nn.Hardtanh(-0.5, 0.5)}[activation]

    class Block(nn.Module):
        def __init__(self, channels: int, groups: int = 1) -> None:
            super().__init__()
            self.conv = nn.Conv2d(channels, 8, 3, padding=1, groups=groups)
            self.norm, self.act = nn.BatchNorm2d(8), make()

        def forward(self, x: Any) -> Any:
            return self.act(self.norm(self.conv(x)))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.deep, self.act = Block(3), Block(8, groups=8), make()
            self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)

        def forward(self, x: Any) -> Any:
            x = self.stem(x)
            x = self.act(self.deep(x) - 1.5 * x)
            return self.fc(torch.flatten(self.pool(torch.relu(x - 0.2)), 1))

    torch.manual_seed(0)
    model = Network().eval()
    with torch.no_grad():
        for norm in (model.stem.norm, model.deep.norm):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)
    return model


@cache
def traced(activation: str, exporter: str) -> tuple[mxtools.Trace, mxtools.Model, Feeds]:
    """Return a trace with values, the tagged export, and inputs."""
    import torch

    model, x = network(activation), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    trace = mxtools.trace(model, (x,), record=True)
    exported = mxtools.export(model, (x,), exporter=exporter)
    exported.tag(trace)
    return trace, exported, {exported.input_names[0]: x.numpy()}


def quantised(source: mxtools.Model, folder: Path, feeds: Feeds, before: bool = False, **options: Any) -> mxtools.Model:
    """Return what the static quantiser makes of a tagged model, tagged by that."""
    names = [str(folder / name) for name in ("float.onnx", "prepared.onnx", "quantised.onnx")]
    source.save(names[0])
    if before:
        quant_pre_process(names[0], names[1], skip_symbolic_shape=True)
    quantize_static(names[before], names[2], Calibration(feeds), **options)
    model = mxtools.load(names[2])
    model.tag(earlier=source)
    return model


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


WAYS: dict[str, Feeds] = {
    "per tensor": {},
    "per channel": {"per_channel": True, "weight_type": QuantType.QInt8},
    "signed": {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8},
    "symmetric": {"activation_type": QuantType.QInt8, "extra_options": {"ActivationSymmetric": True}},
    "16 bits": {"activation_type": QuantType.QUInt16},
    "pairs at weights": {"extra_options": {"AddQDQPairToWeight": True}},
    "only convolutions": {"op_types_to_quantize": ["Conv"]},
    "prepared": {"before": True},
}


@pytest.mark.model
@pytest.mark.parametrize(
    ("activation", "exporter", "way"),
    [
        *(("relu", "torchscript", way) for way in WAYS),
        ("relu", "dynamo", "per channel"),
        ("relu6", "torchscript", "per tensor"),
        ("relu6", "dynamo", "prepared"),
        ("clip", "torchscript", "signed"),
    ],
)
def test_modules_are_what_they_were(tmp_path: Path, activation: str, exporter: str, way: str) -> None:
    trace, source, feeds = traced(activation, exporter)
    model = quantised(source, tmp_path, feeds, **WAYS[way])
    checked = model.verify(trace, isolate=True)
    assert checked.first is None
    assert not checked.culprits
    compared = {call.scope for call in checked.calls if call.outputs}
    assert compared == {".", "stem", "stem.norm", "stem.act", "deep", "deep.norm", "deep.act", "act", "pool", "fc"}
    assert set(model.absent) == {"stem.conv", "deep.conv"}
    for scope in ("stem.conv", "deep.conv"):
        with pytest.raises(AbsentError):
            model.filter(scope)
    assert len(model.split(depth=1)) > 1
    whole = model.run(feeds)
    for scope in sorted(compared - {"."}):
        mixed = model.graft(source.filter(scope)).run(feeds)
        assert all(error(mixed[name], whole[name]) < TOLERANCE for name in whole), scope


@pytest.mark.model
@pytest.mark.parametrize("way", ["per tensor", "signed", "prepared"])
def test_operators_on_quantised_numbers_are_what_they_were_made_of(tmp_path: Path, way: str, mx: Mx) -> None:
    trace, source, feeds = traced("relu", "torchscript")
    model = quantised(source, tmp_path, feeds, quant_format=QuantFormat.QOperator, **WAYS[way])
    by_scope = {module.scope: [node.op_type for node in module.nodes] for module in model.modules()}
    assert by_scope["stem.act"] == ["QuantizeLinear", "QLinearConv"]  # the numbers begin at zero: the Relu is in there
    assert by_scope["deep.act"] == [
        "QLinearConv",
        "DequantizeLinear",
    ]  # here too, although what comes next is not quantised
    assert by_scope["fc"] == ["QuantizeLinear", "QGemm", "DequantizeLinear"]
    assert model.absent["stem.norm"] == "merged: stem.act"
    assert model.absent["deep.norm"] == "merged: deep.act"
    checked = model.verify(trace, isolate=True)
    assert checked.first is None
    assert not checked.culprits
    model.save(tmp_path / "tagged.onnx")
    said = mx("filter", "tagged.onnx", "--scope", "stem", "-o", "part.onnx", cwd=tmp_path)
    assert "quantised numbers" in said.stderr.decode()


@pytest.mark.model
def test_a_folded_relu_is_the_quantisation_behind_it(tmp_path: Path) -> None:
    _, source, feeds = traced("relu", "torchscript")
    model = quantised(source, tmp_path, feeds)
    by_scope = {module.scope: [node.op_type for node in module.nodes] for module in model.modules()}
    assert by_scope["stem.act"] == ["QuantizeLinear", "DequantizeLinear"]
    assert "Conv" in by_scope["stem.norm"]
    assert set(source.filter("stem.act").output_names) == set(model.filter("stem.act").output_names)


@pytest.mark.model
def test_a_part_that_means_something_else_is_refused(tmp_path: Path) -> None:
    """Before the names are put right, the float pooling reads, by name, what the Relu before it was given."""
    _, source, feeds = traced("relu", "torchscript")
    model = quantised(source, tmp_path, feeds)
    raw = mxtools.load(tmp_path / "quantised.onnx")
    part = source.filter("deep")
    with pytest.raises(InputError, match=r"of the part is made in stem\.act, .* in stem\.norm"):
        raw.graft(part)
    assert model.graft(part, verify=True).is_tagged


@pytest.mark.model
def test_verify_finds_a_part_that_computes_something_else(tmp_path: Path) -> None:
    _, source, feeds = traced("relu", "torchscript")
    part = source.filter("stem.act")
    part.to_proto()
    for node in part.proto.graph.node:
        node.op_type = "Neg"
    with pytest.raises(CheckError, match="the nodes that it replaces"):
        source.graft(part, verify=True)
    (tmp_path / "float").mkdir()
    other = source.filter("stem")
    assert source.graft(other, verify=True).to_proto() == source.to_proto()
    names = [str(tmp_path / "float" / name) for name in ("part.onnx", "quantised.onnx")]
    other.save(names[0])
    given = {value.name: feeds[value.name] for value in other.to_proto().graph.input}
    quantize_static(*names, Calibration(given))
    assert source.graft(mxtools.load(names[1]), verify=True).run(feeds)


MOVES: dict[str, tuple[str, Feeds]] = {
    "Flatten": ("Flatten", {}),
    "Transpose": ("Transpose", {"perm": [2, 3, 0, 1]}),
    "Squeeze": ("Squeeze", {}),
    "Reshape": ("Reshape", {}),
}


@pytest.mark.parametrize("move", MOVES)
def test_a_shared_scale_joins_no_modules(tmp_path: Path, move: str) -> None:
    """What is quantised behind a reshape, with the scale before it, is the reader's and not what made it."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    operator, attributes = MOVES[move]
    more = {"Squeeze": [2, 3], "Reshape": [1, 8]}.get(operator)
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["c"], pads=[1] * 4, name="/conv/Conv"),
        helper.make_node("GlobalAveragePool", ["c"], ["p"], name="/pool/GlobalAveragePool"),
        helper.make_node(operator, ["p", *(["axes"] if more else [])], ["f"], name=f"/{operator}", **attributes),
        helper.make_node("MatMul", ["f", "fc.weight"], ["y"], name="/fc/MatMul"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            weight("conv.weight", 8, 3, 3, 3),
            weight("fc.weight", 8, 5),
            *([numpy_helper.from_array(np.array(more), "axes")] if more else []),
        ],
    )
    source = mxtools.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    source.tag()
    feeds = {"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)}
    model = quantised(source, tmp_path, feeds, nodes_to_exclude=["/fc/MatMul"])
    scopes = {node.output[0]: scope for scope, node in scoped(model.to_proto())}
    assert scopes["f_DequantizeLinear_Output"] in ("fc", ".")
    assert scopes["p_DequantizeLinear_Output"] == "."
    assert len(model.split(depth=1)) == 4


def scoped(proto: onnx.ModelProto) -> Iterator[tuple[str, onnx.NodeProto]]:
    for node in proto.graph.node:
        yield {p.key: p.value for p in node.metadata_props}["pkg.mxtools.scope"], node
