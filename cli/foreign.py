"""Errors that are not mxtools' own, from libraries, from the system, or caused by a file; all in one place."""

from __future__ import annotations

import os

from mxtools.errors import InputError, MxError, OutputError, UsageError

_LIBRARIES = {
    "google": "protobuf",
    "graphlib": "the order of nodes",
    "json": "JSON",
    "numpy": "numpy",
    "onnx": "ONNX",
    "onnx_ir": "ONNX IR",
    "onnxruntime": "ONNX Runtime",
    "pydantic_core": "pydantic",
    "safetensors": "safetensors",
    "safetensors_rust": "safetensors",
    "struct": "the file's format",
    "tomllib": "TOML",
    "zipfile": "zip",
    "zlib": "zlib",
}
"""Packages whose exceptions mean that their input is bad, and how messages name these packages."""
_OF_TORCH = ("torch", "transformers", "onnxscript")
"""What the extra `torch` installs."""
_LONGEST = 300
"""How many characters of a library's message are shown; some messages quote the whole graph."""


def as_mx_error(error: Exception) -> MxError | None:
    """Return an error of a library or the system as one that a user can act on; None for a fault of mxtools."""
    text = " ".join(str(error).split())[:_LONGEST]
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in _OF_TORCH:
        return without_torch()
    if isinstance(error, MemoryError):
        return InputError("there is not enough memory for what the file describes", "check it, or use a larger machine")
    if isinstance(error, RecursionError):
        return InputError("the file is nested too deeply", "fix the program that made it")
    if isinstance(error, UnicodeError):
        return InputError(f"a name or a text cannot be read or written ({text})", "use UTF-8")
    if isinstance(error, OSError):
        return _of_system(error)
    library = _LIBRARIES.get(type(error).__module__.partition(".")[0])
    return InputError(f"{library} refuses it ({text})", "check the file with `mx validate`") if library else None


def without_torch() -> UsageError:
    """Return the error of a command that needs PyTorch, if it is not installed."""
    return UsageError("this needs PyTorch and transformers", "pip install 'onnx-mxtools[torch]'")


def _of_system(error: OSError) -> MxError:
    try:
        os.getcwd()  # noqa: PTH109 - asks whether there is one
    except OSError:
        return InputError("the working directory no longer exists", "change to another")
    if error.filename is not None:
        return InputError(f"{os.fsdecode(error.filename)} cannot be used ({error.strerror or error})", "give another")
    return OutputError(f"stdout cannot be written ({error.strerror or error})", "give ⟨output⟩ FILE, or make room")
