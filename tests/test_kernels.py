"""Reading the profiles of runtimes. The texts are shortened from what the tools wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mxtools.errors import InputError
from mxtools.profile.kernels import Kernel, Profile, read_profile


def event(name: str, start: int, duration: int, cat: str = "Node", thread: int = 1, **args: str) -> dict[str, Any]:
    """Return an event of ONNX Runtime's trace."""
    named = f"{name}_kernel_time" if cat == "Node" else name
    return {"cat": cat, "name": named, "ts": start, "dur": duration, "pid": 1, "tid": thread, "ph": "X", "args": args}


def written(folder: Path, *texts: object) -> list[Path]:
    files = []
    for number, text in enumerate(texts):
        files.append(folder / f"{number}.txt")
        files[-1].write_text(text if isinstance(text, str) else json.dumps(text))
    return files


CPU = {"provider": "CPUExecutionProvider"}
ONNX_RUNTIME = [
    {"cat": "Session", "name": "model_loading_uri", "ts": 1, "dur": 5, "pid": 1, "tid": 1, "args": {}},
    event("model_run", 10, 100, "Session"),
    event("a", 12, 30, op_name="MatMul", **CPU),
    event("b", 50, 20, op_name="Add", **CPU),
    event("model_run", 200, 60, "Session"),
    event("b", 230, 10, op_name="Add", **CPU),
    event("a", 202, 20, op_name="MatMul", **CPU),
    event("model_run", 300, 80, "Session"),
    event("a", 302, 40, op_name="MatMul", **CPU),
    event("b", 350, 10, op_name="Add", **CPU),
]


def test_onnx_runtime_by_run(tmp_path: Path) -> None:
    profile = read_profile(written(tmp_path, ONNX_RUNTIME))
    cpu = "CPUExecutionProvider"
    kernels = (Kernel("a", "MatMul", cpu, (30.0, 20.0, 40.0)), Kernel("b", "Add", cpu, (20.0, 10.0, 10.0)))
    assert profile == Profile("ONNX Runtime", kernels, (100.0, 60.0, 80.0))
    assert [kernel.time for kernel in profile.kernels] == [30.0, 10.0]


def test_what_runs_in_a_body_is_counted_once(tmp_path: Path) -> None:
    """A Loop of two steps, another thread's kernel at the same time, and a kernel that ends with the one it is in."""
    events = [
        event("model_run", 0, 100, "Session"),
        event("loop", 10, 60, op_name="Loop"),
        event("inner", 12, 10, op_name="Add"),
        event("inner", 30, 40, op_name="Add"),
        event("last", 65, 5, op_name="Neg"),
        event("else", 20, 30, op_name="Exp", thread=2),
        event("after", 70, 8, op_name="Abs"),
    ]
    times = {kernel.name: kernel.times for kernel in read_profile(written(tmp_path, events)).kernels}
    assert times == {"loop": (10.0,), "inner": (45.0,), "last": (5.0,), "else": (30.0,), "after": (8.0,)}


TENSORRT = """[
  { "count" : 625 }
, { "name" : "/conv/Conv + /act/Relu", "timeMs" : 41.4, "averageMs" : 0.066, "medianMs" : 0.065, "percentage" : 60 }
, { "name" : "__myl_Add_0x1", "timeMs" : 6.25, "averageMs" : 0.01, "percentage" : 40 }
]"""
LAYERS = {
    "Layers": [
        {"Name": "/conv/Conv + /act/Relu", "LayerType": "CaskConvolution"},
        {"Name": "__myl_Add_0x1", "LayerType": "kgen", "Metadata": "[ONNX Layer: /a/Add]\x1f[ONNX Layer: /b/Mul]\x1e"},
        "unused",
    ],
    "Bindings": ["x"],
}


