"""How long commands take, as ratios to what they are measured against, and how much memory; whole processes.

    speed.py [FOLDER] [--rounds N] [--rows WORD …]

Models are kept in FOLDER (build/bench), which grows to 19 GB; `--rows` takes only the rows whose titles contain one of
the words. All commands of a row run in each round, one after the other; the figures are medians. Memory is the peak of
anonymous pages (RssAnon) of the largest process, from a run of its own that is watched; pages of files do not count,
because the system takes them back. Exit status 1 if a ratio or the memory is above its limit.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil
from external import write
from measuring import EXTRACT, MX, run
from onnx import parser

ROUNDS = 7
MEGABYTES = 160
"""The limit of the anonymous memory of our commands that run no model."""
PAUSE = 0.002
"""Seconds between two looks at the memory."""
LAYER = "encoder.layer.6"
PASSES = "untag,project-names,project-parameters,resolve-auxiliary,record-absent"
PREAMBLE = f"unset PYTHONDONTWRITEBYTECODE; export mx='{MX}' python='{sys.executable}'; cd '{{}}' && "
BUILD = """
import transformers
transformers.utils.logging.disable_progress_bar()
transformers.set_seed(0)
transformers.BertModel(transformers.BertConfig()).save_pretrained("bert")
transformers.ResNetModel(transformers.ResNetConfig()).save_pretrained("resnet")
"""
LOAD_SAVE = "\"$python\" -c \"import onnx; onnx.save(onnx.load('bert.onnx'), 'out.onnx')\""
TINY = """<ir_version: 9, opset_import: ["" : 17]>
g (float[4] x) => (float[4] z) <float[4] w = {1, 2, 3, 4}, float[4] a, float[4] y> {
    a = Add (x, w) y = Relu (a) z = Sigmoid (y)
}"""
NAMES = ("/encoder/layer.0/Add", "/encoder/layer.0/Relu", "/head/Sigmoid")

NOTHING, ONNX = '"$python" -c pass', '"$python" -c "import onnx"'
TAG_TINY = '"$mx" tag tiny.onnx -o out.onnx'
FILTER_TINY = '"$mx" filter tiny.tagged.onnx --scope encoder -o out.onnx'
CUT = f'"$mx" filter bert.tagged.onnx --scope {LAYER} -o out.onnx'
STAGES = f'"$mx" run bert.onnx -p untag | "$mx" run -p {PASSES} | "$mx" filter --scope {LAYER} > out.onnx'
AT_ONCE = f'"$mx" run bert.onnx -p "{PASSES},filter{{scope={LAYER}}}" > out.onnx'
EMPTIED = "rm -rf other && mkdir other"


@dataclass(frozen=True)
class Row:
    """A line of the table: what is measured, against what, and where the models come from; texts are of a shell.

    The time of `theirs` is the sum of its commands.
    """

    title: str
    ours: str
    theirs: Sequence[str]
    goal: float
    build: Callable[[Path], None]
    rounds: int = ROUNDS
    before: str = ":"
    """What is done before each command, and does not count."""
    why: str = ""
    """Why the goal is not reached, where that is known."""


def tiny(folder: Path) -> None:
    """Make a model of three nodes, whose shapes are all known."""
    model = parser.parse_model(TINY)
    for node, name in zip(model.graph.node, NAMES, strict=True):
        node.name = name
    (folder / "tiny.onnx").write_bytes(model.SerializeToString())
    run([MX, "tag", folder / "tiny.onnx", "-o", folder / "tiny.tagged.onnx"])


@cache
def base(folder: Path) -> None:
    """Make a BERT of base size, inline; 440 MB."""
    tiny(folder)
    if not (folder / "bert.onnx").exists():
        folders(folder)
        run([MX, "trace", folder / "bert", "-o", folder / "bert.trace.json"])
        run([MX, "export", folder / "bert", "--exporter", "torchscript", "-o", folder / "bert.onnx"])
    run([MX, "tag", folder / "bert.onnx", "--trace", folder / "bert.trace.json", "-o", folder / "bert.tagged.onnx"])


def folders(folder: Path) -> None:
    """Make the folders of the PyTorch models."""
    if not (folder / "resnet").exists():
        subprocess.run([sys.executable, "-c", BUILD], cwd=folder, check=True)


@cache
def external(folder: Path) -> None:
    """Make two Llama-like models with external data, of 6 GB and of 6 MB, and put the data where mxtools does."""
    for name, vocabulary, part in (("big.onnx", 590_000, 1), ("small.onnx", 2_000, 16)):
        if not (folder / name).exists():
            write(folder / name, vocabulary, part)
            run([MX, "tag", folder / name, "-o", folder / name])


ROWS = (
    Row("mx --help : python -c pass", '"$mx" --help', [NOTHING], 3.5, tiny),
    Row("mx tag --help : import onnx", '"$mx" tag --help', [ONNX], 0.9, tiny),
    Row("mx tag, tiny : import onnx", TAG_TINY, [ONNX], 1.35, tiny),
    Row("mx filter, tiny : import onnx", FILTER_TINY, [ONNX], 1.3, tiny),
    Row("mx tree, tiny : import onnx", '"$mx" tree tiny.tagged.onnx', [ONNX], 1.3, tiny),
    Row(
        "mx tag, 440 MB inline : cp + mx tag, tiny",
        '"$mx" tag bert.onnx -o out.onnx',
        ["cp bert.onnx copy.onnx", TAG_TINY],
        1.25,
        base,
    ),
    Row(
        "mx filter, 440 MB inline : mx filter, tiny",
        CUT,
        [FILTER_TINY],
        1.15,
        base,
        why="of 55 ms more, 20 write and flush 28 MB, 13 infer shapes, 20 read, check and annotate 1291 nodes",
    ),
    Row(
        "mx tag, 6 GB external, in place : of 6 MB",
        '"$mx" tag big.onnx -o big.onnx',
        ['"$mx" tag small.onnx -o small.onnx'],
        1.3,
        external,
    ),
    Row(
        "mx tag, 6 GB external, elsewhere : cp of the data",
        '"$mx" tag big.onnx -o other/out.onnx',
        ["cp big.onnx.data other/copy"],
        1.1,
        external,
        5,
        EMPTIED,
    ),
    Row(
        "three stages in a pipe, 440 MB inline : mx run",
        STAGES,
        [AT_ONCE],
        1.8,
        base,
        why="each stage can begin only when the one before it knows the graph; with a tiny model, the three programs "
        "alone take 1.1 times as long as `mx run` here",
    ),
    Row(
        "mx tag with a trace, 440 MB inline : onnx load + save",
        '"$mx" tag bert.onnx --trace bert.trace.json -o out.onnx',
        [LOAD_SAVE],
        1.0,
        base,
    ),
    Row("mx filter, 440 MB inline : onnx.utils.extract_model", CUT, ["extract"], 0.3, base),
)


def main() -> int:
    """Build missing models, measure and print; return the exit status."""
    given = arguments("rows")
    folder = given.folder
    chosen = [row for row in ROWS if any(word in row.title for word in given.rows)]
    failed = [measured(row, folder, given.rounds or row.rounds) for row in chosen]
    for model in ("bert", "resnet"):
        title = f"mx bench {model}, usage : htp"
        if any(word in title for word in given.rows):
            failed.append(strategies(title, folder, model, given.rounds or ROUNDS))
    return int(any(failed))


def arguments(what: str) -> argparse.Namespace:
    """Return what the command line gives: the folder, which is made, the rounds, and words that choose rows or jobs."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "folder", nargs="?", type=lambda text: Path(text).resolve(), default=Path("build/bench").resolve()
    )
    parser.add_argument("--rounds", type=int)
    parser.add_argument(f"--{what}", nargs="*", default=[""])
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    return given


