"""Kill every command that writes at every step that changes a file, and show that no model is lost.

    python benchmarks/kills.py [--every N] [--random N] [--jobs N] [COMMAND …]

A command runs in a forked child in which whatever opens, writes, renames, links, syncs or removes a file is counted.
It is killed (SIGKILL) just before and just after each step, and in the middle of each write; it gets ENOSPC and EIO at
each step; and it is killed at random moments. After each of these

- every file that was there is what it was, or what the whole command makes of it: a model and its data by what ONNX
  Runtime computes with them, a split by its parts one after the other, a trace by its sidecar and its values;
- a command that got an error says so, or has done its work all the same, and leaves no temporary file;
- the command, run again, ends well, and leaves the files of a run that nobody disturbed, to the byte, and no other, in
  the folder for temporary files neither.

The undisturbed run is also checked for what a power failure would lose: files are synced before they get their names,
and their names after. Writers of one target that run at the same time leave the result of one of them. `--every N`
takes each N-th step only.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.killing.cases import CASES, WITH_TORCH, WRITERS, WRITERS_WITH_TORCH, Case, template
from benchmarks.killing.oracle import BROKEN, Oracle, differences
from benchmarks.killing.steps import BY_HALF, REMOVING, SAID, TEMPORARY, Plan, Told, child, ended, is_temporary, told

ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""A forked child has only one of its parent's threads, and waits for the others for ever."""
ROUNDS = 50
"""How often writers run at the same time."""
ATTEMPTS = 3
"""How often a command may come to its end for each time that it is killed at random."""


@dataclass(frozen=True)
class Undisturbed:
    """A command that nobody disturbs: what it finds, what it makes of that, and how."""

    name: str
    case: Case
    before: Path
    after: Path
    states: tuple[dict[str, str], dict[str, str]]
    steps: Sequence[str]
    seconds: float


