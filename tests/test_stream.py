"""Large models in pipes: their weights flow by, and every file comes out as if no pipe had been there."""

from __future__ import annotations

import binascii
import errno
import io
import os
import random
import tempfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from mxtools.errors import InputError, MxError
from mxtools.files import stream, targets, wire
from mxtools.files.reading import read_model
from mxtools.files.stream import Flowing, PipeBytes
from mxtools.files.weights import WeightStore
from mxtools.files.writing import write_model, write_stream
from tests.support.commands import shell

WIDTH = 2100
"""Rows and columns of a weight: 18 MB each, so that four are worth an announcement."""
EMPTY_PRODUCER = b"\x08\n\x12\x00"
"""How a model begins whose producer has an empty name: this overrides an announcement that was damaged."""
EDIT = """
import subprocess
import onnx

def edit(graph):
    assert len(onnx.load("copy.onnx").graph.node) == 12
    assert subprocess.run(["wc", "-c"], capture_output=True, text=True).stdout.strip() == "0"
    return graph
"""


def layers(width: int = WIDTH, count: int = 4, producer: str = "test") -> onnx.ModelProto:
    """Return layers of three nodes; the order of their weights is not the order of their nodes."""
    numbers = np.random.default_rng(0)
    weights, nodes, last = [], [], "x"
    for at in range(count):
        scope = f"enc.{at}"
        weights += [
            numpy_helper.from_array(numbers.standard_normal((width, width), np.float32), f"{scope}.weight"),
            numpy_helper.from_array(numbers.standard_normal(width, np.float32), f"{scope}.bias"),
            numpy_helper.from_array(np.float32([at]), f"{scope}.small"),
        ]
        for operator, name in (("MatMul", "weight"), ("Add", "bias"), ("Mul", "small")):
            out = "y" if (at, operator) == (count - 1, "Mul") else f"{scope}.{operator}"
            nodes.append(helper.make_node(operator, [last, f"{scope}.{name}"], [out], name=f"/enc/{at}/{operator}"))
            last = out
    x, y = (helper.make_tensor_value_info(name, 1, [1, width]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], [*weights[3:], *weights[:3]])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    if producer:
        model.producer_name = producer
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a large model."""
    made = tmp_path_factory.mktemp("large")
    (made / "raw.onnx").write_bytes(layers().SerializeToString())
    assert (
        shell("mx tag raw.onnx -o tagged.onnx && mx filter tagged.onnx --scope enc.2 -o part.onnx", made).returncode
        == 0
    )
    return made


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("mx run raw.onnx -p untag | mx tag -o OUT", "tagged"),
        ("mx tag raw.onnx | mx run -p untag | mx tag > OUT", "tagged"),
        ("mx tag raw.onnx | tee TEED | mx run -p untag | mx tag -o OUT", "tagged"),
        ("mx tag raw.onnx | mx filter --scope enc.2 -o OUT", "part"),
        ("mx tag raw.onnx | mx filter --scope enc.2 >> OUT", "part"),
        ("mx tag raw.onnx | mx filter --scope enc.2 | cat > OUT", "part"),
        ("mx tag raw.onnx | mx filter --scope enc.2 --verify -o OUT", "part"),
        ("mx tag raw.onnx | cat > TEED && mx run TEED -p untag | mx tag -o OUT", "tagged"),
        ("cat raw.onnx | mx tag -o OUT", "tagged"),
        ("mx tag raw.onnx -o OUT && mx run OUT -p untag | mx tag -o OUT", "tagged"),
    ],
)
def test_a_pipe_gives_what_files_give(folder: Path, line: str, wanted: str) -> None:
    out, teed = (folder / f"{name}.onnx" for name in ("out", "teed"))
    out.unlink(missing_ok=True)
    done = shell(line.replace("OUT", out.name).replace("TEED", teed.name), folder)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == (folder / f"{wanted}.onnx").read_bytes()


def test_others_read_a_model_from_a_pipe(folder: Path) -> None:
    import onnxruntime

    assert shell("mx tag raw.onnx | tee teed.onnx | mx tree", folder).returncode == 0
    teed, tagged = (onnx.load(folder / f"{name}.onnx") for name in ("teed", "tagged"))
    onnx.checker.check_model(teed)
    assert teed == tagged
    given = {"x": np.ones((1, WIDTH), np.float32)}
    a, b = (onnxruntime.InferenceSession(folder / f"{name}.onnx").run(None, given)[0] for name in ("teed", "tagged"))
    assert np.array_equal(a, b)


def test_what_another_program_changed_in_a_model_from_a_pipe_counts(folder: Path) -> None:
    assert shell("mx run raw.onnx -p untag | cat > teed.onnx", folder).returncode == 0
    changed = onnx.load(folder / "teed.onnx")
    first, second = (next(t for t in changed.graph.initializer if t.name == f"enc.{at}.weight") for at in (0, 1))
    first.raw_data, second.raw_data = second.raw_data, first.raw_data
    changed.graph.node[-1].op_type = "Sub"
    plain = changed.SerializeToString()
    teed = (folder / "teed.onnx").read_bytes()
    field = teed[: next(f.end for f in wire.fields(memoryview(teed), 0, len(teed)))]
    assert field[2:].find(wire.ANNOUNCED) >= 0
    assert wire.ANNOUNCED not in plain
    for name, content in (("before", field + plain), ("plain", plain)):
        (folder / f"{name}.in").write_bytes(content)
        done = shell(f"cat {name}.in | mx tag -o {name}.onnx && mx tag {name}.in -o {name}.2.onnx", folder)
        assert done.returncode == 0, done.stderr
        assert (folder / f"{name}.onnx").read_bytes() == (folder / f"{name}.2.onnx").read_bytes()
        assert (folder / f"{name}.onnx").read_bytes() == mx_tagged(plain, folder)


def mx_tagged(content: bytes, folder: Path) -> bytes:
    """Return what `mx tag` makes of a model."""
    (folder / "one.onnx").write_bytes(content)
    assert shell("mx tag one.onnx -o one.onnx", folder).returncode == 0
    return (folder / "one.onnx").read_bytes()


@pytest.mark.parametrize("part", [0.3, 0.99])
def test_a_model_that_does_not_come_whole_ends_every_command(folder: Path, part: float) -> None:
    (folder / "kept.onnx").write_bytes(b"old")
    assert shell("mx tag raw.onnx | cat > teed.onnx", folder).returncode == 0
    size = int((folder / "teed.onnx").stat().st_size * part)
    done = shell(f"head -c {size} teed.onnx | mx tag | mx filter --scope enc.0 -o kept.onnx", folder)
    assert done.returncode == 3
    assert done.stderr.count(b"stdin ended before the model did") == 2
    assert (folder / "kept.onnx").read_bytes() == b"old"
    assert shell(f"head -c {size} teed.onnx | mx tree", folder).returncode == 3
    done = shell("(cat teed.onnx; echo more) | mx tag | mx filter --scope enc.0 -o kept.onnx", folder)
    assert done.returncode == 3
    assert b"stdin goes on behind the model" in done.stderr
    assert (folder / "kept.onnx").read_bytes() == b"old"


def test_what_writes_into_a_pipe_ends_its_work_when_a_command_fails(folder: Path) -> None:
    done = shell("mx tag raw.onnx | tee teed.onnx | mx filter --scope none", folder)
    assert done.returncode == 2
    assert shell("mx tree teed.onnx", folder).returncode == 0


def test_a_second_pipe_can_wait_for_the_first(folder: Path) -> None:
    line = "mkfifo one two; (mx tag raw.onnx > one; cat part.onnx > two) & mx graft - two -o out.onnx < one"
    done = shell(f"timeout 60 bash -c '{line}'", folder)
    assert done.returncode == 0, done.stderr
    assert shell("mx compare tagged.onnx out.onnx", folder).returncode == 0


@pytest.mark.parametrize(
    "line",
    [
        "mkfifo two; mx tag raw.onnx | tee two | mx tag | mx compare two - --json; r=$?; rm two; exit $r",
        "mkfifo a b; mx tag raw.onnx | tee a > b & mx filter --scope enc.2 < a | mx compare b - --json; r=$?; rm a b; "
        "test $r = 1",
        "mx tag raw.onnx | tee copy.onnx | mx tag --from copy.onnx -o out.onnx && mx compare tagged.onnx out.onnx",
        "mx tag raw.onnx | tee copy.onnx | mx graft - copy.onnx -o out.onnx && mx compare tagged.onnx out.onnx",
        "mx tag raw.onnx | tee copy.onnx | mx run -p surgeon{script=edit.py:edit} -o out.onnx",
    ],
)
def test_commands_that_depend_on_each_other_end(folder: Path, line: str) -> None:
    (folder / "edit.py").write_text(EDIT)
    done = shell(f"timeout 60 bash -o pipefail -c '{line}'", folder)
    assert done.returncode == 0, done.stderr


def test_an_interrupted_command_does_not_wait_for_another(folder: Path) -> None:
    assert shell("mx tag raw.onnx | cat > teed.onnx; mkfifo slow", folder).returncode == 0
    slow = "(head -c 30000000 teed.onnx; sleep 15) > slow 2> /dev/null &"
    line = f"{slow} mx tag -o x.onnx < slow & sleep 2; kill -INT $!; wait $!; s=$?; kill %1; exit $s"
    done = shell(f"timeout 10 bash -c 'set -m; {line}'", folder)
    assert done.returncode == 130, done.stderr


def test_what_follows_an_incomplete_model_is_none_either(folder: Path) -> None:
    assert shell("mx tag raw.onnx | cat > teed.onnx", folder).returncode == 0
    done = shell("head -c 60000000 teed.onnx | mx filter --scope enc.1 > half.onnx", folder)
    assert done.returncode == 3
    with pytest.raises(Exception, match="pars"):
        onnx.load(folder / "half.onnx")


@pytest.fixture(params=["test", ""])
def whole(request: pytest.FixtureRequest) -> onnx.ModelProto:
    """Return a small model, with and without a producer."""
    return layers(40, 3, request.param)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, whole: onnx.ModelProto) -> bytes:
    """Announce even small models; return one as it is written into a pipe."""
    for name, size in (("WORTH_IT", 0), ("MOVED", 4096), ("BEGINNING", 16), ("SHARE", 1)):
        monkeypatch.setattr(stream, name, size)
    return announced(whole)


def announced(model: onnx.ModelProto) -> bytes:
    """Return a model as it is written into a pipe."""
    proto, weights = read_model(cast(IO[bytes], _file(model.SerializeToString())), "raw")
    return sent(lambda pipe: write_stream(proto, weights, pipe))


def _file(content: bytes) -> IO[bytes]:
    """Return an open file with content."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed with the object
    file.write(content)
    file.flush()
    return file


