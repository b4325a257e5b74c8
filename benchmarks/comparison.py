"""The same jobs by mxtools and by other tools, side by side: docs/performance.md, with a chart.

comparison.py [FOLDER] [--rounds N] [--jobs WORD …]: the others are installed into FOLDER/peers (FOLDER is build/bench),
with the versions of onnx and onnxruntime that mxtools uses here. Models are those of speed.py. In each round all tools
do a job, one after the other; the figures are medians, and the peak of anonymous memory, from a run of its own. A tool
that fails, or takes more than ten minutes, has no figure, and the reason is printed. Only a run of all jobs writes the
page.
"""

from __future__ import annotations

import json
import platform
import re
import statistics
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path

import onnx
import psutil
import speed
from measuring import MX, run
from scaling import generated

from mxtools.views.plots import bars

ROUNDS = 5
PEERS = Path(__file__).with_name("peers.py")
PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
CHART = PAGE.parent / "pictures" / "performance.svg"
BEGIN, END = "<!-- measured: benchmarks/comparison.py -->\n", "<!-- /measured -->"
PACKAGES = ("onnx-ir", "onnx-graphsurgeon", "polygraphy", "onnxslim", "sne4onnx")
OURS = "mxtools"
LAYERS = 12


@dataclass(frozen=True)
class Job:
    """What all tools do: a shell command of each, by its name."""

    title: str
    commands: Mapping[str, str]
    build: Callable[[Path], None]
    ends: str = ""
    """The model whose parts are cut out."""
    rounds: int = ROUNDS
    note: str = ""


@dataclass
class Result:
    """What came out: seconds and megabytes by tool, and why others have none."""

    job: Job
    seconds: dict[str, float] = field(default_factory=dict)
    megabytes: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Our time over the best of the others."""
        others = [seconds for tool, seconds in self.seconds.items() if tool != OURS]
        return self.seconds[OURS] / min(others) if others else 0.0


def by_library(job: str, model: str, libraries: Sequence[str], ends: bool = False) -> dict[str, str]:
    """Return the commands of libraries that have no program for a job."""
    given = f" {model}.ends.json" if ends else ""
    return {name: f'"$peer" "{PEERS}" {name} {job} {model} out/peer.onnx{given}' for name in libraries}


def nodes(folder: Path) -> None:
    """Make a graph of 100 000 nodes."""
    if not (folder / "nodes.onnx").exists():
        onnx.save(generated(100_000)[0], folder / "nodes.onnx")


def middle(folder: Path) -> None:
    """Make a Llama-like model of 1.5 GB with external data."""
    if not (folder / "middle.onnx").exists():
        speed.write(folder / "middle.onnx", 32_000, 1)
        run([MX, "tag", folder / "middle.onnx", "-o", folder / "middle.onnx"])


def cutting(model: str, layer: str) -> dict[str, str]:
    """Return the commands that cut a layer out."""
    return {
        OURS: f"\"$mx\" filter {model} --scope '{layer}' -o out/part.onnx",
        **by_library("cut", model, ("onnx", "onnx_ir", "graphsurgeon", "sne4onnx"), ends=True),
    }


def copying(model: str) -> dict[str, str]:
    """Return the commands that load a model and save it."""
    return {OURS: f'"$mx" run {model} -p untag -o out/copy.onnx'} | by_library(
        "copy", model, ("onnx", "onnx_ir", "graphsurgeon")
    )


def annotating(model: str) -> dict[str, str]:
    """Return the commands that write something on each node."""
    return {OURS: f'"$mx" tag {model} -o out/tagged.onnx'} | by_library(
        "annotate", model, ("onnx", "onnx_ir", "graphsurgeon")
    )


JOBS = (
    Job(
        "start: show the help",
        {
            OURS: '"$mx" --help',
            "onnx": '"$peer" -c "import onnx"',
            "onnx_ir": '"$peer" -c "import onnx_ir"',
            "graphsurgeon": '"$peer" -c "import onnx_graphsurgeon"',
            "polygraphy": '"$bin/polygraphy" --help',
            "onnxslim": '"$bin/onnxslim" --help',
            "sne4onnx": '"$bin/sne4onnx" --help',
        },
        speed.tiny,
        note="libraries without a program are imported",
    ),
    Job("load and save, 440 MB in one file", copying("bert.tagged.onnx"), speed.base),
    Job(
        "annotate every node, 440 MB in one file",
        annotating("bert.onnx"),
        speed.base,
        note="mxtools finds out the module of each node; the others write a constant or a name",
    ),
    Job("cut out one layer, 440 MB in one file", cutting("bert.tagged.onnx", "encoder.layer.0"), speed.base, "bert"),
    Job(
        "split into 12 layers, 440 MB in one file",
        {OURS: "\"$mx\" split bert.tagged.onnx --each 'encoder.layer.*' -d out/parts"}
        | by_library("layers", "bert.tagged.onnx", ("onnx", "onnx_ir", "graphsurgeon"), ends=True),
        speed.base,
        "bert",
        3,
        note="mxtools also writes the rest of the model, so that the parts can be put together again",
    ),
    Job("annotate every node, 1.5 GB of external data", annotating("middle.onnx"), middle, rounds=3),
    Job("cut out one layer, 1.5 GB of external data", cutting("middle.onnx", "model.layers.0"), middle, "middle", 3),
    Job("annotate every node, 6 GB of external data", annotating("big.onnx"), speed.external, rounds=1),
    Job("cut out one layer, 6 GB of external data", cutting("big.onnx", "model.layers.0"), speed.external, "big", 1),
    Job("annotate every node, 100 000 nodes", annotating("nodes.onnx"), nodes, rounds=3),
)


@cache
def environment(folder: Path) -> Path:
    """Make the environment of the other tools; return its folder of programs."""
    place = folder / "peers"
    if not (place / "ready").exists():
        venv.create(place, with_pip=True)
        pinned = [f"{name}=={version(name)}" for name in ("onnx", "onnxruntime", "numpy", "protobuf")]
        run([place / "bin" / "pip", "install", "-q", *pinned, *PACKAGES])
        (place / "ready").touch()
    return place / "bin"


def write_ends(folder: Path, model: str) -> None:
    """Write the inputs and outputs of each layer of a model to `MODEL.ends.json`."""
    file, scope = (f"{model}.tagged.onnx", "encoder.layer") if model == "bert" else (f"{model}.onnx", "model.layers")
    parts = []
    for layer in range(LAYERS):
        line = [MX, "filter", folder / file, "--scope", f"{scope}.{layer}", "-o", folder / "part.onnx", "--json"]
        report = json.loads(run(line))
        parts.append((report["inputs"], report["outputs"]))
    (folder / f"{file}.ends.json").write_text(json.dumps(parts))


def measured(job: Job, folder: Path, rounds: int | None) -> Result:
    """Let all tools do a job, and print what it took."""
    job.build(folder)
    if job.ends:
        write_ends(folder, job.ends)
    programs = environment(folder)
    head = speed.PREAMBLE.format(folder) + f"export bin='{programs}' peer='{programs}/python' && "
    head += "rm -rf out && mkdir out && "
    result = Result(job)
    for tool, command in job.commands.items():  # once, uncounted
        if failure := failed(head + command):
            result.failed[tool] = failure
            print(f"    {tool} fails: {failure}", flush=True)
        else:
            result.megabytes[tool] = speed.peak(head + command)
    found: dict[str, list[float]] = {tool: [] for tool in result.megabytes}
    for _ in range(rounds or job.rounds):
        for tool, times in found.items():
            times.append(speed.seconds(head + job.commands[tool]))
    result.seconds = {tool: statistics.median(times) for tool, times in found.items()}
    told = ", ".join(f"{tool} {seconds:.2f} s" for tool, seconds in result.seconds.items())
    print(f"{job.title}: {told}", flush=True)
    return result


def failed(command: str) -> str:
    """Run a command; return why it fails, if it does."""
    try:
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=600, check=False)
    except subprocess.TimeoutExpired:
        return "more than ten minutes"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return (lines[-1][:160] if lines else f"exit status {done.returncode}") if done.returncode else ""


def table(results: Sequence[Result]) -> str:
    """Return the table of the page, the jobs that others do faster first."""
    tools = list(dict.fromkeys(tool for result in results for tool in result.job.commands))
    lines = ["| job | " + " | ".join(tools) + " |", "|---" * (len(tools) + 1) + "|"]
    for result in sorted(results, key=lambda each: each.ratio <= 1):
        cells = [cell(result, tool) for tool in tools]
        lines.append(f"| {result.job.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def cell(result: Result, tool: str) -> str:
    """Return the seconds and the memory of a tool, the fastest one bold."""
    if tool not in result.seconds:
        return "fails" if tool in result.failed else ""
    text = f"{result.seconds[tool]:.2f} s"
    text = f"**{text}**" if result.seconds[tool] == min(result.seconds.values()) else text
    return f"{text}, {result.megabytes[tool]:.0f} MB"


def page(results: Sequence[Result], folder: Path) -> str:
    """Return what is measured, as Markdown."""
    slower = [result for result in results if result.ratio > 1]
    lost = "".join(f"- {r.job.title}: {r.ratio:.1f} times the time of the fastest\n" for r in slower)
    notes = "".join(f"- {r.job.title}: {r.job.note}\n" for r in results if r.job.note)
    failures = "".join(f"- {r.job.title}: {tool}: `{why}`\n" for r in results for tool, why in r.failed.items())
    frozen = run([environment(folder) / "pip", "list", "--format", "freeze"]).decode()
    names = "|".join(("onnx", "onnxruntime", *(name.replace("-", "[-_]") for name in PACKAGES)))
    versions = re.findall(rf"(?m)^(?:{names})==.*$", frozen)
    machine = f"{psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, {platform.system()}"
    head = (
        f"Where mxtools is slower than another tool:\n\n{lost}\n"
        if slower
        else "mxtools is the fastest in each job.\n\n"
    )
    return (
        f"{head}![Seconds by job and tool](pictures/performance.svg)\n\n{table(results)}\n"
        f"Medians of whole processes, on a machine of {machine}, Python {platform.python_version()}, with "
        f"{', '.join(versions)}. Memory is what a process has of its own; pages of mapped files do not count.\n\n"
        f"{notes}" + (f"\nWhat failed:\n\n{failures}" if failures else "")
    )


def main() -> int:
    """Measure, print, and write the page."""
    given = speed.arguments("jobs")
    folder = given.folder
    chosen = [job for job in JOBS if any(word in job.title for word in given.jobs)]
    results = [measured(job, folder, given.rounds) for job in chosen]
    if len(chosen) < len(JOBS):
        return 0
    tools = list(dict.fromkeys(tool for job in JOBS for tool in job.commands))
    series = {tool: [result.seconds.get(tool, float("nan")) for result in results] for tool in tools}
    bars(CHART, "seconds by job and tool", [job.title for job in JOBS], series, "seconds", log=True)
    text = PAGE.read_text()
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    PAGE.write_text(text[:start] + page(results, folder) + text[end:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
