"""Give ONNX graphs their PyTorch module hierarchy back.

What a command of `mx` does, a call does on the same objects, without files in between:

    import mxtools

    model = mxtools.load("bert.onnx")
    model.tag(mxtools.load_trace("bert.trace.json"))
    layer = model.filter("encoder.layer.0")
    outputs = layer.run()
    layer.save("layer0.onnx")

Errors are subclasses of `MxError`. PyTorch is imported only by `trace`, `export`, `bench`, `export_model_auto`,
`export_model_with_fallback` and `StrategySelector`.
"""

from __future__ import annotations

from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mxtools.errors import AbsentError, CheckError, InputError, MxError, OutputError, UsageError
from mxtools.files import VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx
    import onnx_ir
    from torch import nn

    from mxtools.comparison.comparison import Comparison
    from mxtools.files.limits import limits
    from mxtools.model.given import Inputs
    from mxtools.model.model import Model
    from mxtools.pipeline.base import Pass, option
    from mxtools.pipeline.pipeline import Pipeline
    from mxtools.pytorch.strategy.bench import Row
    from mxtools.scopes.modules import Module
    from mxtools.strategies.cache import Cache
    from mxtools.strategies.table import Strategy
    from mxtools.strategy_selector import StrategySelector
    from mxtools.traces.trace import Trace
    from mxtools.unified_export import export_model_auto, export_model_with_fallback

__version__ = VERSION

_PLACES = {
    "Cache": "mxtools.strategies.cache",
    "Model": "mxtools.model.model",
    "Module": "mxtools.scopes.modules",
    "Pass": "mxtools.pipeline.base",
    "Pipeline": "mxtools.pipeline.pipeline",
    "StrategySelector": "mxtools.strategy_selector",
    "Trace": "mxtools.traces.trace",
    "limits": "mxtools.files.limits",
    "export_model_auto": "mxtools.unified_export",
    "export_model_with_fallback": "mxtools.unified_export",
    "option": "mxtools.pipeline.base",
}
"""The places of names that are imported when they are first asked for: `import mxtools` alone imports very little."""

__all__ = [
    "AbsentError",
    "Cache",
    "CheckError",
    "InputError",
    "Model",
    "Module",
    "MxError",
    "OutputError",
    "Pass",
    "Pipeline",
    "StrategySelector",
    "Trace",
    "UsageError",
    "bench",
    "compare",
    "export",
    "export_model_auto",
    "export_model_with_fallback",
    "from_proto",
    "join",
    "limits",
    "list_passes",
    "list_strategies",
    "load",
    "load_trace",
    "option",
    "run_parts",
    "trace",
]


def load(
    path: str | PathLike[str], *, data_dir: str | PathLike[str] | None = None, trace: Trace | None = None
) -> Model:
    """Read a model without its weights, which stay in their file until something needs them.

    The model uses the trace inside the file, unless you give another. `data_dir` is the folder of the external data, by
    default the model's folder. Raises InputError if there is no model, only a part of one, or external data are
    missing.

    >>> mxtools.load("bert.onnx")
    <Model bert.onnx: 85 nodes, not tagged>
    """
    from mxtools.model.given import trace_of
    from mxtools.model.model import Model

    folder = None if data_dir is None else Path(data_dir)
    known = trace_of(trace)
    sidecar, values = (known.sidecar, known.values) if known else (None, None)
    return Model.read(Path(path), data_dir=folder, sidecar=sidecar, values=values)


def load_trace(path: str | PathLike[str]) -> Trace:
    """Read a trace that `mx trace` or `Trace.save` wrote, with the recorded values beside it, if there are any.

    Raises InputError if the file is not a trace, or has a version that mxtools does not understand.

    >>> mxtools.load_trace("bert.trace.json").scopes[:3]
    ['.', 'embeddings', 'embeddings.word_embeddings']
    """
    from mxtools.traces.trace import Trace

    return Trace.load(path)


