"""Reading and writing: bytes are kept, weights are not copied, nothing untrusted gets through."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mxtools.errors import InputError, MxError, OutputError, UsageError
from mxtools.files import reading, regular, wire
from mxtools.files.atomic import atomic_output, write_text
from mxtools.files.weights import is_deferred
from mxtools.files.writing import write_model
from mxtools.pipeline.working_model import WorkingModel
from tests.support.commands import Mx, shell

BIG = np.arange(2000, dtype=np.float32)


def model(*tensors: TensorProto, extra: bytes = b"") -> onnx.ModelProto:
    """Return a model that adds initializers to its input."""
    names = [t.name for t in tensors]
    nodes = [
        helper.make_node("Add", [("x", *names)[i] if i == 0 else f"t{i}", n], [f"t{i + 1}"])
        for i, n in enumerate(names)
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("x", 1, [2000])], [value(f"t{len(names)}", 1, [2000])], list(tensors))
    made = helper.make_model(graph, producer_name="test")
    made.metadata_props.add(key="k", value="v")
    return onnx.ModelProto.FromString(made.SerializeToString() + extra)


def tensor(name: str, **fields: Any) -> TensorProto:
    made = numpy_helper.from_array(BIG, name)
    made.doc_string = "after the raw data"
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def external(name: str, location: str, **entries: object) -> TensorProto:
    made = TensorProto(name=name, data_type=1, dims=[2000], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        made.external_data.add(key=key, value=str(value))
    return made


def copy(source: Path, target: Path) -> None:
    loaded = WorkingModel.read(source)
    write_model(loaded.proto, loaded.weights, target)


VARIANTS = {
    "inline": model(tensor("w")),
    "two": model(tensor("w"), tensor("v")),
    "explicitly not external": model(tensor("w", data_location=TensorProto.DEFAULT)),
    "float_data": model(helper.make_tensor("w", 1, [2000], BIG.tolist())),
    "unknown fields": model(tensor("w"), extra=b"\xc2\x3e\x03abc"),
    "no initializer": model(),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_not_changed_is_kept_to_the_byte(tmp_path: Path, name: str) -> None:
    source = tmp_path / "a.onnx"
    source.write_bytes(VARIANTS[name].SerializeToString())
    copy(source, tmp_path / "b.onnx")
    onnx.save(onnx.load(source), tmp_path / "c.onnx")
    assert (tmp_path / "b.onnx").read_bytes() == (tmp_path / "c.onnx").read_bytes()


def test_every_model_of_the_onnx_package_is_kept(tmp_path: Path) -> None:
    files = sorted((Path(onnx.__file__).parent / "backend" / "test" / "data").rglob("*.onnx"))
    assert len(files) > 100
    for file in files:
        copy(file, tmp_path / "b.onnx")
        assert (tmp_path / "b.onnx").read_bytes() == onnx.load(file, load_external_data=False).SerializeToString(), file


def test_large_weights_are_deferred_and_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(VARIANTS["inline"].SerializeToString())
    loaded = WorkingModel.read(tmp_path / "a.onnx")
    weight = loaded.proto.graph.initializer[0]
    assert is_deferred(weight)
    assert loaded.proto.ByteSize() < 1000
    assert np.array_equal(loaded.weights.array(weight), BIG)
    assert bytes(loaded.weights.data(weight)) == BIG.tobytes()


def test_what_is_in_memory_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.onnx").write_bytes(model(*(tensor(f"w{number}") for number in range(20))).SerializeToString())
    reads: list[int] = []
    read_at = regular._read_at
    monkeypatch.setattr(regular, "_read_at", lambda file, at, length: reads.append(at) or read_at(file, at, length))
    loaded = WorkingModel.read(tmp_path / "m.onnx")
    assert all(is_deferred(weight) for weight in loaded.proto.graph.initializer)
    assert len(reads) <= 3 * 20


def test_no_external_data_are_looked_for_where_all_weights_are_inline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.onnx").write_bytes(model(tensor("w")).SerializeToString())
    monkeypatch.setattr(reading, "tensors_of", lambda proto: pytest.fail("looked for external data"))
    WorkingModel.read(tmp_path / "m.onnx")


def test_a_graph_in_two_pieces_is_read(tmp_path: Path) -> None:
    whole = VARIANTS["inline"]
    second = onnx.ModelProto(graph=onnx.GraphProto(doc_string="more"))
    (tmp_path / "a.onnx").write_bytes(whole.SerializeToString() + second.SerializeToString())
    loaded = WorkingModel.read(tmp_path / "a.onnx")
    assert loaded.proto.graph.doc_string == "more"
    assert np.array_equal(numpy_helper.to_array(loaded.proto.graph.initializer[0]), BIG)


def with_data(folder: Path, *tensors: TensorProto) -> Path:
    (folder / "weights.bin").write_bytes(BIG.tobytes() * 2)
    (folder / "a.onnx").write_bytes(model(*tensors).SerializeToString())
    return folder / "a.onnx"


def test_external_data_move_beside_the_output(tmp_path: Path) -> None:
    source = with_data(
        tmp_path,
        external("w", "weights.bin", offset=0, length=8000),
        external("same", "weights.bin", offset=0, length=8000, checksum="0"),
        external("other", "weights.bin", offset=8000),
    )
    target = tmp_path / "out" / "b.onnx"
    target.parent.mkdir()
    for _ in range(2):
        copy(source, target)
        assert (target.parent / "b.onnx.data").stat().st_size == 16000
    first = target.read_bytes(), (target.parent / "b.onnx.data").read_bytes()
    copy(source, target)
    assert first == (target.read_bytes(), (target.parent / "b.onnx.data").read_bytes())
    read = onnx.load(target)
    assert all(np.array_equal(numpy_helper.to_array(t), BIG) for t in read.graph.initializer)
    assert sorted(p.name for p in target.parent.iterdir()) == ["b.onnx", "b.onnx.data"]


def test_only_the_bytes_that_a_part_uses_are_written(mx: Mx, tmp_path: Path) -> None:
    whole = with_data(
        tmp_path,
        external("w", "weights.bin", length=8000),
        external("v", "weights.bin", offset=8000, length=8000),
        external("u", "weights.bin", offset=4000, length=8000),
    )
    tagged = onnx.load(whole, load_external_data=False)
    for number, node in enumerate(tagged.graph.node):
        node.metadata_props.add(key="pkg.mxtools.scope", value=f"layers.{number}")
    whole.write_bytes(tagged.SerializeToString())
    part = tmp_path / "part.onnx"
    written = set()
    for scope in ("layers.1", ".", "layers.1", "layers.1"):
        assert mx("filter", whole, "--scope", scope, "-o", part).returncode == 0
        data = (tmp_path / "part.onnx.data").read_bytes()
        if scope != ".":
            written.add((part.read_bytes(), data))
            assert data == BIG.tobytes()
    assert len(written) == 1
    assert np.array_equal(numpy_helper.to_array(onnx.load(part).graph.initializer[0]), BIG)


def test_data_dir_says_what_locations_are_relative_to(tmp_path: Path) -> None:
    for name in ("data", "elsewhere"):
        (tmp_path / name).mkdir()
    source = with_data(tmp_path / "data", external("w", "weights.bin", length=8000))
    (tmp_path / "elsewhere" / "a.onnx").write_bytes(source.read_bytes())
    run = "mx run -p untag --data-dir data"
    for script in (
        f"{run} elsewhere/a.onnx -o out.onnx",
        f"{run} elsewhere/a.onnx | {run} -o out.onnx",
        f"{run} < elsewhere/a.onnx | {run} | {run} -o out.onnx",
    ):
        assert shell(script, tmp_path).returncode == 0
        assert np.array_equal(numpy_helper.to_array(onnx.load(tmp_path / "out.onnx").graph.initializer[0]), BIG)
        (tmp_path / "out.onnx").unlink()
        assert (tmp_path / "out.onnx.data").stat().st_size == 8000


def test_data_that_become_shorter_are_told(tmp_path: Path) -> None:
    loaded = WorkingModel.read(with_data(tmp_path, external("w", "weights.bin", length=8000)))
    os.truncate(tmp_path / "weights.bin", 5000)
    with pytest.raises(InputError, match="written to"):
        write_model(loaded.proto, loaded.weights, tmp_path / "b.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "weights.bin"]


def test_small_external_data_go_inline(tmp_path: Path) -> None:
    small = external("w", "weights.bin", length=40)
    small.dims[:] = [10]
    copy(with_data(tmp_path, small), tmp_path / "b.onnx")
    assert not (tmp_path / "b.onnx.data").exists()
    assert onnx.load(tmp_path / "b.onnx").graph.initializer[0].raw_data == BIG[:10].tobytes()


def test_in_place_with_external_data(tmp_path: Path) -> None:
    source = with_data(tmp_path, external("w", "weights.bin", length=8000))
    for _ in range(3):
        copy(source, source)
    assert np.array_equal(numpy_helper.to_array(onnx.load(source).graph.initializer[0]), BIG)
    assert (tmp_path / "a.onnx.data").stat().st_size == 8000


def test_more_than_two_gigabytes_of_external_data_take_no_memory(tmp_path: Path) -> None:
    huge = external("w", "weights.bin")
    huge.dims[:] = [3 << 28]
    source = with_data(tmp_path, huge)
    os.truncate(tmp_path / "weights.bin", 3 << 30)
    loaded = WorkingModel.read(source)
    assert loaded.weights.place(loaded.proto.graph.initializer[0]).length == 3 << 30


@pytest.mark.parametrize(
    "bad",
    [
        external("w", "none.bin"),
        external("w", ""),
        external("w", "/etc/passwd"),
        external("w", "../outside.bin"),
        external("w", "link.bin"),
        external("w", "pipe.bin"),
        external("w", "."),
        external("w", "a\0b"),
        external("w", "weights.bin", offset=-4),
        external("w", "weights.bin", offset="x"),
        external("w", "weights.bin", length="9" * 50),
        external("w", "weights.bin", offset=8000, length=8001),
        external("w", "weights.bin", offset=99999),
    ],
    ids=lambda t: str([e.value[:20] for e in t.external_data]),
)
def test_bad_external_data_are_refused(tmp_path: Path, bad: TensorProto) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "outside.bin").write_bytes(BIG.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    os.mkfifo(folder / "pipe.bin")
    with pytest.raises(InputError) as error:
        WorkingModel.read(with_data(folder, bad))
    assert "\n" not in str(error.value)


def test_data_dir_covers_what_lies_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    source = with_data(tmp_path, external("w", "w.bin"))
    (tmp_path / "data" / "w.bin").write_bytes(BIG.tobytes())
    loaded = WorkingModel.read(source, data_dir=tmp_path / "data")
    assert np.array_equal(loaded.weights.array(loaded.proto.graph.initializer[0]), BIG)
    with pytest.raises(UsageError):
        WorkingModel.read(source, data_dir=tmp_path / "nowhere")


def test_the_reserved_name_is_refused(tmp_path: Path) -> None:
    fake = TensorProto(name="w", data_type=1, dims=[2000], data_location=TensorProto.EXTERNAL)
    fake.external_data.add(key=wire.REFERENCE.decode(), value="0:8000")
    (tmp_path / "a.onnx").write_bytes(model(fake).SerializeToString())
    with pytest.raises(InputError, match="reserved"):
        WorkingModel.read(tmp_path / "a.onnx")


def test_a_truncated_model_is_refused_or_read(tmp_path: Path) -> None:
    data = model(tensor("w")).SerializeToString()
    whole = len(data) - len(onnx.ModelProto(metadata_props=[{"key": "k", "value": "v"}]).SerializeToString())
    for size in [*range(400), *range(400, len(data), 97)]:
        (tmp_path / "a.onnx").write_bytes(data[:size])
        try:
            WorkingModel.read(tmp_path / "a.onnx")
        except InputError:
            continue
        assert size >= whole - 10, size


@given(st.binary(min_size=1, max_size=200))
def test_random_bytes_raise_nothing_else(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "random.onnx"
    file.write_bytes(data)
    with contextlib.suppress(MxError):
        WorkingModel.read(file)


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"before")
    with pytest.raises(TypeError), atomic_output(tmp_path / "a") as file:
        file.writelines([b"half", "no bytes"])
    assert (tmp_path / "a").read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_permissions_are_those_of_any_new_file_or_the_old_one(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text("x", tmp_path / "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    (tmp_path / "new").chmod(0o600)
    write_text("y", tmp_path / "new")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600


def test_links_stay_links_and_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_text("x", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "x"
    with pytest.raises(OutputError):
        write_text("x", tmp_path)


def test_external_data_on_a_pipe_are_relative_to_the_working_directory(mx: Mx, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    source = with_data(tmp_path / "sub", external("w", "weights.bin", length=8000))
    done = shell(f"mx run {source.relative_to(tmp_path)} -p untag | mx run -p untag -o out.onnx", tmp_path)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(numpy_helper.to_array(onnx.load(tmp_path / "out.onnx").graph.initializer[0]), BIG)
    assert mx("run", source, "-p", "untag", cwd=Path("/")).returncode in (0, 2)
    assert mx("run", source, "-p", "untag", cwd=tmp_path.parent / "..").returncode == 0
    (tmp_path / "elsewhere").mkdir()
    done = mx("run", source, "-p", "untag", cwd=tmp_path / "elsewhere")
    assert done.returncode == 2
    assert b"-o" in done.stderr
