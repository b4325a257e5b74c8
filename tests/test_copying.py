"""How bytes come from file to file, into pipes and out of them: the same whichever way the system lets us take."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import mxtools
from mxtools.files.regular import PIECE, Comparison, DifferentError, FileBytes, open_regular
from mxtools.runtime import sessions
from tests.support.commands import Mx, shell

ODD = 3
"""Elements more than a piece has, so that nothing is at a round place."""


def large(external: Path | None = None) -> onnx.ModelProto:
    """Return a model of two weights of some pieces each; with a path, after writing it there with external data."""
    values = np.random.default_rng(0).standard_normal((2, PIECE // 2 + ODD), np.float32)
    weights = [numpy_helper.from_array(value, f"enc.{number}.w") for number, value in enumerate(values)]
    nodes = [
        helper.make_node("Add", ["x", "enc.0.w"], ["h"], name="/enc/0/Add"),
        helper.make_node("Mul", ["h", "enc.1.w"], ["y"], name="/enc/1/Mul"),
    ]
    x, y = (helper.make_tensor_value_info(name, 1, [values.shape[1]]) for name in "xy")
    made = helper.make_model(helper.make_graph(nodes, "g", [x], [y], weights), ir_version=10)
    if external:
        onnx.save(made, external, save_as_external_data=True, location=f"{external.name}.data", size_threshold=0)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "raw.onnx").write_bytes(large().SerializeToString())
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        "mx tag raw.onnx > out.onnx",
        "mx tag raw.onnx >> out.onnx",
        "mx tag raw.onnx | cat > out.onnx",
        "mx tag < raw.onnx > out.onnx",
        "cat raw.onnx | mx tag -o out.onnx",
        "cat raw.onnx | mx tag | mx tag | cat > out.onnx",
        "mkfifo pipe && (cat pipe > out.onnx &) && mx tag raw.onnx -o pipe && sleep 0.2",
        "mkfifo pipe && (cat raw.onnx > pipe &) && mx tag pipe -o out.onnx",
        "(printf before; mx tag raw.onnx) > both && tail -c +7 both > out.onnx",
    ],
)
def test_every_way_gives_the_same_bytes(mx: Mx, folder: Path, line: str) -> None:
    assert mx("tag", "raw.onnx", "-o", "wanted.onnx", cwd=folder).returncode == 0
    done = shell(line, folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "out.onnx").read_bytes() == (folder / "wanted.onnx").read_bytes()


@pytest.mark.parametrize("missing", ["copy_file_range", "splice", "posix_fallocate", "posix_fadvise"])
@pytest.mark.parametrize("into", ["file", "pipe"])
def test_what_the_system_refuses_is_done_piece_by_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, into: str
) -> None:
    data = os.urandom(3 * PIECE + ODD)
    (tmp_path / "source").write_bytes(data)
    monkeypatch.setattr(os, missing, lambda *_: Path("/none").stat())
    with open_regular(tmp_path / "source") as source:
        held = FileBytes(source, "source")
        if into == "file":
            with (tmp_path / "copy").open("w+b") as file:
                held.write_to(file, ODD, len(data) - ODD)
            assert (tmp_path / "copy").read_bytes() == data[ODD:]
            return
        reading, writing = os.pipe()
        if not os.fork():
            with os.fdopen(writing, "wb") as pipe:
                held.write_to(pipe, ODD, len(data) - ODD)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            assert pipe.read() == data[ODD:]
        os.wait()


def test_data_that_stay_where_they_are_are_not_read(mx: Mx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model tagged in place: only the graph is written."""
    model, data = tmp_path / "m.onnx", tmp_path / "m.onnx.data"
    large(model)
    assert mx("tag", model, "-o", model).returncode == 0  # which puts the data to places of ours
    before, status = data.read_bytes(), data.stat()

    def few(self: FileBytes, start: int, length: int, pieces: Any = FileBytes.pieces) -> Iterator[bytes]:
        assert length < PIECE // 2
        return cast(Iterator[bytes], pieces(self, start, length))

    monkeypatch.setattr(FileBytes, "pieces", few)
    monkeypatch.setattr(os, "copy_file_range", None)
    done = mx("tag", model, "--namespace", "-o", model)
    assert done.returncode == 0, done.stderr
    assert (data.read_bytes(), data.stat().st_mtime_ns) == (before, status.st_mtime_ns)
    assert data.stat().st_ino == status.st_ino
    onnx.checker.check_model(str(model))
    assert any(p.key == "namespace" for p in onnx.load(model, load_external_data=False).graph.node[0].metadata_props)


@pytest.mark.parametrize("change", ["nothing", "byte", "end", "other file", "place"])
def test_a_comparison_passes_over_bytes_only_where_they_are_the_same(tmp_path: Path, change: str) -> None:
    data = bytearray(os.urandom(2 * PIECE))
    (tmp_path / "source").write_bytes(data)
    there = tmp_path / ("other" if change in ("byte", "end", "other file") else "source")
    if change == "byte":
        data[PIECE] ^= 1
    if there.name == "other":
        there.write_bytes(data[:-1] if change == "end" else data)
    with open_regular(tmp_path / "source") as source, there.open("rb") as opened:
        held, compared = FileBytes(source, "source"), Comparison(opened)
        start = ODD if change == "place" else 0
        if change in ("byte", "end", "place"):
            with pytest.raises(DifferentError):
                held.write_to(compared, start, 2 * PIECE - start)  # type: ignore[arg-type]
        else:
            held.write_to(compared, start, 2 * PIECE)  # type: ignore[arg-type]
            assert compared.tell() == 2 * PIECE


def test_large_inline_weights_are_beside_the_graph_while_a_session_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime gets a graph without them, and the temporary copy is gone when it has loaded them."""
    monkeypatch.setattr(sessions, "LARGE", PIECE)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    made = large()
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    sizes: list[int] = []
    usual = sessions.serialised
    monkeypatch.setattr(sessions, "serialised", lambda *given: (d := usual(*given), sizes.append(len(d)))[0])
    x = np.ones(PIECE // 2 + ODD, np.float32)
    found = mxtools.load(tmp_path / "m.onnx").run({"x": x})["y"]
    first, second = (numpy_helper.to_array(weight) for weight in made.graph.initializer)
    assert np.array_equal(found, (x + first) * second)
    assert sizes[0] < 10_000
    assert not any((tmp_path / "scratch").iterdir())
