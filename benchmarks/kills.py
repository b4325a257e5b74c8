"""Kill every command that writes at every step that changes a file, and show that no model is lost.

    python benchmarks/kills.py [--every N] [--random N] [COMMAND …]

A command runs in a forked child in which whatever opens, writes, renames, links, syncs or removes a file is counted.
It is killed (SIGKILL) just before and just after each step, and in the middle of each write; it gets ENOSPC and EIO at
each step; and it is killed at random moments. After each of these

- every file that was there is what it was, or what the whole command makes of it: a model and its data by what ONNX
  Runtime computes with them, a split by its parts one after the other, a trace by its sidecar and its values;
- the command, run again, ends well, and leaves the files of a run that nobody disturbed, to the byte, and no other.

Writers of one target that run at the same time leave the result of one of them. `--every N` takes each N-th step only.
"""

from __future__ import annotations

import argparse
import errno
import filecmp
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

os.environ.setdefault("PYTHONHASHSEED", "0")  # else `mx` starts itself again

WIDTH = 24
LAYERS = ("enc.0", "enc.1", "enc.2")
MARK = ".mx-"
PATIENCE = 60
"""Seconds that a command may take."""
SHORTEST = 0.02
"""Seconds from its start within which a command has not begun to write."""


@dataclass(frozen=True)
class Case:
    """A command line, run in a copy of the folder that `prepare` makes."""

    line: str
    prepare: str = ""
    """Command lines to run first, one a line."""


CASES = {
    "tag": Case("tag plain.onnx -o out.onnx"),
    "tag in place": Case("tag plain.onnx -o plain.onnx"),
    "tag with data": Case("tag big.onnx -o out.onnx"),
    "tag with data in place": Case("tag big.onnx -o big.onnx"),
    "tag over other data": Case("tag big.onnx -o out.onnx", "filter big.onnx --scope enc.1 -o out.onnx"),
    "tag over data of others": Case("tag big.onnx -o old.onnx"),
    "filter over a whole model": Case("filter big.onnx --scope enc.1 -o out.onnx", "tag big.onnx -o out.onnx"),
    "filter without data over data": Case("filter plain.onnx --scope enc.1 -o out.onnx", "tag big.onnx -o out.onnx"),
    "graft": Case("graft big.onnx part.onnx -o out.onnx", "filter big.onnx --scope enc.1 -o part.onnx"),
    "run": Case("run big.onnx -p untag -o out.onnx", "tag big.onnx -o out.onnx"),
    "wrap": Case("wrap big.onnx -o out.onnx -- cp {in} {out}"),
    "validate": Case("validate big.onnx --repair -o out.onnx"),
    "view": Case("view plain.onnx -o page.html", "view big.onnx -o page.html"),
    "view model-explorer": Case("view big.onnx -f model-explorer --metric time.json -o out.onnx"),
    "split": Case("split big.onnx --each enc.* -d parts"),
    "split into a folder": Case("split big.onnx --each enc.* -d full"),
    "split over another": Case(
        "split big.onnx --each enc.* -d parts", "split big.onnx --depth 1 --exclude enc.2 -d parts"
    ),
    "split without data over data": Case(
        "split plain.onnx --each enc.* -d parts", "split big.onnx --each enc.* -d parts"
    ),
    "split over a killed one": Case("split big.onnx --each enc.* -d parts", "split big.onnx --each enc.0 -d parts"),
}
WITH_TORCH = {
    "trace": Case("trace net.py:net --record -o t.json"),
    "trace over another": Case("trace net.py:net --record -o t.json", "trace net.py:other --record -o t.json"),
    "trace to a cache": Case(
        "trace net.py:net --record -o t.json --cache cache", "trace net.py:net -o t.json --cache cache"
    ),
    "cache": Case("cache cache --prune", "trace net.py:net --record -o t.json --cache cache"),
}
WRITERS = (
    ("tag big.onnx -o out.onnx", "filter big.onnx --scope enc.1 -o out.onnx", "tag plain.onnx -o out.onnx"),
    ("split big.onnx --each enc.* -d parts", "split big.onnx --each enc.1 -d parts"),
)
"""Command lines that write to the same place."""

NET = """
import torch
class Net(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        torch.manual_seed(width)
        self.one, self.two = torch.nn.Linear(4, width), torch.nn.Linear(width, 4)
    def forward(self, x):
        return self.two(torch.relu(self.one(x)))
net, other = (Net(8), (torch.ones(2, 4),)), (Net(5), (torch.ones(3, 4),))
"""