def from_proto(
    proto: onnx.ModelProto | onnx_ir.Model, *, name: str = "the model", data_dir: str | PathLike[str] | None = None
) -> Model:
    """Return the model of an `onnx.ModelProto` or an `onnx_ir.Model`, without changing that object.

    External data are read from `data_dir`, by default the working directory. Raises InputError for an invalid ONNX
    model, and for the `model.proto` of an mxtools model, because that does not contain its weights.

    >>> mxtools.from_proto(onnx.load("bert.onnx"), name="bert")
    <Model bert: 85 nodes, not tagged>
    """
    import onnx

    from mxtools.carriers.packed import embedded_trace
    from mxtools.files.soundness import require_sound
    from mxtools.files.weights import WeightStore, is_deferred, tensors_of
    from mxtools.model.model import Model

    copy = onnx.ModelProto()
    if isinstance(proto, onnx.ModelProto):
        copy.CopyFrom(proto)
    else:
        import onnx_ir

        if not isinstance(proto, onnx_ir.Model):
            raise UsageError(
                f"a {type(proto).__name__} is neither an onnx.ModelProto nor an onnx_ir.Model",
                "load a file by `mxtools.load`, and give of torch's ONNXProgram its `model`",
            )
        copy = onnx_ir.serde.serialize_model(proto)
    if any(map(is_deferred, tensors_of(copy))):
        raise InputError("the proto does not contain its weights", "give `model.to_proto()`, which has them")
    require_sound(copy, name)
    store = WeightStore(folder=Path() if data_dir is None else Path(data_dir))
    return Model(copy, store, name, sidecar=embedded_trace(copy))


def compare(one: Model, other: Model, inputs: Inputs | None = None) -> Comparison:
    """Compare two tagged models by module; with `inputs`, run both and compare the tensors that leave each module.

    Raises InputError if a model has no scopes, or does not run.

    >>> found = mxtools.compare(model, model.optimize("ort-basic"))
    >>> all(module.scope for module in found.differing(1e-5))
    True
    """
    from mxtools.model.given import model_of

    return model_of(one).compare(other, inputs)


def join(
    models: Mapping[str, Model] | Sequence[Model] | str | PathLike[str],
    connections: Mapping[str, str] | None = None,
    keep: bool = False,
) -> Model:
    """Return several models as one, or the model that was split into a folder.

    `models` is that folder, a sequence of models, or models by name. If they have names, their scopes, inputs and
    outputs begin with these. `connections` gives inputs their values: `{"two.x": "one.y"}` connects the input x of one
    model to the output (or input) y of another. With `keep`, connected outputs are outputs of the result too. The
    models stay as they were.

    Raises UsageError if an input or output is unknown or belongs to several models, InputError if types do not fit or
    the folder is not that of a split.

    >>> both = mxtools.join({"one": model, "two": model}, {"two.input_ids": "one.input_ids"})
    >>> both.output_names
    ['one.last_hidden_state', 'one.pooler_output', 'two.last_hidden_state', 'two.pooler_output']
    >>> manifest = model.split("encoder.layer.*").save("parts")
    >>> mxtools.join("parts").output_names
    ['last_hidden_state', 'pooler_output']
    """
    from collections.abc import Mapping as Named

    from mxtools.model.given import model_of
    from mxtools.model.model import Model
    from mxtools.split.connections import join_models, join_parts

    if isinstance(models, str | PathLike):
        found, _ = join_parts(Path(models))
    else:
        pairs = models.items() if isinstance(models, Named) else [("", model) for model in models]
        found, _ = join_models([(name, model_of(model)) for name, model in pairs], connections or {}, keep)
    return Model(found.proto, found.weights, found.name)


