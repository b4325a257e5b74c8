"""Quantise a model's weights to int8 by ONNX Runtime: int8.py MODEL RESULT."""

import sys

from onnxruntime.quantization import quantize_dynamic

quantize_dynamic(*sys.argv[1:])
