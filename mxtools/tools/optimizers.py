"""Run optimisers of other projects, and replace the graph by the one that they make."""

from __future__ import annotations

from collections.abc import Callable

import onnx
from onnx import ModelProto

from mxtools.errors import InputError, MxError, UsageError
from mxtools.files.limits import SESSION
from mxtools.files.temporary import Scratch
from mxtools.files.weights import bytes_of, keep_external, tensors_of
from mxtools.files.writing import materialise
from mxtools.graph.constants import make_dense
from mxtools.graph.operators import versions
from mxtools.graph.opsets import import_missing
from mxtools.graph.rename import fresh, names_in, rename_values
from mxtools.graph.shapes import inferred_infos
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.quiet import error_line, quiet
from mxtools.runtime.sessions import Level, load_session, refusal, session_options

Optimizer = Callable[[WorkingModel], ModelProto]

_PROVIDERS = ("CPUExecutionProvider",)


def check_optimizer(name: str) -> None:
    """Raise UsageError if no optimiser has this name."""
    if name not in OPTIMIZERS:
        raise UsageError(f"there is no optimiser {name!r}", f"there are {', '.join(OPTIMIZERS)}")


def optimize(model: WorkingModel, tool: str) -> None:
    """Optimise a model in place; the graph before becomes its earlier model, from which tags can be carried over.

    Inputs, outputs and the model's own fields stay. Weights in other files stay there if the tool did not change them.
    Raises UsageError if there is no such tool, or it is not installed, InputError if it fails, or if ONNX Runtime loads
    the graph before but not the result.
    """
    check_optimizer(tool)
    before = model.copy()
    inferred_infos(model.proto)  # raises here if that takes too much memory; tools would try it again and again
    try:
        with quiet(), SESSION.of_memory(f"{tool} on the graph", sum(map(bytes_of, tensors_of(model.proto)))):
            made = OPTIMIZERS[tool](before)
    except ImportError as error:
        raise UsageError(f"{tool} is not installed ({error})", f"pip install {tool}") from None
    except MxError:
        raise
    except Exception as error:  # tools raise anything
        raise InputError(
            f"{tool} cannot optimise the graph ({error_line(error)})", "use another tool, or none"
        ) from error
    with model.changing() as proto:
        _replace(proto, made, tool)
        keep_external(proto, model.weights, before.proto, model.weights)
        model.previous = before
    why = refusal(model.proto, model.weights, _PROVIDERS)
    if why and not refusal(before.proto, before.weights, _PROVIDERS):
        raise InputError(f"the graph that {tool} made does not load: {why}", "use another tool, or none")


def _onnxscript(model: WorkingModel) -> ModelProto:
    from onnxscript import optimizer

    made = optimizer.optimize(_whole(model))
    assert isinstance(made, ModelProto)
    return made


def _onnxslim(model: WorkingModel) -> ModelProto:
    import onnxslim

    made = onnxslim.slim(_whole(model))
    assert isinstance(made, ModelProto)
    return made


def _whole(model: WorkingModel) -> ModelProto:
    """Return a model with its weights, all dense: of sparse weights onnxscript loses all, onnxslim the numbers."""
    copy = materialise(model.proto, model.weights)
    make_dense(copy, model.weights)
    return copy


def _ort_basic(model: WorkingModel) -> ModelProto:
    with Scratch() as scratch:
        file = scratch / "optimised.onnx"
        options = session_options(Level.BASIC)
        options.optimized_model_filepath = str(file)
        load_session(model.proto, model.weights, options, _PROVIDERS)
        made = onnx.load(file, load_external_data=False)  # external data lie where the model's do
    _rename_new(made, model.proto)
    return made


def _rename_new(made: ModelProto, model: ModelProto) -> None:
    """Rename the weights that ONNX Runtime added: it may refuse a graph with names that it has made itself."""
    known, taken = names_in(model.graph), names_in(made.graph)
    new = [tensor.name for tensor in made.graph.initializer if tensor.name not in known]
    rename_values(made.graph, {name: fresh(f"{name}_basic", taken) for name in new})


OPTIMIZERS: dict[str, Optimizer] = {"onnxscript": _onnxscript, "onnxslim": _onnxslim, "ort-basic": _ort_basic}


def _replace(model: ModelProto, made: ModelProto, tool: str) -> None:
    """Take over graph and functions; inputs with their defaults, outputs, names and the model's own fields stay."""
    outputs = [value.name for value in model.graph.output]
    if [value.name for value in made.graph.output] != outputs:
        raise InputError(
            f"{tool} changed the outputs of the graph, which were {', '.join(outputs)}", "use another tool"
        )
    before, after = versions(model.opset_import), versions(made.opset_import)
    if any(after.get(domain, version) != version for domain, version in before.items()):
        raise InputError(f"{tool} changed the operator sets of the graph, which were {before}", "use another tool")
    for field in ("input", "output"):
        made.graph.ClearField(field)
        getattr(made.graph, field).extend(getattr(model.graph, field))
    inputs, known = {value.name for value in made.graph.input}, {tensor.name for tensor in made.graph.initializer}
    defaults = [tensor for tensor in model.graph.initializer if tensor.name in inputs]
    made.graph.initializer.extend(tensor for tensor in defaults if tensor.name not in known)
    made.graph.name, made.graph.doc_string = model.graph.name, model.graph.doc_string
    model.graph.CopyFrom(made.graph)
    model.ClearField("functions")
    model.functions.extend(made.functions)
    import_missing(model, made)
    model.ir_version = max(model.ir_version, made.ir_version)
