"""Trace a model: run one forward pass, and write down its calls and its modules."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from mxtools.errors import InputError
from mxtools.files import VERSION
from mxtools.pytorch.eval_mode import copied, settled
from mxtools.pytorch.fingerprint import elements, fingerprint
from mxtools.pytorch.nested import tensors
from mxtools.pytorch.recorder import Recorder, shape_and_type
from mxtools.pytorch.subject import Subject
from mxtools.runtime.quiet import error_line, quiet, where_raised
from mxtools.scopes.scope import ROOT
from mxtools.traces import sidecar
from mxtools.traces.sidecar import Sidecar, TracedModule, Weight


def trace(subject: Subject, values: dict[str, torch.Tensor] | None = None) -> Sidecar:
    """Run the model once on its inputs and return the sidecar.

    `values`, if given, gets a copy of every tensor that went into a call or came out of one, under `str(tensor.id)`,
    and of the model's inputs under their own names. Raises InputError if the forward pass raises.
    """
    is_compiling = _DYNAMO in sys.modules
    try:
        return _traced(subject, values)
    except InputError:
        if is_compiling or _DYNAMO not in sys.modules:
            raise
        return _traced(subject, values)  # parts that the model compiles, as `torch.cond` does, run eagerly here


_DYNAMO = "torch._dynamo"
"""The compiler, which takes a second to import; a model that compiles something imports it."""


def _eager() -> AbstractContextManager[object]:
    """Return a context in which code compiled by `torch.compile` runs eagerly, so that hooks see the modules inside."""
    return torch.compiler.set_stance("force_eager") if _DYNAMO in sys.modules else nullcontext()


def _traced(subject: Subject, values: dict[str, torch.Tensor] | None) -> Sidecar:
    model = subject.model
    inputs = copied(subject.inputs)
    recorder = Recorder(subject, inputs, values)
    if values is not None:
        values.clear()
    given = [recorder.tensor(name, tensor) for name, tensor in tensors(inputs)]
    if values is not None:
        values.update({tensor.name: values[str(tensor.id)].clone() for tensor in given if str(tensor.id) in values})
    with quiet(), settled(model), _eager():  # in this order: threads take turns
        _run(model, subject.interface.arguments(inputs), recorder)
        return Sidecar(
            producer=_producer(),
            model=sidecar.TracedModel(
                **{"class": type(model).__name__},
                qualified_class=_qualified(model),
                spec=subject.spec,
                inputs=tuple(given),
            ),
            modules=tuple(_modules(model, recorder.names)),
            calls=tuple(recorder.calls()),
            operations=tuple(recorder.operations),
        )


def _run(model: nn.Module, inputs: dict[str, Any], recorder: Recorder) -> None:
    """Run the forward pass; raise InputError if it raises, or ends the process as a script does."""
    with ExitStack() as hooks:
        recorder.hook(hooks)
        try:
            recorder.finish(model(**inputs))
        except (Exception, SystemExit) as error:
            raise InputError(
                f"the forward pass of {type(model).__name__} raised {error_line(error)} ({where_raised(error)})",
                "give fitting inputs with ⟨any-inputs⟩",
            ) from error


def _modules(model: nn.Module, before: Mapping[nn.Module, list[str]]) -> Iterator[TracedModule]:
    """Yield the modules that existed before the forward pass, and those that it added, each with its own weights."""
    names = {module: list(known) for module, known in before.items()}
    for name, module in model.named_modules(remove_duplicate=False):
        if module not in before:
            names.setdefault(module, []).append(name)
    first: dict[object, str] = {}
    for module, (path, *aliases) in names.items():
        yield TracedModule(
            **{"class": type(module).__name__},
            path=path,
            qualified_class=_qualified(module),
            aliases=tuple(aliases),
            opaque=True if isinstance(module, torch.jit.ScriptModule) else None,
            weights=tuple(_weights(module, "" if path == ROOT else path, first)),
        )


def _weights(module: nn.Module, path: str, first: dict[object, str]) -> Iterator[Weight]:
    """Yield a module's own parameters and buffers; `first` maps memory to the name of the first weight found there.

    A parameter without a shape, in a lazy module that was not called yet, is left out.
    """
    owned: list[tuple[str, Literal["parameter", "buffer"], torch.Tensor]] = [
        *((name, "parameter", t) for name, t in module.named_parameters(recurse=False, remove_duplicate=False)),
        *((name, "buffer", t) for name, t in module.named_buffers(recurse=False, remove_duplicate=False)),
    ]
    for name, kind, tensor in owned:
        if is_lazy(tensor):
            continue
        full = f"{path}.{name}" if path else name
        key = _memory(tensor)
        tied = first.get(key)
        first.setdefault(key, full)
        yield Weight(
            name=name, kind=kind, fingerprint=None if tied else fingerprint(tensor), tied=tied, **shape_and_type(tensor)
        )


def _memory(tensor: torch.Tensor) -> object:
    """Return a key that is equal for tensors with the same memory in the same form; for odd kinds, the same object."""
    plain = elements(tensor)
    if plain is None or not plain.numel():
        return id(tensor)
    return plain.data_ptr(), tuple(plain.shape), plain.stride()


def _qualified(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _producer() -> dict[str, str]:
    versions = {"mxtools": VERSION, "torch": torch.__version__}
    if "transformers" in sys.modules:
        versions["transformers"] = sys.modules["transformers"].__version__
    return versions
