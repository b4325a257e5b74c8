"""`--io module`: parts with the inputs and outputs of the module's `forward` return what that returned."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from mxtools.errors import AbsentError, UsageError
from mxtools.files.writing import materialise
from mxtools.passes.filter import Filter, Io
from mxtools.pipeline.working_model import WorkingModel
from mxtools.traces import sidecar
from mxtools.traces.values import Values
from tests.support.small_graphs import HEAD, LADDER, cut, tagged
from tests.support.small_traces import trace_of, values_of

SCOPES = {
    "bert": ["encoder.layer.0", "encoder.layer.1.attention.self", "embeddings", "pooler", "."],
    "llama": ["layers.0", "layers.1.self_attn", "layers.0.mlp", "norm"],
    "convnet": ["stem", "head", "stem.2"],
    "repeated": ["layer", "layer@2", "heads.main"],
}


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("by", ["values", "structure"])
@pytest.mark.parametrize("name", SCOPES)
def test_parts_have_the_names_of_forward(recorded: Any, built: Any, name: str, exporter: str, by: str) -> None:
    trace = sidecar.loads(recorded(name).read_bytes(), "trace")
    values = Values.open(recorded(name).with_suffix(".safetensors"))
    for scope in SCOPES[name]:
        file, known = built(name, exporter) / "tagged.onnx", values if by == "values" else None
        loaded = WorkingModel.read(file, sidecar=trace, values=known)
        Filter(scope=(scope,), io=Io.MODULE).apply(loaded)
        part = materialise(loaded.proto, loaded.weights)
        onnx.checker.check_model(part, full_check=True)
        call = next(call for call in trace.calls if call.scope == scope)
        session = onnxruntime.InferenceSession(part.SerializeToString())
        given = {t.name: values.get(str(t.id)) for t in call.inputs}
        named = {i.name for i in session.get_inputs()} & given.keys()
        assert named or not session.get_inputs()
        if named != {i.name for i in session.get_inputs()}:
            assert by == "structure" or scope != "."
            continue
        results = session.run(None, {n: given[n].reshape(_shape(session, n)) for n in named})
        returned = {t.id: values.get(str(t.id)) for t in call.outputs}
        for result, wanted in zip(results, returned.values(), strict=True):
            assert np.allclose(result.ravel(), wanted.ravel(), atol=1e-5)


def _shape(session: onnxruntime.InferenceSession, name: str) -> list[int]:
    """Return the shape that a part wants of an input: exporters reshape."""
    return next(i.shape for i in session.get_inputs() if i.name == name)


TRACE = trace_of(
    """
    .  Net x:2 z:2 -> d:2 e:2
    m  M   h:2 z:2 -> b:2 c:2
    run m add h z -> b
    run m abs b -> c
    run . exp c -> d
    run . sqrt b -> e
    """
)


def test_outputs_are_those_of_the_module_and_names_never_clash() -> None:
    model = tagged(LADDER, {"b": "m", "c": "m"})
    Filter(scope=("m",), io=Io.MODULE).apply(WorkingModel(model, sidecar=TRACE))
    assert [i.name for i in model.graph.input] == ["z", "h"]
    assert [o.name for o in model.graph.output] == ["b", "c"]
    assert [n.output[0] for n in model.graph.node if n.op_type in ("Add", "Abs")] == ["b", "c"]
    calls = [c.model_copy(update={"outputs": c.outputs[::-1]}) if c.scope == "m" else c for c in TRACE.calls]
    swapped = TRACE.model_copy(update={"calls": tuple(calls)})
    model = tagged(LADDER, {"b": "m", "c": "m"})
    Filter(scope=("m",), io=Io.MODULE).apply(WorkingModel(model, sidecar=swapped))
    onnx.checker.check_model(model, full_check=True)
    assert [o.name for o in model.graph.output] == ["c", "b"]
    assert [n.output[0] for n in model.graph.node if n.op_type in ("Add", "Abs")] == ["b", "c"]


def test_what_has_no_signature_is_refused() -> None:
    with pytest.raises(UsageError, match="give trace="):
        cut(tagged(LADDER, {"b": "m"}), scope=("m",), io=Io.MODULE)
    for options in ({"scope": ("m",), "op": ("Add",)}, {"scope": ("m",), "to_tensor": ("b",)}):
        with pytest.raises(UsageError, match="one whole module"):
            Filter(io=Io.MODULE, **options).apply(WorkingModel(tagged(LADDER, {"b": "m"}), sidecar=TRACE))
    with pytest.raises(AbsentError, match="returned 'c'"):
        Filter(scope=("m",), io=Io.MODULE).apply(WorkingModel(tagged(LADDER, {"b": "m"}), sidecar=TRACE))


def test_recorded_inputs_are_converted_for_a_graph_in_half_precision() -> None:
    x = np.float32([0.1, 0.2])
    arrays = {"x": x, "y": x, "r": -x}
    trace = trace_of(".  Net x:2 -> y:2\nm  M   x:2 -> r:2", arrays=arrays)
    model = tagged(HEAD + " g (float16[2] x) => (float16[2] y) { r = Neg(x) y = Abs(r) }", {"r": "m"})
    loaded = WorkingModel(model, sidecar=trace, values=values_of(arrays, "x y r"))
    Filter(scope=("m",), io=Io.MODULE, verify=True).apply(loaded)
    assert [i.name for i in model.graph.input] == ["x"]
