"""Exporting a PyTorch model to a tagged ONNX file in one call; needs `mxtools[torch]`."""

from mxtools.pytorch.exporters import Options
from mxtools.pytorch.strategy.attempt import Attempt, Demands, ExportResult
from mxtools.pytorch.strategy.automatic import export_model_auto, export_model_with_fallback

__all__ = ["Attempt", "Demands", "ExportResult", "Options", "export_model_auto", "export_model_with_fallback"]
