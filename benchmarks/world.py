"""Measure the round trip on models of libraries other than transformers, and write the table into docs/world.md.

world.py [LIBRARY …]: makes an environment of its own in build/world, which sees the packages of the one that runs
this and has the libraries besides (`pip install --no-deps`, so that PyTorch stays the one that is pinned). There each
library's models of `world_models.py`, small and with random weights, are traced, exported by each exporter, tagged, and
taken apart: every call that made something which is used is cut out, run, and compared with PyTorch's module. A library
runs in a process of its own, so that one that fails takes no other along. What is not measured anew stays in the table.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import site
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "world.md"
BEGIN, END = "<!-- measured: benchmarks/world.py -->\n", "<!-- /measured -->"
FOLDER = ROOT / "build" / "world"
PYTHON = FOLDER / "bin" / "python"
EXPORTERS = ("torchscript", "dynamo")
MEASURE = "--measure"
SECONDS = 1800
"""A library may take so long, which is ten times what the slowest took."""

PACKAGES: dict[str, tuple[str, ...]] = {
    "torchvision": ("torchvision", "pillow"),
    "timm": ("timm", "torchvision", "pillow"),
    "diffusers": ("diffusers", "importlib_metadata", "zipp", "requests", "urllib3", "certifi", "charset_normalizer"),
    "transformers": (),
    "open_clip": ("open_clip_torch", "timm", "torchvision", "pillow", "ftfy", "wcwidth"),
    "peft": ("peft", "accelerate", "psutil"),
    "segmentation_models_pytorch": ("segmentation-models-pytorch", "timm", "torchvision", "pillow"),
    "sentence_transformers": (
        "sentence-transformers",
        "scikit-learn",
        "scipy",
        "joblib",
        "threadpoolctl",
        "cloudpickle",
        "narwhals",
    ),
    "vit_pytorch": ("vit-pytorch", "einops", "torchvision", "pillow"),
}
"""What each library needs besides the packages of mxtools; all are installed without what they depend on."""

WORDS = ("exact", "extra", "bad", "missing", "gone")
"""The verdicts on a call; see `mxtools.verify.round_trip`."""


@dataclass(frozen=True)
class Result:
    """What became of one model by one exporter: how many calls have each verdict, or the error in one line."""

    library: str
    version: str
    model: str
    exporter: str
    counts: dict[str, int]
    error: str = ""

    @property
    def share(self) -> float:
        """The share of exact calls of those whose results are in the graph."""
        judged = sum(self.counts.values()) - self.counts.get("gone", 0)
        return self.counts.get("exact", 0) / judged if judged else 0.0


def main(libraries: list[str]) -> None:
    """Measure some libraries, or all, and write the page."""
    wanted = libraries or list(PACKAGES)
    if unknown := set(wanted) - PACKAGES.keys():
        raise SystemExit(f"no models of {', '.join(sorted(unknown))}: there are those of {', '.join(PACKAGES)}")
    _environment(wanted)
    results = []
    for library in wanted:
        found = _in_process(library)
        for result in found:
            print(_line(result), flush=True)
        results += found
    _write(results)


def _environment(libraries: list[str]) -> None:
    """Make the environment, or add to it what some libraries need."""
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", FOLDER], check=True)
        (own,) = FOLDER.glob("lib/python*/site-packages")
        seen = [*site.getsitepackages(), str(ROOT)]
        (own / "pinned.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in seen))
    packages = list(dict.fromkeys(package for library in libraries for package in PACKAGES[library]))
    if packages:
        subprocess.run([PYTHON, "-m", "pip", "install", "-qq", "--no-deps", *packages], check=True)


def _in_process(library: str) -> list[Result]:
    """Measure a library's models in a process of its own."""
    command = [str(PYTHON), str(Path(__file__)), MEASURE, library]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, cwd=ROOT)
    except subprocess.TimeoutExpired:
        return [Result(library, "", "all", "", {}, f"took more than {SECONDS} s")]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"library"')]
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        rows.append(asdict(Result(library, "", "all", "", {}, last[0])))
    return [Result(**row) for row in rows]


def measure(library: str) -> None:
    """Measure a library's models, and print a line of JSON for each model and exporter."""
    import world_models

    world_models.declare_operators()
    version = importlib.metadata.version(world_models.DISTRIBUTIONS.get(library, library))
    for name, make in world_models.MODELS[library].items():
        module, inputs = make()
        world_models.draw(module)
        for exporter in EXPORTERS:
            counts, error = _round_trip(module, inputs, exporter)
            print(json.dumps(asdict(Result(library, version, name, exporter, counts, error))), flush=True)


def _round_trip(module: object, inputs: object, exporter: str) -> tuple[dict[str, int], str]:
    """Return how many calls of a module have each verdict, and the error where there are none."""
    import mxtools
    from mxtools.runtime.quiet import quiet
    from mxtools.verify.round_trip import round_trip

    try:
        with quiet():
            trace = mxtools.trace(module, inputs, record=True)  # type: ignore[arg-type]  # torch is not imported here
            model = mxtools.export(module, inputs, exporter=exporter)  # type: ignore[arg-type]  # as the line before
            model.tag(trace)
            verdicts = round_trip(model.knowing(trace))
    except Exception as error:  # whatever a library or an exporter raises is a row of the table
        return {}, " ".join(str(error).split())[:200] or type(error).__name__
    return {word: sum(verdict.word == word for verdict in verdicts) for word in WORDS}, ""


def _line(result: Result) -> str:
    said = result.error or ", ".join(f"{word} {count}" for word, count in result.counts.items() if count)
    return f"{result.library} {result.model} {result.exporter}: {said}"


def _write(results: list[Result]) -> None:
    """Write the table into the page; rows of libraries that were not measured stay."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    old, _, after = rest.partition(END)
    measured = {result.library for result in results}
    kept = [row for row in old.splitlines() if (found := re.match(r"\| (\w+) ", row)) and found[1] in PACKAGES]
    rows = [row for row in kept if row.split()[1] not in measured] + [_row(result) for result in results]
    columns = ("library", "model", "exporter", *WORDS, "share")
    head = f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|\n"
    order = list(PACKAGES)
    rows.sort(key=lambda row: order.index(row.split()[1]))
    PAGE.write_text(f"{before}{BEGIN}{head}" + "".join(f"{row}\n" for row in rows) + END + after)


def _row(result: Result) -> str:
    name = f"{result.library} {result.version}".strip()
    if result.error:
        reason = result.error.replace("|", "\\|")
        return f"| {name} | {result.model} | {result.exporter} | {reason} |  |  |  |  |  |"
    counts = " | ".join(str(result.counts[word]) for word in WORDS)
    return f"| {name} | {result.model} | {result.exporter} | {counts} | {result.share:.3f} |"


if __name__ == "__main__":
    if sys.argv[1:2] == [MEASURE]:
        measure(sys.argv[2])
    else:
        main(sys.argv[1:])
