"""A command in a forked child, in which every step that changes a file is counted, and can be where it ends or fails.

A step is one call that opens a file to write, writes, renames, links, syncs, makes or removes something. What libraries
do without Python is none; they write only to temporary folders.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import select
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from mxtools.files.outputs import MARK
from mxtools.runtime.children import stand_alone

PATIENCE = 60
"""Seconds that a command may take."""
NEVER_ENDED = 1000
"""The status of a command that took longer."""
SAID, TEMPORARY = "said", "tmp"
"""Beside the folder that a command runs in: what it says, and its folder for temporary files."""
BY_HALF = ("write", "sendfile", "copy_file_range")
"""Steps of which a part may be done."""
REMOVING = ("unlink", "remove", "rmdir")
"""Steps that leave a temporary file where they fail, which the next run removes."""


@dataclass
class Plan:
    """What happens at the step of a number: `how` is before, half, after, ENOSPC or EIO; the steps are counted."""

    step: int = -1
    how: str = ""
    names: list[str] = field(default_factory=list)
    """What the steps so far were."""

    def around(self, name: str, act: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        """Do a step, or what is planned for it."""
        self.names.append(name)
        if len(self.names) - 1 != self.step:
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


class Disk:
    """What would be lost if the power failed: files that were not synced before they got their names, and names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: set[tuple[int, int]] = set()
        self._folders: dict[tuple[int, int], str] = {}
        self._early: list[str] = []

    def written(self, handle: int) -> None:
        """Note that a file was written to."""
        self._files.add(_identity(os.fstat(handle)))

    def synced(self, handle: int) -> None:
        """Note that a file or folder was synced."""
        self._files.discard(_identity(os.fstat(handle)))
        self._folders.pop(_identity(os.fstat(handle)), None)

    def named(self, path: Path) -> None:
        """Note that a file or folder got a name that stays."""
        path = Path(os.path.realpath(path.parent)) / path.name
        if path.is_relative_to(self._folder) and not path.name.endswith(".tmp"):
            self._early += [f"{name} is named before it is synced" for name in self._unsynced(path)]
            self._folders[_identity(path.parent.stat())] = path.name

    def lost(self) -> list[str]:
        """Return what would be lost at the end of the command."""
        names = [f"the name {name} is not synced" for name in self._folders.values()]
        return [*self._early, *names, *(f"{name} is not synced" for name in self._unsynced(self._folder))]

    def _unsynced(self, path: Path) -> list[str]:
        files = path.rglob("*") if path.is_dir() else [path]
        return [file.name for file in files if file.is_file() and _identity(file.stat()) in self._files]


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


STEPS = (
    *("unlink", "remove", "rmdir", "mkdir", "fchmod", "chmod", "ftruncate", "truncate", "symlink"),
    *("write", "pwrite", "posix_fallocate"),
)
NAMING = ("replace", "rename", "link")


def watch(plan: Plan, disk: Disk) -> None:
    """Let every function of this process that changes files be a step."""
    for name in STEPS:
        setattr(os, name, _step(plan, name, getattr(os, name)))
    for name in NAMING:
        setattr(os, name, _naming(plan, disk, name, getattr(os, name)))
    sync, send, copy = os.fsync, os.sendfile, os.copy_file_range

    def fsync(handle: int) -> None:
        plan.around("fsync", lambda: sync(handle))
        disk.synced(handle)

    def sendfile(out: int, source: int, offset: int, count: int) -> int:
        disk.written(out)
        half = min(count, os.fstat(source).st_size - offset) // 2
        return int(
            plan.around(
                "sendfile", lambda: send(out, source, offset, count), lambda: half and send(out, source, offset, half)
            )
        )

    def copy_file_range(source: int, out: int, count: int, start: int, at: int) -> int:
        disk.written(out)
        half = min(count, os.fstat(source).st_size - start) // 2
        return int(
            plan.around(
                "copy_file_range",
                lambda: copy(source, out, count, start, at),
                lambda: half and copy(source, out, half, start, at),
            )
        )

    os.fsync, os.sendfile, os.copy_file_range = fsync, sendfile, copy_file_range  # type: ignore[assignment]
    _watch_opening(plan, disk)


