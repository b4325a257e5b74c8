"""Streams that are closed or full, other encodings, folders that are gone, interrupts: a status and a line."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from onnx import TensorProto, helper, numpy_helper

from mxtools_cli import terminal
from mxtools_cli.main import _guarded
from tests.support.commands import Mx
from tests.support.paths import ENVIRONMENT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the shell and the devices are Linux's")

Capture = pytest.CaptureFixture[str]

NAME = "/enc/häß│/Add"


def saved(folder: Path, name: str = NAME) -> Path:
    """Save a small model with a node of a name in it."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Relu", ["x"], ["h"], name="/enc/act/Relu"),
        helper.make_node("Add", ["h", "w"], ["y"], name=name),
    ]
    weights = [numpy_helper.from_array(np.ones(4, np.float32), "w")]
    ends = ([value(name, TensorProto.FLOAT, [2, 4])] for name in "xy")
    file = folder / "m.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", *ends, weights), ir_version=10), file)
    return file


@pytest.fixture
def folder(tmp_path: Path, mx: Mx) -> Path:
    saved(tmp_path)
    assert mx("tag", "m.onnx", "-o", "m.onnx", cwd=tmp_path).returncode == 0
    return tmp_path


def bash(line: str, folder: Path) -> tuple[int, bytes, bytes]:
    """Run a line of bash in which `mx` is found; return its status, and what it wrote."""
    done = subprocess.run(["bash", "-c", line], cwd=folder, env=ENVIRONMENT, capture_output=True, check=False)
    return done.returncode, done.stdout, done.stderr


LINES = {
    "mx tree m.onnx >&-": (3, b"mx tree: stdout cannot be written (Bad file descriptor): "),
    "mx --help >&-": (3, b"mx: stdout cannot be written (Bad file descriptor): "),
    "mx tree m.onnx --json >/dev/full": (
        3,
        b'{"error": {"command": "tree", "status": 3, "problem": "stdout cannot be written (No',
    ),
    "mx tag m.onnx >/dev/full": (3, b"mx tag: stdout cannot be written (No space left on device): "),
    "mx tag --help >/dev/full": (3, b"mx: stdout cannot be written (No space left on device): "),
    "mx --help | true; exit ${PIPESTATUS[0]}": (141, b""),
    "mx tag --help | true; exit ${PIPESTATUS[0]}": (141, b""),
    "mx tag m.onnx -o t.onnx >&- <&- 2>&-": (0, b""),
    "mx tree m.onnx 2>/dev/full >/dev/null": (0, b""),
    "mx tree <&-": (3, b"mx tree: stdin is empty, so it is not an ONNX model: "),
    "mkdir gone; cd gone; rmdir ../gone; mx strategies": (3, b"mx strategies: the working directory no longer exists"),
    "mx tree $'\\xff.onnx'": (3, b"mx tree: \\udcff.onnx cannot be read"),
    "mx --limits x tree m.onnx": (2, b"mx: --limits 'x' is not a number above 0: "),
}


@pytest.mark.parametrize("line", LINES)
def test_a_stream_that_is_missing_is_a_line(line: str, folder: Path) -> None:
    status, said = LINES[line]
    done = bash(line, folder)
    assert (done[0], done[2][: len(said)]) == (status, said), done
    assert done[2].count(b"\n") == (1 if said else 0), done


@pytest.mark.parametrize("setting", ["PYTHONIOENCODING=ascii", "LC_ALL=C", "PYTHONIOENCODING=latin-1"])
def test_what_an_encoding_lacks_is_written_out(setting: str, folder: Path) -> None:
    status, table, said = bash(f"{setting} mx tree m.onnx", folder)
    assert (status, said) == (0, b"")
    assert b"enc" in table
    status, text, said = bash(f"{setting} mx tree m.onnx --json", folder)
    assert (status, said) == (0, b"")
    assert "häß│" in json.dumps(json.loads(text.decode()), ensure_ascii=False)
    status, lines, _ = bash(f"{setting} mx select m.onnx --op Add", folder)
    assert (status, len(lines.splitlines())) == (0, 1)