@dataclass
class Campaign:
    """Runs cases in a folder and collects what went wrong."""

    place: Path
    oracle: Oracle = field(default_factory=Oracle)
    faults: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def run(self, name: str, case: Case, every: int = 1, at_random: int = 0) -> None:
        """Disturb a case at its steps and at random moments."""
        whole = self._undisturbed(name, case)
        for step in range(0, len(whole.steps), every):
            for how in ("before", "half", "after", "ENOSPC", "EIO"):
                if how != "half" or whole.steps[step] in BY_HALF:
                    self._disturb(whole, Plan(step, how))
        self.counts["steps"] += len(whole.steps[::every])
        before, attempts = self.counts["random kills"], 0
        while self.counts["random kills"] - before < at_random and attempts < ATTEMPTS * at_random:
            self._disturb(whole, random.uniform(0, whole.seconds))
            attempts += 1

    def _undisturbed(self, name: str, case: Case) -> Undisturbed:
        """Run a case twice: what the first imports, this process imports for all that come after."""
        before = self._prepared(case)
        known = self._told(case.line, self._copied(before, "now"))
        _import(known.modules)
        now, start = self._copied(before, "now"), time.monotonic()
        known = self._told(case.line, now)
        seconds = time.monotonic() - start
        after = self._copied(now, "after")  # as exporters write down in which folder code is
        self.faults += [f"{name}: undisturbed: {what}" for what in known.lost]
        self.faults += [f"{name}: undisturbed: {left} is left in TMPDIR" for left in self._temporary()]
        states = self.oracle.state(before, case.timed), self.oracle.state(after, case.timed)
        for file, what in (item for state in states for item in state.items()):
            if what.startswith(BROKEN):
                self.faults.append(f"{name}: undisturbed: {file}: {what}")
        print(f"{name}: {len(known.steps)} steps, {seconds * 1000:.0f} ms", file=sys.stderr, flush=True)
        return Undisturbed(name, case, before, after, states, known.steps, seconds)

    def _prepared(self, case: Case) -> Path:
        """Return a folder with the files that a case begins with."""
        folder = self.place / "before"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (self.place / TEMPORARY).mkdir(exist_ok=True)
        template(folder)
        for line in case.prepare.splitlines():
            self._whole(line, folder)
        return folder

    def _told(self, line: str, folder: Path) -> Told:
        status, known = told(line, folder)
        if status or not known:
            raise SystemExit(f"{line}: exit status {status}: {self._said()}")
        return known

    def _disturb(self, whole: Undisturbed, how: Plan | float) -> None:
        """Disturb one run; note whatever is neither old nor new, and what the next run leaves."""
        folder = self._copied(whole.before, "now")
        process = child(whole.case.line, folder, how if isinstance(how, Plan) else None)
        if isinstance(how, float):
            time.sleep(how)
            os.kill(process, signal.SIGKILL)
        status = ended(process)
        killed = status == -signal.SIGKILL
        kind = "kills" if isinstance(how, Plan) else "random kills"
        self.counts[kind if killed else "errors" if status else "unharmed"] += 1
        moment = f"{how.step} ({whole.steps[how.step]}): {how.how}" if isinstance(how, Plan) else f"{how:.4f} s"
        what = f"{whole.name}: {moment}: status {status}"
        if status not in (0, 3, -signal.SIGKILL):
            self.faults.append(f"{what}: {self._said()}")
        self._check(whole, folder, what)
        if not killed and not (isinstance(how, Plan) and whole.steps[how.step] in REMOVING):
            self._check_debris(folder, what)
            if status == 0:
                self._check_same(whole, folder, f"{what}: done, but")
        self._whole(whole.case.line, folder, what)
        self._check_same(whole, folder, f"{what}: after the next run:")
        self.faults += [f"{what}: after the next run: {left} is left in TMPDIR" for left in self._temporary()]
        shutil.rmtree(self.place / TEMPORARY)
        (self.place / TEMPORARY).mkdir()

    def _check(self, whole: Undisturbed, folder: Path, what: str) -> None:
        """Note whatever is neither old nor new."""
        now = self.oracle.state(folder, whole.case.timed)
        for file in whole.states[0].keys() | whole.states[1].keys() | now.keys():
            if now.get(file) not in [state.get(file) for state in whole.states]:
                self.faults.append(f"{what}: {file} is neither old nor new: {now.get(file)}")

    def _check_debris(self, folder: Path, what: str) -> None:
        """Note what a command that came to its end, well or not, has left."""
        left = [path.name for path in folder.rglob("*") if path.name.endswith(".tmp")] + self._temporary()
        self.faults += [f"{what}: left {name}" for name in left]

    def _check_same(self, whole: Undisturbed, folder: Path, what: str) -> None:
        self.faults += [f"{what} {difference}" for difference in differences(whole.after, folder, whole.case.timed)]

    def parallel(self, lines: Sequence[str], rounds: int) -> None:
        """Let several commands write to one place at the same time, and kill one of them now and then."""
        before = self._prepared(Case(""))
        whole = []
        for line in lines:
            folder = self._copied(before, "reference")
            self._whole(line, folder)
            whole.append(self.oracle.state(folder))
        for number in range(rounds):
            folder = self._copied(before, "now")
            processes = [child(line, folder) for line in lines for _ in range(2)]
            if number % 2:
                time.sleep(random.uniform(0, 0.2))
                os.kill(processes[0], signal.SIGKILL)
            statuses = {ended(process) for process in processes}
            state = self.oracle.state(folder)
            self.counts["parallel runs"] += len(processes)
            if statuses - {0, -signal.SIGKILL}:
                self.faults.append(f"parallel: {lines}: {statuses}: {self._said()}")
            if state not in whole:
                odd = dict(state.items() - {item for known in whole for item in known.items()})
                self.faults.append(f"parallel: {lines}: neither of the results: {odd or sorted(state)}")
            self._whole(lines[0], folder)
            left = [path.name for path in folder.rglob("*") if is_temporary(path.name)] + self._temporary()
            self.faults += [f"parallel: {lines}: left {name}" for name in left]

    def _copied(self, before: Path, name: str) -> Path:
        folder = self.place / name
        shutil.rmtree(folder, ignore_errors=True)
        return Path(shutil.copytree(before, folder, symlinks=True))

    def _temporary(self) -> list[str]:
        return sorted(path.name for path in (self.place / TEMPORARY).iterdir())

    def _whole(self, line: str, folder: Path, what: str = "") -> None:
        """Run a command to its end."""
        if status := ended(child(line, folder)):
            self.faults.append(f"{what or line}: undisturbed: exit status {status}: {self._said()}")

    def _said(self) -> str:
        return (self.place / SAID).read_text().strip()[-300:]


