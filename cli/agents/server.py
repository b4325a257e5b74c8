"""The commands as tools of a server of the Model Context Protocol (MCP), over stdin and stdout.

A call runs the command in a process of its own, in the server's working directory, as a user would: what it writes is
what the command writes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

import anyio
import jsonschema
from anyio.abc import ByteReceiveStream, Process
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp_types import CallToolRequestParams, CallToolResult, ContentBlock, ListToolsResult, TextContent
from mcp_types import Tool as McpTool

from mxtools import __version__

from .tools import JSON, Tool, tools

PREFIX = "mx_"
"""Begins the names of tools: clients show those of several servers together."""
INSTRUCTIONS = (
    "Tools that give ONNX graphs their PyTorch module hierarchy back: trace, export and tag a model, then look at it, "
    "cut modules out, compare and verify it module by module. Each tool is a command `mx`; files are relative to the "
    "server's working directory. A result has the exit status (0 done, 1 the answer is no, else an error), the report "
    "as data, and the messages. Nothing can be piped: name files."
)
MOST_TEXT = 200_000
"""Characters of output that a client gets: some 50,000 tokens, which is what models take in at once."""
PATIENCE = 5.0
"""Seconds that a cancelled command has to clean up."""
ANSWERS = (0, 1)
"""Exit statuses of commands that did their work; with 1 the answer is no."""


async def serve() -> None:
    """Serve one client, until it closes stdin."""
    server: Server[Any] = Server(
        "mxtools", version=__version__, instructions=INSTRUCTIONS, on_list_tools=_listed, on_call_tool=_called
    )
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


async def _listed(context: Any, params: Any) -> ListToolsResult:  # noqa: ARG001 - the protocol's signature
    return ListToolsResult(
        tools=[
            McpTool(name=PREFIX + name, description=tool.help, input_schema=tool.schema)
            for name, tool in tools().items()
        ]
    )


async def _called(context: Any, params: CallToolRequestParams) -> CallToolResult:  # noqa: ARG001 - as above
    tool = tools().get(params.name.removeprefix(PREFIX))
    if tool is None:
        return _failed(f"no tool is called {params.name!r}")
    arguments = params.arguments or {}
    wrong = next(jsonschema.Draft202012Validator(tool.schema).iter_errors(arguments), None)
    return _failed(wrong.message) if wrong else await _run(tool, arguments)


async def _run(tool: Tool, arguments: dict[str, Any]) -> CallToolResult:
    """Run a command; a client that cancels the call, or goes away, ends it."""
    line = [sys.executable, "-P", "-m", "mxtools_cli", *tool.line(arguments)]
    output, messages = bytearray(), bytearray()
    process = await anyio.open_process(line, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_collect, process.stdout, output)
            group.start_soon(_collect, process.stderr, messages)
        status = await process.wait()
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)
    done = subprocess.CompletedProcess(line, status, bytes(output), bytes(messages))
    return result(done, arguments.get(JSON, JSON in tool.parameters))


async def _collect(stream: ByteReceiveStream | None, into: bytearray) -> None:
    if stream is not None:
        async for piece in stream:
            into += piece


async def _end(process: Process) -> None:
    """End a process that still runs, with all that it started: as Ctrl-C does, and by force what is left after that."""
    if process.returncode is None:
        for kind in ("SIGINT", "SIGKILL"):
            with suppress(ProcessLookupError, PermissionError):  # macOS permits no signal to a group that has ended
                if hasattr(os, "killpg"):
                    os.killpg(process.pid, getattr(signal, kind))
                else:
                    process.kill()
            with anyio.move_on_after(PATIENCE):
                await process.wait()
    await process.aclose()


def result(done: subprocess.CompletedProcess[bytes], is_report: bool) -> CallToolResult:
    """Return what a client gets of a command that ended; `is_report` says whether its output is JSON."""
    messages = done.stderr.decode(errors="replace")
    try:
        text = done.stdout.decode()
    except UnicodeDecodeError:
        return _failed(f"the command wrote {len(done.stdout)} bytes that are no text to stdout: give output")
    if len(text) > MOST_TEXT:
        messages += f"the output has {len(text)} characters, and these are the first {MOST_TEXT}: select less\n"
        text, is_report = text[:MOST_TEXT], False
    found: dict[str, Any] = {"status": done.returncode, "messages": messages}
    if text:
        found |= {"report": json.loads(text)} if is_report else {"text": text}
    content: list[ContentBlock] = [TextContent(type="text", text=part) for part in (text, messages) if part]
    return CallToolResult(content=content, structured_content=found, is_error=done.returncode not in ANSWERS)


def _failed(message: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=message)], is_error=True)