def sent(write: Callable[[IO[bytes]], object]) -> bytes:
    """Return what a function writes into a pipe."""
    reading, writing = os.pipe()
    found = io.BytesIO()

    def collect() -> None:
        with os.fdopen(reading, "rb") as end:
            found.write(end.read())

    reader = threading.Thread(target=collect)
    reader.start()
    try:
        with os.fdopen(writing, "wb") as pipe:
            write(pipe)
    finally:
        reader.join()
    return found.getvalue()


@contextmanager
def received(content: bytes) -> Iterator[tuple[onnx.ModelProto, WeightStore]]:
    """Read a model from a pipe into which content is written."""
    reading, writing = os.pipe()

    def feed() -> None:
        with suppress(BrokenPipeError), os.fdopen(writing, "wb") as end:
            end.write(content)

    writer = threading.Thread(target=feed)
    writer.start()
    pipe = Flowing(reading, "rb")
    try:
        yield read_model(pipe, "stdin")
    finally:
        stream.abandon()
        pipe.close()
        writer.join()


def read_from_pipe(content: bytes, path: Path) -> bytes:
    """Return what a file has to which a model from a pipe was written."""
    with received(content) as (proto, weights):
        write_model(proto, weights, path, last=True)
    return path.read_bytes()


def test_weights_stay_in_the_pipe_until_they_are_written(small: bytes, whole: onnx.ModelProto, tmp_path: Path) -> None:
    with received(small) as (proto, weights):
        assert isinstance(weights.source, PipeBytes)
        tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
        wanted = {tensor.name: tensor for tensor in whole.graph.initializer}
        assert bytes(weights.data(tensors["enc.1.bias"])) == wanted["enc.1.bias"].raw_data
        assert bytes(weights.beginning(tensors["enc.1.weight"], 16)) == wanted["enc.1.weight"].raw_data[:16]
        assert weights.source in stream._unread
        write_model(proto, weights, tmp_path / "out.onnx", last=True)
        assert weights.source not in stream._unread
        with pytest.raises(RuntimeError, match="handed on"):
            weights.data(tensors["enc.1.weight"])
    assert (tmp_path / "out.onnx").read_bytes() == whole.SerializeToString()


