"""Record one forward pass call by call, through hooks, and give each call its scope.

Five calls of a model. Its `encoder` uses the same Embedding as the model itself, and calls its `layer` twice:

    embed    encoder    encoder.embed    encoder.layer    encoder.layer@1

The obvious way is to look up each called module in `named_modules()`. It gives both calls of the Embedding the name
`embed`, although `encoder` made the second one, and gives both calls of the layer one name. But the name of a module
depends on the caller. A tied module has several names (`named_modules(remove_duplicate=False)` lists `embed` and
`encoder.embed`), and the caller knows it by the first one below the caller's own name. So the scope of a call is the
scope of its caller and that name, without the caller's. If the caller does not own the module at all, the module's
whole name is added. If a scope is already taken, because the caller calls the module again or reaches into a module
that it also calls, the later call gets `@1`, `@2` ….

The arguments of a module are what its last pre-hook made of them, and its results are what came out of its last hook,
whoever registered these, and when. Three kinds of calls have no scope of their own, and count for the call around them:
calls of ScriptModules, which take no hooks; calls of the root inside of itself, which has no name there; and calls that
are deeper than a scope can be.
"""

from __future__ import annotations

import inspect
import weakref
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from threading import RLock, get_ident
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import nn

from mxtools.pytorch.fingerprint import elements, equal_in_order, fingerprint, unwrapped, version
from mxtools.pytorch.nested import tensors
from mxtools.pytorch.operations import Operations
from mxtools.pytorch.subject import Subject
from mxtools.scopes.scope import ROOT, escape, is_scope, join, numbered_call
from mxtools.scopes.tags import tags_of
from mxtools.traces.sidecar import Call, Operation, TracedTensor


@dataclass
class _Frame:
    """One call, while it runs and afterwards; `given` are the ids of the arguments that it was given."""

    module: nn.Module
    path: str
    scope: str
    parent: int | None
    given: list[int]
    inputs: tuple[TracedTensor, ...]
    outputs: tuple[TracedTensor, ...] = ()
    reorders: Literal[True] | None = None
    leaves: dict[int, TracedTensor] = field(default_factory=dict)


@dataclass
class _State:
    """A tensor in the state between two changes: its number, and its record if somebody has asked for it."""

    tensor: weakref.ref[torch.Tensor]
    changes: int
    number: int
    record: TracedTensor | None = None


class _Open(NamedTuple):
    """A running call, with the number of its frame; a call without a frame has that of the call around it."""

    module: nn.Module
    frame: int
    has_frame: bool


