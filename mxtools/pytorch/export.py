"""Raw export: run one of torch's two exporters on a model, and add nothing."""

from __future__ import annotations

import dataclasses
import functools
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mxtools.errors import UsageError
from mxtools.graph.rename import fresh
from mxtools.pytorch.eval_mode import copied, settled
from mxtools.pytorch.exporters import Axes, ExportAttempt, Options
from mxtools.pytorch.nested import tensors
from mxtools.pytorch.subject import Subject
from mxtools.runtime.quiet import quiet

INLINE_LIMIT = 1_900_000_000
"""Bytes of weights up to which an exporter writes a single file."""


def export(subject: Subject, path: Path, exporter: str, options: Options | None = None) -> ExportAttempt:
    """Let an exporter write raw ONNX to `path`; return whether it could, and its messages."""
    options = options or Options()
    _check_axes(subject, options.dynamic)
    error, trail = None, ""
    with quiet() as log:
        try:
            with settled(subject.model), _random_kept():
                EXPORTERS[exporter](subject, path, options.opset, options.dynamic, options.keep_modules)
        except Exception as problem:
            error, trail = _cause(problem), traceback.format_exc()
    return ExportAttempt(exporter, path, error, log.text + trail)


@contextmanager
def _random_kept() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _torchscript(subject: Subject, path: Path, opset: int | None, axes: Axes, keep_modules: bool) -> None:
    """Export by tracing.

    The exporter passes inputs by position only, so a temporary `forward` passes them on by name. Gradients are on, as
    in torch's own examples: without them modules take fused paths that have no ONNX operators.
    """
    inputs = {name: value for name, value in copied(subject.inputs).items() if value is not None}
    names = [name for name, _ in tensors(inputs)]
    given = tuple(inputs.values())
    with torch.enable_grad(), _forward_by_name(subject.model, list(inputs)) as results:
        torch.onnx.export(
            subject.model,
            given,
            str(path),
            dynamo=False,
            verbose=False,
            input_names=names,
            output_names=results(given),
            opset_version=opset,
            dynamic_axes={name: dict(symbols) for name, symbols in axes.items()} or None,
            do_constant_folding=not keep_modules,
            training=torch.onnx.TrainingMode.PRESERVE if keep_modules else torch.onnx.TrainingMode.EVAL,
        )


def _dynamo(subject: Subject, path: Path, opset: int | None, axes: Axes, keep_modules: bool) -> None:
    """Export the graph of torch.export, whose results can be tuples, lists and dictionaries, and no other classes."""
    shapes = _dynamic_shapes(subject.inputs, axes) if axes else None
    weights = sum(p.numel() * p.element_size() for p in (*subject.model.parameters(), *subject.model.buffers()))
    with _flat_results(subject.model):
        torch.onnx.export(
            subject.model,
            (),
            str(path),
            kwargs=copied(subject.inputs),
            dynamo=True,
            verbose=False,
            opset_version=opset,
            dynamic_shapes=shapes,
            external_data=weights > INLINE_LIMIT,
            optimize=not keep_modules,
        )


EXPORTERS: dict[str, Callable[[Subject, Path, int | None, Axes, bool], None]] = {
    "torchscript": _torchscript,
    "dynamo": _dynamo,
}


@contextmanager
def _forward_by_name(model: nn.Module, names: list[str]) -> Iterator[Callable[[tuple[Any, ...]], list[str]]]:
    """Inside the block, a model takes inputs by position and returns a flat tuple; yield a function that names it."""
    forward = model.forward

    def by_position(*values: Any) -> Any:  # noqa: ANN401
        """Call `forward` with its inputs by position."""
        result = forward(**dict(zip(names, values, strict=True)))
        found = tuple(tensor for _, tensor in tensors(result))
        return found[0] if len(found) == 1 else found

    def results(values: tuple[Any, ...]) -> list[str]:
        """Return the names of the tensors that `forward` returns."""
        result = forward(**dict(zip(names, copied(values), strict=True)))
        taken, found = set(names), list[str]()
        for name, _ in tensors(result):
            plain = f"output{'_' + name if len(name) < 2 else ''}" if name.isdecimal() else name
            found.append(fresh(plain, taken))
            taken.add(found[-1])
        return found

    with _forward(model, by_position):
        yield results


@contextmanager
def _flat_results(model: nn.Module) -> Iterator[None]:
    """Inside the block, a model returns a tuple of tensors in place of a dataclass that torch.export does not know."""
    forward = model.forward

    @functools.wraps(forward)
    def flat(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Return the results of `forward`, as a tuple where torch.export would not know their class."""
        result = forward(*args, **kwargs)
        unknown = [leaf for leaf in torch.utils._pytree.tree_leaves(result) if dataclasses.is_dataclass(leaf)]
        return tuple(tensor for _, tensor in tensors(result)) if unknown else result

    with _forward(model, flat):
        yield


@contextmanager
def _forward(model: nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    """Inside the block, give a model another `forward`. A wrapper module would add a scope; this adds none."""
    before = vars(model).get("forward")
    model.forward = function
    try:
        yield
    finally:
        if before is None:
            del model.forward
        else:
            model.forward = before


def _check_axes(subject: Subject, axes: Axes) -> None:
    """Raise UsageError where a name is no input of the subject."""
    unknown = set(axes) - {name for name, _ in tensors(subject.inputs)}
    if unknown:
        inputs = ", ".join(subject.inputs)
        raise UsageError(f"⟨dynamic⟩ names {min(unknown)!r}, which is no input", f"there are {inputs}")


def _dynamic_shapes(inputs: dict[str, Any], axes: Axes) -> dict[str, Any]:
    """Return the structure that torch.export wants: for each tensor its dynamic axes, by symbol."""

    def shapes(value: Any, name: str) -> Any:  # noqa: ANN401
        """Return the dynamic axes of the tensors in an input, in its structure."""
        if isinstance(value, torch.Tensor):
            return {axis: torch.export.Dim(symbol) for axis, symbol in axes.get(name, {}).items()} or None
        if isinstance(value, dict):
            return {key: shapes(item, f"{name}.{key}") for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(shapes(item, f"{name}.{i}") for i, item in enumerate(value))
        return None

    return {name: shapes(value, name) for name, value in inputs.items()}


def _cause(error: BaseException) -> str:
    """Return the cause of a failed export in one line: the innermost error with a message."""
    chain = [error]
    while (inner := chain[-1].__cause__) is not None and inner not in chain:
        chain.append(inner)
    for problem in reversed(chain):
        lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
        if lines:
            return f"{type(problem).__name__}: {lines[0][:200]}".rstrip(".:")
    return type(error).__name__
