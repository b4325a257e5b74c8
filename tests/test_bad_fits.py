"""Traces that fit a graph badly: said by `mx tag` and `mx validate`, and no module gets what others may have done."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto

from mxtools.scopes import keys
from tests.support.commands import Mx

CODE = """
import torch
from torch import nn

class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.mix, self.act = nn.LayerNorm(4), nn.Linear(4, 4), nn.Tanh()
    def forward(self, x):
        return x + self.act(self.mix(self.norm(x)))

class Net(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.drop, self.layers = nn.Dropout(), nn.ModuleList(Layer() for _ in range(depth))
        self.head = nn.Linear(4, 3)
    def forward(self, x):
        x = self.drop(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)

torch.manual_seed(0)
X = torch.randn(2, 4)
two, four = (Net(2), {"x": X}), (Net(4), {"x": X})
other = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)), {"input": X}
"""


def anonymous(model: ModelProto) -> ModelProto:
    """Return a model in which only the inputs and outputs of the graph have names that say something."""
    graph = model.graph
    kept = {value.name for value in (*graph.input, *graph.output)}
    names = [tensor.name for tensor in graph.initializer]
    names += [name for node in graph.node for name in node.output if name not in kept]
    new = {name: f"t{number}" for number, name in enumerate(names)}
    for tensor in graph.initializer:
        tensor.name = new[tensor.name]
    for node in graph.node:
        node.name = ""
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
        del node.metadata_props[:]
    del graph.value_info[:]
    return model


@pytest.fixture
def spec(tmp_path: Path, mx: Mx) -> str:
    """Return the file with the models; `two` is exported to raw.onnx and, without names, to bare.onnx."""
    (tmp_path / "net.py").write_text(CODE)
    done = mx("export", f"{tmp_path / 'net.py'}:two", "--exporter", "torchscript", "-o", tmp_path / "raw.onnx")
    assert done.returncode == 0, done.stderr
    onnx.save(anonymous(onnx.load(tmp_path / "raw.onnx")), tmp_path / "bare.onnx")
    return str(tmp_path / "net.py")


def tagged(mx: Mx, spec: str, model: str, graph: str, *options: str) -> tuple[dict[str, object], str]:
    """Trace a model, tag a graph by it, and return the report and what is said."""
    folder = Path(spec).parent
    trace, out = folder / f"{model}.json", folder / "tagged.onnx"
    assert mx("trace", f"{spec}:{model}", "-o", trace, *options).returncode == 0
    done = mx("tag", folder / graph, "--trace", trace, "-o", out)
    told = mx("tag", folder / graph, "--trace", trace, "-o", out, "--json")
    assert (done.returncode, told.returncode) == (0, 0), done.stderr
    return json.loads(told.stdout), done.stderr.decode()


@pytest.mark.parametrize("model", ["two", "four", "other"])
def test_what_nobody_knows_the_beginning_of_has_no_nodes(model: str, spec: str, mx: Mx) -> None:
    report, words = tagged(mx, spec, model, "bare.onnx")
    assert "the trace fits badly" in words
    last = "2" if model == "other" else "head"
    assert last in report["unfound"]
    folder = Path(spec).parent
    nodes = onnx.load(folder / "tagged.onnx").graph.node
    assert {keys.props(node)[keys.SCOPE] for node in nodes} == {"."}
    assert mx("filter", folder / "tagged.onnx", "--scope", last, "-o", folder / "part.onnx").returncode == 4


def test_a_trace_of_more_layers_is_told(spec: str, mx: Mx) -> None:
    report, words = tagged(mx, spec, "four", "raw.onnx")
    assert report["unfound"] == [f"layers.{i}{name}" for i in (2, 3) for name in ("", ".norm", ".mix", ".act")]
    assert "8 modules of it have no nodes here, such as layers.2" in words
    folder = Path(spec).parent
    found = mx("validate", folder / "tagged.onnx", "--trace", folder / "four.json", "--json")
    rules = {finding["rule"]: finding for finding in json.loads(found.stdout)["findings"]}
    assert rules["unfound"]["scope"] == "layers.2"


def test_a_trace_that_fits_is_not_doubted(spec: str, mx: Mx) -> None:
    for options, graph in (((), "raw.onnx"), (("--record",), "bare.onnx")):
        report, words = tagged(mx, spec, "two", graph, *options)
        assert "unfound" not in report
        assert "badly" not in words
    folder = Path(spec).parent
    assert mx("filter", folder / "tagged.onnx", "--scope", "layers.1", "-o", folder / "part.onnx").returncode == 0
    tagged(mx, spec, "two", "raw.onnx")
    assert mx("filter", folder / "tagged.onnx", "--scope", "layers.1", "-o", folder / "named.onnx").returncode == 0
    report, words = tagged(mx, spec, "two", "named.onnx")
    assert "unfound" not in report
