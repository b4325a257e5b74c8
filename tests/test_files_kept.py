"""Outputs destroy nothing that is read or that another model needs, and only regular files are read."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors.numpy import save_file

import mxtools
from benchmarks.killing.cases import model, template
from benchmarks.killing.oracle import Oracle
from mxtools.errors import InputError, OutputError
from mxtools.files.atomic import atomic_output, write_text
from mxtools.files.outputs import claim
from mxtools.files.regular import PIECE, FileBytes, is_read, note_read, one_command, open_regular
from mxtools.files.temporary import ABANDONED, HOST, Scratch, temporary
from mxtools.strategies.cache import Cache
from tests.support.commands import Mx


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    template(folder)
    return folder


def states(folder: Path) -> dict[str, str]:
    return Oracle().state(folder)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("tag big.onnx -o big.onnx.data", "big.onnx.data contains data that big.onnx needs"),
        ("tag plain.onnx -o big.onnx.data", "big.onnx.data contains data that big.onnx needs"),
        ("tag plain.onnx -o linked", "linked contains data that big.onnx needs"),
        (
            "tag big.onnx --from plain.onnx -o plain.onnx",
            "plain.onnx would overwrite plain.onnx, which the command reads",
        ),
        ("graft big.onnx plain.onnx -o plain.onnx", "plain.onnx would overwrite plain.onnx, which the command reads"),
        ("graft big.onnx hard.onnx -o plain.onnx", "plain.onnx would overwrite hard.onnx, which the command reads"),
        ("run big.onnx -p graft{part=plain.onnx} -o plain.onnx", "plain.onnx would overwrite plain.onnx"),
        ("tag big.onnx --trace time.json -o time.json", "time.json would overwrite time.json"),
        ("tag big.onnx --inputs in.safetensors -o in.safetensors", "in.safetensors would overwrite in.safetensors"),
        ("view big.onnx -o big.onnx", "big.onnx would overwrite big.onnx"),
        ("view big.onnx -f model-explorer --metric time.json -o time.json", "time.json would overwrite time.json"),
        ("view big.onnx -o old.onnx.data", "old.onnx.data contains data that owner.onnx needs"),
        ("split parts/00-enc.0.onnx --depth 1 -d parts", "parts/00-enc.0.onnx would overwrite"),
        ("tag big.onnx -o out", "out is a link to"),
    ],
)
def test_what_is_read_or_needed_is_not_overwritten(mx: Mx, files: Path, line: str, words: str) -> None:
    assert mx("split", "plain.onnx", "--each", "enc.*", "-d", "parts", cwd=files).returncode == 0
    save_file({"x": np.zeros((2, 24), np.float32)}, files / "in.safetensors")
    (files / "linked").symlink_to("big.onnx.data")
    (files / "out").symlink_to(files.parent / "elsewhere.onnx")
    os.link(files / "plain.onnx", files / "hard.onnx")
    before = {path: path.read_bytes() for path in files.rglob("*") if path.is_file()}
    done = mx(*line.split(), cwd=files)
    assert (done.returncode, done.stdout) == (3, b"")
    assert words in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert {path: path.read_bytes() for path in files.rglob("*") if path.is_file()} == before


def test_a_new_file_with_the_inode_of_one_that_is_gone_is_another(tmp_path: Path) -> None:
    """As where another process replaces what was read, and the system gives its inode to the next file."""
    (tmp_path / "new").touch()
    inode = (tmp_path / "new").stat()
    with one_command():
        note_read(tmp_path / "gone", inode)
        claim(tmp_path / "new")
        assert not is_read(tmp_path / "new")
    with one_command():
        (tmp_path / "link").hardlink_to(tmp_path / "new")
        note_read(tmp_path / "link", inode)
        assert is_read(tmp_path / "new")
        with pytest.raises(OutputError, match="link, which the command reads"):
            claim(tmp_path / "new")
    with one_command():
        claim(tmp_path / "new")
        (tmp_path / "new").unlink()
        note_read(tmp_path / "link", inode)


def test_data_of_another_model_stay_and_the_new_ones_get_a_number(mx: Mx, files: Path) -> None:
    before = states(files)
    for _ in range(2):
        assert mx("tag", "big.onnx", "-o", "old.onnx", cwd=files).returncode == 0
        assert {
            entry.key: entry.value
            for entry in onnx.load(files / "old.onnx", load_external_data=False).graph.initializer[0].external_data
        }["location"] == "old.onnx.2.data"
        assert before.items() <= states(files).items()
        assert states(files)["old.onnx"] == before["big.onnx"]


def test_the_input_itself_may_be_replaced_and_its_data_go_with_it(mx: Mx, files: Path) -> None:
    for _ in range(2):
        assert mx("tag", "big.onnx", "-o", "big.onnx", cwd=files).returncode == 0
    assert mx("filter", "big.onnx", "--scope", "enc.1", "-o", "big.onnx", cwd=files).returncode == 0
    assert (files / "big.onnx.data").stat().st_size == 24 * 24 * 4
    assert mx("tag", "plain.onnx", "-o", "big.onnx", cwd=files).returncode == 0
    assert sorted(path.name for path in files.glob("big*")) == ["big.onnx"]


def test_data_that_are_there_already_are_not_written_again(mx: Mx, files: Path) -> None:
    assert mx("tag", "big.onnx", "-o", "out.onnx", cwd=files).returncode == 0
    first = (files / "out.onnx.data").stat()
    assert mx("tag", "big.onnx", "-o", "out.onnx", cwd=files).returncode == 0
    assert (files / "out.onnx.data").stat().st_ino == first.st_ino


def test_a_model_works_after_its_file_was_replaced(files: Path) -> None:
    loaded, inputs = mxtools.load(files / "big.onnx"), {"x": np.ones((2, 24), np.float32)}
    before = loaded.run(inputs)
    loaded.filter("enc.1").save(files / "big.onnx")
    after = loaded.run(inputs)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_data_that_another_replaced_are_an_error(files: Path) -> None:
    loaded = mxtools.load(files / "owner.onnx")
    (files / "copy").write_bytes((files / "old.onnx.data").read_bytes())
    (files / "copy").replace(files / "old.onnx.data")
    for act in (loaded.to_proto, loaded.run):
        with pytest.raises(InputError, match="was replaced or written to since"):
            act()


def test_a_file_that_becomes_shorter_is_an_error(files: Path) -> None:
    inline, external = mxtools.load(files / "plain.onnx"), mxtools.load(files / "big.onnx")
    for name, loaded in (("plain.onnx", inline), ("big.onnx.data", external)):
        os.truncate(files / name, 100)
        for act in (loaded.to_proto, lambda model=loaded: model.save(files / "out.onnx")):
            with pytest.raises(InputError, match=r"became shorter|written to"):
                act()
    assert not list(files.glob("*out.onnx*"))


@pytest.mark.parametrize("copies", [True, False])
def test_bytes_are_copied_to_where_the_file_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copies: bool
) -> None:
    """By the system, or where that cannot be, as between some file systems, piece by piece."""
    if not copies:
        monkeypatch.setattr(os, "copy_file_range", lambda *_: Path("/none").stat())
    data = np.arange(2 * PIECE, dtype=np.uint8).tobytes() + b"end"
    (tmp_path / "source").write_bytes(data)
    with open_regular(tmp_path / "source") as source, (tmp_path / "copy").open("w+b") as file:
        held = FileBytes(source, "source")
        file.write(b"before")
        held.write_to(file, 5, len(data) - 5)
        file.write(b"after")
        with pytest.raises(InputError, match="became shorter"):
            held.write_to(file, 5, len(data))
    assert (tmp_path / "copy").read_bytes().startswith(b"before" + data[5:] + b"after")


@pytest.mark.parametrize("name", ["t.json", "in.npz", "in.safetensors", "in.json"])
def test_pipes_and_folders_are_not_read_as_files(mx: Mx, files: Path, name: str) -> None:
    option = "--trace" if name == "t.json" else "--inputs"
    os.mkfifo(files / name)
    done = mx("tag", "big.onnx", option, name, "-o", "out.onnx", cwd=files)
    assert (done.returncode, done.stderr.count(b"\n")) == (3, 1)
    (files / name).unlink()
    (files / name).mkdir()
    assert mx("tag", "big.onnx", option, name, "-o", "out.onnx", cwd=files).returncode == 3
    assert not (files / "out.onnx").exists()


def test_data_behind_a_link_are_not_written_through_it(mx: Mx, files: Path) -> None:
    outside = files.parent / "outside"
    outside.write_bytes(b"mine")
    (files / "out.onnx.data").symlink_to(outside)
    assert mx("tag", "big.onnx", "-o", "out.onnx", cwd=files).returncode == 0
    assert outside.read_bytes() == b"mine"
    assert onnxruntime.InferenceSession(files / "out.onnx")


def test_what_a_killed_run_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    left, foreign = (tmp_path / f".{name}.txt.mx-{HOST}0123abcd.tmp" for name in "ab")
    left.write_bytes(b"")
    foreign.write_bytes(b"")
    with temporary(tmp_path / "a.txt") as (living, _):
        write_text("x", tmp_path / "a.txt")
        assert living.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", foreign.name}


def test_what_another_machine_writes_is_removed_only_when_it_is_old(tmp_path: Path) -> None:
    """Locks of another machine, which shares the folder, need not be seen here."""
    other = f"{int(HOST, 16) ^ 1:04x}"
    new, old = (tmp_path / f".a.txt.mx-{other}{number}.tmp" for number in ("00000000", "00000001"))
    for file, age in ((new, ABANDONED - 60), (old, ABANDONED + 60)):
        file.write_bytes(b"")
        os.utime(file, (time.time() - age,) * 2)
    write_text("x", tmp_path / "a.txt")
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", new.name}


def test_what_a_killed_run_left_among_temporary_files_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, foreign = tmp_path / "mxtools-abcdefgh.tmp", tmp_path / "mxtools-a.tmp"
    (left / "files").mkdir(parents=True)
    foreign.mkdir()
    with Scratch() as living:
        write_text("x", living / "x")
        assert Scratch().folder.parent.parent == tmp_path
        assert living.exists()
        assert not left.exists()
    assert [path.name for path in tmp_path.iterdir()] == [foreign.name]


def test_a_full_temporary_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    said = f"temporary files cannot be written to {tmp_path} \\(No space left on device\\)"
    with pytest.raises(OutputError, match=said), Scratch(), Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"x")
    assert not list(tmp_path.iterdir())


def test_data_that_go_are_marked_so_that_the_next_run_removes_them(tmp_path: Path) -> None:
    """What a run leaves that was killed after the new file and before the old data went."""
    pair, mark = tmp_path / "t.json", tmp_path / "t.mx-0123abcd.safetensors"
    pair.write_text("{}")
    for names, kept in (([], ["t.json", "t.safetensors"]), ([mark], ["t.json"])):
        for name in (tmp_path / "t.safetensors", *names):
            name.write_bytes(b"old")
        with atomic_output(pair, "t.safetensors") as file:
            file.write(b"{}")
        assert sorted(path.name for path in tmp_path.iterdir()) == kept


def test_a_cache_is_tidied(tmp_path: Path) -> None:
    folder = Cache(tmp_path).folder("0" * 32, "net")
    for name in ("trace.mx-0123abcd.safetensors", f".note.json.mx-{HOST}0123abcd.tmp", "trace.safetensors"):
        (folder / name).write_bytes(b"")
    (folder / f".dynamo.mx-{HOST}0123abcd.tmp" / "dynamo").mkdir(parents=True)
    assert Cache(tmp_path).folder("0" * 32, "net") == folder
    assert sorted(path.name for path in folder.iterdir()) == ["entry.json", "trace.safetensors"]


def test_a_link_to_a_model_is_the_model(mx: Mx, files: Path) -> None:
    for _ in range(2):
        assert mx("tag", "big.onnx", "-o", "link.onnx", cwd=files).returncode == 0
        assert sorted(path.name for path in files.glob("linked.onnx*")) == ["linked.onnx", "linked.onnx.data"]
        assert states(files)["link.onnx"] == states(files)["big.onnx"]


def test_values_over_other_values_are_whole(mx: Mx, files: Path) -> None:
    pytest.importorskip("torch")
    for name in ("other", "net"):
        assert mx("trace", f"net.py:{name}", "--record", "-o", "t.json", cwd=files).returncode == 0
    assert mx("trace", "net.py:net", "--record", "-o", "new.json", cwd=files).returncode == 0
    assert (files / "t.safetensors").read_bytes() == (files / "new.safetensors").read_bytes()


def test_values_are_not_written_over_a_file_of_others(mx: Mx, files: Path) -> None:
    pytest.importorskip("torch")
    save_file({"w": np.ones(3, np.float32)}, files / "t.safetensors")
    before = (files / "t.safetensors").read_bytes()
    for _ in range(2):
        assert mx("trace", "net.py:net", "--record", "-o", "t.json", cwd=files).returncode == 0
        assert (files / "t.safetensors").read_bytes() == before
        assert mxtools.load_trace(files / "t.json").values is not None
        assert sorted(path.name for path in files.glob("*.safetensors")) == ["t.2.safetensors", "t.safetensors"]
    done = mx("trace", "net.py:net", "-o", "net.py", cwd=files)
    assert (done.returncode, b"would overwrite" in done.stderr) == (3, True)


def test_a_model_is_not_saved_over_its_data_elsewhere(files: Path) -> None:
    (files / "sub").mkdir()
    onnx.save(model(5), files / "sub" / "m.onnx")
    loaded = mxtools.load(files / "sub" / "m.onnx")
    with pytest.raises(OutputError, match="contains data that big"):
        loaded.save(files / "big.onnx.data")