def measured(row: Row, folder: Path, rounds: int) -> bool:
    """Measure a row and print it; return whether it is above a limit."""
    row.build(folder)
    theirs = [extract(folder) if command == "extract" else command for command in row.theirs]
    preamble = PREAMBLE.format(folder)
    commands = [preamble + command for command in (row.ours, *theirs)]
    for command in commands:  # once, uncounted: files come into the cache, and Python compiles modules
        seconds(command, preamble + row.before)
    found = [[seconds(command, preamble + row.before) for command in commands] for _ in range(rounds)]
    a = statistics.median(ours for ours, *_ in found)
    b = statistics.median(sum(others) for _, *others in found)
    memory = peak(commands[0])
    told(row.title, a, b, row.goal, f"; memory {memory:.0f} MB (limit {MEGABYTES})", row.why)
    return a / b > row.goal or memory > MEGABYTES


def told(title: str, ours: float, theirs: float, goal: float, more: str = "", why: str = "") -> None:
    """Print a row, and where it is above its goal, why."""
    mark = "" if ours / theirs <= goal else f"  ABOVE{why and f': {why}'}"
    print(f"{title}: {ours:.3f} s / {theirs:.3f} s = {ours / theirs:.2f} (goal {goal}){more}{mark}", flush=True)


def seconds(command: str, before: str = ":") -> float:
    """Return how long a command takes; what comes before, or was left to be written to disk, does not count."""
    subprocess.run(["sh", "-c", before], check=True)
    os.sync()
    start = time.perf_counter()
    subprocess.run(["sh", "-c", command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def peak(command: str) -> float:
    """Return the peak of anonymous memory of any process of a command, in MB."""
    process = subprocess.Popen(["sh", "-c", command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = 0
    while process.poll() is None:
        with suppress(OSError, psutil.Error):
            shell = psutil.Process(process.pid)
            for each in (shell, *shell.children(recursive=True)):
                words = Path(f"/proc/{each.pid}/status").read_text().partition("RssAnon:")[2].split()
                found = max(found, int(words[0]) if words else 0)
        time.sleep(PAUSE)
    return found / 1024


def extract(folder: Path) -> str:
    """Return the command that cuts out what `CUT` does, with onnx."""
    report = json.loads(
        run([MX, "filter", folder / "bert.tagged.onnx", "--scope", LAYER, "-o", folder / "x", "--json"])
    )
    ends = " ".join(f"'{','.join(report[name])}'" for name in ("inputs", "outputs"))
    (folder / "extract.py").write_text(EXTRACT)
    return f'"$python" extract.py bert.tagged.onnx out.onnx {ends}'


def strategies(title: str, folder: Path, model: str, rounds: int) -> bool:
    """Compare the strategies `usage` and `htp`, by what `mx bench` measures; return whether it is above the limit."""
    folders(folder)
    os.sync()
    line = [MX, "bench", folder / model, "--strategies", "usage,htp", "--rounds", rounds, "--json"]
    (report,) = json.loads(run(line)).values()
    rows = report["strategies"]
    a, b = (rows[name]["seconds"] for name in ("usage", "htp"))
    trips = (rows[name]["metrics"]["round_trip"] for name in ("usage", "htp"))
    rates = " / ".join(f"{trip['exact']} of {sum(trip.values()) - trip['gone']}" for trip in trips)
    told(title, a, b, 0.85, f"; round trip {rates}; memory {rows['usage']['peak_memory'] / 1e6:.0f} MB")
    return bool(a / b > 0.85)


if __name__ == "__main__":
    sys.exit(main())
