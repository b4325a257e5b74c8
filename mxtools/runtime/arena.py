"""What the arena of ONNX Runtime says of the memory that the values between nodes take in a run.

Its Python interface does not ask the arena, but the C interface does (since 1.23), and the package holds the library.
Functions of the C interface keep their places in its table from version to version. A mistake there would end the
process, and the arena remembers, so it is asked in a process of its own: `python -m mxtools.runtime.arena`.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from mxtools.errors import InputError
from mxtools.files.temporary import Scratch
from mxtools.files.weights import WeightStore
from mxtools.files.writing import write_model
from mxtools.runtime.session_values import Value

API = 23
ERROR_MESSAGE, CREATE_ENV, CREATE_SESSION, RUN, CREATE_OPTIONS = 2, 3, 7, 9, 10
DISABLE_PATTERN, SET_LEVEL, SET_THREADS, CREATE_TENSOR, CREATE_MEMORY_INFO = 17, 23, 24, 49, 69
ADD_ENTRY, CREATE_ALLOCATOR, REGISTER_ALLOCATOR, CREATE_ARENA_CONFIG, KEY_VALUE = 130, 131, 144, 156, 297
"""Places of functions in the table of the C interface."""
WARNING = 2
SAME_AS_REQUESTED = 1
"""How the arena grows."""

_LEAVE_OUT = "leave ⟨memory⟩ out"
_Pointer = ctypes.c_void_p
_KINDS = {bytes: ctypes.c_char_p, type(None): _Pointer, int: ctypes.c_int, str: ctypes.c_char_p}


class _Base(ctypes.Structure):
    _fields_ = (("get_api", _Pointer), ("get_version", _Pointer))


class _Allocator(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_uint32),
        *((name, _Pointer) for name in ("alloc", "free", "info", "reserve", "get_stats")),
    )


class _Arena:
    """A session of ONNX Runtime on one thread, without optimisations, memory patterns and packed weights."""

    def __init__(self, file: Path) -> None:
        """Load a model, with an arena that takes memory as it is asked for it, and splits what it reuses."""
        library = ctypes.CDLL(str(_library()))
        library.OrtGetApiBase.restype = ctypes.POINTER(_Base)
        get_api = ctypes.CFUNCTYPE(_Pointer, ctypes.c_uint32)(library.OrtGetApiBase().contents.get_api)
        table = get_api(API)
        if not table:
            raise SystemExit(f"ONNX Runtime is older than 1.{API}")
        self._table = ctypes.cast(table, ctypes.POINTER(_Pointer))
        size = ctypes.c_size_t
        environment = self._make(CREATE_ENV, WARNING, b"arena")
        self._memory = self._make(CREATE_MEMORY_INFO, 1, 0)
        config = self._make(CREATE_ARENA_CONFIG, size(0), SAME_AS_REQUESTED, -1, 1)
        self._call(REGISTER_ALLOCATOR, environment, self._memory, config)
        options = self._make(CREATE_OPTIONS)
        self._call(SET_LEVEL, options, 0)
        self._call(SET_THREADS, options, 1)
        self._call(DISABLE_PATTERN, options)
        for entry in (b"session.use_env_allocators", b"session.disable_prepacking"):
            self._call(ADD_ENTRY, options, entry, b"1")
        self._session = self._make(CREATE_SESSION, environment, bytes(file), options)
        self._allocator = self._make(CREATE_ALLOCATOR, self._session, self._memory)
        self._before = self._stat(b"InUse")

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str]) -> int:
        """Run the model once; return the most bytes that the arena gave out at a time, besides the model's own."""
        size, kept = ctypes.c_size_t, {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        values = (_Pointer * len(kept))(*map(self._tensor, kept.values()))
        given = (ctypes.c_char_p * len(kept))(*(name.encode() for name in kept))
        wanted = (ctypes.c_char_p * len(outputs))(*(name.encode() for name in outputs))
        results = (_Pointer * len(outputs))()
        self._call(RUN, self._session, None, given, values, size(len(kept)), wanted, size(len(outputs)), results)
        return self._stat(b"MaxInUse") - self._before

    def _tensor(self, array: np.ndarray[Any, Any]) -> ctypes.c_void_p:
        shape, size = (ctypes.c_int64 * array.ndim)(*array.shape), ctypes.c_size_t
        element = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        data = _Pointer(array.ctypes.data)
        return self._make(CREATE_TENSOR, self._memory, data, size(array.nbytes), shape, size(array.ndim), element)

    def _stat(self, name: bytes) -> int:
        allocator = ctypes.cast(self._allocator, ctypes.POINTER(_Allocator)).contents
        pairs = _Pointer()
        get = ctypes.CFUNCTYPE(_Pointer, _Pointer, ctypes.POINTER(_Pointer))(allocator.get_stats)
        self._require(get(self._allocator, ctypes.byref(pairs)))
        value = ctypes.CFUNCTYPE(ctypes.c_char_p, _Pointer, ctypes.c_char_p)(self._table[KEY_VALUE])
        return int(value(pairs, name))

    def _make(self, function: int, *arguments: Any) -> ctypes.c_void_p:  # noqa: ANN401 - what C functions take
        made = _Pointer()
        self._call(function, *arguments, ctypes.pointer(made))
        return made

    def _call(self, function: int, *arguments: Any) -> None:  # noqa: ANN401 - what C functions take
        kinds = [_KINDS.get(type(argument), type(argument)) for argument in arguments]
        self._require(ctypes.CFUNCTYPE(_Pointer, *kinds)(self._table[function])(*arguments))

    def _require(self, status: int | None) -> None:
        if status:
            message = ctypes.CFUNCTYPE(ctypes.c_char_p, _Pointer)(self._table[ERROR_MESSAGE])(status)
            raise SystemExit(f"ONNX Runtime: {message.decode()}")


def _library() -> Path:
    """Return the library in ONNX Runtime's package for Linux, without importing the package, which would load it."""
    spec = find_spec("onnxruntime")
    folders = (spec.submodule_search_locations or []) if spec else []
    found = next((file for folder in folders for file in Path(folder, "capi").glob("libonnxruntime.so*")), None)
    if found is None:
        raise SystemExit("the library of ONNX Runtime is not in its package")
    return found


def peak_in_arena(model: ModelProto, weights: WeightStore, feeds: Mapping[str, Value]) -> int:
    """Return the most bytes that values between nodes, and outputs, take at a time in a run of a model on inputs.

    The inputs do not count, which the caller holds. Raises InputError if the model does not run, or the arena cannot be
    asked: then ONNX Runtime is older than 1.23, or not for Linux, or an input is not an array of numbers.
    """
    for name, value in feeds.items():
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
            raise InputError(
                f"ONNX Runtime's arena is not asked where an input such as {name!r} is none of numbers", _LEAVE_OUT
            )
    with Scratch() as folder:
        file, inputs = folder / "model.onnx", folder / "inputs.npz"
        write_model(model, weights, file)
        np.savez(inputs, **feeds)
        outputs = [info.name for info in model.graph.output]
        command = [sys.executable, "-P", "-m", __name__, file, inputs, *outputs]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode or not done.stdout.strip().isdigit():
        lines = done.stderr.decode(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), f"exit status {done.returncode}")
        raise InputError(f"ONNX Runtime's arena cannot be asked ({said})", _LEAVE_OUT)
    return int(done.stdout)


if __name__ == "__main__":
    with np.load(sys.argv[2]) as arrays:
        print(_Arena(Path(sys.argv[1])).run(dict(arrays), sys.argv[3:]))  # noqa: T201 - the answer
