"""Which operations a forward pass runs, in which call, and on which tensors.

The inputs and outputs of calls do not show what leaves a module without being returned:

    def forward(self, x, cache):
        k = torch.cat([cache[0], self.key(x)], 1)    # made here, by an operation of this call
        cache[0] = k                                 # used by whoever reads the cache, though it is not returned
        return self.attend(x, k)

Nor do they show where a call that a hook changed ends: its last operations are the hook's. So every function of torch
that makes or changes a tensor is noted: see `mxtools.traces.sidecar.Operation`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from mxtools.pytorch.nested import tensors

Note = Callable[[str, list[torch.Tensor], list[int], list[torch.Tensor]], None]
"""Takes the name of a function, the tensors it was given, their states before, and those it made or changed."""


class Operations(TorchFunctionMode):
    """Tells `note` of each function of torch that makes or changes tensors, while the mode is entered.

    `state` returns the number of a tensor in its present state. In a block `with paused():` nothing is noted.
    """

    def __init__(self, state: Callable[[torch.Tensor], int], note: Note) -> None:
        """Take a function that numbers tensors, and one that gets the operations."""
        super().__init__()
        self._state, self._note = state, note
        self._is_paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Note nothing in a block: reading tensors for the trace is not an operation of the model."""
        before, self._is_paused = self._is_paused, True
        try:
            yield
        finally:
            self._is_paused = before

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Any = None,  # noqa: ANN401 - as torch declares it
    ) -> Any:  # noqa: ANN401
        """Call the function, and note it if it made or changed tensors."""
        kwargs = kwargs or {}
        if self._is_paused:
            return func(*args, **kwargs)
        given = [tensor for _, tensor in (*tensors(args), *tensors(kwargs)) if not is_lazy(tensor)]
        before = [self._state(tensor) for tensor in given]
        result = func(*args, **kwargs)
        made = [tensor for _, tensor in tensors(result) if not any(tensor is other for other in given)]
        made += [tensor for tensor, state in zip(given, before, strict=True) if self._state(tensor) != state]
        if made:
            self._note(getattr(func, "__name__", ""), given, before, made)
        return result
