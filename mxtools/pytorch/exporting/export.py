"""Raw export: run one of torch's two exporters on a model, and add nothing."""

from __future__ import annotations

import errno
import inspect
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import torch
from onnx import ModelProto

from mxtools.errors import InputError, UsageError
from mxtools.files.wire import split
from mxtools.graph.index import Graph
from mxtools.pipeline.working_model import WorkingModel
from mxtools.pytorch.eval_mode import copied, settled
from mxtools.pytorch.exporting.axes import check_axes, rename_symbols, shapes_for_torch
from mxtools.pytorch.exporting.code_places import chained, where_in_model
from mxtools.pytorch.exporting.exporters import ExportAttempt, Options
from mxtools.pytorch.exporting.frozen import Watcher
from mxtools.pytorch.exporting.kept_state import kept_state
from mxtools.pytorch.exporting.naming import output_names, rename_interface
from mxtools.pytorch.nested import mapped, tensors
from mxtools.pytorch.subject import Subject, forward_parameters
from mxtools.runtime.quiet import quiet

Function: TypeAlias = Callable[..., Any]

INLINE_LIMIT = 1_900_000_000
"""The most bytes of weights with which an exporter writes a single file."""
LONGEST = 1024
"""The most elements of a tensor of floats on whose values a shape can depend."""
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
"""The system's errors for a disk that is full, broken, or read-only."""


def export(subject: Subject, path: Path, exporter: str, options: Options | None = None) -> ExportAttempt:
    """Let an exporter write raw ONNX to `path`; return whether it could, and its messages.

    With `options.varying`, dynamic axes that the model's code fixes stay static. Raises UsageError if an input has no
    such axis, OSError if the disk is full or broken.
    """
    options = options or Options()
    check_axes(subject, options.dynamic)
    error, trail, watcher = None, "", Watcher(subject.inputs, options.dynamic)
    with quiet() as log:
        try:
            with settled(subject.model), _random_kept():
                EXPORTERS[exporter](subject, path, options, watcher)
                model = WorkingModel.read(path)
                _check_opset(model.proto, options)
                _check_all_is_made(model.graph)
        except Exception as problem:
            _raise_disk_error(problem)
            error, trail = _cause(problem), traceback.format_exc()
    if error is None:
        _check_inputs_are_read(subject, model.proto)
    return ExportAttempt(exporter, path, error, log.text + trail, watcher.found(), watcher.kept)


def _raise_disk_error(error: BaseException) -> None:
    """Raise the disk error that is behind an error, if there is one: another exporter would fail in the same way."""
    for problem in chained(error):
        if isinstance(problem, OSError) and problem.errno in DISK_ERRORS:
            raise problem from None


@contextmanager
def _random_kept() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _torchscript(subject: Subject, path: Path, options: Options, watcher: Watcher) -> None:
    """Export by tracing.

    The exporter passes inputs by position only, so a temporary `forward` passes them on by name. Gradients are on, as
    in torch's own examples: without them, modules take fused paths that have no ONNX operators.
    """
    names = [name for name, _ in tensors(subject.inputs)]
    with torch.enable_grad(), _weights_left_alone(), _forward_by_name(subject, watcher) as (given, results):
        torch.onnx.export(
            subject.model,
            given,
            str(path),
            dynamo=False,
            verbose=False,
            input_names=names,
            output_names=results,
            opset_version=options.opset,
            dynamic_axes={name: dict(symbols) for name, symbols in options.dynamic.items()} or None,
            do_constant_folding=not options.keep_modules,
            training=torch.onnx.TrainingMode.PRESERVE if options.keep_modules else torch.onnx.TrainingMode.EVAL,
        )


@contextmanager
def _weights_left_alone() -> Iterator[None]:
    """Inside the block, torch writes the same bytes without looking into weights, in half the time for BERT-base."""
    with (
        _wrapped("torch._C", "_jit_pass_onnx_graph_shape_type_inference", _without_weights),
        _wrapped("torch.onnx._internal.torchscript_exporter.onnx_proto_utils", "_add_onnxscript_fn", _if_called),
    ):
        yield


