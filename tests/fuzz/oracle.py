"""What must never happen, whatever a file holds: a fault, a signal, debris, too long, too large, a wrong result."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mxtools.runtime.children import Ended, Limits, answered
from mxtools_cli.forked import import_for
from tests.fuzz import values
from tests.fuzz.table import WRITTEN
from tests.support import commands

STATUSES = (0, 1, 2, 3, 4)
REFUSALS = (2, 3, 4)
SECONDS = 20.0
"""Seconds of processor time that a command may take."""
IDLE = 60.0
"""Seconds in which it must have ended, whatever else the machine does."""
MEMORY = 2 << 30
"""Bytes of resident memory."""
KILLED = Limits(IDLE + 5, MEMORY + (1 << 28))
"""Where a command is killed: a bit beyond what is a fault."""
PATIENCE = Limits(15, MEMORY)
"""What running a model may take; one that takes more is not judged."""

State = Mapping[str, str]
"""Of each model: "runs", "loads" (ONNX Runtime loads it, but does not run it to one end), or ""."""


@dataclass(frozen=True)
class Verdict:
    """What is wrong with how a line ended, empty where nothing is."""

    fault: str
    said: str
    seconds: float
    memory: int
    compared: bool
    """Whether what it wrote was run, and compared with the model that it was made from."""


def judged(line: str, kind: str, folder: Path, room: Path, states: State, seed: int) -> Verdict:
    """Run the commands of a line of a kind in `room`, a copy of a folder, and judge the last that ran."""
    seconds, memory = 0.0, 0
    for command in line.split(" && "):
        before = _files(room)
        words = shlex.split(command)
        import_for(words)
        done, ended = commands.forked(words, cwd=room, limits=KILLED)
        seconds, memory = max(seconds, ended.busy), max(memory, ended.memory)
        said = done.stderr.decode(errors="replace")
        fault = _fault(ended, said, before, _files(room))
        if fault or ended.status:
            return Verdict(fault, said, seconds, memory, compared=False)
    fault, compared = _wrong(line, kind, folder, room, states, seed)
    return Verdict(fault, said, seconds, memory, compared)


def _fault(ended: Ended, said: str, before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Return what is wrong with how a command ended, whatever it wrote."""
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    if ended.memory > MEMORY:
        return "memory"
    if ended.busy > SECONDS or ended.seconds > IDLE:
        return "a hang"
    if ended.status not in STATUSES:
        return f"status {ended.status}"
    if (
        ended.status in REFUSALS
        and len([part for part in said.splitlines() if part.startswith(("mx", '{"error"'))]) != 1
    ):
        return "not one line"
    if "Traceback" in said:
        return "a traceback"
    if any(c not in "\n" and not c.isprintable() for c in said):
        return "an unprintable message"
    if any(Path(name).name.startswith(".") or name.endswith(".tmp") for name in after.keys() - before.keys()):
        return f"debris {sorted(after.keys() - before.keys())}"
    if ended.status in REFUSALS and (files := sorted(name for name in changed if not name.startswith("cache/"))):
        return f"a failure that changes {files}"
    return ""


def _files(folder: Path) -> dict[str, str]:
    """Return what each file of a folder holds."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def _wrong(line: str, kind: str, folder: Path, room: Path, states: State, seed: int) -> tuple[str, bool]:
    """Return what is wrong with what a line wrote, and whether it was compared."""
    words = (word.rpartition("=")[2] for word in line.split())  # `--as a=m.onnx` names it too
    named = [states[word] for word in words if word in states]
    if not all(named) or not (kind == "splitting" or (room / WRITTEN).exists()):
        return "", False
    if kind != "telling" and named[:1] == ["runs"]:
        said, ended = answered(lambda: _compared(line, kind, folder, room, seed), PATIENCE)
        if said is None and ended.status > 0:
            raise RuntimeError(f"the oracle failed on {line}")
        if said != NOT_JUDGED:
            return (f"ONNX Runtime ends with {ended}" if said is None else said and f"wrong: {said}"), True
    if kind == "splitting":
        return "", False
    return ("" if state_of(room / WRITTEN, seed) else "what is written does not load"), False


NOT_JUDGED = "not judged"


def _compared(line: str, kind: str, folder: Path, room: Path, seed: int) -> str:
    try:
        return values.compared(line, kind, folder, room, seed)
    except values.NotJudgedError:
        return NOT_JUDGED


def state_of(file: Path, seed: int) -> str:
    """Return the state of a model."""
    return answered(lambda: values.state_of(file, seed), PATIENCE)[0] or ""