def test_weights_that_are_read_are_kept(small: bytes, whole: onnx.ModelProto, tmp_path: Path) -> None:
    with received(small) as (proto, weights):
        for tensor in reversed(proto.graph.initializer):
            wanted = next(t for t in whole.graph.initializer if t.name == tensor.name)
            assert bytes(weights.data(tensor)) == wanted.raw_data
        write_model(proto, weights, tmp_path / "a.onnx")
        write_model(proto, weights, tmp_path / "b.onnx", last=True)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes() == whole.SerializeToString()


def test_weights_in_another_order_are_kept(small: bytes, whole: onnx.ModelProto, tmp_path: Path) -> None:
    with received(small) as (proto, weights):
        for model in (proto, whole):
            changed = list(reversed(model.graph.initializer))
            del model.graph.initializer[:]
            model.graph.initializer.extend(changed)
        write_model(proto, weights, tmp_path / "out.onnx", last=True)
    assert (tmp_path / "out.onnx").read_bytes() == whole.SerializeToString()


def test_a_weight_that_was_renamed_keeps_its_new_name(small: bytes, whole: onnx.ModelProto, tmp_path: Path) -> None:
    with received(small) as (proto, weights):
        for model in (proto, whole):
            tensor = next(t for t in model.graph.initializer if t.name == "enc.1.weight")
            reader = next(node for node in model.graph.node if tensor.name in node.input)
            tensor.name = reader.input[1] = "enc.1.thgiew"
        write_model(proto, weights, tmp_path / "out.onnx", last=True)
    assert (tmp_path / "out.onnx").read_bytes() == whole.SerializeToString()


