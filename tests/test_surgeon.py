"""The pass `surgeon` on real models and on the command line, and its errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from mxtools.errors import MxError
from mxtools.pipeline.pipeline import Pipeline
from mxtools.pipeline.working_model import WorkingModel
from tests.support.commands import Mx
from tests.support.paths import MODELS
from tests.support.shared_models import Build
from tests.support.surgeon_scripts import CHAIN, SCRIPT, scopes
from tests.support.whole_runs import inputs_of


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", ["bert", "convnet"])
def test_nothing_is_nothing(built: Build, mx: Mx, tmp_path: Path, name: str, exporter: str) -> None:
    (tmp_path / "edit.py").write_text(SCRIPT)
    tagged = built(name, exporter) / "tagged.onnx"
    for function in ("nothing", "copied", "read"):
        done = mx("run", tagged, "-p", f"surgeon{{script=edit.py:{function}}}", "-o", "out.onnx", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "out.onnx").read_bytes() == tagged.read_bytes(), function


def test_every_model_of_the_onnx_package_is_kept(tmp_path: Path) -> None:
    (tmp_path / "edit.py").write_text(SCRIPT)
    for file in sorted((Path(onnx.__file__).parent / "backend" / "test" / "data").rglob("*.onnx")):
        loaded = WorkingModel.read(file)
        before = loaded.proto.SerializeToString()
        Pipeline.parse(f"surgeon{{script={tmp_path}/edit.py:read}}").apply(loaded)
        assert loaded.proto.SerializeToString() == before, file


FOLD = """
import numpy as np
import onnx_graphsurgeon as gs

def fold(graph):
    print("folding")
    graph.fold_constants().cleanup().toposort()

def gelu(graph):
    for node in graph.nodes:
        if node.op == "Identity":
            for reader in list(node.outputs[0].outputs):
                reader.inputs[reader.inputs.index(node.outputs[0])] = node.inputs[0]
        if node.op == "Relu":
            node.op, node.attrs = "Max", {}
            node.inputs.append(gs.Constant("zero", np.zeros(1, np.float32)))
    graph.cleanup().toposort()
"""


@pytest.mark.parametrize("function", ["fold", "gelu"])
@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", ["bert", "convnet"])
def test_an_edited_model_computes_the_same(
    built: Build, mx: Mx, tmp_path: Path, name: str, exporter: str, function: str
) -> None:
    (tmp_path / "edit.py").write_text(FOLD)
    tagged = built(name, exporter) / "tagged.onnx"
    done = mx("run", tagged, "-p", f"surgeon{{script=edit.py:{function}}}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (b"folding" in done.stderr) == (function == "fold")
    before, after = onnx.load(tagged), onnx.ModelProto.FromString(done.stdout)
    onnx.checker.check_model(after)
    assert before.metadata_props == after.metadata_props
    known = scopes(before)
    assert all(known[output] == scope for output, scope in scopes(after).items() if output in known)
    assert sum(map(bool, scopes(after).values())) > len(before.graph.node) / 3
    feeds = inputs_of(f"{MODELS}:{name}")
    results = [
        onnxruntime.InferenceSession(m.SerializeToString()).run(None, {i.name: feeds[i.name] for i in m.graph.input})
        for m in (before, after)
    ]
    for expected, found in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("spec", "status", "message"),
    [
        ("none.py:f", 3, "there is no file none.py"),
        ("edit.py", 2, "does not name a function"),
        ("edit.py:nothin", 3, "did you mean nothing"),
        ("edit.py:np.pi", 2, "is a float, not a function"),
        ("edit.py:raises", 3, "edit.py:raises raised ValueError: no (edit.py:"),
        ("edit.py:leaves", 3, "raised SystemExit"),
        ("edit.py:number", 3, "returned a int: let it return the graph, or nothing"),
        ("edit.py:untyped", 3, "cannot be written"),
        ("edit.py:dangling", 3, "which no node before it makes"),
        ("broken.py:f", 3, "cannot be imported: NameError"),
    ],
)
def test_errors_are_one_line_and_change_nothing(mx: Mx, tmp_path: Path, spec: str, status: int, message: str) -> None:
    (tmp_path / "broken.py").write_text("nowhere")
    (tmp_path / "edit.py").write_text(
        SCRIPT
        + """
def raises(graph): raise ValueError("no")
def leaves(graph): raise SystemExit(0)
def number(graph): return 1
def untyped(graph): graph.outputs = [gs.Variable("d")]
def dangling(graph): del graph.nodes[1]
"""
    )
    (tmp_path / "a.onnx").write_bytes(CHAIN.SerializeToString())
    done = mx("run", "a.onnx", "-p", f"surgeon{{script={spec}}}", "-o", "a.onnx", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (status, b"")
    assert message in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert (tmp_path / "a.onnx").read_bytes() == CHAIN.SerializeToString()


def test_the_script_must_be_given() -> None:
    with pytest.raises(MxError, match="needs 'script'"):
        Pipeline.parse("surgeon")
