"""The pass `optimize`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import ClassVar

import onnx
from onnx import ModelProto

from mxtools.errors import InputError, MxError, UsageError
from mxtools.files import model_files
from mxtools.files.weights import keep_external
from mxtools.graph.opsets import import_missing, versions
from mxtools.graph.rename import fresh, names_in, rename_values
from mxtools.pipeline.context import Context, Pass, Previous, option
from mxtools.runtime.quiet import described, quiet
from mxtools.runtime.sessions import Level, session, session_options

Tool = Callable[[ModelProto, Context], ModelProto]


@dataclass(frozen=True)
class Optimize(Pass):
    """Optimise the graph with a tool, and project the tags again afterwards, from the model before."""

    name: ClassVar[str] = "optimize"
    then: ClassVar[str] = "untag,project-previous,resolve-auxiliary,settle-previous,record-absent,carry"

    with_: str = option("the tool: onnxscript, onnxslim, or ort-basic (ONNX Runtime's basic optimisations)", MISSING)

    def apply(self, model: ModelProto, context: Context) -> None:
        """Put what the tool makes of the graph in its place; inputs, outputs and what is said of the model stay.

        Weights that lie in other files and that the tool left as they are stay there. Raises UsageError where there is
        no such tool, or it is not installed, InputError where it fails.
        """
        if self.with_ not in TOOLS:
            raise UsageError(f"no optimiser is called {self.with_!r}: there are {', '.join(TOOLS)}")
        before = ModelProto()
        before.CopyFrom(model)
        try:
            with quiet():
                made = TOOLS[self.with_](before, context)
        except ImportError as error:
            raise UsageError(f"{self.with_} is not installed ({error}): pip install {self.with_}") from None
        except MxError:
            raise
        except Exception as error:  # tools raise anything
            raise InputError(
                f"{self.with_} cannot optimise the graph ({described(error)}): take another tool, or none"
            ) from error
        _replace(model, made, self.with_)
        keep_external(model, context.weights, before, context.weights)
        context.previous = Previous(before, Context(context.weights, context.sidecar, context.values))


def _onnxscript(model: ModelProto, context: Context) -> ModelProto:
    from onnxscript import optimizer

    made = optimizer.optimize(model_files.materialise(model, context.weights))
    assert isinstance(made, ModelProto)
    return made


def _onnxslim(model: ModelProto, context: Context) -> ModelProto:
    import onnxslim

    made = onnxslim.slim(model_files.materialise(model, context.weights))
    assert isinstance(made, ModelProto)
    return made


def _ort_basic(model: ModelProto, context: Context) -> ModelProto:
    with tempfile.TemporaryDirectory(prefix="mx-") as scratch:
        file = Path(scratch) / "optimised.onnx"
        options = session_options(Level.BASIC)
        options.optimized_model_filepath = str(file)
        session(model, context.weights, options, ["CPUExecutionProvider"])
        made = onnx.load(file, load_external_data=False)  # its locations are those of the model
    _rename_new(made, model)
    return made


def _rename_new(made: ModelProto, model: ModelProto) -> None:
    """Rename the weights that ONNX Runtime added: where it finds its own names again, it may refuse the graph."""
    known, taken = names_in(model.graph), names_in(made.graph)
    new = [tensor.name for tensor in made.graph.initializer if tensor.name not in known]
    rename_values(made.graph, {name: fresh(f"{name}_basic", taken) for name in new})


TOOLS: dict[str, Tool] = {"onnxscript": _onnxscript, "onnxslim": _onnxslim, "ort-basic": _ort_basic}


def _replace(model: ModelProto, made: ModelProto, tool: str) -> None:
    """Take over graph and functions; what was said of the model, of its inputs and of its outputs stays."""
    outputs = [value.name for value in model.graph.output]
    if [value.name for value in made.graph.output] != outputs:
        raise InputError(f"{tool} changed the outputs of the graph, which were {', '.join(outputs)}: take another tool")
    ours, theirs = versions(model.opset_import), versions(made.opset_import)
    if any(theirs.get(domain, version) != version for domain, version in ours.items()):
        raise InputError(f"{tool} changed the operator sets of the graph, which were {ours}: take another tool")
    for field in ("input", "output"):
        made.graph.ClearField(field)
        getattr(made.graph, field).extend(getattr(model.graph, field))
    made.graph.name, made.graph.doc_string = model.graph.name, model.graph.doc_string
    model.graph.CopyFrom(made.graph)
    model.ClearField("functions")
    model.functions.extend(made.functions)
    import_missing(model, made)
    model.ir_version = max(model.ir_version, made.ir_version)
