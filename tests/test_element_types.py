"""Values that numpy has no type for (bfloat16, float8, int4), sequences and optionals: fed, run and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.helper import make_node as node
from onnx.helper import make_tensor_value_info as info

import mxtools
from mxtools.errors import CheckError, InputError
from mxtools.runtime.distance import EQUAL, UNLIKE, distance_of_values
from mxtools.runtime.output_check import output_difference
from mxtools.traces.values import Values
from tests.support.commands import Mx
from tests.support.small_traces import trace_of

CASTS = ("BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E5M2", "FLOAT8E4M3FNUZ", "FLOAT8E5M2FNUZ", "INT4", "UINT4")
X = np.array([[-2, -1, 0], [1, 2, 3]], np.float32)


def model_of(nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any], *weights: TensorProto) -> ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def narrow(element: str, offset: float = 0.0) -> ModelProto:
    """Return a model whose module `enc` returns a tensor of an element type to `head`."""
    nodes = [
        node("Add", ["x", "offset"], ["a"], name="/enc/Add"),
        node("Cast", ["a"], ["h"], name="/enc/Cast", to=TensorProto.DataType.Value(element)),
        node("Cast", ["h"], ["y"], name="/head/Cast", to=TensorProto.FLOAT),
    ]
    weight = numpy_helper.from_array(np.float32(offset), "offset")
    return model_of(nodes, [info("x", TensorProto.FLOAT, [2, 3])], [info("y", TensorProto.FLOAT, [2, 3])], weight)


def tagged(proto: ModelProto) -> mxtools.Model:
    model = mxtools.from_proto(proto)
    model.tag()
    return model


@pytest.mark.parametrize("element", CASTS)
def test_a_boundary_of_a_type_that_numpy_lacks_is_compared(element: str, tmp_path: Path, mx: Mx) -> None:
    model = tagged(narrow(element))
    model.save(tmp_path / "m.onnx")
    for scope in ("enc", "head"):
        assert mx("filter", "m.onnx", "--scope", scope, "--verify", "-o", "p.onnx", cwd=tmp_path).returncode == 0
    assert mx("split", "m.onnx", "--depth", "1", "--verify", "-d", "parts", cwd=tmp_path).returncode == 0
    part = model.filter("enc").run({"x": X})["h"]
    assert part.dtype == {"I": np.int8, "U": np.uint8}.get(element[0], np.float32)
    wanted = X.astype(np.uint8) & 15 if element == "UINT4" else X
    assert np.array_equal(part, wanted)
    assert np.array_equal(model.filter("head").run({"h": part})["y"], wanted)


@pytest.mark.parametrize("element", CASTS)
def test_a_difference_at_such_a_boundary_is_seen(element: str, tmp_path: Path, mx: Mx) -> None:
    for name, offset in (("a", 0.0), ("b", 1.0)):
        tagged(narrow(element, offset)).save(tmp_path / f"{name}.onnx")
    np.savez(tmp_path / "x.npz", x=np.abs(X))
    done = mx("compare", "a.onnx", "b.onnx", "--inputs", "x.npz", "--json", cwd=tmp_path)
    modules = {module["scope"]: module["numbers"] for module in json.loads(done.stdout)["modules"]}
    assert done.returncode == 1
    assert {tensor["tensor"]: tensor["max_abs"] for tensor in modules["enc"]} == {"h": 1.0}


def test_a_part_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tagged(narrow("INT4"))
    monkeypatch.setattr("mxtools.cut.part_check.run_model", lambda *_: {"h": np.zeros((2, 3), np.int8)})
    with pytest.raises(CheckError, match="output 'h' differs"):
        model.filter("enc", verify=True)


def test_inputs_of_such_types_come_from_arrays_of_wider_types_and_from_their_bytes() -> None:
    nodes = [node("Cast", ["x"], ["y"], name="/m/Cast", to=TensorProto.FLOAT)]
    model = tagged(model_of(nodes, [info("x", TensorProto.BFLOAT16, [3])], [info("y", TensorProto.FLOAT, [3])]))
    halves = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
    wanted = np.array([1, 2.5, -3], np.float32)
    for given in (wanted, wanted.astype(halves), wanted.astype(halves).view("V2")):
        assert np.array_equal(model.run({"x": given})["y"], wanted)
    assert model.run()["y"].std() > 0
    with pytest.raises(InputError, match=r"input 'x' has the type bfloat16"):
        model.run({"x": np.array(["a", "b", "c"])})


@pytest.mark.model
def test_parts_in_half_precision_are_rounded_at_their_boundaries(mx: Mx, tmp_path: Path) -> None:
    """ONNX Runtime computes the operators in single precision, and rounds less inside of the whole model."""
    random = np.random.default_rng(0)
    weights = [numpy_helper.from_array(random.normal(0, 0.3, (16, 16)).astype(np.float16), n) for n in "vw"]
    nodes = [
        node("Cast", ["x"], ["c"], name="/enc/Cast", to=TensorProto.FLOAT16),
        node("MatMul", ["c", "v"], ["a"], name="/enc/MatMul"),
        node("LeakyRelu", ["a"], ["h"], name="/act/LeakyRelu"),
        node("MatMul", ["h", "w"], ["d"], name="/head/MatMul"),
        node("Cast", ["d"], ["y"], name="/head/Cast", to=TensorProto.FLOAT),
    ]
    model = model_of(nodes, [info("x", 1, [4, 16])], [info("y", 1, [4, 16])], *weights)
    onnx.save(model, tmp_path / "m.onnx")
    mx("tag", "m.onnx", "-o", "m.onnx", cwd=tmp_path)
    done = mx("filter", "m.onnx", "--scope", "head", "--verify", "--json", "-o", "h.onnx", cwd=tmp_path)
    (difference,) = json.loads(done.stdout)["verify"]
    assert 1e-5 < difference["max_rel"] < 1e-2
    mx("split", "m.onnx", "--depth", "1", "--verify", "-d", "parts", cwd=tmp_path)
    mx("run-parts", "parts", "--verify", "m.onnx", cwd=tmp_path)


def test_a_trace_in_bfloat16_is_compared() -> None:
    """What PyTorch returned in bfloat16 is read and compared, so that a wrong value of that type is seen."""
    import torch

    class Encoder(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x + 1).bfloat16()

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enc, self.act = Encoder(), torch.nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(self.enc(x).float())

    given = (torch.linspace(-3, 3, 12).reshape(3, 4),)
    trace, model = mxtools.trace(Net(), given, record=True), mxtools.export(Net(), given, exporter="torchscript")
    model.tag(trace)
    distances = {call.scope: call.distance for call in model.verify(trace).calls}
    assert distances["enc"] == EQUAL
    weights = [n for n in model.proto.graph.node if n.op_type == "Constant"]
    assert weights, "the addend is a Constant"
    weights[0].attribute[0].t.CopyFrom(numpy_helper.from_array(np.float32(2)))
    first = mxtools.from_proto(model.proto).verify(trace).first
    assert first is not None
    assert first.scope == "enc"


@pytest.mark.model
def test_small_floats_of_pytorch_are_read(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    array = torch.tensor([[1.0, 2.0], [-3.0, 0.5]])
    types = (torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn, torch.float32)
    save_file({str(dtype): array.to(dtype) for dtype in types}, tmp_path / "f.safetensors")
    values = Values.open(tmp_path / "f.safetensors")
    assert len(values.names) == len(types)
    assert all(np.array_equal(values.get(name), array.numpy()) for name in values.names)


SEQUENCE = helper.make_tensor_sequence_value_info("xs", TensorProto.FLOAT, ["n", 3])


def sequences() -> ModelProto:
    """Return a model that is given a sequence, of which one module gives another one to the next."""
    nodes = [
        node("SequenceAt", ["xs", "place"], ["first"], name="/enc/SequenceAt"),
        node("SequenceInsert", ["xs", "first"], ["more"], name="/enc/SequenceInsert"),
        node("ConcatFromSequence", ["more"], ["y"], name="/head/Concat", axis=0),
    ]
    place = numpy_helper.from_array(np.int64(0), "place")
    return model_of(nodes, [SEQUENCE], [info("y", TensorProto.FLOAT, None)], place)


def test_sequences_are_fed_and_compared(tmp_path: Path, mx: Mx) -> None:
    model = tagged(sequences())
    model.save(tmp_path / "m.onnx")
    items = [np.ones((2, 3), np.float32), np.zeros((1, 3), np.float32)]
    assert model.filter("enc").run({"xs": items})["more"][2].shape == (2, 3)
    assert not [module for module in mxtools.compare(model, model, inputs={"xs": items}).modules if module.differs(0)]
    np.savez(tmp_path / "items.npz", **{f"xs.{place}": item for place, item in enumerate(items)})
    np.savez(tmp_path / "one.npz", xs=np.stack(items[:1] * 2))
    for inputs in ("items.npz", "one.npz", None):
        given = ["--inputs", inputs] if inputs else []
        filtered = mx("filter", "m.onnx", "--scope", "enc", "--verify", *given, "-o", "p.onnx", cwd=tmp_path)
        assert (filtered.returncode, b"more: max difference 0" in filtered.stderr) == (0, True)
        assert mx("split", "m.onnx", "--depth", "1", "--verify", *given, "-d", "d", cwd=tmp_path).returncode == 0
        assert mx("compare", "m.onnx", "m.onnx", *given, cwd=tmp_path).returncode == 0


def test_optionals_are_fed_absent_or_not(tmp_path: Path, mx: Mx) -> None:
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [2]))
    nodes = [
        node("OptionalHasElement", ["o"], ["has"], name="/enc/Has"),
        node("Not", ["has"], ["y"], name="/head/Not"),
    ]
    model = tagged(model_of(nodes, [helper.make_value_info("o", kind)], [info("y", TensorProto.BOOL, [])]))
    assert model.run({"o": None})["y"]
    assert model.run({})["y"]
    assert not model.run({"o": np.ones(2, np.float32)})["y"]
    model.save(tmp_path / "m.onnx")
    assert mx("filter", "m.onnx", "--scope", "enc", "--verify", "-o", "p.onnx", cwd=tmp_path).returncode == 0


def test_values_that_are_no_arrays_have_distances() -> None:
    one, two = [np.ones(2), np.ones(3)], [np.ones(2), np.full(3, 2.0)]
    assert distance_of_values(one, one) == EQUAL
    assert distance_of_values(one, two).max_abs == 1
    assert distance_of_values(one, one[:1]) == UNLIKE
    assert distance_of_values(None, None) == EQUAL
    assert distance_of_values(None, np.ones(1)) == UNLIKE
    assert distance_of_values([{0: 0.25, 1: 0.75}], [{0: 0.5, 1: 0.5}]).max_abs == 0.25
    assert output_difference("y", one, [np.ones(2), np.ones((3, 1))]).max_abs == np.inf
    assert output_difference("y", one, one).max_abs == 0


def test_an_unknown_input_is_refused() -> None:
    with pytest.raises(InputError, match="the graph has no input 'z'"):
        tagged(narrow("INT4")).run({"x": X, "z": X})


def test_minus_one_is_an_unknown_size(tmp_path: Path, mx: Mx) -> None:
    """As Paddle and others write unknown dimensions."""
    nodes = [node("Relu", ["x"], ["a"], name="/enc/Relu"), node("Tanh", ["a"], ["y"], name="/head/Tanh")]
    model = tagged(model_of(nodes, [info("x", TensorProto.FLOAT, [-1, 4])], [info("y", TensorProto.FLOAT, [-1, 4])]))
    shape = model.shapes[model.graph.by_name["a"]]
    assert shape is not None
    assert shape.dims == (None, 4)
    assert shape.fits(trace_of(". M x:3x4 -> y:3x4").model.inputs[0])
    assert model.run()["y"].shape[1] == 4
    model.save(tmp_path / "m.onnx")
    assert mx("filter", "m.onnx", "--scope", "head", "--verify", "-o", "p.onnx", cwd=tmp_path).returncode == 0
    (given,) = onnx.load(tmp_path / "p.onnx").graph.input
    assert [dim.HasField("dim_value") for dim in given.type.tensor_type.shape.dim] == [False, True]
