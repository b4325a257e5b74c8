"""Modules of which the graph lacks a result are not cut out: they would be other modules."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from onnx import parser
from torch import Tensor, nn

import mxtools
from mxtools.errors import AbsentError
from mxtools.traces.sidecar import dumps
from mxtools.traces.trace import Trace
from tests.support.commands import Mx
from tests.support.small_graphs import HEAD
from tests.support.small_traces import trace_of

CALLS = """
. Net x:2 -> y:2 z:2
block B x:2 -> p:2 q:2
run block add x x -> p
run block exp p -> q
run . sin p -> y
run . cos q -> z
"""
WHOLE = "add = Add(x, x) exp = Exp(add) y = Sin(add) z = Cos(exp)"
# a tool computes cos(exp(p)) in one node of its own, outside of the block
FUSED = "add = Add(x, x) y = Sin(add) z = com.tool.CosExp(add)"


def tagged(nodes: str, run: str = CALLS) -> mxtools.Model:
    """Return a graph from x to y and z, tagged by a trace."""
    head = HEAD.replace('"" : 21', '"" : 21, "com.tool" : 1')
    model = mxtools.Model(parser.parse_model(f"{head} g (float[2] x) => (float[2] y, float[2] z) {{ {nodes} }}"))
    model.tag(Trace(trace_of(run)))
    return model


def test_a_module_with_all_its_results_is_cut_out() -> None:
    assert tagged(WHOLE).filter("block").output_names == ["add", "exp"]


def test_a_module_without_a_result_is_refused() -> None:
    model = tagged(FUSED)
    with pytest.raises(AbsentError, match="only 1 of 2 results of block are in this graph"):
        model.filter("block")
    assert model.filter(".").output_names == ["y", "z"]


@pytest.mark.parametrize(
    "run",
    [
        CALLS.replace("run . cos q -> z", "run . cos p -> z"),  # nothing uses the second result
        CALLS.replace("run block exp p -> q", "run . exp p -> q"),  # the block did not make it
        CALLS.replace("run block exp p -> q", "run block add x x -> q"),  # an exporter makes equal ones once
    ],
)
def test_a_result_that_the_graph_need_not_have(run: str) -> None:
    assert not tagged(FUSED, run).annotations.incomplete


@pytest.mark.model
def test_what_follows_may_do_the_work_of_the_beginning() -> None:
    """The exporter lets the Conv pad."""
    torch.manual_seed(0)
    block = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(2, 2, 3), nn.ReLU())
    module, x = nn.Sequential(nn.Sigmoid(), block, nn.Tanh()).eval(), torch.randn(1, 2, 4, 4)
    raw = mxtools.export(module, x, exporter="dynamo")
    assert "Pad" not in [node.op_type for node in raw.proto.graph.node]
    assert raw.tag(mxtools.trace(module, x)).incomplete == {}
    assert [node.op_type for node in raw.filter("1").proto.graph.node] == ["Conv", "Relu"]


@pytest.mark.model
def test_what_follows_does_not_do_the_work_of_the_end_of_what_is_before() -> None:
    """The exporter makes one Clip of both; by its name it is in the second module."""
    torch.manual_seed(0)
    first, second = nn.Sequential(nn.Linear(4, 4), nn.ReLU6()), nn.Sequential(nn.ReLU(), nn.Linear(4, 4))
    module, x = nn.Sequential(first, second).eval(), torch.randn(2, 3, 4)
    raw = mxtools.export(module, x, exporter="dynamo")
    assert raw.tag(mxtools.trace(module, x)).incomplete == {"0": "without: hardtanh of 0.1"}


class Normalised(nn.Module):
    """Ends with a function that exporters take apart; with `two`, it returns something else too."""

    def __init__(self, two: bool) -> None:
        super().__init__()
        self.linear, self.two = nn.Linear(4, 4), two

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h = self.linear(x)
        y = nn.functional.normalize(h, dim=-1)
        return (h.relu(), y) if self.two else (y,)


class Net(nn.Module):
    """Normalises what a module returned, so that no name tells where the module ends."""

    def __init__(self, two: bool) -> None:
        super().__init__()
        self.block = Normalised(two)

    def forward(self, x: Tensor) -> Tensor:
        found = self.block(x)
        y = nn.functional.normalize(found[-1], dim=0)
        return found[0] + y if self.two else y.sin() + y

    @property
    def two(self) -> bool:
        return self.block.two


@pytest.mark.model
@pytest.mark.parametrize(("two", "text"), [(False, "0 of 1"), (True, "1 of 2")])
def test_a_value_that_is_known_to_be_another_is_no_result(two: bool, text: str) -> None:
    torch.manual_seed(0)
    module, x = Net(two).eval(), torch.randn(3, 4)
    raw = mxtools.export(module, x, exporter="dynamo")
    assert raw.tag(mxtools.trace(module, x)).incomplete == {}
    for node in raw.proto.graph.node:
        del node.metadata_props[:]  # as ONNX Runtime does
    raw = mxtools.Model(raw.proto)
    assert raw.tag(mxtools.trace(module, x)).incomplete == {"block": text}
    with pytest.raises(AbsentError, match=f"only {text} results of block"):
        raw.filter("block")


class Transposed(nn.Module):
    """Ends with an operation that exporters leave out."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).contiguous()


