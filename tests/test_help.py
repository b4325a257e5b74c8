"""Help as text: the same as typer's, to the character, which is what people see in colours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mxtools_cli import options
from mxtools_cli.help import COMMANDS
from mxtools_cli.page import front_page, plain_width
from tests.support.commands import COMMAND, Mx
from tests.support.paths import ENVIRONMENT

PLAIN = {name: value for name, value in ENVIRONMENT.items() if name not in ("FORCE_COLOR", "GITHUB_ACTIONS")}
WIDTHS = (60, 77, 80, 120)
"""Characters of a line; where a default just fits behind its text, as in 133, rich leaves it out."""


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_is_typers(mx: Mx, monkeypatch: pytest.MonkeyPatch, name: str, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    ours = mx(name, "--help")
    monkeypatch.setattr(options, "plain_width", lambda: None)  # in the forked child too
    assert (ours.returncode, ours.stdout.decode()) == (0, mx(name, "--help").stdout.decode())


@pytest.mark.parametrize("width", [40, *WIDTHS])
def test_the_front_page_is_typers(mx: Mx, width: int) -> None:
    done = mx("--help", env={"COLUMNS": str(width)})
    assert front_page(width) in (None if width == 40 else "", done.stdout.decode())
    for asked in ("--help", "-h"):
        separate = subprocess.run(
            [COMMAND, asked], capture_output=True, env={**PLAIN, "COLUMNS": str(width)}, check=True
        )
        assert (separate.stdout, separate.stderr) == (done.stdout, b"")


@pytest.mark.parametrize("name", ["FORCE_COLOR", "PY_COLORS", "TERMINAL_WIDTH"])
def test_who_asks_for_colours_or_a_width_gets_what_typer_shows(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "60")
    assert plain_width() is None
    done = subprocess.run([COMMAND, "--help"], capture_output=True, env={**PLAIN, name: "60"}, check=True)
    assert b"Give ONNX graphs" in done.stdout
    assert (b"\x1b[" in done.stdout) == ("COLOR" in name)


def test_help_without_all_characters_is_typers(mx: Mx) -> None:
    done = subprocess.run(
        [COMMAND, "--help"], capture_output=True, env={**PLAIN, "PYTHONIOENCODING": "ascii"}, check=True
    )
    assert done.stdout.isascii()
    assert b"+- Make -" in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_help_that_cannot_be_written_is_an_error() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([COMMAND, "--help"], stdout=full, stderr=subprocess.PIPE, env=PLAIN, check=False)
    assert done.returncode == 3
    assert done.stderr.count(b"\n") == 1


def test_the_front_page_imports_neither_typer_nor_rich() -> None:
    code = "import sys; sys.argv = ['mx', '--help']; from mxtools_cli.start import main; main(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=PLAIN, check=True)
    assert not {"typer", "rich", "onnx", "mxtools.errors"} & set(done.stdout.splitlines()[-1].split())
