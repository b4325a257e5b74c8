"""Give ONNX graphs their PyTorch module hierarchy back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mxtools.files.version import VERSION

if TYPE_CHECKING:
    from mxtools.strategy_selector import StrategySelector as StrategySelector
    from mxtools.unified_export import export_model_auto as export_model_auto
    from mxtools.unified_export import export_model_with_fallback as export_model_with_fallback


__version__ = VERSION


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the names below
    """Import what needs PyTorch only when it is asked for."""
    if name in ("export_model_auto", "export_model_with_fallback"):
        from mxtools import unified_export

        return getattr(unified_export, name)
    if name == "StrategySelector":
        from mxtools.strategy_selector import StrategySelector

        return StrategySelector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
