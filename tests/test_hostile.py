"""Models and sidecars from anywhere: what is wrong in them is one line, and never an error of ours."""

from __future__ import annotations

import base64
import json
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer
from onnx import ModelProto, helper, parser

import mxtools
from mxtools.carriers.packed import embedded_trace
from mxtools.errors import InputError
from mxtools.files import json_text
from mxtools.scopes import keys
from mxtools.traces import sidecar
from mxtools.traces.values import Values
from mxtools_cli.main import _guarded
from tests.support.commands import Mx
from tests.support.shared_models import Build

Capture = pytest.CaptureFixture[str]

DEEP = "[" * 100_000


def _packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


def _on_model(key: str, value: str) -> Callable[[ModelProto], None]:
    return lambda model: keys.replace_props(model, frozenset({key}), {key: value})


def _on_nodes(key: str, value: str) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        for node in model.graph.node:
            keys.replace_props(node, frozenset({key}), {key: value})

    return change


def _doc_strings(text: str) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        for node in model.graph.node:
            node.doc_string = text

    return change


READABLE = {
    "scopes nested too deep": _on_model(keys.SCOPES, _packed(DEEP.encode())),
    "scopes as a list": _on_model(keys.SCOPES, _packed(b"[1]")),
    "absent nested too deep": _on_model(keys.ABSENT, DEEP),
    "merged nested too deep": _on_nodes(keys.MERGED, DEEP),
    "scopes nested by the thousand": _on_nodes(keys.SCOPE, "a" + ".a" * 2000),
    "a doc string nested too deep": _doc_strings(f"pkg.mxtools {DEEP}"),
    "a doc string that is none of ours": _doc_strings('pkg.mxtools \npkg.mxtools {"scope": 5}'),
    "module paths nested too deep": _on_nodes(keys.TORCH_NAME_SCOPES, DEEP),
    "carriers that nobody knows": _on_model(keys.CARRIERS, "rename,--help,x"),
}
DAMAGED = {
    "a trace of other characters": "ü" * 8,
    "a trace that is cut off": _packed(b"{}")[:8],
    "a trace that is no sidecar": _packed(b"{}"),
    "a trace nested too deep": _packed(DEEP.encode()),
}


@pytest.mark.parametrize("case", READABLE)
def test_what_cannot_be_understood_is_passed_over(built: Build, mx: Mx, tmp_path: Path, case: str) -> None:
    model = onnx.load(built("bert") / "tagged.onnx")
    _on_model(keys.CARRIERS, "doc-string,rename")(model)
    READABLE[case](model)
    onnx.save(model, tmp_path / "m.onnx")
    for command in (["tag", "-o", tmp_path / "out.onnx"], ["tree"], ["validate"]):
        done = mx(command[0], tmp_path / "m.onnx", *command[1:])
        assert done.returncode in (0, 1, 3), done.stderr
        assert done.stderr.count(b"\n") <= 1


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_trace_in_a_model_is_an_error_with_its_remedy(case: str) -> None:
    model = ModelProto()
    model.metadata_props.add(key=keys.TRACE, value=DAMAGED[case])
    with pytest.raises(InputError, match=r": call `model.tag\(\)` again with trace=$"):
        embedded_trace(model)


def test_a_trace_that_would_fill_the_memory_is_refused() -> None:
    model, large = ModelProto(), (1 << 25) + 1
    model.metadata_props.add(key=keys.TRACE, value=_packed(bytes(large)))
    with pytest.raises(InputError, match=r"larger than the limit of 32 MiB: .* all limits: `mxtools.limits\(\)` of 2$"):
        embedded_trace(model)
    with mxtools.limits(2), pytest.raises(InputError, match=r"is not JSON"):
        embedded_trace(model)


@pytest.mark.parametrize("text", ["[" + "[],0," * 2_000_000 + "0]", "{" + '"":{},' * 2_600_000 + '"":0}'])
def test_json_is_measured_by_what_it_holds(text: str) -> None:
    with pytest.raises(InputError, match="larger than the limit of 5,000,000 items"):
        sidecar.loads(text, "x.json")
    with pytest.raises(InputError, match="larger than the limit of 5,000,000 items"):
        json_text.decoded_or_none(text.encode())


def _npz(file: Path, header: bytes, data: bytes = b"", name: str = "x.npy") -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data)
    return file


def _header(shape: str, descr: str = "'<f4'") -> bytes:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()