def model(seed: int) -> onnx.ModelProto:
    """Return a tagged model of three layers."""
    numbers, nodes, weights, value = np.random.default_rng(seed), [], [], "x"
    for layer in LAYERS:
        weight = numbers.standard_normal((WIDTH, WIDTH)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"{layer}.weight"))
        for operator, inputs in (("MatMul", (value, f"{layer}.weight")), ("Relu", (f"{layer}.m",))):
            value = f"{layer}.{operator[0].lower()}"
            nodes.append(helper.make_node(operator, inputs, [value], name=f"/{layer}/{operator}"))
            meta = {
                "pkg.mxtools.scope": layer,
                "pkg.mxtools.tag": f"/Net/Layer.{layer[-1]}",
                "pkg.mxtools.evidence": "name",
            }
            nodes[-1].metadata_props.extend(onnx.StringStringEntryProto(key=k, value=v) for k, v in meta.items())
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, WIDTH]) for name in ("x", value)]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def template(folder: Path) -> None:
    """Write the files that every case begins with."""
    onnx.save(model(0), folder / "plain.onnx")
    external = {"save_as_external_data": True, "size_threshold": 0}
    onnx.save(model(1), folder / "big.onnx", location="big.onnx.data", **external)
    # Its weights lie where the weights of old.onnx would be written to.
    onnx.save(model(2), folder / "owner.onnx", location="old.onnx.data", **external)
    (folder / "full").mkdir()
    (folder / "full" / "notes.txt").write_text("not ours")
    (folder / "time.json").write_text(json.dumps({"time": {"enc.0": 1.0}}))
    (folder / "net.py").write_text(NET)


# ---------------------------------------------------------------- the child


