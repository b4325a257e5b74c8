"""The files that go with the models: sidecars, values, profiles, manifests, configurations, caches, folders."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import parser
from safetensors.numpy import save

from tests.fuzz.seeds import DATA


def _trace() -> dict[str, Any]:
    """Return a sidecar of the model of layers."""

    def tensor(number: int) -> dict[str, Any]:
        return {"name": "x", "id": number, "shape": [2, 4], "dtype": "float32"}

    calls: list[dict[str, Any]] = [
        {"scope": ".", "tag": "/Net", "module": ".", "inputs": [tensor(0)], "outputs": [tensor(3)]}
    ]
    modules: list[dict[str, Any]] = [{"path": ".", "class": "Net", "qualified_class": "n.Net"}]
    for layer in range(3):
        scope = f"layers.{layer}"
        weight = {"name": "weight", "kind": "parameter", "shape": [4, 4], "dtype": "float32"}
        modules += [
            {"path": scope, "class": "Layer", "qualified_class": "n.Layer"},
            {"path": f"{scope}.linear", "class": "Linear", "qualified_class": "n.Linear", "weights": [weight]},
        ]
        ends = {"inputs": [tensor(layer)], "outputs": [tensor(layer + 1)]}
        calls += [
            {"scope": scope, "tag": f"/Net/Layer.{layer}", "module": scope, "parent": 0, **ends},
            {
                "scope": f"{scope}.linear",
                "tag": f"/Net/Layer.{layer}/Linear",
                "module": f"{scope}.linear",
                "parent": len(calls),
                **ends,
            },
        ]
    model = {"class": "Net", "qualified_class": "n.Net", "spec": "net", "inputs": [tensor(0)]}
    return {
        "schema": "mxtools.trace/1",
        "producer": {},
        "model": model,
        "modules": modules,
        "calls": calls,
        "operations": [[2 * n + 2, "linear", [n], [n + 1]] for n in range(3)],
    }


def _recorded() -> dict[str, Any]:
    """Return a sidecar with recorded values."""
    return {**_trace(), "record": "r.safetensors"}


def _arrays() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, x=np.ones((2, 4), np.float32))
    return file.getvalue()


def _values(ids: int = 0) -> bytes:
    """Return inputs, and the tensors of the trace by their ids."""
    given = {"x": np.ones((2, 4), np.float32)}
    return bytes(save(given | {str(number): number * np.ones((2, 4), np.float32) for number in range(ids)}))


def _profile() -> list[dict[str, Any]]:
    """Return a profile as ONNX Runtime writes it."""
    session = {"cat": "Session", "name": "model_run", "ts": 0, "dur": 100, "pid": 1, "tid": 1, "ph": "X", "args": {}}
    names = ["/layers.0/linear/MatMul", "/enc/Add", "/loop/Loop"]
    kernels = [
        {**session, "cat": "Node", "name": f"{name}_kernel_time", "ts": 5 + i, "dur": 1, "args": {"op_name": "MatMul"}}
        for i, name in enumerate(names)
    ]
    return [session, *kernels]


def _report() -> dict[str, Any]:
    """Return what `mx profile --json` writes."""
    kernel = {"name": "k", "operator": "MatMul", "provider": "CPU", "microseconds": 1.0}
    module = {"scope": "layers.0", "tag": "/M/layers.0", "microseconds": 1.0, "own": 1.0, "kernels": [kernel]}
    inner = module | {"scope": "layers.0.linear", "tag": "/M/layers.0/linear"}
    rest = {"runs": 1, "microseconds": 1.0, "attributed": 1.0, "modules": [module, inner], "unattributed": []}
    return {"schema": "mxtools.profile/1", "runtime": "ONNX Runtime", **rest}


def _metrics() -> dict[str, Any]:
    """Return metrics by scope."""
    return {"time": {"layers.0": 0.5, "enc": 1, "loop": 2, ".": 3}}


def _manifest() -> dict[str, Any]:
    """Return the manifest of a split."""
    part = {
        "file": "00-layers.0.onnx",
        "scope": "layers.0",
        "inputs": [{"name": "x", "source": "model"}],
        "outputs": ["y"],
    }
    ends = {"inputs": ["x"], "outputs": [{"name": "y", "source": "00-layers.0.onnx"}]}
    return {"schema": "mxtools.split/1", **ends, "parts": [part], "data": "weights.data"}


def _part() -> bytes:
    """Return the part of that manifest."""
    return parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[2, 4] x) => (float[2, 4] y) { y = Relu(x) }'
    ).SerializeToString()


def _engine() -> tuple[Any, Any]:
    """Return a profile and the layers as TensorRT writes them."""
    times = [{"count": 3}, {"name": "/layers.0/linear/MatMul", "averageMs": 0.5, "medianMs": 0.4, "percentage": 100.0}]
    layer = {"Name": "/layers.0/linear/MatMul", "LayerType": "gemm", "Metadata": "[ONNX Layer: /layers.0/act/Relu]"}
    return times, {"Layers": [layer], "Bindings": ["x", "y"]}


COUNTERS = """layerName;execStatus;layerType;execType;realTime (ms);cpuTime (ms)
/layers.0/linear/MatMul;EXECUTED;MatMul;jit;0.5;0.5
Total;;;;0.5;0.5
"""
NET = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = torch.nn.Linear(4, 8), torch.nn.Linear(8, 4)
    def forward(self, x):
        return self.two(torch.relu(self.one(x)))
net = Net(), (torch.ones(2, 4),)
"""
ENTRY = "cache/0123456789abcdef0123456789abcdef"
BERT = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "vocab_size": 16,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
}


