"""Mistakes that people make on a command line: one line that says what to do, and the exit status."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from mxtools.errors import InputError
from mxtools.runtime import scripts
from tests.support.commands import Mx
from tests.support.tuned_models import layers

MISTAKES = {
    "a folder": ("tree folder", 3, "mx tree: folder is a folder, not an ONNX model: give an .onnx file"),
    "a compressed file": ("tree m.onnx.gz", 3, "mx tree: m.onnx.gz is compressed: decompress it with `gunzip`"),
    "a file of weights": ("tree w.safetensors", 3, "w.safetensors is a file of weights (safetensors), not an ONNX"),
    "an option for a value": ("filter m.onnx --scope -o x.onnx", 2, "--scope has no value: -o follows it (see"),
    "no value at the end": ("tree m.onnx --depth", 2, "mx tree: Option '--depth' requires an argument (see `mx tree"),
    "a tag for a scope": ("filter m.onnx --scope /layers.0", 2, "select it by --tag, as tags begin with '/'"),
    "scopes with commas": ("filter m.onnx --scope layers.0,head", 2, "give each of them by itself, without commas"),
    "an operator in small letters": ("select m.onnx --op matmul", 2, "did you mean MatMul? (see `mx tree`)"),
    "an output of what has none": ("select m.onnx --scope head -o x", 2, "No such option: -o: what it writes goes to"),
    "help as a command": ("help tree", 2, "there is no command 'help': write mx COMMAND --help"),
    "a page with a picture's name": ("view m.onnx -o m.png", 2, "m.png is no name for a page: give FILE.html"),
    "a page with a drawing's name": ("view m.onnx -o m.dot", 2, "give FILE.html, or --format dot"),
    "a folder of no split": ("join folder -o x.onnx", 3, "folder has no manifest.json: give the folder that mx split"),
    "no folder of a split": ("run-parts none -o x.npz", 3, "there is no file none: give the folder that mx split"),
    "nothing of that name to join": (
        "join parts -o x.onnx",
        3,
        "mx join: parts cannot be read (No such file or directory)",
    ),
    "no file of jobs": ("batch none.toml", 3, "none.toml cannot be read (No such file or directory): give a file"),
    "a pipeline without its end": ("run m.onnx -p filter{scope=a -o x.onnx", 2, "'filter{scope=a' is not complete: "),
    "inputs of another model": (
        "verify m.onnx --against m.onnx --inputs other.npz",
        2,
        "other.npz has 'pixels', which is not an input of the graph: there are x",
    ),
    "a tool that says nothing": (
        "wrap m.onnx -o x.onnx -- false {in} {out}",
        3,
        "false failed with exit status 1, with nothing on stderr: run it by itself to see why",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tagged model and with files that are none."""
    found = tmp_path_factory.mktemp("mistakes")
    layers().save(found / "m.onnx")
    (found / "folder").mkdir()
    (found / "m.onnx.gz").write_bytes(gzip.compress((found / "m.onnx").read_bytes()))
    (found / "w.safetensors").write_bytes((60).to_bytes(8, "little") + b'{"w":{}}'.ljust(60))
    np.savez(found / "other.npz", pixels=np.ones(3))
    return found


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_with_a_remedy(mx: Mx, folder: Path, case: str) -> None:
    line, status, said = MISTAKES[case]
    before = sorted(folder.iterdir())
    done = mx(*line.split(), cwd=folder)
    message = done.stderr.decode()
    assert (done.returncode, message.count("\n")) == (status, 1), message
    assert said in message
    assert sorted(folder.iterdir()) == before


def test_after_two_dashes_options_are_another_tools(mx: Mx, folder: Path, tmp_path: Path) -> None:
    done = mx("wrap", "m.onnx", "-o", tmp_path / "x.onnx", "--", "cp", "-p", "--", "{in}", "{out}", cwd=folder)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize(
    ("spec", "problem", "remedy"),
    [
        (
            "no_such_package.models:net",
            "there is no module no_such_package",
            "install its package, or give FILE.py:NAME",
        ),
        ("json.no_such_module:net", "there is no module json.no_such_module", "install its package, or"),
        ("without_code:net", "without_code has no 'net'", "it defines nothing"),
    ],
)
def test_a_model_in_no_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, problem: str, remedy: str
) -> None:
    (tmp_path / "without_code").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as raised:
        scripts.find(spec)
    assert raised.value.problem == problem
    assert raised.value.remedy.startswith(remedy)
