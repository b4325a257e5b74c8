"""`mx view FILE --open`: the page appears in the user's browser, here one that notes what it is given."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest

from tests.support.commands import Mx
from tests.support.shown_models import chain


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(chain("a", "b"), tmp_path / "m 1.tagged.onnx")
    browser = tmp_path / "browser"
    browser.write_text(
        f"#!{sys.executable}\nimport pathlib, sys\npathlib.Path({str(tmp_path / 'opened')!r}).write_text(sys.argv[1])\n"
    )
    browser.chmod(0o755)
    return tmp_path


def environment(folder: Path) -> dict[str, str]:
    """Return what makes `webbrowser` start our own browser, and no other."""
    return {"BROWSER": f"{folder / 'browser'} %s"}


def test_shows_a_page_named_after_the_model(folder: Path, mx: Mx) -> None:
    done = mx("view", "m 1.tagged.onnx", "--open", cwd=folder, env=environment(folder))
    assert done.returncode == 0, done.stderr.decode()
    page = folder / "m 1.tagged.html"
    assert page.read_text().startswith("<!doctype html>")
    assert (folder / "opened").read_text() == page.as_uri()
    assert done.stderr.decode().endswith("m 1.tagged.html\n"), "it says where the page is"
    assert mx("view", "m 1.tagged.onnx", "--open", cwd=folder, env=environment(folder)).returncode == 0, "and again"


def test_shows_the_file_that_is_given(folder: Path, mx: Mx) -> None:
    arguments = ("--open", "-o", "page.html")
    assert mx("view", "m 1.tagged.onnx", *arguments, cwd=folder, env=environment(folder)).returncode == 0
    assert (folder / "opened").read_text() == (folder / "page.html").as_uri()
    assert not (folder / "m 1.tagged.html").exists()


def test_somebody_elses_page_is_left_alone(folder: Path, mx: Mx) -> None:
    (folder / "m 1.tagged.html").write_text("mine")
    done = mx("view", "m 1.tagged.onnx", "--open", cwd=folder, env=environment(folder))
    assert done.returncode == 2
    assert b"m 1.tagged.html exists and is no page of mx view: give -o FILE" in done.stderr
    assert (folder / "m 1.tagged.html").read_text() == "mine"
    assert not (folder / "opened").exists()


def test_without_a_name_or_a_browser(folder: Path, mx: Mx) -> None:
    model = (folder / "m 1.tagged.onnx").read_bytes()
    done = mx("view", "--open", stdin=model, cwd=folder, env=environment(folder))
    assert done.returncode == 2
    assert b"give -o FILE" in done.stderr
    (folder / "browser").write_text(f"#!{sys.executable}\nraise SystemExit(1)\n")
    done = mx("view", "m 1.tagged.onnx", "--open", cwd=folder, env={**environment(folder), "PATH": "", "DISPLAY": ""})
    assert done.returncode == 0
    assert b"no browser could be started here: open m 1.tagged.html yourself" in done.stderr
    assert (folder / "m 1.tagged.html").exists()
