"""Every file and folder that a command is to write is checked before the command reads, loads or runs anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from mxtools_cli.main import COMMANDS
from mxtools_cli.main import load as load_command
from tests.support.commands import Mx

OUTPUTS = {"--output", "--dir", "--plot", "--report", "--log", "--recipe", "--state"}
"""Options that name what is written."""

MODEL = """
import pathlib
pathlib.Path("loaded").write_text("")
raise RuntimeError("it was loaded")
"""
_TUNE = "none.onnx --inputs none.npz --target sqnr>=30 --eval model.py:x"
REFUSED = {
    ("demo", "--output"): "-o {missing}",
    ("trace", "--output"): "model.py:x -o {missing}",
    ("export", "--output"): "model.py:x -o {missing}",
    ("export", "--log"): "model.py:x -o out.onnx --log {missing}",
    ("tag", "--output"): "none.onnx --from none.onnx --trace none.json -o {missing}",
    ("wrap", "--output"): "none.onnx -o {missing} -- true {{in}} {{out}}",
    ("filter", "--output"): "none.onnx --scope . -o {missing}",
    ("fold", "--output"): "none.onnx --repeated -o {missing}",
    ("join", "--output"): "none.onnx none.onnx -o {missing}",
    ("unfold", "--output"): "none.onnx -o {missing}",
    ("split", "--dir"): "none.onnx --depth 1 -d {missing}",
    ("split", "--plot"): "none.onnx --parts 2 --dry-run --plot {missing}.svg",
    ("run-parts", "--output"): "none -o {missing}.npz",
    ("graft", "--output"): "none.onnx none.onnx -o {missing}",
    ("verify", "--plot"): "none.onnx --trace none.json --plot {missing}.svg",
    ("tune", "--output"): f"{_TUNE} -o {{missing}}",
    ("tune", "--report"): f"{_TUNE} -o t.onnx --report {{missing}}",
    ("tune", "--plot"): f"{_TUNE} -o t.onnx --plot {{missing}}.svg",
    ("tune", "--recipe"): f"{_TUNE} -o t.onnx --recipe {{missing}}.py",
    ("tune", "--state"): f"{_TUNE} -o t.onnx --state {{missing}}",
    ("run-values", "--output"): "none.onnx -o {missing}.npz",
    ("profile", "--plot"): "none.onnx --against none.json --plot {missing}.svg",
    ("validate", "--output"): "none.onnx --trace none.json --repair -o {missing}",
    ("view", "--output"): "none.onnx --metric none.json -o {missing}",
    ("run", "--output"): "none.onnx -p graft{{part=-}} -o {missing}",
    ("auto", "--output"): "model.py:x -o {missing}",
    ("auto", "--report"): "model.py:x -o out.onnx --report {missing}.md",
    ("report", "--output"): "none -o {missing}",
    ("bench", "--plot"): "model.py:x --plot {missing}.svg",
}
"""Command lines whose inputs cannot be read, and whose output is in a folder that does not exist."""


def test_all_options_that_name_what_is_written_are_listed() -> None:
    options = {
        (name, option) for name in COMMANDS for parameter in load_command(name).params for option in parameter.opts
    }
    assert {(name, option) for name, option in options if option in OUTPUTS} == REFUSED.keys()


@pytest.mark.parametrize(("command", "option"), REFUSED)
def test_a_missing_folder_is_refused_before_any_work(mx: Mx, tmp_path: Path, command: str, option: str) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    missing = tmp_path / "no" / "such" / "out"
    arguments = REFUSED[command, option].format(missing=missing).split()
    done = mx(command, *arguments, cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.decode().startswith(f"mx {command}: {missing}")
    assert f"its folder {missing.parent} does not exist" in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["model.py"]


@pytest.mark.parametrize("command", ["tag", "run", "filter", "graft"])
def test_stdin_is_not_waited_for(mx: Mx, tmp_path: Path, command: str) -> None:
    rest = {"run": ["-p", "untag"], "filter": ["--scope", "."], "graft": ["none.onnx"]}.get(command, [])
    done = mx(command, "-", *rest, "-o", tmp_path / "none" / "out.onnx", stdin=b"no model at all")
    assert done.returncode == 3
    assert b"does not exist" in done.stderr


def test_the_values_beside_a_trace_are_checked_too(mx: Mx, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "m.safetensors").mkdir()
    done = mx("trace", "model.py:x", "-o", "m.json", "--record", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr == b"mx trace: m.safetensors is a folder: give the name of a file\n"
    assert not (tmp_path / "loaded").exists()
