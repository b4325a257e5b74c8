"""Trace a model: run one forward pass and record it call by call.

Five calls of a model whose `encoder` uses the same Embedding as the model itself, and calls its `layer` twice:

    embed    encoder    encoder.embed    encoder.layer    encoder.layer@1

The obvious way, to look up each called module in `named_modules()`, gives both calls of the Embedding the name `embed`,
though `encoder` made the second one, and gives both calls of the layer one name. But the name of a module depends on
the caller: a tied module has several (`named_modules(remove_duplicate=False)` lists `embed` and `encoder.embed`), and
the first one below the caller's own name is the one by which the caller knows it. So the scope of a call is the scope
of its caller and that name, without the caller's. A caller that does not own the module at all adds the module's whole
name. Where a scope is taken, because the caller calls the module again or reaches into a module that it also calls,
the later call gets `@1`, `@2` ….
"""

from __future__ import annotations

import inspect
import sys
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from mxtools.errors import InputError
from mxtools.files.version import VERSION
from mxtools.pytorch.eval_mode import copied, settled
from mxtools.pytorch.fingerprint import equal_in_order, fingerprint
from mxtools.pytorch.nested import tensors
from mxtools.pytorch.subject import Subject
from mxtools.runtime.quiet import error_line, quiet, where_raised
from mxtools.scopes.scope import ROOT, escape, join, numbered_call
from mxtools.scopes.tags import tags_of
from mxtools.traces import sidecar
from mxtools.traces.sidecar import Call, Sidecar, TracedModule, TracedTensor, Weight


def trace(subject: Subject, values: dict[str, torch.Tensor] | None = None) -> Sidecar:
    """Run the model once on its inputs and return the sidecar.

    `values`, where given, gets a copy of every tensor that went into a call or came out of one, under `str(tensor.id)`,
    and of the model's inputs under their own names. Raises InputError where the forward pass raises.
    """
    model = subject.model
    recorder = _Recorder(model, values)
    inputs = copied(subject.inputs)
    given = [recorder.tensor(name, tensor) for name, tensor in tensors(inputs)]
    if values is not None:
        values.update({name: tensor.detach().clone() for name, tensor in tensors(inputs)})
    with settled(model), ExitStack() as hooks, quiet():
        recorder.hook(hooks)
        try:
            model(**inputs)
        except Exception as error:
            raise InputError(
                f"the forward pass of {type(model).__name__} raised {error_line(error)} ({where_raised(error)})",
                "give fitting inputs with ⟨any-inputs⟩",
            ) from error
    return Sidecar(
        producer=_producer(),
        model=sidecar.TracedModel(
            **{"class": type(model).__name__}, qualified_class=_qualified(model), spec=subject.spec, inputs=tuple(given)
        ),
        modules=tuple(_modules(model)),
        calls=tuple(recorder.calls()),
    )


@dataclass
class _Frame:
    """One call, while it runs and afterwards."""

    module: nn.Module
    path: str
    scope: str
    parent: int | None
    inputs: tuple[TracedTensor, ...]
    outputs: tuple[TracedTensor, ...] = ()
    reorders: Literal[True] | None = None