class Recorder:
    """Records module calls through hooks.

    `names` has each module's names before the forward pass. `_open` has the running calls of each thread, the innermost
    last, and `_last` the ids of the hooks that must run last.
    """

    def __init__(self, subject: Subject, inputs: dict[str, Any], values: dict[str, torch.Tensor] | None) -> None:
        model = subject.model
        self._model, self._inputs, self._interface = model, inputs, subject.interface
        self._values = values
        self.names: dict[nn.Module, list[str]] = defaultdict(list)
        for name, module in model.named_modules(remove_duplicate=False):
            self.names[module].append(name or ROOT)
        self._frames: list[_Frame] = []
        self._open: dict[int, list[_Open]] = defaultdict(list)
        self._thread = get_ident()
        self._lock = RLock()
        self._last: dict[nn.Module, int] = {}
        self._counts: Counter[str] = Counter()
        self._known: dict[int, _State] = {}
        self._next = 0
        self._parameters: dict[type, list[str]] = {}
        self._made_in: dict[int, tuple[int, ...]] = {}
        self._mode = Operations(lambda tensor: self._state(tensor).number, self._operate)
        self.operations: list[Operation] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Recorder:
        """Return this recorder itself: a module that the forward pass copies has the hooks of the original."""
        return self

    def hook(self, stack: ExitStack) -> None:
        """Register hooks on all modules that take them, and begin to note operations, until the stack is closed."""
        for module in self.names:
            if not isinstance(module, torch.jit.ScriptModule):
                before = module.register_forward_pre_hook(self.enter, with_kwargs=True)
                stack.callback(before.remove)
                after = module.register_forward_hook(self.leave, with_kwargs=True, always_call=True)
                stack.callback(after.remove)
                self._last[module] = after.id
        stack.enter_context(self._mode)

    def tensor(self, name: str, tensor: torch.Tensor) -> TracedTensor:
        """Return the record of a tensor; an object keeps its id, and is read once, until it is changed in place."""
        state = self._state(tensor)
        if state.record is None:
            with self._mode.paused():
                state.record = self._record(name, tensor, state.number)
        return state.record if state.record.name == name else state.record.model_copy(update={"name": name})

    def _record(self, name: str, tensor: torch.Tensor, number: int) -> TracedTensor:
        """Return the record of a tensor under a number; keep its value, if values are wanted."""
        record = TracedTensor(name=name, id=number, fingerprint=fingerprint(tensor), **shape_and_type(tensor))
        plain = elements(tensor) if self._values is not None and record.fingerprint else None
        if self._values is not None and plain is not None:
            self._values[str(number)] = unwrapped(plain.clone(memory_format=torch.contiguous_format))
        return record

    def _state(self, tensor: torch.Tensor) -> _State:
        known, changes = self._known.get(id(tensor)), version(tensor)
        if known is None or known.tensor() is not tensor or known.changes != changes:
            known = self._known[id(tensor)] = _State(weakref.ref(tensor), changes, self._next)
            self._next += 1
        return known

    def _operate(self, name: str, given: list[torch.Tensor], before: list[int], made: list[torch.Tensor]) -> None:
        """Note an operation of the innermost running call."""
        with self._lock:
            running = tuple(call.frame for call in self._open[get_ident()] if call.has_frame)
            for tensor, number in zip(given, before, strict=True):
                self._use(tensor, number, running)
            numbers = [self._state(tensor).number for tensor in made]
            self._made_in.update(dict.fromkeys(numbers, running))
            if running:
                self.operations.append(Operation(running[-1], name, tuple(before), tuple(numbers)))

    def _use(self, tensor: torch.Tensor, number: int, running: tuple[int, ...]) -> None:
        """Note a use of a tensor for those calls that made it and have ended: it is used outside of them.

        `number` is that of its state when it was used. If it was changed since, what it was can no longer be read.
        """
        for call in self._made_in.get(number, ()):
            leaves = self._frames[call].leaves
            if call not in running and number not in leaves:
                name, is_unchanged = f"side_{len(leaves)}", self._state(tensor).number == number
                former = TracedTensor(name=name, id=number, **shape_and_type(tensor))
                leaves[number] = self.tensor(name, tensor) if is_unchanged else former

    def calls(self) -> Iterator[Call]:
        """Yield the recorded calls, in the order in which they began."""
        tags = tags_of((f.scope, f.parent, type(f.module).__name__) for f in self._frames)
        for frame, tag in zip(self._frames, tags, strict=True):
            module = self.names[frame.module][0]
            yield Call(
                scope=frame.scope,
                tag=tag,
                module=module,
                parent=frame.parent,
                inputs=frame.inputs,
                outputs=frame.outputs,
                reorders=frame.reorders,
                leaves=_not_returned(frame),
            )

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Open a call."""
        if module not in self.names:  # a copy that the forward pass made
            return
        with self._lock:
            if not self._frames and module is not self._model:  # the root's own code runs no hooks
                self.enter(self._model, (), self._inputs)
            around = self._around()
            frame = self._frame(module, around, self._named(module, args, kwargs))
            if frame:
                self._frames.append(frame)
            number = len(self._frames) - 1 if frame else around
            self._open[get_ident()].append(_Open(module, number or 0, frame is not None))
            if module in self._last:  # after the hooks that were registered since
                cast("OrderedDict[int, Any]", module._forward_hooks).move_to_end(self._last[module])

    def leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:  # noqa: ANN401
        """Close a call, and calls inside it that no hook closed, because they raised and the model caught it."""
        with self._lock:
            running = self._open[get_ident()]
            if all(call.module is not module for call in running):
                return
            while (call := running.pop()).module is not module:
                pass
            if call.has_frame:
                self._close(self._frames[call.frame], self._named(module, args, kwargs), output)

    def finish(self, result: Any) -> None:  # noqa: ANN401
        """Close the root's call, if it runs no hooks; whoever called the model uses what it returned."""
        if not self._frames:
            self.enter(self._model, (), self._inputs)
        for _, tensor in tensors(self._interface.results(result)):
            self._use(tensor, self._state(tensor).number, (0,))
        self.leave(self._model, (), self._inputs, result)

    def _close(self, frame: _Frame, given: dict[str, Any], output: Any) -> None:  # noqa: ANN401
        # pre-hooks that ran after ours replaced arguments; what the call itself put into a list of its caller's did not
        if list(map(id, given.values())) != frame.given:
            frame.inputs = self._recorded(given)
        frame.outputs = self._recorded(self._interface.results(output) if frame.parent is None else output)
        with self._mode.paused():
            if self._looks_vacuous(frame) and self._moved(frame, given, output):
                frame.reorders = True

    def _around(self) -> int | None:
        """Return the innermost running call; a thread of the forward pass runs in the call that waits for it."""
        running = self._open[get_ident()] or self._open[self._thread]
        return running[-1].frame if running else None

    def _frame(self, module: nn.Module, parent: int | None, given: dict[str, Any]) -> _Frame | None:
        """Return the frame of a call that begins; None for a call that counts for the call around it."""
        if parent is not None and module is self._model:
            return None
        path, scope = self._place(module, None if parent is None else self._frames[parent])
        if not is_scope(scope):
            return None
        ids = list(map(id, given.values()))
        hidden = self._interface.hidden(self._inputs) if parent is None else {}
        return _Frame(module, path, scope, parent, ids, self._recorded({**given, **hidden}))

    def _recorded(self, value: Any) -> tuple[TracedTensor, ...]:  # noqa: ANN401
        return tuple(self.tensor(name, tensor) for name, tensor in tensors(value))

    def _looks_vacuous(self, frame: _Frame) -> bool:
        """Return whether a call, by fingerprints, returned only its inputs, one of them as another tensor."""
        ids = {tensor.id for tensor in frame.inputs}
        new = [tensor.fingerprint for tensor in frame.outputs if tensor.id not in ids]
        return bool(new) and {tensor.fingerprint for tensor in frame.inputs if tensor.fingerprint}.issuperset(new)

    def _moved(self, frame: _Frame, given: dict[str, Any], output: Any) -> bool:  # noqa: ANN401
        """Return whether an output has the elements of an input, but of none in the same order.

        Inputs that were changed in place are no longer what they were, and are left out.
        """
        known = [
            (record.fingerprint, tensor)
            for record, (_, tensor) in zip(frame.inputs, tensors(given), strict=False)
            if self._is_unchanged(tensor, record)
        ]
        for record, (_, tensor) in zip(frame.outputs, tensors(output), strict=True):
            alike = [one for fingerprint_, one in known if fingerprint_ and fingerprint_ == record.fingerprint]
            if alike and not any(equal_in_order(one, tensor) for one in alike):
                return True
        return False

    def _is_unchanged(self, tensor: torch.Tensor, record: TracedTensor) -> bool:
        return self._state(tensor).number == record.id

    def _place(self, module: nn.Module, parent: _Frame | None) -> tuple[str, str]:
        """Return the name by which the caller knows a module, and the scope of this call of it.

        Calls are counted by scope and not by module: see the example at the top of this file.
        """
        names = self.names[module]
        if parent is None:
            return ROOT, ROOT
        prefix = "" if parent.path == ROOT else parent.path + "."
        path = next((name for name in names if name.startswith(prefix)), names[0])
        scope = join(parent.scope, escape(path.removeprefix(prefix)))
        count = self._counts[scope]
        self._counts[scope] += 1
        return path, numbered_call(scope, count)

    def _named(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by the parameter names of `forward`; further arguments by their position."""
        kind = type(module)
        if kind not in self._parameters:
            self._parameters[kind] = _positional(module.forward)
        names = self._parameters[kind]
        return {**{names[i] if i < len(names) else str(i): value for i, value in enumerate(args)}, **kwargs}


def _not_returned(frame: _Frame) -> tuple[TracedTensor, ...]:
    """Return what left a call without being returned, under names that tell the tensors apart."""
    returned = {tensor.id for tensor in frame.outputs}
    left = [tensor for number, tensor in frame.leaves.items() if number not in returned]
    return tuple(tensor.model_copy(update={"name": f"side_{i}"}) for i, tensor in enumerate(left))


def _positional(function: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def shape_and_type(tensor: torch.Tensor) -> dict[str, Any]:
    """Return shape and type; a nested tensor, which has no shape, counts as a row of its elements."""
    tensor = unwrapped(tensor)
    shape = (tensor.numel(),) if tensor.is_nested else tensor.shape
    return {"shape": tuple(map(int, shape)), "dtype": str(tensor.dtype).removeprefix("torch.")}