ARRAYS = {
    "a shape that is not there": _header("(1000000000000,)"),
    "a shape that is none": _header("(-1,)"),
    "objects": _header("(1,)", "'|O'"),
    "half a header": _header("(1,)")[:20],
    "a type that is none": _header("(1,)", "'zz'"),
    "a header that is code": b"__import__('os').abort()\n",
    "nothing": b"",
}


@pytest.mark.parametrize("case", ARRAYS)
def test_an_array_that_is_none_is_an_error(case: str, tmp_path: Path) -> None:
    file = _npz(tmp_path / "a.npz", ARRAYS[case])
    with pytest.raises(InputError, match=r"'x' of .*a.npz"):
        Values.open(file).get("x")


def test_arrays_that_cannot_be_read_are_errors(tmp_path: Path) -> None:
    np.savez(tmp_path / "crc.npz", x=np.ones(64, np.float32))
    data = (tmp_path / "crc.npz").read_bytes()
    (tmp_path / "crc.npz").write_bytes(data.replace(np.ones(64, np.float32).tobytes(), bytes(256)))
    with pytest.raises(InputError, match=r"'x' of .*crc.npz cannot be read \(Bad CRC"):
        Values.open(tmp_path / "crc.npz").get("x")
    zeros = bytes(300 << 20)
    large = _npz(tmp_path / "large.npz", _header(f"({len(zeros) // 4},)"), zeros)
    with pytest.raises(InputError, match=r"'x' of .*large.npz would be larger than the limit of 256 MiB"):
        Values.open(large).get("x")
    for name, content in {
        "empty.npz": b"",
        "dict.json": b'{"x": {"a": 1}}',
        "list.json": b"[]",
        "deep.json": b"[" * 9999,
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name} cannot be read as arrays by name"):
            Values.open(tmp_path / name)
    with pytest.raises(InputError, match=r"\(it holds a list, without names\)"):
        Values.open(tmp_path / "list.json")
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(InputError, match=r"\(it holds one array, without a name\)"):
        Values.open(tmp_path / "one.npz")


def test_values_of_another_type_are_errors(tmp_path: Path, mx: Mx) -> None:
    value = helper.make_tensor_value_info
    node = helper.make_node("Relu", ["x"], ["y"], name="/enc/act/Relu")
    graph = helper.make_graph([node], "g", [value("x", 1, [4])], [value("y", 1, [4])])
    onnx.save(helper.make_model(graph, ir_version=10), tmp_path / "m.onnx")
    np.savez(tmp_path / "text.npz", x=np.array(["a"] * 4))
    for command in (["compare", "m.onnx", "m.onnx"], ["profile", "m.onnx"]):
        assert mx("tag", "m.onnx", "-o", "m.onnx", cwd=tmp_path).returncode == 0
        done = mx(*command, "--inputs", "text.npz", cwd=tmp_path)
        assert (done.returncode, done.stderr.count(b"\n")) == (3, 1), done.stderr


def test_inputs_are_made_only_of_sizes_that_are_sound() -> None:
    value = helper.make_tensor_value_info
    node = helper.make_node("Relu", ["x"], ["y"], name="/enc/act/Relu")
    graph = helper.make_graph([node], "g", [value("x", 1, [1 << 30, 1 << 30])], [value("y", 1, None)])
    with pytest.raises(InputError, match="a made value of the input 'x' would be larger than the limit of 1,024 MiB"):
        mxtools.from_proto(helper.make_model(graph)).run()


