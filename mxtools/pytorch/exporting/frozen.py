"""Where a model's code decides by a value, which a trace cannot: it keeps what was decided for the example inputs.

While TorchScript's exporter runs a model, every tensor that Python asks for its value is looked at. The graph that the
exporter has recorded so far says what it was computed from. Take `if x.shape[1] > 4 and x.sum() > 0`, `x` an input:

    aten::size(x, 1) -> aten::gt -> bool      only sizes: says nothing new if these are static
    aten::sum(x) -> aten::gt -> bool          data: another input may decide otherwise

Torch warns of both alike, and of the many checks of shapes in libraries, so its warnings are not what is shown.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from mxtools.pytorch.exporting.code_places import is_inner, is_library
from mxtools.pytorch.nested import tensors

_ASKING = {"__bool__", "__int__", "__float__", "__index__", "__array__", "item", "tolist", "numpy", "equal", "allclose"}
"""What gives Python the value of a tensor."""
_SIZES = {"aten::size", "aten::dim", "aten::numel", "aten::len", "prim::shape"}
"""What gives no more than the size of a tensor, by TorchScript's names."""
_MEASURED = {"aten::nonzero", "aten::nonzero_numpy", "aten::masked_select", "aten::_unique2", "aten::unique_dim"}
"""What makes tensors whose sizes depend on values."""
_VALUE_OF: Callable[[torch.Tensor], Any] = vars(torch._C)["_get_value_trace"]
"""Gives the value of the running trace that a tensor is; torch's type stubs do not know it."""
_LONGEST = 60
"""Characters of a line of code that are shown."""


class _By(IntEnum):
    """What a value depends on: nothing but constants and weights, sizes of inputs, their values."""

    NOTHING = 0
    SIZES = 1
    VALUES = 2


@dataclass(frozen=True)
class Fixed:
    """A place in the model's code, as `model.py:12`, its code, what was decided, and by what."""

    place: str
    code: str
    value: str
    by: _By
    in_library: bool

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.place} `{self.code}` depends on {self.by.name.lower()}, here {self.value}"


class Watcher:
    """Notes which decisions a model's code makes while it is exported by tracing."""

    def __init__(self, inputs: Mapping[str, Any], axes: Mapping[str, Any]) -> None:
        """Take the inputs, and the dynamic axes: with any of these, sizes vary too."""
        self._inputs = sum(1 for _ in tensors(inputs))
        self._sizes_vary = bool(axes)
        self._found: dict[str, Fixed] = {}
        self._known: dict[int, _By] = {}

    def found(self) -> tuple[str, ...]:
        """Return in words what is fixed in the graph although other inputs may decide otherwise, each place once.

        Decisions by size count in the user's own code only, and if sizes vary: libraries check many shapes.
        """
        sizes_count = {False: self._sizes_vary, True: False}
        return tuple(str(f) for f in self._found.values() if f.by is _By.VALUES or sizes_count[f.in_library])

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note what code inside the block asks of tensors, if it runs for a TorchScript trace."""
        if torch._C._get_tracing_state() is None:
            yield
            return
        with _Asked(self):
            yield

    def note(self, tensor: torch.Tensor, answer: object) -> None:
        """Enter that a tensor gave Python an answer, if that depends on the model's inputs; the first of each place."""
        by = self._origin(_VALUE_OF(tensor))
        if by is _By.NOTHING:
            return
        file, line = _place()
        place = f"{Path(file).name}:{line}"
        code = linecache.getline(file, line).strip()
        code = code if len(code) <= _LONGEST else code[: _LONGEST - 1] + "…"
        shown = str(answer) if isinstance(answer, (bool, int, float)) else "as it was"
        known = self._found.get(place)
        if known is None or known.by < by:
            self._found[place] = Fixed(place, code, shown, by, is_library(file))

    def _origin(self, value: Any) -> _By:  # noqa: ANN401 - torch._C.Value
        """Return what a value of the graph depends on; the graph only grows, so each value is looked at once."""
        waiting = [value]
        while waiting:
            at = waiting[-1]
            node = at.node()
            inputs = [] if node.kind() == "prim::Param" else list(node.inputs())
            left = [v for v in inputs if v.unique() not in self._known]
            if left and at.unique() not in self._known:
                waiting += left
                continue
            waiting.pop()
            self._known[at.unique()] = self._of_node(node, at, [self._known[v.unique()] for v in inputs])
        return self._known[value.unique()]

    def _of_node(self, node: Any, value: Any, inputs: list[_By]) -> _By:  # noqa: ANN401 - torch._C.Node and Value
        """Return what a result of a node depends on, given what its inputs depend on."""
        if node.kind() == "prim::Param":
            given = [v.unique() for v in node.outputs()][: self._inputs]
            return _By.VALUES if value.unique() in given else _By.NOTHING
        by = max(inputs, default=_By.NOTHING)
        if node.kind() in _SIZES and by is _By.VALUES:
            measured = any(v.node().kind() in _MEASURED for v in node.inputs())
            return _By.VALUES if measured else _By.SIZES
        return by


class _Asked(TorchFunctionMode):
    """Tells a watcher which tensors are asked for their values; it changes nothing."""

    def __init__(self, watcher: Watcher) -> None:
        super().__init__()
        self._watcher = watcher

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Run a function of torch, and note it if it gives Python the value of a tensor."""
        answer = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in _ASKING and args and isinstance(args[0], torch.Tensor):
            with torch._C.DisableTorchFunction():
                self._watcher.note(args[0], answer)
        return answer


def _place() -> tuple[str, int]:
    """Return file and line of the code of the model that runs: the innermost that is neither torch's nor ours."""
    frame = sys._getframe(1)
    while frame.f_back is not None and is_inner(frame.f_code.co_filename):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno
