"""Compare a module that was cut out, in ONNX Runtime, with PyTorch: compare.py MODEL SCOPE PART.onnx WHOLE.onnx.

The part's inputs come from a run of the whole model; its outputs are compared with what the module returns in PyTorch.
"""

import sys

import onnx
import onnxruntime
import torch

from mxtools.pytorch.loading.inputs import load_subject
from mxtools.pytorch.nested import tensors

spec, scope, part_path, whole_path = sys.argv[1:]
subject = load_subject(spec)
returned = []
subject.model.get_submodule(scope).register_forward_hook(lambda _module, _args, output: returned.append(output))
with torch.no_grad():
    subject.model(**subject.inputs)
expected = [tensor.numpy() for _, tensor in tensors(returned[0])]

part = onnxruntime.InferenceSession(part_path)
whole = onnx.load(whole_path)
needed = [value.name for value in part.get_inputs()]
known = {value.name for value in (*whole.graph.input, *whole.graph.output)}
whole.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in needed if name not in known)
session = onnxruntime.InferenceSession(whole.SerializeToString())
feeds = {value.name: subject.inputs[value.name].numpy() for value in session.get_inputs()}
inner = [name for name in needed if name not in feeds]
values = feeds | dict(zip(inner, session.run(inner, feeds), strict=True))
results = part.run(None, {name: values[name] for name in needed})
difference = max(abs(a - b).max() for a, b in zip(results, expected, strict=True))
print(f"{scope}: max difference of {part_path} from PyTorch: {difference:.2e}")
sys.exit(int(difference > 1e-4))
