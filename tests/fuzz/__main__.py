"""`python -m tests.fuzz SECONDS [PROCESSES [SEED]]`: change files and run commands on them; status 1 if any is wrong.

What is found is kept in `build/fuzz/`, a folder each: the files, and the line in `command.txt`. One that is mended
moves to `tests/fuzz/corpus/`, which a test runs.
"""

from __future__ import annotations

import copy
import gc
import hashlib
import shutil
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from onnx import ModelProto

from tests.fuzz import files, mutations, seeds, table
from tests.fuzz.oracle import State, Verdict, judged, state_of
from tests.support.random_models import random_model

FOUND = Path("build/fuzz")
TORCH_SHARE = 0.1
"""Of the time: what commands with PyTorch get, at the end, since a process is large once it has imported that."""
TORCH_LEAST = 60
"""Seconds that are worth an import of PyTorch."""
MODEL = "m.onnx"


@dataclass
class Summary:
    """What a process did and found."""

    inputs: int = 0
    commands: int = 0
    compared: int = 0
    seconds: float = 0.0
    memory: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    def add(self, other: Summary) -> None:
        """Add what another process did."""
        self.inputs += other.inputs
        self.commands += other.commands
        self.compared += other.compared
        self.faults += other.faults
        self.largest(other.seconds, other.memory)

    def largest(self, seconds: float, memory: int) -> None:
        """Keep the largest figures."""
        self.seconds, self.memory = max(self.seconds, seconds), max(self.memory, memory)

    def __str__(self) -> str:
        counts = f"{self.inputs} inputs, {self.commands} commands, {self.compared} results compared"
        most = f"at most {self.seconds:.1f} s of processor time and {self.memory >> 20} MiB"
        kinds = [f"{count:5} {text}" for text, count in self.faults.most_common()]
        return "\n".join([f"{counts}, {most}; {self.faults.total()} faults of {len(kinds)} kinds", *kinds])


class Fuzzer:
    """Makes a folder of files, one of them changed, and runs lines in it."""

    def __init__(self, seed: int) -> None:
        """Make the seeds."""
        self.chance = Random(seed)
        self._models = seeds.models()
        self._files = files.files()
        self._sound: dict[bytes, str] = {}
        self.summary = Summary()

    def run(self, until: float, lines: tuple[str, ...], changed: str = "") -> None:
        """Try one input after the other until a point in time; `changed` begins the names of files to change."""
        while time.monotonic() < until:
            with tempfile.TemporaryDirectory() as made:
                folder = Path(made) / "try"
                folder.mkdir()
                self._try(folder, lines, changed)

    def _try(self, folder: Path, lines: tuple[str, ...], changed: str) -> None:
        name = self._fill(folder, changed)
        self.summary.inputs += 1
        seed = self.chance.randrange(1 << 32)
        states = self._states(folder, name, seed)
        sound = ModelProto.FromString((folder / "seed.onnx").read_bytes())
        fitting = table.reading(name, lines)
        for line in self.chance.sample(fitting, min(4, len(fitting))):
            room = folder.parent / "room"
            shutil.copytree(folder, room)
            told, kind = table.filled(line, sound, self.chance), table.KINDS[line]
            self._note(told, kind, folder, states, judged(told, kind, folder, room, states, seed))
            shutil.rmtree(room)

    def _states(self, folder: Path, name: str, seed: int) -> State:
        """Return the states of the models; that of each sound one is asked for once."""
        sound = hashlib.sha256((folder / "seed.onnx").read_bytes()).digest()
        if sound not in self._sound:
            self._sound[sound] = state_of(folder / "seed.onnx", seed)
        state = self._sound[sound]
        return {"seed.onnx": state, MODEL: state_of(folder / MODEL, seed) if name == MODEL else state}

    def _fill(self, folder: Path, changed: str) -> str:
        """Write the files of a try; return the name of that which is changed."""
        chance = self.chance
        names = [name for name in self._files if name.startswith(changed) and name not in files.FIXED]
        name = chance.choice(names) if changed or chance.random() < 0.4 else MODEL
        model = random_model(chance) if chance.random() < 0.5 else copy.deepcopy(chance.choice(self._models))
        sound = model.SerializeToString()
        (folder / "seed.onnx").write_bytes(sound)
        (folder / MODEL).write_bytes(mutations.mutated(model, chance) if name == MODEL else sound)
        for file, content in self._files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(mutations.mutated_file(file, content, chance) if file == name else content)
        if name == "pyproject.toml":  # which is read where there is no other
            (folder / "mxtools.toml").unlink()
        return name

    def _note(self, line: str, kind: str, folder: Path, states: State, verdict: Verdict) -> None:
        self.summary.commands += 1
        self.summary.compared += verdict.compared
        self.summary.largest(verdict.seconds, verdict.memory)
        if verdict.fault:
            last = (verdict.said.strip().splitlines() or [""])[-1]
            self.summary.faults[f"{verdict.fault[:200]}: {line.split()[0]}: {last[:160]}"] += 1
            FOUND.mkdir(parents=True, exist_ok=True)
            kept = Path(tempfile.mkdtemp(prefix="case-", dir=FOUND))
            shutil.copytree(folder, kept, dirs_exist_ok=True)
            told = f"{line}\n{kind}\n{verdict.fault}\n{states}\n{verdict.said}"
            (kept / "command.txt").write_text(told, errors="replace")


def fuzzed(seconds: float, seed: int) -> Summary:
    """Fuzz for so long, and return what came of it."""
    end = time.monotonic() + seconds
    fuzzer = Fuzzer(seed)
    gc.freeze()  # children need not copy what no collection touches
    with_torch = TORCH_SHARE * seconds
    fuzzer.run(end - with_torch if with_torch >= TORCH_LEAST else end, table.LINES)
    fuzzer.run(end, table.WITH_TORCH, changed="hf/")
    return fuzzer.summary


def main(seconds: float, processes: int = 1, seed: int | None = None) -> int:
    """Fuzz in some processes; print what all of them found; return the exit status."""
    first = int(time.time()) if seed is None else seed
    total = Summary()
    with ProcessPoolExecutor(processes) as pool:
        for summary in pool.map(fuzzed, [seconds] * processes, range(first, first + processes)):
            total.add(summary)
    print(f"seeds {first} to {first + processes - 1}: {total}")
    return int(bool(total.faults))


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), *map(int, sys.argv[2:])))
