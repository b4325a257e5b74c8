"""Selecting a strategy for a PyTorch model; needs `onnx-mxtools[torch]`."""

from mxtools.pytorch.strategy.automatic import StrategySelector
from mxtools.pytorch.strategy.recommendation import Recommendation

__all__ = ["Recommendation", "StrategySelector"]
