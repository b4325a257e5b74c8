"""Run the blocks of all pages of the site, and write what they print: `make samples`.

All pages run in one folder, in the order of the site, as a reader goes through them. Blocks of `sh` and `python` are
run; those in Python share their names on a page, as in one session. A block of `text` that stands just behind one of
these becomes what it prints. Notebooks are run each by itself.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import textwrap
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import yaml

HERE = Path(__file__).parent
SECTIONS = ("Tutorial", "How to", "Explanation", "Topics")
BY_BLOCK = "selecting.md"
"""A page whose blocks need tools that do not fit into one environment; a test runs each where its tool is."""
PREPARE = """
mx demo bert
mx trace ./bert -o bert.trace.json
mx export ./bert --static -o bert.onnx
mx tag bert.onnx --trace bert.trace.json -o bert.tagged.onnx
"""
BLOCK = re.compile(r"^( *)```(sh|python)\n(.*?)^ *```$(?P<sample>\n\n *```text\n.*?^ *```$)?", re.DOTALL | re.MULTILINE)
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "COLUMNS": "120",  # so that a table is as wide on every terminal
}


def pages() -> list[Path]:
    """Return the pages whose blocks are run, in the order of the site."""
    sections = yaml.safe_load((HERE.parent / "mkdocs.yml").read_text())["nav"]
    listed = [page for section in sections for name in SECTIONS for page in _markdown(section.get(name, ()))]
    return [HERE / page for page in listed if page != BY_BLOCK]


def _markdown(section: Any) -> list[str]:
    return [page for page in ([section] if isinstance(section, str) else section) if page.endswith(".md")]


def with_samples(page: str, folder: Path) -> str:
    """Run the blocks of a page in a folder; return the page with what they print, where the page shows it."""
    session = _Session(folder)

    def filled(block: re.Match[str]) -> str:
        indent, language, text = block.groups()[:3]
        code = textwrap.dedent(text)
        said = run(code, folder) if language == "sh" else session.run(code)
        if not block["sample"]:
            return block.group()
        shown = textwrap.indent(f"```text\n{said}```", indent)
        return f"{block.group().removesuffix(block['sample'])}\n\n{shown}"

    with session:
        return BLOCK.sub(filled, page)


class _Session(ExitStack):
    """A session of Python, which begins with the first block that it runs."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.book = nbformat.v4.new_notebook()
        self.client = nbclient.NotebookClient(self.book, timeout=600, resources={"metadata": {"path": folder}})

    def run(self, code: str) -> str:
        """Return what a block prints on stdout; CellExecutionError if it raises an error."""
        if not self.book.cells:
            self.enter_context(self.client.setup_kernel(env=ENVIRONMENT))
        self.book.cells.append(nbformat.v4.new_code_cell(code))
        cell = self.client.execute_cell(self.book.cells[-1], len(self.book.cells) - 1)
        return "".join(output.text for output in cell.outputs if output.get("name") == "stdout")


def notebooks() -> list[Path]:
    """Return the notebooks of the site."""
    return sorted((HERE / "notebooks").glob("*.ipynb"))


def executed(notebook: Path, folder: Path) -> str:
    """Return a notebook after a run of its cells in a folder, without warnings, which name paths of the machine."""
    book = nbformat.read(notebook, 4)
    nbclient.NotebookClient(book, timeout=600, record_timing=False, resources={"metadata": {"path": folder}}).execute()
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    book.metadata = nbformat.from_dict({"kernelspec": book.metadata.kernelspec})
    return f"{nbformat.writes(book)}\n"


def without_measures(text: str) -> str:
    """Return a page without what differs by run and machine: decimals, times, what is worst, widths of columns."""
    text = re.sub(r"\d+\.\d+(e-\d+)?|\d+e-\d+|\d+(?= µs)|\S+(?= has the largest error| adds the most noise)", "#", text)
    return re.sub(r" +", " ", text)


def run(code: str, folder: Path) -> str:
    """Return what a piece of bash prints, on both streams and without spaces at the ends of lines."""
    line = ["bash", "-o", "pipefail", "-euc", code]
    done = subprocess.run(
        line, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode} of:\n{code}\n{done.stdout}")
    return re.sub(r" +$", "", done.stdout, flags=re.MULTILINE)


def main() -> None:
    """Run all pages and notebooks, and write those that show something else than what is printed now."""
    with tempfile.TemporaryDirectory() as made:
        run(PREPARE, Path(made))
        for page in (*pages(), *notebooks()):
            sys.stderr.write(f"{page.relative_to(HERE)}\n")
            before = page.read_text()
            after = executed(page, Path(made)) if page.suffix == ".ipynb" else with_samples(before, Path(made))
            if without_measures(after) != without_measures(before):
                page.write_text(after)


if __name__ == "__main__":
    main()
