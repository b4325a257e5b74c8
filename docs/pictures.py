"""Make the pictures of the docs from real runs: `make pictures`.

The README's BERT, the tutorial's classifier and the Llama of a how-to are made, traced, exported and tagged. `mx tree`
runs on a terminal, whose text becomes an SVG; pages of `mx view` are opened in Chromium.
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import onnx
from playwright import sync_api
from rich.console import Console
from rich.text import Text

from benchmarks.page import CHROMIUM, MX
from mxtools.graph.functions import model_nodes

from .samples import HERE, PREPARE, run, with_samples

PICTURES = Path(__file__).with_name("pictures")
WIDTH = 100
"""Letters in a line of the terminal."""
MODELS = """
mx view bert.tagged.onnx -o bert.html

mx fold bert.tagged.onnx --repeated -o folded.onnx
mx filter bert.tagged.onnx --scope encoder -o encoder.onnx
mx filter bert.tagged.onnx --scope pooler -o pooler.onnx
mx join --as body=encoder.onnx --as head=pooler.onnx --map body.last_hidden_state=head.last_hidden_state -o both.onnx
mx view both.onnx -o both.html

mx demo classifier
mx trace ./classifier --record -o trace.json
mx export ./classifier -o raw.onnx
mx tag raw.onnx --trace trace.json -o model.onnx
mx view model.onnx -o model.html
mx profile model.onnx --json > profile.json
mx view model.onnx --metric profile.json -o profile.html

mx select model.onnx --scope classifier --format ort-quant > keep.json
python - <<'END'
import json
from onnxruntime.quantization import QuantType, quantize_dynamic

keep = json.load(open("keep.json"))
quantize_dynamic("model.onnx", "int8.onnx", weight_type=QuantType.QUInt8, **keep)
END
mx tag int8.onnx --from model.onnx -o int8.onnx
mx view int8.onnx --against model.onnx -o against.html

mx demo llama
mx trace ./llama -o llama.trace.json
mx export ./llama --static | mx tag --trace llama.trace.json | mx view -o llama.html
"""
PAGES = {
    "view": ("bert.html", "encoder.layer.0&in=encoder.layer.0.attention"),
    "modules": ("model.html", "bert"),
    "slow": ("profile.html", "bert.encoder.layer.0.attention"),
    "errors": ("errors.html", "bert.encoder.layer.1"),
    "parted": ("parted.html", "encoder.layer.1"),
    "layer": ("llama.html", "model.layers.1"),
    "flat": ("flat.html", ""),
    "folded": ("calls.html", ""),
    "joined": ("both.html", ""),
    "against": ("against.html", "bert.encoder.layer.0.attention&in=bert.encoder.layer.0.attention.output"),
}
"""The page, and what it is opened at, by picture."""


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
    """Write a PNG of a page, opened at a scope, or at a view that its address holds."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1200, "height": 700})
        opened.goto(f"{page.as_uri()}#{place}")
        opened.wait_for_selector(".box")
        opened.screenshot(path=picture)
        browser.close()


def draw_parts(folder: Path) -> None:
    """Write the chart of the parts of a split."""
    run("mx split bert.tagged.onnx --parts 4 --balance multiply-adds --dry-run --plot parts.svg", folder)
    (PICTURES / "parts.svg").write_bytes((folder / "parts.svg").read_bytes())


def without_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph as it is without what exporters note beside it: metadata, names of nodes and of weights."""
    weights = {weight.name: f"w{number}" for number, weight in enumerate(model.graph.initializer)}
    for weight in model.graph.initializer:
        weight.name = weights[weight.name]
    for number, node in enumerate(model_nodes(model)):
        del node.metadata_props[:]
        node.doc_string, node.name = "", f"n{number}"
        node.input[:] = [weights.get(name, name) for name in node.input]
    del model.graph.value_info[:]
    return model


def main() -> None:
    """Make all pictures."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        run(PREPARE, folder)
        run(MODELS, folder)
        for page in ("find-the-wrong-module.md", "find-where-two-runs-differ.md", "make-a-model-small.md"):
            with_samples((HERE / "how-to" / page).read_text(), folder)
        shutil.copyfile(folder / "tune.svg", PICTURES / "tuned.svg")
        for model, picture in (("raw", "flat"), ("folded", "calls")):
            onnx.save(without_names(onnx.load(folder / f"{model}.onnx")), folder / f"{picture}.onnx")
            run(f"mx tag {picture}.onnx | mx view -o {picture}.html", folder)
        draw_terminal(["tree", "bert.tagged.onnx", "--depth", "4"], folder, PICTURES / "tree.svg")
        draw_terminal(["tree", "model.onnx", "--depth", "3"], folder, PICTURES / "tutorial.svg")
        draw_parts(folder)
        for picture, (page, place) in PAGES.items():
            draw_page(folder / page, place, PICTURES / f"{picture}.png")


if __name__ == "__main__":
    main()
