"""Decisions of a model's code by a value, which a trace cannot make: it keeps the decision for the example inputs.

TorchScript's exporter runs the model. Every tensor whose value Python asks for in this run is looked at: the graph that
the exporter has recorded so far shows from what it was computed. Take `if x.shape[1] > 4 and x.sum() > 0`, with the
input `x`:

    aten::size(x, 1) -> aten::gt -> bool      only sizes: says nothing new if these are static
    aten::sum(x) -> aten::gt -> bool          data: another input may decide otherwise

Torch warns of both in the same way, and of the many checks of shapes in libraries. So its warnings are not shown.
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
"""Methods and functions that give Python the value of a tensor."""
_SIZES = {"aten::size", "aten::dim", "aten::numel", "aten::len", "prim::shape"}
"""Operations whose result is only the size of a tensor, by TorchScript's names."""
_MEASURED = {"aten::nonzero", "aten::nonzero_numpy", "aten::masked_select", "aten::_unique2", "aten::unique_dim"}
"""Operations that make tensors whose sizes depend on values."""
_VALUE_OF: Callable[[torch.Tensor], Any] = vars(torch._C)["_get_value_trace"]
"""Returns the value of the running trace that a tensor is; torch's type stubs do not know it."""
_LONGEST = 60
"""The most characters of a line of code that are shown."""


class _By(IntEnum):
    """What a value depends on: only on constants and weights, on sizes of inputs, or on their values."""

    NOTHING = 0
    SIZES = 1
    VALUES = 2


@dataclass(frozen=True)
class Fixed:
    """A place in the model's code, such as `model.py:12`, its code, the decision, and on what it depends."""

    place: str
    code: str
    value: str
    by: _By
    in_library: bool

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.place} `{self.code}` depends on {self.by.name.lower()}, here {self.value}"


class Watcher:
    """Notes the decisions that a model's code makes while it is exported by tracing, and the state that it keeps.

    Attributes: `kept`, the names of tensors by which the model returns something else in its next run.
    """

    def __init__(self, inputs: Mapping[str, Any], axes: Mapping[str, Any]) -> None:
        """Take the inputs, and the dynamic axes: if there are any, sizes vary too."""
        self.kept: tuple[str, ...] = ()
        self._inputs = sum(1 for _ in tensors(inputs))
        self._sizes_vary = bool(axes)
        self._found: dict[str, Fixed] = {}
        self._known: dict[int, _By] = {}

    def found(self) -> tuple[str, ...]:
        """Return in words what the graph fixes although other inputs may decide otherwise, each place once.

        Decisions by size count only if sizes vary, and only in the user's own code, because libraries check many
        shapes.
        """
        sizes_count = {False: self._sizes_vary, True: False}
        return tuple(str(f) for f in self._found.values() if f.by is _By.VALUES or sizes_count[f.in_library])

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note which values of tensors code in the block asks for, if it runs for a TorchScript trace."""
        if torch._C._get_tracing_state() is None:
            yield
            return
        with _Asked(self):
            yield

    def note(self, tensor: torch.Tensor, answer: object) -> None:
        """Note the answer that a tensor gave Python, if it depends on the model's inputs; one for each place."""
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
    """Return file and line of the running code of the model: the innermost code that is neither torch's nor ours."""
    frame = sys._getframe(1)
    while frame.f_back is not None and is_inner(frame.f_code.co_filename):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno
