"""Selecting a strategy for a PyTorch model; needs `mxtools[torch]`."""

from mxtools.pytorch.automatic import StrategySelector
from mxtools.pytorch.selection import Recommendation

__all__ = ["Recommendation", "StrategySelector"]