def damaged(content: bytes, damage: str) -> bytes:
    """Return a model from a pipe that is not whole any more."""
    changed = bytearray(content)
    changed[-2 if damage == "end" else content.rindex(b"enc.0.weight")] ^= 1
    return {"short": content[:-50], "long": content + b"more"}.get(damage, bytes(changed))


DAMAGES = ["short", "long", "other", "end"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_model_that_is_not_whole_is_not_written(small: bytes, tmp_path: Path, damage: str) -> None:
    with pytest.raises(InputError, match="stdin"):
        read_from_pipe(damaged(small, damage), tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_model_that_is_not_whole_stays_so(small: bytes, tmp_path: Path, damage: str) -> None:
    with received(damaged(small, damage)) as (proto, weights):
        tensor = next(t for t in proto.graph.initializer if t.name == "enc.2.weight")
        for read in (weights.data, weights.array, weights.digest):
            with pytest.raises(InputError, match="stdin"):
                read(tensor)
        with pytest.raises(InputError, match="stdin"):
            write_model(proto, weights, tmp_path / "out.onnx", last=True)
    assert not (tmp_path / "out.onnx").exists()


def passed_on(content: bytes) -> bytes:
    """Return what comes out of a pipe behind another one."""
    with received(content) as (proto, weights):
        return sent(lambda pipe: write_stream(proto, weights, pipe))


def test_a_system_that_does_not_move_bytes_gives_the_same(
    small: bytes, whole: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> int:
        raise OSError(errno.EINVAL, "refused")

    monkeypatch.setattr(os, "splice", refused)
    assert passed_on(small) == small
    assert read_from_pipe(small, tmp_path / "a.onnx") == whole.SerializeToString()
    monkeypatch.setattr(stream, "FLOWS", False)
    monkeypatch.delattr(os, "splice")
    assert read_from_pipe(small, tmp_path / "b.onnx") == whole.SerializeToString()
    assert passed_on(small) == whole.SerializeToString()


def test_a_pipe_that_nobody_reads_does_not_hold_up_what_writes_into_another(
    small: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "PATIENCE", 0)
    assert passed_on(small) == small


def test_a_copy_from_a_pipe_protects_its_data(folder: Path) -> None:
    mixed = layers()
    tensor = next(t for t in mixed.graph.initializer if t.name == "enc.0.bias")
    (folder / "mixed.onnx.data").write_bytes(tensor.raw_data)
    onnx.external_data_helper.set_external_data(tensor, "mixed.onnx.data")
    tensor.ClearField("raw_data")
    (folder / "mixed.onnx").write_bytes(mixed.SerializeToString())
    assert shell("mx tag mixed.onnx | cat > copy.onnx", folder).returncode == 0
    assert shell("rm mixed.onnx; mx filter tagged.onnx --scope enc.1 -o mixed.onnx.data", folder).returncode == 3
    assert shell("mx filter tagged.onnx --scope enc.1 -o mixed.onnx && mx tag copy.onnx", folder).returncode == 0


def test_many_small_weights_are_not_announced(small: bytes, whole: onnx.ModelProto, monkeypatch: Any) -> None:
    assert small.startswith(b"\x12")
    monkeypatch.setattr(stream, "SHARE", 1000)
    assert not announced(whole).startswith(b"\x12")


def test_no_memory_is_taken_for_holes_that_are_only_claimed(tmp_path: Path) -> None:
    content = b"".join(map(wire.varint, (0, 10, 0, wire.LIMIT // stream.MOVED))) + bytes(10**7)
    value = stream._digest(content, b"") + content
    field = wire.producer(wire.ANNOUNCED + binascii.b2a_base64(value, newline=False))
    tracemalloc.start()
    with pytest.raises(InputError):
        read_from_pipe(field, tmp_path / "out.onnx")
    assert tracemalloc.get_traced_memory()[1] < 6 * len(field)
    tracemalloc.stop()


def test_a_pipe_that_ends_anywhere_gives_no_model(small: bytes, tmp_path: Path) -> None:
    for end in [*range(400), *range(400, len(small), 97), *range(len(small) - 60, len(small))]:
        with pytest.raises(InputError):
            read_from_pipe(small[:end], tmp_path / "out.onnx")
        assert not (tmp_path / "out.onnx").exists()


def test_the_end_of_a_model_is_written_only_behind_the_end_of_another(small: bytes) -> None:
    def pass_on(content: bytes) -> bytes:
        """Return what comes out of a pipe behind another, whether it is whole or not."""
        with received(content) as (proto, weights):

            def write(pipe: IO[bytes]) -> None:
                with suppress(InputError):
                    write_stream(proto, weights, pipe)

            return sent(write)

    assert pass_on(small) == small
    for end in range(len(small) - 1, len(small) // 2, -211):
        with suppress(InputError):
            out = onnx.ModelProto()
            with suppress(Exception):
                out.ParseFromString(pass_on(small[:end]))
            assert not out.ir_version


def test_no_damaged_announcement_gives_a_wrong_model(small: bytes, tmp_path: Path) -> None:
    """Whatever byte is another one, the result is an error, or what is read without the announcement."""
    chance = random.Random(0)
    begin = next(field.end for field in wire.fields(memoryview(small), 0, len(small)))
    places = [
        *range(50),
        *(chance.randrange(50, len(small)) for _ in range(150)),
        *range(50, begin, 7),
    ]
    for place in places:
        damaged = bytearray(small)
        damaged[place] ^= 1 << chance.randrange(8)
        outcomes = []
        for content in (bytes(damaged), bytes(damaged)[begin:].removesuffix(wire.NO_PRODUCER)):
            (tmp_path / "out.onnx").unlink(missing_ok=True)
            try:
                outcomes.append(read_from_pipe(content, tmp_path / "out.onnx"))
            except MxError:
                outcomes.append(b"")
        outcomes = [content.replace(EMPTY_PRODUCER, EMPTY_PRODUCER[:2], 1) for content in outcomes]
        assert outcomes[0] in (outcomes[1], b""), place