def _step(plan: Plan, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **options: plan.around(name, lambda: function(*args, **options))


def _naming(plan: Plan, disk: Disk, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def step(source: Any, target: Any, **options: Any) -> None:
        plan.around(name, lambda: function(source, target, **options))
        disk.named(Path(os.fspath(target)))

    return step


def _watch_opening(plan: Plan, disk: Disk) -> None:
    opened, plain_open = os.open, io.open

    class Raw(io.FileIO):
        """A file in which each write is a step."""

        def write(self, data: Any) -> int:
            """Write, as a step."""
            disk.written(self.fileno())
            half = memoryview(data).cast("B")[: memoryview(data).nbytes // 2]
            return int(plan.around("write", lambda: io.FileIO.write(self, data), lambda: io.FileIO.write(self, half)))

    def os_open(path: Any, flags: int, *args: Any, **options: Any) -> int:
        def act() -> int:
            return opened(path, flags, *args, **options)

        changes = flags & (os.O_WRONLY | os.O_RDWR) and path != os.devnull
        return int(plan.around("open", act)) if changes else act()

    def io_open(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        if opener or not set(mode) & set("wxa+"):
            return plain_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        plain = mode.replace("b", "").replace("t", "")
        raw = Raw(file, plain, closefd) if isinstance(file, int) else plan.around("open", lambda: Raw(file, plain))
        if "b" in mode and not buffering:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    os.open, io.open, builtins.open = os_open, io_open, io_open  # type: ignore[assignment]


@dataclass(frozen=True)
class Told:
    """What an undisturbed child tells: the names of its steps, what a power failure would lose, what it imported."""

    steps: list[str]
    lost: list[str]
    modules: list[str]


def told(line: str, folder: Path) -> tuple[int, Told | None]:
    """Run a command undisturbed; return its status and what it tells."""
    read, write = os.pipe()
    process = child(line, folder, Plan(), write)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    return ended(process), Told(**json.loads(text)) if text else None


def child(line: str, folder: Path, plan: Plan | None = None, telling: int | None = None) -> int:
    """Start a command in a forked child; return its process id. What it tells goes to a file descriptor."""
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if not process:
        _run(line, folder, plan, telling)
    return process


def _run(line: str, folder: Path, plan: Plan | None, telling: int | None) -> NoReturn:
    status = 70
    try:
        stand_alone()
        os.chdir(folder)
        tempfile.tempdir = os.environ["TMPDIR"] = str(folder.parent / TEMPORARY)
        os.environ.setdefault("PYTHONHASHSEED", "0")  # else `mx` starts itself again
        null = os.open(os.devnull, os.O_RDWR)
        said = os.open(folder.parent / SAID, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number, handle in ((0, null), (1, null), (2, said)):
            os.dup2(handle, number)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w"), write_through=True)  # not what a test puts there
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w"), write_through=True)
        from mxtools_cli.main import main

        sys.argv = ["mx", *line.split()]
        disk = Disk(Path(os.path.realpath(folder)))
        if plan:
            watch(plan, disk)
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        if telling is not None and plan:
            names = [*plan.names]
            with io.FileIO(telling, "w") as pipe:
                what = json.dumps({"steps": names, "lost": disk.lost(), "modules": [*sys.modules]}).encode()
                while what:
                    what = what[pipe.write(what) :]
    finally:
        os._exit(status)


def ended(process: int, patience: float = PATIENCE) -> int:
    """Wait for a child; return its exit status, negative for a signal; one that takes too long is killed."""
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(process)
        try:
            late = not select.select([handle], [], [], patience)[0]
        finally:
            os.close(handle)
        if late:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            _kill_group(process)
            return NEVER_ENDED
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    _kill_group(process)
    return status


def _kill_group(process: int) -> None:
    """Kill the tools that a command ran."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)


def is_temporary(name: str) -> bool:
    """Return whether a path is, or is in, what a killed run may leave."""
    return MARK in name
