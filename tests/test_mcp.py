"""`mx mcp`: the commands as tools, used by the protocol's own client over real pipes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import onnx
import psutil
import pytest
from mcp import Client, StdioServerParameters

from mxtools_cli.agents import server
from mxtools_cli.agents.tools import tools
from mxtools_cli.main import COMMANDS, load
from tests.support.commands import COMMAND, Mx
from tests.support.paths import ENVIRONMENT
from tests.support.shared_models import Build


def asked(folder: Path, ask: Callable[[Client], Coroutine[Any, Any, Any]]) -> Any:
    """Return what a client gets from a server that it starts in a folder."""

    async def session() -> Any:
        started = StdioServerParameters(command=str(COMMAND), args=["mcp"], cwd=folder, env=dict(ENVIRONMENT))
        async with Client(started) as client:
            return await ask(client)

    return asyncio.run(session())


def called(folder: Path, tool: str, **arguments: Any) -> Any:
    return asked(folder, lambda client: client.call_tool(tool, arguments))


def test_every_command_is_a_tool_with_its_parameters(tmp_path: Path) -> None:
    listed = {tool.name: tool for tool in asked(tmp_path, lambda client: client.list_tools()).tools}
    assert listed.keys() == {f"mx_{name}" for name in COMMANDS if name != "mcp"}
    for name, tool in tools().items():
        given = listed[f"mx_{name}"]
        assert given.description
        assert given.description.startswith(COMMANDS[name])
        parameters = [p for p in load(name).params if p.name != "help"]
        assert len(given.input_schema["properties"]) == len(parameters) + bool(tool.rest)
    assert listed["mx_filter"].input_schema["properties"]["io"]["enum"] == ["tensors", "module"]
    assert listed["mx_export"].input_schema["required"] == ["model"]
    assert listed["mx_wrap"].input_schema["required"] == ["source", "command"]


def test_a_call_does_what_the_command_does(built: Build, mx: Mx, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes((built("bert") / "tagged.onnx").read_bytes())
    arguments = {"source": "m.onnx", "scope": ["encoder.layer.0"], "output": "part.onnx", "verify": True}
    result = called(tmp_path, "mx_filter", **arguments)
    assert not result.is_error
    assert result.structured_content["status"] == 0
    report = result.structured_content["report"]
    assert json.loads(result.content[0].text) == report
    line = ["m.onnx", "--scope", "encoder.layer.0", "-o", "same.onnx", "--verify", "--json"]
    assert json.loads(mx("filter", *line, cwd=tmp_path).stdout) == report
    assert (tmp_path / "part.onnx").read_bytes() == (tmp_path / "same.onnx").read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {"m.onnx", "part.onnx", "same.onnx"}


def test_text_flags_numbers_and_other_tools(built: Build, tmp_path: Path) -> None:
    (tmp_path / "-m.onnx").write_bytes((built("bert") / "tagged.onnx").read_bytes())

    async def ask(client: Client) -> list[Any]:
        tree = {"source": "-m.onnx", "depth": 1, "markdown": True, "fold": False, "json": False}
        wrap = {"source": "-m.onnx", "output": "w.onnx", "command": ["cp", "{in}", "{out}"]}
        compare = {"source": "-m.onnx", "other": "w.onnx"}
        return [await client.call_tool(f"mx_{n}", a) for n, a in (("tree", tree), ("wrap", wrap), ("compare", compare))]

    tree, wrap, compare = asked(tmp_path, ask)
    assert tree.structured_content["text"].startswith("| ")
    assert wrap.structured_content["report"]["nodes"] == len(onnx.load(tmp_path / "w.onnx").graph.node)
    assert compare.structured_content["report"]["differ"] is False


def test_errors_are_results(built: Build, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes((built("bert") / "tagged.onnx").read_bytes())

    async def ask(client: Client) -> list[Any]:
        calls: list[tuple[str, dict[str, Any]]] = [
            ("mx_tree", {"source": "none.onnx"}),
            ("mx_filter", {"source": "m.onnx", "scope": "encoder", "output": "o.onnx"}),
            ("mx_filter", {"source": "m.onnx", "scope": ["encoder"], "json": False}),
            ("mx_filter", {"source": "m.onnx", "scpe": ["encoder"]}),
            ("mx_filter", {"source": "m.onnx", "scope": ["encoder"]}),
            ("mx_nothing", {}),
        ]
        return [await client.call_tool(name, arguments) for name, arguments in calls]

    results = asked(tmp_path, ask)
    assert all(result.is_error for result in results)
    missing, no_list, binary, unknown, both, no_tool = results
    assert json.loads(missing.structured_content["messages"])["error"]["status"] == 3
    assert "'encoder' is not of type 'array'" in no_list.content[0].text
    assert "that are no text" in binary.content[0].text
    assert "scpe" in unknown.content[0].text
    assert "both go to stdout" in both.content[0].text
    assert "mx_nothing" in no_tool.content[0].text
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_only_the_beginning_of_a_large_output_is_sent() -> None:
    text = json.dumps(["x" * 100] * 3000)
    found = server.result(subprocess.CompletedProcess([], 0, text.encode(), b"said\n"), is_report=True)
    assert found.structured_content["text"] == text[: server.MOST_TEXT]
    assert "report" not in found.structured_content
    assert f"the output has {len(text)} characters" in found.content[1].text
    assert not found.is_error


def test_a_call_that_is_cancelled_ends_what_it_runs(built: Build, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes((built("bert") / "tagged.onnx").read_bytes())

    async def ask(client: Client) -> None:
        arguments = {
            "source": "m.onnx",
            "output": "o.onnx",
            "command": ["sh", "-c", "exec sleep 987654", "{in}", "{out}"],
        }
        running = asyncio.create_task(client.call_tool("mx_wrap", arguments))
        while not running.done() and not sleeping():
            await asyncio.sleep(0.1)
        assert sleeping()
        running.cancel()
        for _ in range(100):  # the call ends, and the server goes on
            if not sleeping():
                break
            await asyncio.sleep(0.1)
        assert not sleeping()
        assert (await client.call_tool("mx_passes", {})).structured_content["status"] == 0

    def sleeping() -> list[psutil.Process]:
        return [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "987654"]]

    asked(tmp_path, ask)


def test_without_the_package_one_line_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['mcp'] = None; sys.argv = ['mx', 'mcp']\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'mcp' else find(name, *rest)\n"
        "from mxtools_cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "mx mcp: this needs the package mcp: pip install 'onnx-mxtools[mcp]'\n"


@pytest.mark.parametrize("line", ["passes", "tree --help"])
def test_no_other_command_imports_it(tmp_path: Path, line: str) -> None:
    code = (
        "import sys, atexit; sys.argv = ['mx', *sys.argv[1:]]\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        "from mxtools_cli.main import main; main()"
    )
    words = [sys.executable, "-c", code, *line.split()]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stderr.splitlines()[-1].split()}
    assert not loaded & {"mcp", "mcp_types", "anyio", "starlette"}
