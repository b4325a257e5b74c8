"""Exporting a PyTorch model to a tagged ONNX file in one call; needs `mxtools[torch]`."""

from mxtools.pytorch.attempt import Attempt, Demands, ExportResult
from mxtools.pytorch.automatic import export_model_auto, export_model_with_fallback
from mxtools.pytorch.exporters import Options

__all__ = ["Attempt", "Demands", "ExportResult", "Options", "export_model_auto", "export_model_with_fallback"]