def test_tensorrt_with_and_without_layers(tmp_path: Path) -> None:
    alone = read_profile(written(tmp_path, TENSORRT))
    assert [(k.name, k.operator, k.time, k.nodes) for k in alone.kernels] == [
        ("/conv/Conv + /act/Relu", "", 65.0, ()),
        ("__myl_Add_0x1", "", 10.0, ()),
    ]
    both = read_profile(written(tmp_path, LAYERS, TENSORRT))
    assert [(k.operator, k.nodes) for k in both.kernels] == [
        ("CaskConvolution", ()),
        ("kgen", ("/a/Add", "/b/Mul")),
    ]
    assert {kernel.provider for kernel in both.kernels} == {"TensorRT"}


OPENVINO = """layerName;execStatus;layerType;execType;realTime (ms);cpuTime (ms)
x;Status.NOT_RUN;Parameter;unknown_i64;0.000;0.000
/a/Add;Status.EXECUTED;FullyConnected;brgemm_avx512_bf16;0.020;0.020
/b/Gelu;Status.NOT_RUN;Gelu;undef;0.000;0.000
Total;;;;0.020;0.020

layerName;execStatus;layerType;execType;realTime (ms);cpuTime (ms)
x;Status.NOT_RUN;Parameter;unknown_i64;0.000;0.000
/a/Add;Status.EXECUTED;FullyConnected;brgemm_avx512_bf16;0.008;0.008
/b/Gelu;Status.EXECUTED;Gelu;undef;0.002;0.002
Total;;;;0.010;0.010

"""
CPP = """layerName;execStatus;layerType;execType;realTime (ms);cpuTime (ms);
/a/Add;EXECUTED;FullyConnected;gemm;0.014;0.014;
/b/Gelu;EXECUTED;Gelu;undef;0.001;0.001;
Total;;;;0.015;0.015;
"""


def nodes(*rows: tuple[str, str, str]) -> dict[str, Any]:
    return {"nodes": [{"name": n, "node_type": t, "status": "", "real_time": r, "cpu_time": r} for n, t, r in rows]}


AVERAGE = nodes(("/a/Add", "FullyConnected", "0.014"), ("/b/Gelu", "Gelu", "0.001"))


@pytest.mark.parametrize(
    ("text", "times"),
    [
        (OPENVINO, [(20.0, 8.0), (0.0, 2.0)]),
        (CPP, [(14.0,), (1.0,)]),
        (
            {"report_type": "detailed", "detailed_performance": [
                nodes(("/a/Add", "FullyConnected", "0.020"), ("/b/Gelu", "Gelu", "0.000")),
                nodes(("/a/Add", "FullyConnected", "0.008"), ("/b/Gelu", "Gelu", "0.002")),
            ]},
            [(20.0, 8.0), (0.0, 2.0)],
        ),
        ({"report_type": "average", "avg_performance": AVERAGE}, [(14.0,), (1.0,)]),
    ],
    ids=["python csv", "c++ csv", "detailed json", "average json"],
)  # fmt: skip
def test_openvino(tmp_path: Path, text: object, times: list[tuple[float, ...]]) -> None:
    profile = read_profile(written(tmp_path, text))
    assert [(kernel.name, kernel.operator) for kernel in profile.kernels] == [
        ("/a/Add", "FullyConnected"),
        ("/b/Gelu", "Gelu"),
    ]
    for kernel, expected in zip(profile.kernels, times, strict=True):
        assert kernel.times == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    "texts",
    [
        [""], ["nonsense"], ["{}"], ["[1, 2]"], ["[]"], [LAYERS], [TENSORRT, TENSORRT],
        ["layerName;realTime (ms)\nx;y\n"], [[event("model_run", 0, 1, "Session")]],
        [{"detailed_performance": [{"nodes": [{"name": "x"}]}]}],
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_profile_is_refused(tmp_path: Path, texts: list[object]) -> None:
    with pytest.raises(InputError, match="give ONNX Runtime's JSON"):
        read_profile(written(tmp_path, *texts))


def test_files_that_are_not_there_or_binary(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\x89PNG\xff\xfe")
    for name in ("missing", "binary"):
        with pytest.raises(InputError, match=name):
            read_profile([tmp_path / name])
