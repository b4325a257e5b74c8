"""`mx wrap`: other tools in a pipe, and what they can do wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mxtools.scopes import keys
from mxtools.scopes.annotations import read_absent
from tests.support import golden_text as golden
from tests.support.commands import Mx
from tests.support.shared_models import Build

PYTHON = sys.executable
COPY = "import sys, shutil; print('to stdout'); shutil.copy(sys.argv[1], sys.argv[2])"
WEIGHT = np.arange(8 * 512, dtype=np.float32).reshape(8, 512)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return a tagged file whose weight lies beside it."""
    model = golden.read("""
g (float[2, 8] x) => (float[2, 512] y) {
    m = MatMul(x, one__w)       #@ one
    y = Relu(m)                 #@ act
}""")
    model.graph.initializer.append(numpy_helper.from_array(WEIGHT, "one.w"))
    file = tmp_path / "small.onnx"
    onnx.save(model, file, save_as_external_data=True, location="small.data", size_threshold=0)
    return file


def scopes(model: onnx.ModelProto) -> list[str]:
    return [keys.props(node).get(keys.SCOPE, "") for node in model.graph.node]


def test_onnxslim_in_the_middle_of_a_pipe(built: Build, tmp_path: Path) -> None:
    folder = built("bert")
    mx = Path(PYTHON).with_name("mx")
    line = f"""set -e -o pipefail
        {mx} tag {folder}/raw.onnx --trace {folder}/trace.json |
        {mx} wrap -- {mx.with_name("onnxslim")} {{in}} {{out}} |
        {mx} filter --scope encoder.layer.1 > layer1.onnx"""
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b""
    part = onnx.load(tmp_path / "layer1.onnx")
    onnx.checker.check_model(part)
    assert all(scope.startswith("encoder.layer.1") for scope in scopes(part))
    whole = onnx.load(folder / "tagged.onnx")
    assert 0 < len(part.graph.node) < sum(scope.startswith("encoder.layer.1") for scope in scopes(whole))


def test_stdout_of_the_tool_goes_to_stderr_and_nothing_is_lost(small: Path, mx: Mx) -> None:
    done = mx("wrap", small.name, "--", PYTHON, "-c", COPY, "{in}", "{out}", cwd=small.parent)
    assert done.returncode == 0, done.stderr
    assert b"to stdout" in done.stderr
    made = onnx.ModelProto.FromString(done.stdout)
    assert scopes(made) == ["one", "act"]
    location = {entry.key: entry.value for entry in made.graph.initializer[0].external_data}["location"]
    assert location == "small.data"
    report = mx("wrap", small, "-o", small, "--json", "--", PYTHON, "-c", COPY, "{in}", "{out}")
    assert json.loads(report.stdout)["evidence"] == {"previous": 2}


CHANGE = """
import onnx, sys
model = onnx.load(sys.argv[1].removeprefix("--input="))
model.graph.initializer[0].raw_data = bytes(model.graph.initializer[0].raw_data)[::-1]
for node in model.graph.node:
    del node.metadata_props[:]
onnx.save(model, sys.argv[2], save_as_external_data=True, location="weights.bin", size_threshold=0)
"""


@pytest.mark.parametrize("piped", [True, False], ids=["pipe", "file"])
def test_external_data_of_the_tool(small: Path, mx: Mx, piped: bool) -> None:
    out = small.with_name("out.onnx")
    where = () if piped else ("-o", out)
    done = mx("wrap", small, *where, "--", PYTHON, "-c", CHANGE, "--input={in}", "{out}")
    assert done.returncode == 0, done.stderr
    made = onnx.ModelProto.FromString(done.stdout) if piped else onnx.load(out)
    assert scopes(made) == ["one", "act"]
    expected = np.frombuffer(WEIGHT.tobytes()[::-1], np.float32).reshape(WEIGHT.shape)
    np.testing.assert_array_equal(numpy_helper.to_array(made.graph.initializer[0]), expected)
    assert out.with_name("out.onnx.data").exists() is not piped


def test_arguments_are_no_text_of_a_shell(small: Path, mx: Mx) -> None:
    odd = "$(touch pwned); `touch pwned` 'a b'"
    code = f"import sys, shutil; assert sys.argv[3] == {odd!r}; shutil.copy(*sys.argv[1:3])"
    done = mx("wrap", small, "-o", "o.onnx", "--", PYTHON, "-c", code, "{in}", "{out}", odd, cwd=small.parent)
    assert done.returncode == 0, done.stderr
    assert not small.with_name("pwned").exists()


