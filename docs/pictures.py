"""Make the pictures of the docs from real runs: `make pictures`.

A small BERT is made, traced, exported and tagged. `mx tree` runs on a terminal, whose text becomes an SVG; the page of
`mx view` is opened in Chromium.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import tempfile
from pathlib import Path

from playwright import sync_api
from rich.console import Console
from rich.text import Text

from benchmarks.page import CHROMIUM, MX

PICTURES = Path(__file__).with_name("pictures")
WIDTH = 100
"""Letters in a line of the terminal."""
PREPARE = (
    ("demo", "bert"),
    ("trace", "./bert", "-o", "bert.trace.json"),
    ("export", "./bert", "--static", "-o", "bert.onnx"),
    ("tag", "bert.onnx", "--trace", "bert.trace.json", "-o", "bert.tagged.onnx"),
    ("view", "bert.tagged.onnx", "-o", "bert.html"),
)


def on_terminal(line: list[str], folder: Path) -> str:
    """Return what a command prints on a terminal."""
    reading, writing = pty.openpty()
    size = {**os.environ, "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    process = subprocess.Popen([MX, *line], cwd=folder, stdout=writing, env=size)
    os.close(writing)
    parts = []
    try:
        while part := os.read(reading, 1 << 16):
            parts.append(part)
    except OSError:  # the other end is closed
        pass
    if process.wait():
        raise SystemExit(f"failed: mx {' '.join(line)}")
    return b"".join(parts).decode().replace("\r\n", "\n")


def draw_terminal(line: list[str], folder: Path, picture: Path) -> None:
    """Write an SVG of a terminal in which a command was run."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True)
        console.print(Text(f"$ mx {' '.join(line)}", "bold green"))
        console.print(Text.from_ansi(on_terminal(line, folder)))
        svg = console.export_svg(title="mxtools", unique_id="mx")
    picture.write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL))  # which would be fetched


def draw_page(page: Path, place: str, picture: Path) -> None:
    """Write a PNG of a page, opened at a scope."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1200, "height": 700})
        opened.goto(f"{page.as_uri()}#{place}")
        opened.wait_for_selector(".box")
        opened.screenshot(path=picture)
        browser.close()


def main() -> None:
    """Make all pictures."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for line in PREPARE:
            subprocess.run([MX, *line], cwd=folder, check=True)
        draw_terminal(["tree", "bert.tagged.onnx", "--depth", "4"], folder, PICTURES / "tree.svg")
        draw_page(folder / "bert.html", "encoder.layer.0.attention", PICTURES / "view.png")


if __name__ == "__main__":
    main()
