"""The fuzzer: what it found once stays mended, each line does something, and the oracle sees what is wrong."""

from __future__ import annotations

import shlex
import shutil
import time
from pathlib import Path
from random import Random

import numpy as np
import onnx
import pytest

from mxtools.runtime.children import Limits, answered
from mxtools_cli.forked import FORKS
from tests.fuzz import files, mutations, seeds, table, values
from tests.fuzz.oracle import KILLED, judged, state_of
from tests.support import commands
from tests.support.commands import Mx
from tests.support.random_models import random_model

pytestmark = pytest.mark.skipif(not FORKS, reason="a command runs in a forked child")
CORPUS = Path(__file__).parent / "fuzz" / "corpus"
"""Folders with the files of a case, and its line in `command.txt`."""
MODELS = ("m.onnx", "seed.onnx")


@pytest.mark.parametrize("case", sorted(path.name for path in CORPUS.iterdir()))
def test_what_was_found_stays_mended(case: str, tmp_path: Path) -> None:
    room = tmp_path / "try"
    shutil.copytree(CORPUS / case, room)
    line, kind = (room / "command.txt").read_text().splitlines()[:2]
    states = {name: state_of(room / name, 0) for name in MODELS if (room / name).exists()}
    verdict = judged(line, kind, CORPUS / case, room, states, 0)
    assert not verdict.fault, verdict


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return folders as the fuzzer fills them, with nothing changed in any file."""
    made = []
    for model in [*seeds.models()[:5], *(random_model(Random(number)) for number in range(4))]:
        folder = tmp_path_factory.mktemp("sound")
        for name in MODELS:
            (folder / name).write_bytes(model.SerializeToString())
        for name, content in files.files().items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        made.append(folder)
    return made


def test_every_line_does_something_with_sound_files(sound: list[Path], tmp_path: Path) -> None:
    """A line that is refused whatever the files are fuzzes nothing but the refusal; what it does is right."""
    idle, faults, states = [], [], [{name: state_of(folder / name, 0) for name in MODELS} for folder in sound]
    for line in table.LINES:
        for number in range(2 * len(sound)):
            folder, room = sound[number % len(sound)], tmp_path / "room"
            told = table.filled(line, onnx.load(folder / "seed.onnx"), Random(number))
            shutil.copytree(folder, room)
            ends = [commands.forked(shlex.split(part), cwd=room, limits=KILLED)[0] for part in told.split(" && ")]
            shutil.rmtree(room)
            if all(done.returncode in (0, 1) for done in ends):
                shutil.copytree(folder, room)
                verdict = judged(told, table.KINDS[line], folder, room, states[number % len(sound)], 0)
                shutil.rmtree(room)
                faults += [(told, verdict.fault)] if verdict.fault else []
                break
        else:
            idle.append((line, ends[-1].stderr))
    assert not idle, "\n".join(f"{line}: {said.decode()}" for line, said in idle)
    assert not faults, "\n".join(f"{line}: {fault}" for line, fault in faults)


def test_mutations_change_a_model_in_few_places() -> None:
    """A fuzzer that breaks everything at once tests nothing but the first check."""
    model, chance = seeds.models()[0], Random(0)
    data, parsed = model.SerializeToString(), 0
    for _ in range(200):
        copy = type(model).FromString(data)
        mutated = mutations.mutated(copy, chance)
        try:
            changed = type(model).FromString(mutated)
        except Exception:  # cut off, as one in twenty is
            continue
        parsed += 1
        assert changed.SerializeToString() != data or mutated == data
    assert parsed > 150


def test_the_oracle_sees_other_numbers(sound: list[Path], mx: Mx, tmp_path: Path) -> None:
    keeping, cutting = table.KEEPING[0], table.CUTTING[0]
    for line, kind in ((keeping, "keeping"), (cutting.replace("SCOPE", "layers.0"), "cutting")):
        assert mx(*shlex.split(line.replace(table.WRITTEN, str(tmp_path / "o.onnx"))), cwd=sound[0]).returncode == 0
        assert values.compared(line, kind, sound[0], tmp_path, 1) == ""
        model = onnx.load(tmp_path / "o.onnx")
        model.graph.initializer[0].CopyFrom(
            onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), model.graph.initializer[0].name)
        )
        onnx.save(model, tmp_path / "o.onnx")
        assert "numbers" in values.compared(line, kind, sound[0], tmp_path, 1)


def test_the_oracle_sees_a_part_of_a_split_that_is_wrong(sound: list[Path], mx: Mx, tmp_path: Path) -> None:
    line = table.SPLITTING[0]
    folder = shutil.copytree(sound[0], tmp_path / "try")
    assert mx(*shlex.split(line), cwd=folder).returncode == 0
    assert values.compared(line, "splitting", folder, folder, 1) == ""
    part = next((folder / "parts").glob("*.onnx"))
    model = onnx.load(part)
    model.graph.node[0].op_type = "Neg"
    del model.graph.node[0].input[1:]
    onnx.save(model, part)
    assert values.compared(line, "splitting", folder, folder, 1)


def test_what_hangs_or_grows_is_ended() -> None:
    limits = Limits(0.5, 1 << 40)
    said, ended = answered(lambda: time.sleep(30) or "", limits)
    assert (said, ended.status) == (None, -9)
    assert ended.seconds < 20
    said, ended = answered(_grown, Limits(60, 1 << 30))
    assert (said, ended.status) == (None, -9)
    assert ended.memory > 1 << 30


def _grown() -> str:
    held = []
    while sum(map(len, held)) < 1 << 33:
        held.append(bytearray(1 << 26))
    return ""