def test_an_interrupt_ends_silently_while_libraries_are_imported(folder: Path) -> None:
    """An import of the program's own that takes long stands for those of libraries."""
    (folder / "slow").mkdir()
    (folder / "slow" / "typer.py").write_text("import sys, time\nprint('here', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "mxtools_cli", "tree", "m.onnx"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**ENVIRONMENT, "PYTHONPATH": str(folder / "slow")},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert (process.returncode, said) == (130, b"")


def test_an_interrupt_that_a_library_hides_is_one(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def command() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("numpy could not be imported") from None

    monkeypatch.setattr(terminal, "_interrupted", False)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(typer.Exit) as left:
            _guarded("tag", command)()
    finally:
        signal.signal(signal.SIGINT, before)
    assert (left.value.exit_code, capsys.readouterr().err) == (130, "")


def test_two_names_are_never_two_lines_for_one(tmp_path: Path, mx: Mx) -> None:
    saved(tmp_path, "/enc/one\n/enc/two\x1b[31m/Add")
    assert mx("tag", "m.onnx", "-o", "t.onnx", cwd=tmp_path).returncode == 0
    refused = mx("select", "t.onnx", "--op", "Add", cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert rb"a line of text cannot hold the name '/enc/one\n/enc/two\x1b[31m/Add'" in refused.stderr
    for command in (["tree"], ["tree", "--csv"], ["tree", "--markdown"], ["validate"], ["view", "-f", "dot"]):
        done = mx(command[0], "t.onnx", *command[1:], cwd=tmp_path)
        assert b"\x1b" not in done.stdout + done.stderr, command
        assert b"/enc/one\n" not in done.stdout + done.stderr, command


def test_markdown_passes_no_markup(tmp_path: Path, mx: Mx) -> None:
    saved(tmp_path, "/<img src=x onerror=alert(1)>/![a](b)/Add")
    assert mx("tag", "m.onnx", "-o", "t.onnx", cwd=tmp_path).returncode == 0
    model = onnx.load(tmp_path / "t.onnx")
    model.graph.node[1].op_type = "Mul"
    onnx.save(model, tmp_path / "u.onnx")
    for command in (["compare", "t.onnx", "u.onnx"], ["tree", "t.onnx"]):
        table = mx(*command, "--markdown", cwd=tmp_path).stdout
        assert b"img src" in table
        assert b"<" not in table
        assert b"![" not in table.replace(b"\\[", b"")


def test_settings_of_a_repository_steer_no_terminal(tmp_path: Path, mx: Mx) -> None:
    (tmp_path / "mxtools.toml").write_text('[strategies.zz]\npipeline="untag"\nhelp="\\u001b[31mred\\nline"\n')
    done = mx("strategies", cwd=tmp_path)
    assert (done.returncode, b"zz       \\x1b[31mred\\nline\n" in done.stdout) == (0, True)


WRONG = {
    "mxtools.toml": ["a=" + "[" * 5000, "strategies=5", "[strategies.zz]\npipeline=[1]", "\x00"],
    "pyproject.toml": ["tool=5", "[tool]\nmxtools=7"],
}


@pytest.mark.parametrize(("file", "text"), [(file, text) for file, texts in WRONG.items() for text in texts])
def test_settings_that_are_wrong_are_a_line(file: str, text: str, tmp_path: Path, mx: Mx) -> None:
    (tmp_path / file).write_text(text)
    done = mx("strategies", cwd=tmp_path)
    assert done.returncode == (0 if text == "tool=5" else 3), done
    assert done.stderr.count(b"\n") == (done.returncode != 0)


@pytest.mark.parametrize("note", ['{"spec":"a","used":"x"}', '{"spec":[],"used":1e400}', "[" * 9000, "5", "\xff"])
def test_an_entry_of_the_cache_that_is_wrong_is_none(note: str, tmp_path: Path, mx: Mx) -> None:
    folder = tmp_path / "c" / ("0123456789abcdef" * 2)
    folder.mkdir(parents=True)
    (folder / "entry.json").write_bytes(note.encode("latin-1"))
    done = mx("cache", "c", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, b"")


def test_a_closed_stdout_gives_its_number_to_no_file(folder: Path) -> None:
    """What a library prints would go into the model."""
    assert bash("mx tag m.onnx -o t.onnx >&-", folder)[0] == 0
    onnx.checker.check_model(folder / "t.onnx")


def on_terminal(line: str, folder: Path, columns: int, status: int = 0) -> str:
    """Return what a command prints on a terminal of a width."""
    import pty

    reading, writing = pty.openpty()
    command = [Path(sys.executable).with_name("mx"), *line.split()]
    process = subprocess.Popen(command, cwd=folder, stdout=writing, env={**ENVIRONMENT, "COLUMNS": str(columns)})
    os.close(writing)
    parts = []
    with contextlib.suppress(OSError):  # the other end is closed
        while part := os.read(reading, 1 << 16):
            parts.append(part)
    assert process.wait() == status
    return b"".join(parts).decode()


def test_tables_fit_a_terminal(folder: Path, mx: Mx) -> None:
    piped = mx("tree", "m.onnx", cwd=folder).stdout.decode()
    for columns in (200, 80, 40):
        lines = re.sub(r"\x1b\[\d*m", "", on_terminal("tree m.onnx", folder, columns)).splitlines()
        assert max(map(len, lines)) <= columns
        assert [line.split()[0] for line in lines] == [line.split()[0] for line in piped.splitlines()]
        assert lines[0].split() == piped.split("\n")[0].split()[: len(lines[0].split())]
    assert [
        line.rstrip() for line in re.sub(r"\x1b\[\d*m", "", on_terminal("tree m.onnx", folder, 200)).splitlines()
    ] == (piped.splitlines())


def test_colour_is_for_terminals_alone(folder: Path, mx: Mx, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in mx("tree", "m.onnx", cwd=folder).stdout.decode()
    assert "\x1b[" in on_terminal("tree m.onnx", folder, 80)
    monkeypatch.setitem(ENVIRONMENT, "NO_COLOR", "1")
    assert "\x1b[3" not in on_terminal("tree m.onnx", folder, 80)


@pytest.mark.parametrize("line", ["view m.onnx", "view m.onnx -f netron", "trace net.py:net", "tag m.onnx"])
def test_what_nobody_reads_is_not_shown_on_a_terminal(folder: Path, line: str) -> None:
    shown = on_terminal(f"{line} -o -", folder, 80, status=2)
    assert shown == ""


def test_drawings_are_shown_on_a_terminal(folder: Path) -> None:
    assert "flowchart" in on_terminal("view m.onnx -f mermaid", folder, 80)