@pytest.mark.model
def test_a_module_may_end_with_what_exporters_leave_out() -> None:
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Tanh(), Transposed(), nn.Flatten(1), nn.Linear(8, 2)).eval(), torch.randn(2, 2, 4)
    raw = mxtools.export(module, x, exporter="dynamo")
    for node in raw.proto.graph.node:
        del node.metadata_props[:]
    raw = mxtools.Model(raw.proto)
    assert raw.tag(mxtools.trace(module, x)).incomplete == {}


class Pooling(nn.Module):
    """Normalises with the channels last, and pools with the channels first."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.norm(x).permute(0, 3, 1, 2))
        return result


@pytest.mark.model
def test_a_module_whose_beginning_is_not_recognised_is_refused(tmp_path: Path) -> None:
    """ONNX Runtime pools before it permutes, so that no value of its graph is what the head was given."""
    torch.manual_seed(0)
    module, x = Pooling().eval(), torch.randn(1, 3, 3, 4)
    raw = mxtools.export(module, x, exporter="dynamo")
    raw.save(tmp_path / "raw.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fast.onnx")
    onnxruntime.InferenceSession(tmp_path / "raw.onnx", options)
    fast, trace = mxtools.load(tmp_path / "fast.onnx"), mxtools.trace(module, x)
    assert "ReduceMean" in [node.op_type for node in fast.proto.graph.node][:-3]
    assert fast.tag(trace).incomplete == {"head": "without: adaptive_avg_pool2d of head.0"}
    with pytest.raises(AbsentError, match=r"^head begins or ends with adaptive_avg_pool2d of head\.0, which no node"):
        fast.filter("head")
    assert raw.tag(trace).incomplete == {}
    assert [node.op_type for node in raw.filter("head").proto.graph.node][:1] == ["ReduceMean"]


class Clamped(nn.Module):
    """Ends with a relu, and its caller clamps what it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x))


class Clamping(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block, self.out = block, nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.out(torch.clamp(self.block(x), 0.1, 0.5))
        return result


@pytest.mark.model
@pytest.mark.parametrize(
    ("block", "last"),
    [(Clamped, "block"), (lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), r"block\.1")],
    ids=["function", "module"],
)
def test_a_module_whose_end_went_into_the_next_node_is_refused(block: Callable[[], nn.Module], last: str) -> None:
    """torch.export's exporter drops a Relu before a Clip, and what is left of the module is its convolution."""
    torch.manual_seed(0)
    module, x = Clamping(block()).eval(), torch.randn(1, 3, 2, 2)
    model = mxtools.export(module, x, exporter="dynamo")
    model.tag(mxtools.trace(module, x))
    assert "Relu" not in {node.op_type for node in model.proto.graph.node}
    with pytest.raises(AbsentError, match=f"^block begins or ends with relu of {last}, which no node"):
        model.filter("block")


class Mixer(nn.Module):
    """Adds what a function made that exporters take apart, and normalises."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.norm, self.linear = Spectrum(), nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.linear(self.norm(x + self.mix(x)))
        return result


class Spectrum(nn.Module):
    """Makes the spectrum of what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x, dim=-1).real


@pytest.mark.model
def test_a_node_that_a_tool_made_reads_what_no_name_tells(tmp_path: Path) -> None:
    """ONNX Runtime adds and normalises in one node. It reads what the first module returned, whatever its name is."""
    torch.manual_seed(0)
    module, x = Mixer().eval(), torch.randn(1, 4, 8)
    mxtools.export(module, x, exporter="dynamo").save(tmp_path / "raw.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fast.onnx")
    onnxruntime.InferenceSession(tmp_path / "raw.onnx", options)
    fast = mxtools.load(tmp_path / "fast.onnx")
    assert "SkipLayerNormalization" in [node.op_type for node in fast.proto.graph.node]
    fast.tag(mxtools.trace(module, x))
    assert "DFT" in [node.op_type for node in fast.filter("mix").proto.graph.node]
    assert fast.filter("norm").proto.graph.node[-1].op_type == "SkipLayerNormalization"


def test_it_is_said_and_stays_known(mx: Mx, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(dumps(trace_of(CALLS)))
    plain = tagged(FUSED)
    plain.untag()
    onnx.save(plain.proto, tmp_path / "g.onnx")
    said = mx("tag", "g.onnx", "--trace", "t.json", "-o", "tagged.onnx", cwd=tmp_path)
    assert b"1 scope of which a part is not in the graph" in said.stderr
    report = json.loads(mx("tag", "g.onnx", "--trace", "t.json", "-o", "tagged.onnx", "--json", cwd=tmp_path).stdout)
    assert report["incomplete"] == {"block": "1 of 2"}
    mx("tag", "g.onnx", "--from", "tagged.onnx", "-o", "again.onnx", cwd=tmp_path)
    for file in ("tagged.onnx", "again.onnx"):
        refused = mx("filter", file, "--scope", "block", "-o", "part.onnx", cwd=tmp_path)
        assert refused.returncode == 4
        assert b"1 of 2" in refused.stderr
