"""mx mcp."""

from __future__ import annotations

import gc
import importlib.util
import sys


def command() -> None:
    """Serves the other commands as tools to a program that speaks MCP, over stdin and stdout, until it closes stdin.

    The program starts it, in the folder with the models that it works on. Needs `pip install 'onnx-mxtools[mcp]'`.

    Example: mx mcp
    """
    from mxtools.errors import UsageError

    if importlib.util.find_spec("mcp") is None:
        raise UsageError("this needs the package mcp", "pip install 'onnx-mxtools[mcp]'")
    if sys.stdin.isatty():
        raise UsageError("an MCP client is expected on stdin, which is a terminal", "let the client start `mx mcp`")
    import anyio

    from ..agents.server import serve

    gc.enable()  # it lives long
    anyio.run(serve)