class _Recorder:
    """Records module calls through hooks; `_open` are the running ones, the innermost last."""

    def __init__(self, model: nn.Module, values: dict[str, torch.Tensor] | None) -> None:
        self._model = model
        self._values = values
        self._names: dict[nn.Module, list[str]] = defaultdict(list)
        for name, module in model.named_modules(remove_duplicate=False):
            self._names[module].append(name or ROOT)
        self._frames: list[_Frame] = []
        self._open: list[int] = []
        self._counts: Counter[str] = Counter()
        self._known: dict[int, tuple[weakref.ref[torch.Tensor], int, TracedTensor]] = {}
        self._next = 0
        self._parameters: dict[type, list[str]] = {}

    def hook(self, stack: ExitStack) -> None:
        """Register hooks on all modules; they are removed when the stack is closed."""
        for module in self._names:
            before = module.register_forward_pre_hook(self._enter, with_kwargs=True)
            stack.callback(before.remove)
            after = module.register_forward_hook(self._leave, with_kwargs=True, always_call=True)
            stack.callback(after.remove)

    def tensor(self, name: str, tensor: torch.Tensor) -> TracedTensor:
        """Return the record of a tensor; an object keeps its id, and is read once, until it is changed in place."""
        known = self._known.get(id(tensor))
        version = _version(tensor)
        if known and known[0]() is tensor and known[1] == version:
            return known[2] if known[2].name == name else known[2].model_copy(update={"name": name})
        record = TracedTensor(name=name, id=self._next, fingerprint=fingerprint(tensor), **_type(tensor))
        self._next += 1
        self._known[id(tensor)] = (weakref.ref(tensor), version, record)
        if self._values is not None:
            self._values[str(record.id)] = tensor.detach().clone().contiguous()
        return record

    def calls(self) -> Iterator[Call]:
        """Yield the recorded calls, in the order in which they began."""
        tags = tags_of((f.scope, f.parent, type(f.module).__name__) for f in self._frames)
        for frame, tag in zip(self._frames, tags, strict=True):
            module = self._names[frame.module][0]
            yield Call(
                scope=frame.scope,
                tag=tag,
                module=module,
                parent=frame.parent,
                inputs=frame.inputs,
                outputs=frame.outputs,
                reorders=frame.reorders,
            )

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        parent = self._frames[self._open[-1]] if self._open else None
        path, scope = self._place(module, parent)
        inputs = tuple(self.tensor(name, tensor) for name, tensor in tensors(self._named(module, args, kwargs)))
        self._frames.append(_Frame(module, path, scope, self._open[-1] if self._open else None, inputs))
        self._open.append(len(self._frames) - 1)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:  # noqa: ANN401
        """Close a call, and calls within it whose end no hook reported because they raised and the model caught it."""
        while self._open and self._frames[self._open[-1]].module is not module:
            self._open.pop()
        if self._open:
            frame = self._frames[self._open.pop()]
            frame.outputs = tuple(self.tensor(name, tensor) for name, tensor in tensors(output))
            if self._looks_vacuous(frame) and self._moved(frame, self._named(module, args, kwargs), output):
                frame.reorders = True

    def _looks_vacuous(self, frame: _Frame) -> bool:
        """Return whether a call returned, to go by fingerprints, nothing but inputs, and one as another tensor."""
        ids = {tensor.id for tensor in frame.inputs}
        new = [tensor.fingerprint for tensor in frame.outputs if tensor.id not in ids]
        return bool(new) and {tensor.fingerprint for tensor in frame.inputs if tensor.fingerprint}.issuperset(new)

    def _moved(self, frame: _Frame, given: dict[str, Any], output: Any) -> bool:  # noqa: ANN401
        """Return whether an output has the elements of an input, but of none in the same order.

        Inputs that were changed in place are what they were no more, and are left out.
        """
        known = [
            (record.fingerprint, tensor)
            for record, (_, tensor) in zip(frame.inputs, tensors(given), strict=False)
            if self._is_unchanged(tensor, record)
        ]
        for record, (_, tensor) in zip(frame.outputs, tensors(output), strict=True):
            alike = [one for fingerprint_, one in known if fingerprint_ == record.fingerprint]
            if alike and not any(equal_in_order(one, tensor) for one in alike):
                return True
        return False

    def _is_unchanged(self, tensor: torch.Tensor, record: TracedTensor) -> bool:
        known = self._known.get(id(tensor))
        return known is not None and known[1] == _version(tensor) and known[2].id == record.id

    def _place(self, module: nn.Module, parent: _Frame | None) -> tuple[str, str]:
        """Return the name by which the caller knows a module, and the scope of this call of it.

        Calls are counted by scope and not by module: see the example at the top of this file.
        """
        names = self._names[module]
        if parent is None:
            return ROOT, ROOT
        prefix = "" if parent.path == ROOT else parent.path + "."
        path = next((name for name in names if name.startswith(prefix)), names[0])
        scope = join(parent.scope, escape(path.removeprefix(prefix)))
        count = self._counts[scope]
        self._counts[scope] += 1
        return path, numbered_call(scope, count)

    def _named(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by the parameter names of `forward`; further ones by their position."""
        kind = type(module)
        if kind not in self._parameters:
            self._parameters[kind] = _positional(module.forward)
        names = self._parameters[kind]
        return {**{names[i] if i < len(names) else str(i): value for i, value in enumerate(args)}, **kwargs}


def _positional(function: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _version(tensor: torch.Tensor) -> int:
    """Return how often a tensor was changed in place; 0 for tensors made in inference mode, which do not count that."""
    return 0 if tensor.is_inference() else tensor._version


def _type(tensor: torch.Tensor) -> dict[str, Any]:
    return {"shape": tuple(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}


def _modules(model: nn.Module) -> Iterator[TracedModule]:
    """Yield the modules, each with the weights that it owns itself."""
    aliases: dict[nn.Module, list[str]] = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        aliases[module].append(name or ROOT)
    first: dict[object, str] = {}
    for path, module in model.named_modules():
        yield TracedModule(
            **{"class": type(module).__name__},
            path=path or ROOT,
            qualified_class=_qualified(module),
            aliases=tuple(aliases[module][1:]),
            weights=tuple(_weights(module, path, first)),
        )


def _weights(module: nn.Module, path: str, first: dict[object, str]) -> Iterator[Weight]:
    """Yield a module's own parameters and buffers; `first` maps memory to the name of the first weight found there."""
    owned: list[tuple[str, Literal["parameter", "buffer"], torch.Tensor]] = [
        *((name, "parameter", t) for name, t in module.named_parameters(recurse=False, remove_duplicate=False)),
        *((name, "buffer", t) for name, t in module.named_buffers(recurse=False, remove_duplicate=False)),
    ]
    for name, kind, tensor in owned:
        full = f"{path}.{name}" if path else name
        key = (
            id(tensor)
            if tensor.is_meta or not tensor.numel()
            else (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
        )
        tied = first.get(key)
        first.setdefault(key, full)
        yield Weight(
            name=name, kind=kind, fingerprint=None if tied else fingerprint(tensor), tied=tied, **_type(tensor)
        )


def _qualified(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _producer() -> dict[str, str]:
    versions = {"mxtools": VERSION, "torch": torch.__version__}
    if "transformers" in sys.modules:
        versions["transformers"] = sys.modules["transformers"].__version__
    return versions
