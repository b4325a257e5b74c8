"""A part of a model, with the arguments that the whole model calls it with."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from mxtools.errors import InputError, UsageError, suggestion
from mxtools.pytorch.eval_mode import copied
from mxtools.pytorch.exporting.axes import usual_axes
from mxtools.pytorch.exporting.other_inputs import changed_sizes, resized, sizes_of
from mxtools.pytorch.loading.caches import closed, is_cache, opened
from mxtools.pytorch.loading.interfaces import CallInterface
from mxtools.pytorch.loading.running import run
from mxtools.pytorch.nested import tensors
from mxtools.pytorch.subject import Subject

_VARYING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def part_of(subject: Subject, path: str) -> Subject:
    """Return a module of the subject's model, with the arguments of its first call when the whole model runs.

    Raises UsageError if there is no such module, or the forward pass does not call it.
    """
    modules = dict(subject.model.named_modules(remove_duplicate=False))
    if not path or path not in modules:
        raise UsageError(
            f"{type(subject.model).__name__} has no module {path!r}", suggestion(path, filter(None, modules), 0.4)
        )
    arguments = _first_call(subject, modules[path])
    if arguments is None:
        raise UsageError(
            f"the forward pass of {type(subject.model).__name__} does not call {path!r}, "
            f"a {type(modules[path]).__name__}",
            "name a module that it calls, as ⟨tracer⟩ lists them",
        )
    caches = {name: value for name, value in arguments.items() if is_cache(value)}
    inputs = {n: opened(v) if n in caches else v for n, v in arguments.items() if n in caches or any(tensors(v))}
    fixed = {name: value for name, value in arguments.items() if name not in inputs}
    interface = CallInterface(fixed, caches, lambda: _axes(subject, modules[path], inputs))
    return Subject(modules[path], copied(inputs), f"{subject.spec} {path}", interface)


def _axes(whole: Subject, module: nn.Module, inputs: dict[str, Any]) -> dict[str, dict[int, str]]:
    """Return which axes of a part's inputs vary with which axes of the whole model's, by their symbols.

    The whole model runs in other sizes, for one symbol after the other. An axis that grows or shrinks with a symbol has
    this symbol's length; an axis that does so with two symbols is as long as both together.
    """
    before = {name: tuple(tensor.shape) for name, tensor in tensors(inputs)}
    found: dict[str, dict[int, str]] = {name: {} for name in before}
    axes = usual_axes(whole, waves=True)
    sizes = sizes_of(whole.inputs, axes)
    for symbol, changed in changed_sizes(sizes).items():
        for name, shape in _shapes(whole, module, resized(whole.inputs, axes, {**sizes, symbol: changed})).items():
            for axis, (old, new) in enumerate(zip(before.get(name, ()), shape, strict=False)):
                if new - old == changed - sizes[symbol]:
                    known = found[name].get(axis)
                    found[name][axis] = f"{known} + {symbol}" if known else symbol
    return found


def _shapes(whole: Subject, module: nn.Module, inputs: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a part's arguments when the whole model runs on some inputs; nothing if it refuses these."""
    try:
        arguments = _first_call(Subject(whole.model, inputs, whole.spec, whole.interface), module) or {}
    except InputError:
        return {}
    opened_ = {name: opened(value) if is_cache(value) else value for name, value in arguments.items()}
    return {name: tuple(tensor.shape) for name, tensor in tensors(opened_)}


def _first_call(subject: Subject, module: nn.Module) -> dict[str, Any] | None:
    """Run the whole model, and return the arguments of the first call of a module by name; None if there is none."""
    found: list[dict[str, Any]] = []

    def record(called: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep copies of the arguments of the first call, because the model may change them later."""
        if not found:
            found.append({name: _kept(value) for name, value in _by_name(called, args, kwargs).items()})

    hook = module.register_forward_pre_hook(record, with_kwargs=True)
    try:
        run(subject.model, subject.interface.arguments(copied(subject.inputs)))
    finally:
        hook.remove()
    return found[0] if found else None


def _kept(value: Any) -> Any:  # noqa: ANN401 - any argument
    """Return a copy of an argument; the copy of a cache does not grow when the model adds to the cache."""
    return closed(value, copied(opened(value))) if is_cache(value) else copied(value)


def _by_name(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by the names of `forward`'s parameters; InputError if they have none."""
    signature = inspect.signature(module.forward)
    bound = signature.bind(*args, **kwargs).arguments
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL and bound.get(parameter.name):
            raise InputError(
                f"{type(module).__name__} is called with *{parameter.name}, whose values have no names", ""
            )
    named = {n: v for n, v in bound.items() if signature.parameters[n].kind not in _VARYING}
    others = [v for n, v in bound.items() if signature.parameters[n].kind is inspect.Parameter.VAR_KEYWORD]
    return {**named, **(others[0] if others else {})}
