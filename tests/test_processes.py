"""`mx` as a process of its own: what a command that is run inside the tests' process cannot show."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mxtools import __version__
from mxtools.scopes import keys
from tests.support import golden_text
from tests.support.commands import COMMAND, Mx, mx, shell

GRAPH = """
g (float[2] x) => (float[2] y) {
    ["/enc/one/Neg"] a = Neg(x)     #@ enc.one name
    ["/enc/two/Abs"] b = Abs(a)     #@ enc.two name
    ["/head/Exp"] y = Exp(b)        #@ head name
}"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a small tagged graph."""
    (tmp_path / "tagged.onnx").write_bytes(golden_text.read(GRAPH).SerializeToString())
    return tmp_path


@pytest.mark.parametrize("command", [[str(COMMAND)], [sys.executable, "-m", "mxtools_cli"]], ids=["mx", "module"])
def test_the_command_is_found_and_tells_its_version(command: list[str]) -> None:
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"mx {__version__}\n"


COMMANDS = {
    "tree tagged.onnx --json": 0,
    "tag tagged.onnx --doc-string --rename --output-names": 0,
    "filter tagged.onnx --scope enc.*": 0,
    "select tagged.onnx --scope enc": 0,
    "validate tagged.onnx --json": 0,
    "view tagged.onnx --format html -o -": 0,
    "compare tagged.onnx other.onnx --json": 1,
    "filter tagged.onnx --scope dec": 2,
    "tag none.onnx": 3,
}
"""Command lines, with their exit statuses."""


@pytest.mark.parametrize("line", COMMANDS)
def test_a_process_does_what_a_forked_child_does_whatever_its_hash_seed(folder: Path, mx: Mx, line: str) -> None:
    other = golden_text.read(GRAPH.replace("Abs", "Sin"))
    (folder / "other.onnx").write_bytes(other.SerializeToString())
    first = mx(*line.split(), cwd=folder)
    assert first.returncode == COMMANDS[line], first.stderr
    for done in (mx(*line.split(), cwd=folder, env={"PYTHONHASHSEED": seed}) for seed in "123"):
        assert (done.returncode, done.stdout, done.stderr) == (first.returncode, first.stdout, first.stderr)


def test_a_split_is_the_same_whatever_the_hash_seed(folder: Path, mx: Mx) -> None:
    written = []
    for seed in "123":
        done = mx("split", "tagged.onnx", "--depth", 2, "-d", seed, cwd=folder, env={"PYTHONHASHSEED": seed})
        assert done.returncode == 0, done.stderr
        written.append({file.name: file.read_bytes() for file in (folder / seed).iterdir()})
    assert written[0] == written[1] == written[2]
    assert len(written[0]) > 3


def test_a_closed_stdout_is_an_error_in_one_line(folder: Path) -> None:
    done = shell("mx tree tagged.onnx >&-", folder)
    assert done.returncode != 0
    assert b"Traceback" not in done.stderr


def test_an_interrupt_ends_with_its_own_status() -> None:
    process = subprocess.Popen([COMMAND, "tag"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin
    process.stdin.write(bytes(1 << 20))  # returns when most of it is read, so that the command waits for the rest
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err


def test_what_one_command_sets_is_not_there_for_the_next(folder: Path) -> None:
    (folder / "edit.py").write_text(
        "import os, sys\n"
        "def edit(graph):\n"
        "    assert 'MX_TEST_LEFT' not in os.environ and 'left' not in sys.modules and 'edit' not in sys.modules\n"
        "    os.environ['MX_TEST_LEFT'] = '1'\n"
        "    sys.modules['left'] = sys\n"
        "    os.chdir('/')\n"
    )
    before = Path.cwd(), dict(os.environ), set(sys.path)
    for _ in range(2):
        done = mx("run", "tagged.onnx", "-p", "surgeon{script=edit.py:edit}", "-o", folder / "out.onnx", cwd=folder)
        assert done.returncode == 0, done.stderr
    assert before == (Path.cwd(), dict(os.environ), set(sys.path))
    assert keys.SCOPE.encode() in (folder / "out.onnx").read_bytes()
