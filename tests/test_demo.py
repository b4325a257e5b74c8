"""`mx demo`: models to try things out on."""

from __future__ import annotations

from pathlib import Path

import pytest

from mxtools.pytorch.demo import Kind
from tests.support.commands import Mx


@pytest.mark.parametrize("kind", Kind)
def test_models_are_made_the_same_for_everybody(mx: Mx, tmp_path: Path, kind: Kind) -> None:
    for name in ("one", "other"):
        done = mx("demo", kind, "-o", name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr.decode()
        assert b"mx trace ./" + name.encode() in done.stderr
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "other/model.safetensors").read_bytes()
    done = mx("trace", "./one", "-o", "trace.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()


def test_a_folder_that_has_something_in_it_stays(mx: Mx, tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert/notes.txt").write_text("mine")
    done = mx("demo", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, b"mx demo: bert exists and is not empty: name a new folder\n")
    assert [path.name for path in tmp_path.rglob("*")] == ["bert", "notes.txt"]


def test_the_model_that_is_there_already_stays(mx: Mx, tmp_path: Path) -> None:
    assert mx("demo", cwd=tmp_path).returncode == 0
    before = (tmp_path / "bert/model.safetensors").stat()
    assert mx("demo", cwd=tmp_path).returncode == 0
    assert (tmp_path / "bert/model.safetensors").stat().st_ino == before.st_ino
    (tmp_path / "bert/config.json").write_text("{}")
    done = mx("demo", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, b"mx demo: bert exists and is not empty: name a new folder\n")
