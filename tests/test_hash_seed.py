"""Strings hash the same in every process that runs a model or a tool, wherever options such as --debug stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from mxtools.scopes.keys import SCOPE

MODEL = """
import os, pathlib
import torch

def model():
    pathlib.Path("seed").write_text(os.environ.get("PYTHONHASHSEED", "none"))
    return torch.nn.Identity(), (torch.ones(2),)
"""
TOOL = """
import os, pathlib, shutil, sys
pathlib.Path("seed").write_text(os.environ.get("PYTHONHASHSEED", "none"))
shutil.copy(sys.argv[1], sys.argv[2])
"""
COMMANDS = {
    "trace": ["trace", "model.py:model", "-o", "trace.json"],
    "wrap": ["wrap", "tagged.onnx", "-o", "out.onnx", "--", sys.executable, f"{{dir}}{os.sep}tool.py", "{in}", "{out}"],
}


def ran(folder: Path, arguments: list[str], seed: str | None = None) -> str:
    """Return the seed of string hashing that the model or the tool of a command was run with."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONHASHSEED", "MX_DEBUG")}
    environment |= {"PYTHONHASHSEED": seed} if seed else {}
    given = [argument.replace("{dir}", str(folder)) for argument in arguments]
    command = [Path(sys.executable).with_name("mx"), *given]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return (folder / "seed").read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a model in Python, a tool, and a tagged graph."""
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "tool.py").write_text(TOOL)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    node = helper.make_node("Relu", ["x"], ["y"])
    node.metadata_props.add(key=SCOPE, value="act")
    model = helper.make_model(helper.make_graph([node], "g", [x], [y]), ir_version=10)
    (tmp_path / "tagged.onnx").write_bytes(model.SerializeToString())
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("before", [[], ["--debug"]], ids=["command first", "option first"])
def test_the_seed_is_fixed(folder: Path, command: str, before: list[str]) -> None:
    assert ran(folder, before + COMMANDS[command]) == "0"


def test_a_seed_of_the_user_stays(folder: Path) -> None:
    assert ran(folder, ["--debug", *COMMANDS["wrap"]], seed="7") == "7"
