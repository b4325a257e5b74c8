"""Exporting a PyTorch model to a tagged ONNX file in one call; needs `onnx-mxtools[torch]`."""

from mxtools.pytorch.exporting.exporters import Options
from mxtools.pytorch.strategy.attempt import Demands, ExportResult, StrategyAttempt
from mxtools.pytorch.strategy.automatic import export_model_auto, export_model_with_fallback

__all__ = [
    "Demands",
    "ExportResult",
    "Options",
    "StrategyAttempt",
    "export_model_auto",
    "export_model_with_fallback",
]