def _without_weights(infer: Function) -> Function:
    """Return a function that infers shapes from the values that can decide one, instead of copying all weights.

    These are integers and short tensors, such as the scales of a Resize.
    """

    def is_weight(value: Any) -> bool:  # noqa: ANN401 - packed weights are no tensors
        """Return whether a value can decide no shape."""
        return isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel() > LONGEST

    def infer_without(graph: Any, values: dict[str, Any], *rest: Any) -> None:  # noqa: ANN401
        """Infer the shapes of a graph."""
        infer(graph, {name: value for name, value in values.items() if not is_weight(value)}, *rest)

    return infer_without


def _if_called(add_functions: Function) -> Function:
    """Return a function that adds onnxscript's functions to a file, and parses only the graph if none is called."""

    def add_if_called(model: bytes, opsets: Any) -> Any:  # noqa: ANN401
        """Return the bytes of a model with its functions; without any, these are the bytes that were given."""
        graph, _ = split(memoryview(model))
        return model if add_functions(graph, opsets) is graph else add_functions(model, opsets)

    return add_if_called


@contextmanager
def _wrapped(place: str, name: str, wrap: Callable[[Function], Function]) -> Iterator[None]:
    """Inside the block, a function of torch's own is wrapped, if this version has it."""
    try:
        holder = import_module(place)
        function = getattr(holder, name)
    except (ImportError, AttributeError):
        yield
        return
    setattr(holder, name, wrap(function))
    try:
        yield
    finally:
        setattr(holder, name, function)


def _dynamo(subject: Subject, path: Path, options: Options, watcher: Watcher) -> None:
    """Export the graph of torch.export."""
    weights = sum(p.numel() * p.element_size() for p in (*subject.model.parameters(), *subject.model.buffers()))
    shapes = shapes_for_torch(subject.inputs, options.dynamic, not options.varying) if options.dynamic else None
    with _flat_results(subject, watcher) as results:
        program = torch.onnx.export(
            subject.model,
            (),
            kwargs=copied(subject.inputs),
            dynamo=True,
            verbose=False,
            opset_version=options.opset,
            dynamic_shapes=shapes,
            optimize=not options.keep_modules,
        )
    assert program is not None
    rename_interface(program.model.graph, [name for name, _ in tensors(subject.inputs)], results)
    if options.varying:
        rename_symbols(program, options.dynamic)
    program.save(path, external_data=weights > INLINE_LIMIT)


EXPORTERS: dict[str, Callable[[Subject, Path, Options, Watcher], None]] = {
    "torchscript": _torchscript,
    "dynamo": _dynamo,
}


def _check_opset(written: ModelProto, options: Options) -> None:
    """Raise InputError if the exporter wrote another operator set than the one it was told to write."""
    version = {entry.domain: entry.version for entry in written.opset_import}.get("")
    if options.opset is not None and version not in (None, options.opset):
        raise InputError(f"it wrote operator set {version} instead of {options.opset}")


def _check_all_is_made(graph: Graph) -> None:
    """Raise InputError if a node reads what nothing makes: exporters have written such files without an error."""
    if unmade := graph.first_unmade():
        node, value = unmade
        raise InputError(f"it wrote a {graph.nodes[node].op_type} of {graph.names[value]!r}, which nothing makes")


def _check_inputs_are_read(subject: Subject, written: ModelProto) -> None:
    """Raise UsageError for an input that only a `**kwargs` of `forward` took, and that no node reads."""
    known = forward_parameters(subject.model)
    arguments = subject.interface.arguments(subject.inputs)
    others = [name for name in subject.inputs if name in arguments and name not in known]
    if not others:
        return
    read = {name for node in written.graph.node for name in node.input} | {v.name for v in written.graph.output}
    given = {value.name for value in written.graph.input} & read
    for name in others:
        if not any(place in given for place, _ in tensors(subject.inputs[name], name)):
            taken = ", ".join(known)
            raise UsageError(f"{type(subject.model).__name__} does not use the input {name!r}", f"it takes {taken}")


