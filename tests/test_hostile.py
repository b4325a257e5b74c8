"""Models and sidecars from anywhere: what is wrong in them is one line, and never an error of ours."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import typer
from onnx import ModelProto

from mxtools.carriers.packed import embedded_trace
from mxtools.errors import InputError
from mxtools.scopes import keys
from mxtools.traces import sidecar
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
    "a trace that fills the memory": _packed(bytes((1 << 28) + 1)),
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
