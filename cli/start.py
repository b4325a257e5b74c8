"""Where the program starts; from here on, an interrupt ends it silently, even while libraries are imported.

`import onnx` runs everything in the package, and numpy, which takes longer than tagging a small model. Most commands
need only its protobuf classes. So in this program, the package's own code runs only when something else is asked for:

    from onnx import ModelProto      imports onnx.onnx_ml_pb2, which is generated code
    from onnx import shape_inference imports that submodule and what it imports
    onnx.load                        runs the package, after which it is as any other
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from threading import RLock
from types import ModuleType
from typing import Any

from .page import ASKS, front_page, plain_width
from .terminal import end_at_once, leave, prepare_streams, write_data

_PACKAGE = "onnx"
_CLASSES = f"{_PACKAGE}.onnx_ml_pb2"
"""The submodule with the protobuf classes, which imports nothing of its package."""
_running = RLock()


class _Deferred(ModuleType):
    """A package whose own code has not run."""

    def __getattr__(self, name: str) -> Any:
        """Return an attribute when it is first asked for, or if another thread asks in the meantime."""
        with _running:
            if name in vars(self):
                return vars(self)[name]
            if type(self) is not _Deferred or "_is_running" in vars(self):  # as while any package is imported
                raise AttributeError(f"module {_PACKAGE!r} has no attribute {name!r}")
            if not name.startswith("__"):
                if hasattr(classes := import_module(_CLASSES), name):
                    return getattr(classes, name)
                if find_spec(f"{_PACKAGE}.{name}"):
                    return import_module(f"{_PACKAGE}.{name}")
            self._run()
        return getattr(self, name)

    def _run(self) -> None:
        self._is_running = True
        try:
            self.__spec__.loader.exec_module(self)  # type: ignore[union-attr]
        except BaseException:  # such as a failed import
            sys.modules.pop(_PACKAGE, None)
            raise
        finally:
            del self._is_running
        self.__class__ = ModuleType  # type: ignore[assignment]


def defer_onnx() -> None:
    """Let the package onnx run only when something in it is needed, if it is not imported yet."""
    if _PACKAGE not in sys.modules and (spec := find_spec(_PACKAGE)) and spec.loader:
        module = module_from_spec(spec)
        module.__class__ = _Deferred
        sys.modules[_PACKAGE] = module


def main() -> None:
    """Run `mx`."""
    end_at_once()
    if sys.argv[1:] in ASKS and _shown():
        return
    defer_onnx()
    from .main import main as run

    try:
        run()
    except SystemExit as end:
        leave(end.code)


def _shown() -> bool:
    """Show the front page of help, if that needs no other library; return whether it is shown."""
    prepare_streams()
    width = plain_width()
    text = front_page(width) if width else None
    with suppress(OSError):
        if text is not None:
            write_data(text.encode())
            return True
    return False
