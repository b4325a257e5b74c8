"""The model of the public API, `mxtools.Model`."""

from mxtools.model.model import Model

__all__ = ["Model"]