FAILING = {
    "nothing": ((), 2, "there is no -- with a command after it"),
    "no command": (("--",), 2, "no command is given"),
    "no {out}": (("--", "tool", "{in}"), 2, "the command has no {out} among its arguments"),
    "no {in}": (("--", "tool", "{out}"), 2, "the command has no {in} among its arguments"),
    "not installed": (("--", "no-such-tool", "{in}", "{out}"), 2, "'no-such-tool' cannot be run"),
    "fails": (
        ("--", PYTHON, "-c", "raise ValueError('no good')", "{in}", "{out}"),
        3,
        "python failed with exit status 1: ValueError: no good",
    ),
    "fails without a word": (
        ("--", PYTHON, "-c", "raise SystemExit(7)", "{in}", "{out}"),
        3,
        "exit status 7, with nothing",
    ),
    "is killed": (
        ("--", PYTHON, "-c", "import os; os.kill(os.getpid(), 9)", "{in}", "{out}"),
        3,
        "was killed by SIGKILL",
    ),
    "writes nothing": (("--", PYTHON, "-c", "", "{in}", "{out}"), 3, "succeeded but did not write {out}"),
    "writes nonsense": (
        ("--", PYTHON, "-c", "import sys; open(sys.argv[2], 'w').write('no model')", "{in}", "{out}"),
        3,
        "cannot be used",
    ),
    "takes --debug": (
        ("--", PYTHON, "-c", "import sys; raise SystemExit(sys.argv[3])", "{in}", "{out}", "--debug"),
        3,
        "exit status 1: --debug",
    ),
}


@pytest.mark.parametrize(("line", "status", "message"), FAILING.values(), ids=FAILING.keys())
def test_what_fails_is_one_line_and_changes_nothing(
    small: Path, mx: Mx, line: tuple[str, ...], status: int, message: str
) -> None:
    scratch = small.with_name("scratch")
    scratch.mkdir()
    before = small.read_bytes()
    done = mx("wrap", small, "-o", small, *line, env={"TMPDIR": str(scratch)})
    assert (done.returncode, done.stdout) == (status, b"")
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("mx wrap: ")
    assert message in last
    assert small.read_bytes() == before
    assert list(scratch.iterdir()) == []


def test_a_graph_without_tags_is_refused_before_the_tool_runs(small: Path, mx: Mx) -> None:
    assert mx("run", small, "-p", "untag", "-o", small).returncode == 0
    done = mx("wrap", small, "-o", small, "--", PYTHON, "-c", "print('ran')", "{in}", "{out}")
    assert (done.returncode, b"ran" in done.stderr) == (3, False)
    assert b"run `mx tag` on it first" in done.stderr


def test_what_the_tool_removed_is_absent(small: Path, mx: Mx) -> None:
    code = """
import onnx, sys
model = onnx.load(sys.argv[1])
del model.graph.node[1]
model.graph.node[0].output[0] = "y"
onnx.save(model, sys.argv[2])
"""
    done = mx("wrap", small, "-o", small, "--", PYTHON, "-c", code, "{in}", "{out}")
    assert done.returncode == 0, done.stderr
    assert len(read_absent(onnx.load(small, load_external_data=False))) == 1


def test_an_interrupt_ends_the_tool_and_leaves_nothing(small: Path, tmp_path: Path) -> None:
    scratch, ready = tmp_path / "scratch", tmp_path / "ready"
    scratch.mkdir()
    code = f"import os, time; open({str(ready)!r} + '.', 'w').write(str(os.getpid()))\n"
    code += f"os.rename({str(ready)!r} + '.', {str(ready)!r}); time.sleep(60)"
    line = [Path(PYTHON).with_name("mx"), "wrap", small, "-o", small, "--", PYTHON, "-c", code, "{in}", "{out}"]
    process = subprocess.Popen(line, env={**os.environ, "TMPDIR": str(scratch)}, stderr=subprocess.PIPE)
    while not ready.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, b"Traceback" in said) == (130, False)
    assert list(scratch.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(ready.read_text()), 0)
