"""What every tensor of a graph holds, and what every module of PyTorch returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime


def inputs_of(spec: str) -> dict[str, Any]:
    """Return the inputs of a model in PyTorch, as arrays by name."""
    from mxtools.pytorch.loading.inputs import load_subject
    from mxtools.pytorch.nested import tensors

    return {name: tensor.numpy() for name, tensor in tensors(load_subject(spec).inputs)}


def run_whole(path: Path, feeds: dict[str, Any]) -> dict[str, Any]:
    """Return the value of every tensor of the main graph."""
    model = onnx.load(path)
    known = {o.name for o in model.graph.output}
    names = [o for n in model.graph.node for o in n.output if o and o not in known]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    wanted = [o.name for o in session.get_outputs()]
    return feeds | dict(
        zip(wanted, session.run(wanted, {i.name: feeds[i.name] for i in session.get_inputs()}), strict=True)
    )


def returned_by_module(spec: str) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Return what each module returned in its first call, by path, and the inputs, as arrays."""
    import torch

    from mxtools.pytorch.loading.inputs import load_subject
    from mxtools.pytorch.nested import tensors

    subject = load_subject(spec)
    returned: dict[str, list[Any]] = {}

    def note(name: str, result: Any) -> None:
        returned.setdefault(name, [tensor.clone().numpy() for _, tensor in tensors(result)])

    for name, module in subject.model.named_modules():
        module.register_forward_hook(lambda _module, _inputs, result, name=name or ".": note(name, result))
    with torch.no_grad():
        subject.model(**subject.inputs)
    return returned, {name: t.numpy() for name, t in tensors(subject.inputs)}
