"""Open the page of `mx view` in Chromium, for models of 50, 5 000 and 20 000 nodes.

    python benchmarks/page.py

Pages of two models, side by side, hold 20 000 nodes of each.
Time is from the address to the first module drawn, in a new tab of a running browser; the median of five rounds, in
each of which every page is opened once. The page of 50 nodes shows what the browser itself takes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import onnx
from onnx import helper

from mxtools.scopes import keys

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
"""The browser of this machine, None where there is none."""
MX = Path(sys.executable).with_name("mx")
ROUNDS = 5
SIZES = (50, 5_000, 20_000)
LIMIT = 2.0
"""Seconds that a page may take."""


def large(count: int, flat: bool) -> onnx.ModelProto:
    """Return a model of many nodes, in blocks with a residual connection, in modules or all in the root."""
    nodes, value = [], "x"
    for number in range(count):
        stage, block, place = number // 400, number // 20 % 20, number % 20
        given = [value, f"v{number - 19}"] if place == 19 else [value]
        node = helper.make_node("Add" if place == 19 else "Relu", given, [f"v{number}"], name=f"node {number}")
        scope, tag = f"stage.{stage}.block.{block}.op.{place // 4}", f"/M/Stage.{stage}/Block.{block}/Op.{place // 4}"
        scope, tag = (".", "/M") if flat else (scope, tag)
        keys.replace_props(node, keys.NODE_KEYS, {keys.SCOPE: scope, keys.TAG: tag, keys.EVIDENCE: "name"})
        nodes.append(node)
        value = f"v{number}"
    ends = [helper.make_tensor_value_info(name, 1, [4]) for name in ("x", value)]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:])
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])


def pages(folder: Path) -> dict[str, Path]:
    """Write the pages; return them by what they show."""
    found = {}
    for flat in (False, True):
        for size in SIZES:
            name = f"{size} nodes, {'all in the root' if flat else 'in modules'}"
            found[name] = folder / f"{size}-{flat}.html"
            onnx.save(large(size, flat), folder / "large.onnx")
            subprocess.run([MX, "view", folder / "large.onnx", "-o", found[name]], check=True, capture_output=True)
        name = f"{SIZES[-1]} nodes beside as many, {'all in the root' if flat else 'in modules'}"
        found[name] = folder / f"beside-{flat}.html"
        changed = large(SIZES[-1], flat)
        changed.graph.node[SIZES[-1] // 2].op_type = "Sigmoid"
        onnx.save(changed, folder / "changed.onnx")
        line = [MX, "view", folder / "changed.onnx", "--against", folder / "large.onnx", "-o", found[name]]
        subprocess.run(line, check=True, capture_output=True)
    return found


def opened(browser: Browser, file: Path) -> float:
    """Return the seconds that a page takes to show a module."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    start = time.perf_counter()
    page.goto(file.as_uri())
    page.wait_for_selector(".box")
    seconds = time.perf_counter() - start
    context.close()
    return seconds


def main() -> None:
    """Measure, and end with 1 where a page takes longer than its limit."""
    from playwright import sync_api

    with tempfile.TemporaryDirectory() as made, sync_api.sync_playwright() as playwright:
        files = pages(Path(made))
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        rounds = [{name: opened(browser, file) for name, file in files.items()} for _ in range(ROUNDS)]
        browser.close()
    slowest = 0.0
    for name in files:
        seconds = median(each[name] for each in rounds)
        slowest = max(slowest, seconds)
        print(f"{name}: {seconds:.2f} s (limit {LIMIT})")
    sys.exit(slowest > LIMIT)


if __name__ == "__main__":
    main()
