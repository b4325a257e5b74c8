"""What the files of a folder are: a model is what it computes, a split what its parts do, a trace its values."""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import safetensors.numpy

from benchmarks.killing.steps import is_temporary

BROKEN = "broken"
NOTE = "entry.json"
"""A file of a cache that has the time of use in it."""


class Oracle:
    """Says what the files of a folder are: what models compute, not their bytes."""

    def __init__(self) -> None:
        self._known: dict[bytes, dict[str, str]] = {}
        self._models: dict[bytes, str] = {}

    def state(self, folder: Path, timed: frozenset[str] = frozenset()) -> dict[str, str]:
        """Return what each file is by name; what a killed run may leave is none.

        Of files that hold times, which differ from run to run, it says only whether they are whole.
        """
        files = {
            path.relative_to(folder).as_posix(): path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.parent.name != "__pycache__"
        }
        whole = hashlib.sha256(repr(sorted(timed)).encode())
        for name, path in files.items():
            whole.update(f"\0{name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
        key = whole.digest()
        if key not in self._known:
            self._known[key] = {
                name: self._what(path, timed)
                for name, path in files.items()
                if not is_temporary(name) and path.suffix not in (".data", ".safetensors")
            }
        return self._known[key]

    def _what(self, path: Path, timed: frozenset[str]) -> str:
        if path.name in timed or path.name == NOTE:
            return "whole" if is_whole(path) else f"{BROKEN}: torn"
        if path.suffix == ".onnx":
            return self._model(path)
        text = path.read_bytes()
        if path.name == "manifest.json":
            return _split(path.parent, text)
        if b'"mxtools.trace/' in text[:200]:
            return _trace(path, text)
        return hashlib.sha256(text).hexdigest()

    def _model(self, path: Path) -> str:
        """Return what a model computes, or why it does not load."""
        try:
            key = hashlib.sha256(onnx.load(path).SerializeToString()).digest()
            if key not in self._models:
                self._models[key] = _digest(_outputs(path, None))
        except Exception as error:
            return f"{BROKEN}: {error}"
        return self._models[key]


def _split(folder: Path, text: bytes) -> str:
    """Return what the parts of a split compute, one after the other."""
    try:
        manifest = json.loads(text)
        values: dict[str, Any] = {}
        for part in manifest["parts"]:
            names = [link["name"] for link in part["inputs"]]
            given = {name: values[name] for name in names if name not in manifest["inputs"]}
            values |= _outputs(folder / part["file"], given)
        return _digest({link["name"]: values[link["name"]] for link in manifest["outputs"]})
    except Exception as error:
        return f"{BROKEN}: {error}"


def _trace(path: Path, text: bytes) -> str:
    """Return what is in a trace and in its recorded values."""
    try:
        known = json.loads(text)
        record = known.pop("record", None)
        values = path.with_name(record).read_bytes() if record else b""
        if record:
            safetensors.numpy.load(values)
        if path.with_name(NOTE).exists():  # in a cache, where one with values may replace one without
            return "whole"
        return hashlib.sha256(json.dumps(known).encode() + values).hexdigest()
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        return f"{BROKEN}: {error}"


def is_whole(path: Path) -> bool:
    """Return whether a report, a picture or a note was written to its end."""
    data = path.read_bytes()
    if path.suffix == ".json":
        try:
            json.loads(data)
        except ValueError:
            return False
        return True
    return data.rstrip().endswith(b"</svg>") if path.suffix == ".svg" else data.endswith((b"IEND\xaeB`\x82", b"\n"))


def _outputs(path: Path, feeds: dict[str, Any] | None) -> dict[str, Any]:
    """Return what a model computes; inputs that are not given get numbers from -1 to 1."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = {value.name: _input(value.shape) for value in session.get_inputs()} | (feeds or {})
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, given), strict=True))


def _input(shape: list[int | str | None]) -> Any:
    sizes = [size if isinstance(size, int) else 2 for size in shape]
    return np.linspace(-1, 1, int(np.prod(sizes)), dtype=np.float32).reshape(sizes)


def _digest(outputs: dict[str, Any]) -> str:
    return hashlib.sha256(b"".join(name.encode() + outputs[name].tobytes() for name in sorted(outputs))).hexdigest()


def differences(wanted: Path, found: Path, timed: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield how two folders differ: in names, bytes, links, permissions; files that hold times have to be whole."""
    one, two = (
        {p.relative_to(folder).as_posix() for p in folder.rglob("*") if "__pycache__" not in p.parts}
        for folder in (wanted, found)
    )
    yield from (f"{name} is missing" for name in sorted(one - two))
    yield from (f"{name} is too much" for name in sorted(two - one))
    for name in sorted(one & two):
        left, right = wanted / name, found / name
        if left.is_symlink() != right.is_symlink():
            yield f"{name} is a link in one of both"
        if stat.S_IMODE(os.stat(left).st_mode) != stat.S_IMODE(os.stat(right).st_mode):
            yield f"{name} has other permissions"
        if left.is_file() and not (is_whole(right) if left.name in {NOTE, *timed} else filecmp.cmp(left, right, False)):
            yield f"{name} has other bytes"
