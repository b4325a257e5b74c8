"""Completion: what a shell offers comes from the file on the command line, and nothing breaks it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto, helper, parser

from mxtools.passes.project_parameters import ProjectParameters
from mxtools.pipeline.registry import names
from mxtools.scopes import keys
from mxtools.scopes.names_in_file import names_in_file
from tests.support.commands import COMMAND
from tests.support.paths import ENVIRONMENT
from tests.support.shared_models import Build

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
g (float[2] x, bool c) => (float[2] y) { a = Neg(x) b = If (c) <
    then_branch = t () => (float[2] p) { p = Abs(a) },
    else_branch = e () => (float[2] q) { q = Exp(a) }> y = Relu(b) }"""
SCOPES = {
    "Neg": ("encoder.layer.0", "/Net/Encoder/Layer.0"),
    "Abs": ("encoder.layer.1.sub", "/Net/Encoder/Layer.1/Sub"),
    "Exp": ("encoder.layer.1", "/Net/Encoder/Layer.1"),
    "Relu": ("head[x]", "/Net/Head"),
    "If": (".", "/Net"),
}


def tagged() -> ModelProto:
    model = parser.parse_model(TEXT)
    main = list(model.graph.node)
    for node in [*main, *(n for attribute in main[1].attribute for n in attribute.g.node)]:
        for key, value in zip((keys.SCOPE, keys.TAG), SCOPES[node.op_type], strict=True):
            node.metadata_props.add(key=key, value=value)
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a small tagged model."""
    onnx.save(tagged(), tmp_path / "m.onnx")
    return tmp_path


def offered(folder: Path, line: str) -> list[str]:
    """Return what bash is offered where a line has `|`."""
    before = line.partition("|")[0]
    words = line.replace("|", "")
    variables = {"_MX_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(before.count(" "))}
    environment = {**ENVIRONMENT, **variables}
    done = subprocess.run([COMMAND], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return [word for word in done.stdout.splitlines() if word]


OFFERED = {
    "mx filter m.onnx --scope |": ["encoder", "head[[]x]"],
    "mx filter m.onnx --scope enc|": ["encoder", "encoder.layer.0", "encoder.layer.1"],
    "mx filter m.onnx --scope encoder.|": ["encoder.layer.0", "encoder.layer.1"],
    "mx filter --scope encoder.layer.1| m.onnx": ["encoder.layer.1", "encoder.layer.1.sub"],
    "mx tree 'm.onnx' --exclude h|": ["head[[]x]"],
    "mx split ./m.onnx --each enc|": ["encoder", "encoder.layer.0", "encoder.layer.1"],
    "mx split m.onnx --class |": ["Net", "Encoder", "Layer", "Sub", "Head"],
    "mx select m.onnx --tag /Net/E|": ["/Net/Encoder", "/Net/Encoder/Layer.0", "/Net/Encoder/Layer.1"],
    "mx select m.onnx --op R|": ["Relu"],
    "mx filter none.onnx --scope |": [],
    "mx filter . --scope |": [],
    "mx run m.onnx -p restore|": ["restore-names"],
    "mx run m.onnx -p untag,project-pa|": ["untag,project-parameters"],
    "mx run m.onnx -p untag,filter{ex|": ["untag,filter{exclude="],
    "mx run m.onnx -p filter{scope=a,fr|": ["filter{scope=a,from-tensor="],
    "mx run m.onnx -p nothing{|": [],
    "mx auto m.py:x --primary ht|": ["htp"],
    "mx bench m.py:x --strategies htp,f|": ["htp,fx"],
    "mx view m.onnx --format m|": ["model-explorer", "mermaid"],
    "mx val|": ["validate"],
    "mx tree --fo|": ["--fold"],
}


@pytest.mark.parametrize("line", OFFERED)
def test_what_is_offered(folder: Path, line: str) -> None:
    assert offered(folder, line) == OFFERED[line]


def test_all_passes_are_offered(folder: Path) -> None:
    assert offered(folder, "mx run m.onnx --pipeline |") == names()
    assert ProjectParameters.name in names()


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
def test_bash_completes_with_the_script_that_mx_installs(folder: Path) -> None:
    text = f"""
        source <(_MX_COMPLETE=source_bash {COMMAND})
        COMP_WORDS=(mx filter --scope encoder.layer.1 m.onnx) COMP_CWORD=3
        $(complete -p mx | sed 's/.*-F \\([^ ]*\\) .*/\\1/') mx
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environment = {**ENVIRONMENT, "PATH": f"{COMMAND.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", text], cwd=folder, env=environment, capture_output=True, check=True, text=True)
    assert done.stdout.split() == ["encoder.layer.1", "encoder.layer.1.sub"]


def test_a_sidecar_completes_where_there_is_no_tagged_model(built: Build, tmp_path: Path) -> None:
    shutil.copy(built("bert") / "trace.json", tmp_path / "t.json")
    assert offered(tmp_path, "mx filter none.onnx --trace t.json --scope pool|")[0] == "pooler"
    found = names_in_file(tmp_path / "t.json")
    assert found.tags["encoder.layer.1"] == "/BertModel/BertEncoder/BertLayer.1"


def test_a_tagged_export_names_what_its_trace_does(built: Build) -> None:
    model, trace = (names_in_file(built("bert") / name) for name in ("tagged.onnx", "trace.json"))
    assert set(model.tags.items()) <= set(trace.tags.items())
    assert len(model.tags) > 20
    assert {"MatMul", "Gemm"} & model.operators.keys()


def test_a_broken_file_names_less_and_nothing_raises(tmp_path: Path) -> None:
    data = tagged().SerializeToString()
    whole = names_in_file(written(tmp_path, data))
    assert [*whole.operators] == ["Neg", "If", "Relu"]
    for length in range(len(data)):
        less = names_in_file(written(tmp_path, data[:length]))
        assert less.tags.items() <= whole.tags.items()
    for position in range(0, len(data), 3):
        names_in_file(written(tmp_path, data[:position] + b"\xff" + data[position + 1 :]))
    for text in (b"{", b'{"calls": 3}', b'{"calls": [{"scope": "a"}]}', b"[1]", b"\x00", b"", b"{" * 100_000):
        assert not names_in_file(written(tmp_path, text)).tags


def written(folder: Path, data: bytes) -> Path:
    (folder / "x.onnx").write_bytes(data)
    return folder / "x.onnx"


def test_broken_files_offer_nothing_and_pipes_are_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("{" * 100_000)
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "mxtools.toml").write_text("[")
    for name in ("text.onnx", "pipe.onnx"):
        assert offered(tmp_path, f"mx tree {name} --scope |") == []
    assert offered(tmp_path, "mx auto m.py:x --primary |") == []


def test_completing_imports_neither_pytorch_nor_onnx_runtime(folder: Path) -> None:
    code = (
        "import sys, atexit; sys.argv = ['mx']\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        "from mxtools_cli.main import main; main()"
    )
    variables = {"_MX_COMPLETE": "complete_bash", "COMP_WORDS": "mx filter m.onnx --scope h", "COMP_CWORD": "4"}
    words = [sys.executable, "-c", code]
    environment = {**ENVIRONMENT, **variables}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "head[[]x]"
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert not loaded & {"torch", "transformers", "onnxruntime"}


def test_weights_are_stepped_over(tmp_path: Path) -> None:
    model = tagged()
    model.graph.initializer.append(helper.make_tensor("w", 1, [1 << 20], bytes(4 << 20), raw=True))
    assert names_in_file(written(tmp_path, model.SerializeToString())) == names_in_file(
        written(tmp_path, tagged().SerializeToString())
    )