def _first_call(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda trace: trace["calls"][1].update(values)


@pytest.mark.parametrize(
    "change",
    [
        lambda trace: trace.update(calls=[]),
        _first_call(scope=""),
        _first_call(scope="."),
        _first_call(scope="a..b"),
        _first_call(scope="a\x1b[31m"),
        _first_call(tag="BertModel"),
        _first_call(parent=1),
        _first_call(module="nowhere"),
    ],
)
def test_a_sidecar_that_does_not_hold_together_is_refused(
    built: Build, change: Callable[[dict[str, Any]], None]
) -> None:
    trace = json.loads((built("bert") / "trace.json").read_text())
    change(trace)
    with pytest.raises(InputError, match=r": run `mxtools.trace\(\)` again$") as error:
        sidecar.loads(json.dumps(trace), "x.json")
    assert str(error.value).isprintable()


def test_names_do_not_steer_the_terminal(built: Build, mx: Mx, tmp_path: Path) -> None:
    model = onnx.load(built("bert") / "tagged.onnx")
    _on_nodes(keys.SCOPE, "red\x1b[31m")(model)
    _on_nodes(keys.TAG, "/Red/\x9b31m")(model)
    onnx.save(model, tmp_path / "m.onnx")
    for command in ("tree", "validate"):
        done = mx(command, tmp_path / "m.onnx")
        assert "red\\x1b[31m" in done.stdout.decode()
        assert (done.stdout + done.stderr).decode().replace("\n", "").isprintable()


def test_a_fault_of_ours_is_one_line_and_no_answer(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def command() -> None:
        raise IndexError("far\nout\x1b")

    monkeypatch.delenv("MX_DEBUG", raising=False)
    with pytest.raises(typer.Exit) as left:
        _guarded("tag", command)()
    assert left.value.exit_code == 70
    said = "mx tag: unexpected IndexError: far out\\x1b: report it with what --debug shows\n"
    assert capsys.readouterr().err == said
    monkeypatch.setenv("MX_DEBUG", "1")
    with pytest.raises(typer.Exit):
        _guarded("tag", command)()
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback")
    assert shown.endswith(said)


def test_a_manifest_makes_a_split_remove_no_files_of_others(tmp_path: Path, mx: Mx) -> None:
    """Whoever writes a manifest can list what he likes; parts have names of a form of their own."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Relu", ["x"], ["h"], name="/a/Relu"),
        helper.make_node("Abs", ["h"], ["y"], name="/b/Abs"),
    ]
    graph = helper.make_graph(nodes, "g", [value("x", 1, [4])], [value("y", 1, [4])])
    onnx.save(helper.make_model(graph, ir_version=10), tmp_path / "m.onnx")
    assert mx("tag", "m.onnx", "-o", "m.onnx", cwd=tmp_path).returncode == 0
    assert mx("split", "m.onnx", "--depth", "1", "-d", "parts", cwd=tmp_path).returncode == 0
    mine = tmp_path / "parts" / "mine.onnx"
    mine.write_bytes(b"mine")
    listed = json.loads((tmp_path / "parts" / "manifest.json").read_text())
    for name in ("mine.onnx", "../m.onnx", "sub/00-a.onnx", ".onnx"):
        listed["parts"][0]["file"] = name
        (tmp_path / "parts" / "manifest.json").write_text(json.dumps(listed))
        done = mx("split", "m.onnx", "--depth", "1", "-d", "parts", cwd=tmp_path)
        assert (done.returncode, done.stderr.count(b"\n")) == (3, 1), done.stderr
        assert mine.read_bytes() == b"mine"


def test_a_shape_of_endless_rank_takes_no_memory(mx: Mx, tmp_path: Path) -> None:
    """The length of a shape is a rank, which inference builds, dimension by dimension."""
    graph = "g (float[3] x, int64[1099511627776] s) => (float[3] y) { y = Expand (x, s) }"
    text = f'<ir_version: 8, opset_import: ["" : 9]> {graph}'
    onnx.save(parser.parse_model(text), tmp_path / "m.onnx")
    for line in ("validate m.onnx", "run m.onnx -p optimize{with=onnxscript} -o o.onnx"):
        done = mx(*line.split(), cwd=tmp_path)
        assert (done.returncode, done.stdout) == (3, b""), done
        assert "would need more memory than the limit of 512 MiB" in done.stderr.decode()


def test_a_body_may_read_what_was_quantised(mx: Mx, tmp_path: Path) -> None:
    """On which an optimiser of ONNX Runtime ends the process."""
    text = """<ir_version: 10, opset_import: ["" : 21]>
g (float[2] x, bool c) => (float[2] y, float[2] z) <float s = {0.25}, uint8 zero = {3}, int64[1] shape = {2}> {
    q = QuantizeLinear (x, s, zero)
    d = DequantizeLinear (q, s, zero)
    z = Reshape (d, shape)
    y = If (c) <
        then_branch = one () => (float[2] a) { a = Neg (z) },
        else_branch = two () => (float[2] b) { b = Neg (d) }
    >
}"""
    onnx.save(parser.parse_model(text), tmp_path / "m.onnx")
    assert mx("tag", "m.onnx", "-o", "m.onnx", cwd=tmp_path).returncode == 0
    done = mx("profile", "m.onnx", "--runs", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