def _import(modules: Sequence[str]) -> None:
    """Import what a command imports, so that those forked from now on take milliseconds."""
    for name in modules:
        if name not in sys.modules and not name.startswith(("_mx", "__")):
            with suppress(Exception):
                importlib.import_module(name)


Job = Callable[[Campaign], None]
_JOBS: dict[str, Job] = {}
"""What the forked workers do, by name."""


def jobs(cases: Mapping[str, Case], every: int, at_random: int, writers: Iterable[Sequence[str]]) -> dict[str, Job]:
    """Return what is to be done for some cases, and for the writers of one target."""
    found: dict[str, Job] = {
        name: partial(Campaign.run, name=name, case=case, every=every, at_random=at_random)
        for name, case in cases.items()
    }
    return found | {
        f"in parallel: {'; '.join(lines)}": partial(Campaign.parallel, lines=lines, rounds=ROUNDS) for lines in writers
    }


def _done(name: str) -> tuple[Counter[str], list[str], float]:
    """Do a job in a worker; return what was counted, what went wrong, and how many seconds it took."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder))
        try:
            _JOBS[name](campaign)
        except SystemExit as error:
            campaign.faults.append(str(error))
    return campaign.counts, campaign.faults, time.monotonic() - start


def _all_done(chosen: Mapping[str, Job], workers: int) -> tuple[Counter[str], int]:
    """Do jobs, and print what became of each as soon as it is known; return what was counted, and faults."""
    counts, faults = Counter[str](), 0
    _JOBS.update(chosen)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
        running = {pool.submit(_done, name): name for name in chosen}
        for number, future in enumerate(as_completed(running), 1):
            counted, found, seconds = future.result()
            head = f"[{number}/{len(running)}] {running[future]}: {_told_counts(counted)}; {seconds:.0f} s"
            print(head, *found, sep="\n    ", flush=True)
            counts += counted
            faults += len(found)
    return counts, faults


def _told_counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items())


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--random", type=int, default=1200)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=", ".join([*CASES, *WITH_TORCH]))
    given = parser.parse_args()
    if unknown := set(given.commands) - CASES.keys() - WITH_TORCH.keys():
        parser.error(f"there is no {', '.join(unknown)}")
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ENVIRONMENT | {"PYTHONHASHSEED": "0"})
    start = time.monotonic()
    cases, with_torch = (
        {name: case for name, case in all_cases.items() if not given.commands or name in given.commands}
        for all_cases in (CASES, {} if given.no_torch else WITH_TORCH)
    )
    at_random = -(-given.random // (len(cases) + len(with_torch)))
    writers = () if given.commands else WRITERS
    counts, faults = _all_done(jobs(cases, given.every, at_random, writers), given.jobs)
    if with_torch:  # imported only now, as a small process is forked in a third of the time
        _warm_up()
        writers = () if given.commands else WRITERS_WITH_TORCH
        counted, found = _all_done(jobs(with_torch, given.every, at_random, writers), given.jobs)
        counts, faults = counts + counted, faults + found
    print(_told_counts(counts), f"{faults} faults", f"{time.monotonic() - start:.0f} s", sep="; ")
    sys.exit(bool(faults))


def _warm_up() -> None:
    """Do once what exporters do once in a process; the forked children have it then."""
    import torch

    import mxtools

    torch.set_num_threads(1)
    for exporter in ("torchscript", "dynamo"):
        mxtools.export(torch.nn.Linear(1, 1), (torch.ones(1, 1),), exporter=exporter)


if __name__ == "__main__":
    main()