@dataclass
class Plan:
    """What happens at the step of a number: `how` is before, half, after, ENOSPC or EIO; the steps are counted."""

    step: int = -1
    how: str = ""
    count: int = 0

    def around(self, act: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        """Do a step, or what is planned for it."""
        number, self.count = self.count, self.count + 1
        if number != self.step:
            return act()
        if self.how in ("half", "ENOSPC") and half:
            half()
        if self.how.startswith("E"):
            code = getattr(errno, self.how)
            raise OSError(code, os.strerror(code))
        if self.how == "after":
            act()
        os.kill(os.getpid(), signal.SIGKILL)
        return None


STEPS = ("replace", "rename", "link", "unlink", "remove", "rmdir", "mkdir", "fsync", "fchmod", "ftruncate")


def watch(plan: Plan) -> None:
    """Let every function of this process that changes files be a step."""

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **options: plan.around(lambda: function(*args, **options))

    for name in STEPS:
        setattr(os, name, watched(getattr(os, name)))
    opened, plain_open, plain_fdopen = os.open, io.open, os.fdopen

    def open_(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if not flags & (os.O_WRONLY | os.O_RDWR):
            return opened(path, flags, *args, **options)
        return int(plan.around(lambda: opened(path, flags, *args, **options)))

    class Raw(io.FileIO):
        """A file in which each write is a step."""

        def write(self, data: Any) -> int:
            """Write, as a step."""
            half = memoryview(data).cast("B")[: len(memoryview(data).cast("B")) // 2]
            return int(plan.around(lambda: io.FileIO.write(self, data), lambda: io.FileIO.write(self, half)))

    def io_open(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if mode == "wb" and not isinstance(file, int):
            return io.BufferedWriter(plan.around(lambda: Raw(file, "w")))
        return plain_open(file, mode, *args, **options)

    def fdopen(handle: int, mode: str = "r", *args: Any, **options: Any) -> Any:
        return io.BufferedRandom(Raw(handle, "w+")) if mode == "w+b" else plain_fdopen(handle, mode, *args, **options)

    os.open, io.open, os.fdopen = open_, io_open, fdopen  # type: ignore[assignment]


def child(line: str, folder: Path, plan: Plan | None, counted: int | None = None) -> int:
    """Start a command in a forked child; return its process id. The number of its steps goes to a file descriptor."""
    sys.stdout.flush()
    process = os.fork()
    if not process:
        _run(line, folder, plan, counted)
    return process


def _run(line: str, folder: Path, plan: Plan | None, counted: int | None) -> NoReturn:
    status = 70
    try:
        os.chdir(folder)
        null = os.open(os.devnull, os.O_RDWR)
        said = os.open(folder.parent / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number, handle in ((0, null), (1, null), (2, said)):
            os.dup2(handle, number)
        from mxtools_cli.main import main

        sys.argv = ["mx", *line.split()]
        if plan:
            watch(plan)
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        if counted is not None and plan:
            os.write(counted, str(plan.count).encode())
    finally:
        os._exit(status)


def ended(process: int) -> int:
    """Wait for a child; return its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


# ---------------------------------------------------------------- the oracle


class Oracle:
    """Says what the files of a folder are: what models compute, not their bytes."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def state(self, folder: Path) -> dict[str, str]:
        """Return what each file is by name; what a killed run may leave is none."""
        found = {}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder).as_posix()
            if (
                MARK not in name
                and not name.endswith(".data")
                and path.suffix != ".safetensors"
                and "cache" not in name
            ):
                found[name] = self._what(path)
        return found

    def _what(self, path: Path) -> str:
        if path.suffix == ".onnx":
            return self._model(path)
        text = path.read_bytes()
        if path.name == "manifest.json":
            return self._split(path.parent, json.loads(text))
        if text.startswith(b'{"schema":"mxtools.trace') or b'"mxtools.trace/' in text[:200]:
            said = json.loads(text)
            record = said.pop("record", None)
            text = json.dumps(said).encode() + (path.with_name(record).read_bytes() if record else b"")
        return hashlib.sha256(text).hexdigest()

    def _model(self, path: Path) -> str:
        """Return what a model computes, or why it does not load."""
        try:
            whole = onnx.load(path).SerializeToString()
        except Exception as error:
            return f"broken: {error}"
        key = hashlib.sha256(whole).hexdigest()
        if key not in self._known:
            self._known[key] = _digest(_outputs(path, None))
        return self._known[key]

    def _split(self, folder: Path, manifest: dict[str, Any]) -> str:
        """Return what the parts of a split compute, one after the other."""
        try:
            values = {name: _input() for name in manifest["inputs"]}
            for part in manifest["parts"]:
                names = [link["name"] for link in part["inputs"]]
                values |= _outputs(folder / part["file"], {name: values[name] for name in names})
            return _digest({link["name"]: values[link["name"]] for link in manifest["outputs"]})
        except Exception as error:
            return f"broken: {error}"


def _input() -> Any:
    return np.linspace(-1, 1, 2 * WIDTH, dtype=np.float32).reshape(2, WIDTH)


def _outputs(path: Path, feeds: dict[str, Any] | None) -> dict[str, Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {value.name: _input() for value in session.get_inputs()} if feeds is None else feeds
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def _digest(outputs: dict[str, Any]) -> str:
    return hashlib.sha256(b"".join(name.encode() + outputs[name].tobytes() for name in sorted(outputs))).hexdigest()


# ---------------------------------------------------------------- the campaign


@dataclass
class Campaign:
    """Runs cases in a folder and collects what went wrong."""

    place: Path
    oracle: Oracle = field(default_factory=Oracle)
    faults: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def prepared(self, case: Case) -> Path:
        """Return a folder with the files that a case begins with."""
        folder = self.place / "before"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        template(folder)
        for line in case.prepare.splitlines():
            self._whole(line, folder)
        return folder

    def run(self, name: str, case: Case, every: int, at_random: int) -> None:
        """Disturb a case at its steps and at random moments."""
        before = self.prepared(case)
        reference = self._copied(before, "reference")
        read, write = os.pipe()
        start = time.monotonic()
        status = ended(child(case.line, reference, Plan(), write))
        took = time.monotonic() - start
        if status:
            raise SystemExit(f"{name}: exit status {status}: {self._said()}")
        steps = int(os.read(read, 100))
        os.close(read)
        os.close(write)
        states = self.oracle.state(before), self.oracle.state(reference)
        for step in range(0, steps, every):
            for how in ("before", "half", "after", "ENOSPC", "EIO"):
                self._check(name, case, before, reference, states, Plan(step, how))
        for _ in range(at_random):
            self._check(name, case, before, reference, states, random.uniform(SHORTEST, took))
        self.counts["steps"] += steps

    def _check(
        self, name: str, case: Case, before: Path, reference: Path, states: Sequence[dict[str, str]], how: Plan | float
    ) -> None:
        """Disturb one run; note whatever is neither old nor new, and what the next run leaves."""
        folder = self._copied(before, "now")
        process = child(case.line, folder, how if isinstance(how, Plan) else None)
        if isinstance(how, float):
            time.sleep(how)
            os.kill(process, signal.SIGKILL)
        status = ended(process)
        what = f"{name}: {how}: status {status}"
        self.counts["kills" if status == -signal.SIGKILL else "errors" if status else "unharmed"] += 1
        if status not in (0, 3, -signal.SIGKILL):
            self.faults.append(f"{what}: {self._said()}")
        now = self.oracle.state(folder)
        for file in states[0].keys() | states[1].keys() | now.keys():
            if now.get(file) not in [state.get(file) for state in states]:
                self.faults.append(f"{what}: {file} is neither old nor new: {now.get(file)}")
        if status == 3 and (left := [path.name for path in folder.rglob("*") if path.name.endswith(".tmp")]):
            self.faults.append(f"{what}: left {left}")
        self._whole(case.line, folder, what)
        self.faults += [f"{what}: after the next run: {difference}" for difference in differences(reference, folder)]

    def parallel(self, lines: Sequence[str], rounds: int) -> None:
        """Let several commands write to one place at the same time, and kill one of them now and then."""
        before = self.prepared(Case(""))
        whole = []
        for line in lines:
            folder = self._copied(before, "reference")
            self._whole(line, folder)
            whole.append(self.oracle.state(folder))
        for number in range(rounds):
            folder = self._copied(before, "now")
            processes = [child(line, folder, None) for line in lines for _ in range(2)]
            if number % 2:
                time.sleep(random.uniform(SHORTEST, 0.2))
                os.kill(processes[0], signal.SIGKILL)
            statuses = {ended(process) for process in processes}
            state = self.oracle.state(folder)
            self.counts["parallel runs"] += len(processes)
            if statuses - {0, -signal.SIGKILL}:
                self.faults.append(f"parallel: {lines}: {statuses}: {self._said()}")
            if state not in whole:
                self.faults.append(f"parallel: {lines}: neither of the results: {state}")
            self._whole(lines[0], folder)
            if left := [path.name for path in folder.rglob(f"*{MARK}*")]:
                self.faults.append(f"parallel: {lines}: left {left}")

    def _copied(self, before: Path, name: str) -> Path:
        folder = self.place / name
        shutil.rmtree(folder, ignore_errors=True)
        return Path(shutil.copytree(before, folder))

    def _whole(self, line: str, folder: Path, what: str = "") -> None:
        """Run a command to its end."""
        if status := ended(child(line, folder, None)):
            self.faults.append(f"{what or line}: undisturbed: exit status {status}: {self._said()}")

    def _said(self) -> str:
        return (self.place / "said").read_text().strip()[-300:]


def differences(wanted: Path, found: Path) -> Iterator[str]:
    """Yield how two folders differ; a cache notes the time of use."""
    one, two = ({p.relative_to(folder).as_posix() for p in folder.rglob("*")} for folder in (wanted, found))
    yield from (f"{name} is missing" for name in sorted(one - two))
    yield from (f"{name} is too much" for name in sorted(two - one))
    for name in sorted(one & two):
        same = (wanted / name).is_dir() or filecmp.cmp(wanted / name, found / name, shallow=False)
        if not same and not name.endswith("entry.json"):
            yield f"{name} has other bytes"


def campaign(place: Path, names: Sequence[str], every: int, at_random: int, torch: bool) -> Campaign:
    """Run the cases of some names, all where there is none, and print what became of each; return what was found."""
    cases = CASES | (WITH_TORCH if torch else {})
    chosen = {name: case for name, case in cases.items() if not names or name in names}
    running = Campaign(place)
    for name, case in chosen.items():
        known, counts = len(running.faults), running.counts.copy()
        running.run(name, case, every, -(-at_random // len(chosen)))
        print(f"{name}: {_told(running.counts - counts)}", *running.faults[known:], sep="\n    ", flush=True)
    return running


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items())


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--random", type=int, default=1000)
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=", ".join([*CASES, *WITH_TORCH]))
    given = parser.parse_args()
    import mxtools_cli.commands  # noqa: F401 - the children need not import it

    if not given.no_torch:
        import mxtools.pytorch.loading.inputs  # noqa: F401 - likewise
    with tempfile.TemporaryDirectory() as folder:
        found = campaign(Path(folder), given.commands, given.every, given.random, not given.no_torch)
        known = len(found.faults)
        if not given.commands:
            for lines in WRITERS:
                found.parallel(lines, 50)
    for fault in found.faults[known:]:
        print(fault)
    print(_told(found.counts), f"{len(found.faults)} faults", sep="; ")
    sys.exit(bool(found.faults))


if __name__ == "__main__":
    main()