def _text(data: Any) -> bytes:
    return json.dumps(data).encode()


def _job(failed: str) -> object:
    """Return the report of a job of a fleet that failed in a step, or in none."""
    failure = {"class": "input", "step": failed, "status": 3, "problem": "text", "remedy": "", "log": "text\n"}
    return {
        "schema": "mxtools.job/1",
        "model": "m" if failed else "n",
        "exporter": "dynamo",
        "tool": "",
        "failure": failure if failed else None,
        "steps": [{"name": "export", "line": ["export", "m"], "status": 0, "seconds": 1.5, "memory": 1000}],
        "figures": {"nodes": 2, "fidelity": 0.5, "error": "Infinity"},
        "pages": ["m.html"],
        "attempts": 1,
        "plan": "0",
        "versions": ["torch 2"],
    }


def files() -> Mapping[str, bytes]:
    """Return the files of a try by name; each may be mutated."""
    times, layers = _engine()
    return {
        "t.json": _text(_trace()),
        "r.json": _text(_recorded()),
        "r.safetensors": _values(ids=4),
        "i.json": _text({"x": [[1.5, 2, 3, 4], [1.5, 2, 3, 4]]}),
        "ids.json": _text({"input_ids": [[1, 2, 3]]}),
        "i.npz": _arrays(),
        "i.safetensors": _values(),
        "n.txt": b"layers.0.linear.weight\nlayers.1.linear.weight\n",
        "p.json": _text(_profile()),
        "p.csv": COUNTERS.encode(),
        "trt.json": _text(times),
        "layers.json": _text(layers),
        "r-profile.json": _text(_report()),
        "k.json": _text(_metrics()),
        "jobs/m.job.json": _text(_job("export")),
        "jobs/n.job.json": _text(_job("")),
        DATA: bytes(4096) + np.ones(16, np.float32).tobytes(),
        "parts/manifest.json": _text(_manifest()),
        "parts/00-layers.0.onnx": _part(),
        "places.json": _text({".": "cpu", "*": "gpu"}),
        "mxtools.toml": b'[strategies.own]\npipeline = "untag,project-names"\nhelp = "text"\nexporter = "auto"\n',
        "limits.toml": b"Linear = 40\nLayerNorm = 0.9\n",
        "pyproject.toml": b'[tool.mxtools.strategies.own]\npipeline = "untag"\n',
        f"{ENTRY}/entry.json": _text({"spec": "net.py:net", "key": None, "used": 1.7e9}),
        f"{ENTRY}/trace.json": _text(_trace()),
        "net.py": NET.encode(),
        "hf/config.json": _text(BERT),
        "hf/model.safetensors": bytes(save({"pooler.dense.bias": np.zeros(8, np.float32)})),
    }


FIXED = ("net.py", "parts/00-layers.0.onnx")
"""Files that are not changed: code that runs, and a model that `join` puts into its result as it is, sound or not."""
