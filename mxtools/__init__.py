"""Give ONNX graphs their PyTorch module hierarchy back."""

__version__ = "0.1.0"