@contextmanager
def _forward_by_name(subject: Subject, watcher: Watcher) -> Iterator[tuple[tuple[torch.Tensor, ...], list[str]]]:
    """Inside the block, a model takes tensors by position and returns a flat tuple; yield these and output names.

    Arguments without a tensor, such as None and settings, are not inputs of a graph, and stay as they are.
    """
    inputs = copied(subject.inputs)
    given = dict(tensors(inputs))

    def by_position(*values: torch.Tensor) -> Any:  # noqa: ANN401
        """Call `forward` with its inputs by position."""
        now = dict(zip(given, values, strict=True))
        with watcher.watching():
            result = called(mapped(inputs, lambda place, tensor: now.get(place, tensor)))
        found = tuple(tensor for _, tensor in tensors(result))
        return found[0] if len(found) == 1 else found

    with _called_by(subject, by_position) as called:
        yield tuple(given.values()), _names_of_results(subject, called, watcher)


@contextmanager
def _flat_results(subject: Subject, watcher: Watcher) -> Iterator[list[str]]:
    """Inside the block, a model returns a tuple of tensors, since torch.export knows few classes; yield their names."""

    def flat(**inputs: Any) -> Any:  # noqa: ANN401
        """Return the tensors that `forward` returns."""
        return tuple(tensor for _, tensor in tensors(called(inputs)))

    taken = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in subject.inputs]
    vars(flat)["__signature__"] = inspect.Signature(taken)
    with _called_by(subject, flat) as called:
        yield _names_of_results(subject, called, watcher)


def _names_of_results(subject: Subject, called: Callable[[dict[str, Any]], Any], watcher: Watcher) -> list[str]:
    """Run the model and return names for the tensors that it returns; the watcher is told what the model keeps.

    Gradients are off. A model may compute something from parameters in its first run and keep it; with gradients, no
    exporter would take this for a constant.
    """

    def run() -> Any:  # noqa: ANN401
        """Return the results for the same inputs and the same random numbers."""
        with torch.no_grad(), _random_kept():
            return called(copied(subject.inputs))

    result, watcher.kept = kept_state(subject.model, run)
    return output_names(result, subject.model, [name for name, _ in tensors(subject.inputs)])


@contextmanager
def _called_by(subject: Subject, function: Callable[..., Any]) -> Iterator[Callable[[dict[str, Any]], Any]]:
    """Inside the block, give a model another `forward`; yield a function that calls its own with a subject's inputs.

    A wrapper module would add a scope; this way does not. A ScriptModule keeps its `forward`, since it is exported from
    its compiled code.
    """
    model = subject.model
    forward, before = model.forward, vars(model).get("forward")

    def called(inputs: dict[str, Any]) -> Any:  # noqa: ANN401
        """Return what the model's own `forward` returns for inputs."""
        return subject.interface.results(forward(**subject.interface.arguments(inputs)))

    if isinstance(model, torch.jit.ScriptModule):
        yield called
        return
    model.forward = function
    try:
        yield called
    finally:
        if before is None:
            del model.forward
        else:
            model.forward = before


def _cause(error: BaseException) -> str:
    """Return the cause of a failed export in one line: the innermost error with a message, and where in the model."""
    chain = [error]
    while (inner := chain[-1].__cause__) is not None and inner not in chain:
        chain.append(inner)
    place = where_in_model(error, __file__)
    where = f" ({place})" if place else ""
    if any(type(problem).__name__ == "GuardOnDataDependentSymNode" for problem in chain):
        return f"the model branches on a value of a tensor, which torch.export cannot follow{where}"
    for problem in reversed(chain):
        lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
        if lines:
            kind = "" if isinstance(problem, InputError) else f"{type(problem).__name__}: "
            return f"{kind}{lines[0][:200]}".rstrip(".:") + where
    return type(error).__name__ + where