def run_parts(folder: str | PathLike[str], inputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Run the parts of a split one after the other; return the outputs of the model, as numpy arrays by name.

    The weights of a part are in memory only while it runs. Without `inputs` they are made, as for the whole model.
    Raises InputError if the folder is none of a split, or a part does not run.

    >>> manifest = model.split(parts=2).save("parts")
    >>> {name: array.shape for name, array in mxtools.run_parts("parts").items()}
    {'last_hidden_state': (1, 12, 32), 'pooler_output': (1, 32)}
    """
    from mxtools.split.manifest import read
    from mxtools.split.running import inputs_of
    from mxtools.split.running import run_parts as run

    manifest, place = read(Path(folder))
    return run(manifest, place, inputs_of(manifest, place) if inputs is None else inputs)


def trace(module: nn.Module, inputs: Any, *, record: bool = False) -> Trace:  # noqa: ANN401 - as forward takes them
    """Run a PyTorch module once; return the scopes of its modules and, with `record`, the values of their tensors.

    `inputs` is a tensor, a sequence of positional arguments, or a mapping by the parameter names of `forward`. The
    module does not change. Raises InputError if the forward pass raises.

    >>> mxtools.trace(torch.nn.Sequential(torch.nn.Linear(3, 3)), torch.ones(1, 3)).scopes
    ['.', '0']
    """
    from mxtools.pytorch.objects import trace_module
    from mxtools.traces.trace import Trace

    return Trace(*trace_module(module, inputs, record))


def export(
    module: nn.Module,
    inputs: Any,  # noqa: ANN401 - as forward takes them
    *,
    exporter: str = "auto",
    dynamic: bool | Mapping[str, Mapping[int, str]] = False,
    opset: int | None = None,
    keep_modules: bool = False,
) -> Model:
    """Export a PyTorch module to raw ONNX, as torch's exporters make it, and return the model.

    `exporter` is "dynamo", "torchscript", or "auto", which tries both. `dynamic` names axes by input,
    `{"input_ids": {0: "batch", 1: "sequence"}}`; True makes the first axis of every input dynamic, and the second one
    of token ids and masks. With `keep_modules` nothing is folded across modules. Raises InputError, with the causes, if
    all exporters fail.

    >>> mxtools.export(torch.nn.Linear(3, 3), torch.ones(1, 3), exporter="torchscript").output_names
    ['output_0']
    """
    from mxtools.model.model import Model
    from mxtools.pytorch.objects import export_module

    path, folder = export_module(module, inputs, exporter, dynamic, opset, keep_modules)
    model = Model.read(path, type(module).__name__)
    model.weights.kept.append(folder)
    return model


def bench(
    module: nn.Module,
    inputs: Any,  # noqa: ANN401 - as forward takes them
    strategies: str | Sequence[str] = ("fx", "htp", "usage"),
    rounds: int = 1,
) -> list[Row]:
    """Export and tag a module by several strategies; return the cost of each, in seconds and bytes, and its quality.

    The fastest of `rounds` counts. Raises UsageError for an unknown strategy.

    >>> [row] = mxtools.bench(torch.nn.Linear(3, 3), torch.ones(1, 3), ["htp"])
    >>> row.strategy, row.metrics.round_trip.rate
    ('htp', 1.0)
    """
    from mxtools.model.given import texts
    from mxtools.pytorch.objects import subject_of
    from mxtools.pytorch.strategy import bench as benchmark

    return benchmark.fastest(benchmark.bench(subject_of(module, inputs), texts(strategies), rounds))


def list_passes() -> dict[str, type[Pass]]:
    """Return the passes by name: the library's own, and those of other packages.

    >>> sorted(mxtools.list_passes())[:3]
    ['assign-fused', 'assign-fused-previous', 'carry']
    """
    from mxtools.pipeline import registry

    return {name: registry.load(name) for name in registry.names()}


def list_strategies() -> dict[str, Strategy]:
    """Return the strategies by name: the library's own, and those of the user's `mxtools.toml` or `pyproject.toml`.

    >>> mxtools.list_strategies()["htp"].exporter
    'torchscript'
    """
    from mxtools.strategies import table

    return table.known()


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the names above
    """Import a name when it is first asked for."""
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return [*__all__, "__version__"]
