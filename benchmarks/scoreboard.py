"""Run the fleet of the zoo, and write what its jobs came to into docs/scoreboard/.

    python benchmarks/scoreboard.py [FOLDER] [--count COUNT]

Everything lies in FOLDER, build/scoreboard by default. A run that was ended goes on where it was, and one that is done
only writes the page: so one that was done elsewhere, as by `fleet.py cluster --zoo 150`, becomes the scoreboard too.
`docs/scoreboard/report.json` is what a later run is compared with.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mxtools.fleet.job import JobReport

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "scoreboard"
EXPORTERS = ("torchscript", "dynamo")
NAIVE_SCRIPT = ROOT / "benchmarks" / "zoo" / "naive.py"
NAIVE = "names-only"
"""The tool of the jobs that check the tags of a naive script."""
TOTALS = ("exporter", "tool", "jobs", "done", "all exact", "mean share of exact modules", "seconds")
OF_EXPORTER = {
    "exact": ("", "fidelity"),
    "names only": (NAIVE, "fidelity"),
    "onnxslim": ("onnxslim", "fidelity"),
    "int8": ("int8", "error"),
}
"""The tool and the figure of each column that an exporter has."""
FAILURES = ("model", "exporter", "tool", "failure")
TEXT = """# Scoreboard

What became of {models} models, small and with random weights, each of a different architecture of transformers. Each
was traced, exported by each exporter, tagged, taken apart, and changed by each tool.

- **exact**: of the modules that the file still has, the share that returns, cut out and run alone, what PyTorch's
  module returned, and nothing else.
- **names only**: the same for the tags of
  [a naive script](https://github.com/OWNER/mxtools/blob/main/benchmarks/zoo/naive.py), which takes each node's scope
  from the exporter's names.
- **onnxslim**: the same after onnxslim has been through the tagged file.
- **int8**: int8 changes what modules return, so here is the largest error of the model's outputs, relative to their
  largest value.

Most of what is not exact is one of two: the router of a mixture of experts that takes the best experts in no particular
order, where ONNX Runtime has another order than PyTorch; and the first layer of t5 and mt5, whose bias looks like the
masked bias, because the mask hides nothing here.

Nothing stands where a job failed; see [below](#failures). Times are of one core of a machine that had other work too.

{totals}

## Each model

{rows}

## Failures

What the exporter itself cannot do is a failure of the step `export`.

{failures}

## How to repeat it

Made with {versions}, by one command, which takes some hours and goes on where it was ended:

```
python benchmarks/scoreboard.py --count {models}
```

[report.json](report.json) is the report of this run. This compares your run with it, and ends with 1 if anything is
worse; times are those of the machine:

```
mx report build/scoreboard/runs --against docs/scoreboard/report.json
```
"""


def main() -> None:
    """Run what is missing, and write the page."""
    from benchmarks.fleet import prepare, zoo

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "build" / "scoreboard")
    parser.add_argument("--count", type=int, help="so many models, spread over the list")
    given = parser.parse_args()
    prepare(given.folder, zoo(given.count))
    subprocess.run(["snakemake", "--cores", "1", "--quiet", "all"], cwd=given.folder, check=True)
    check_naive(given.folder)
    PAGE.mkdir(exist_ok=True)
    (PAGE / "report.json").write_text(kept(given.folder))
    (PAGE / "index.md").write_text(page(given.folder / "runs"))


def kept(folder: Path) -> str:
    """Return the report that later runs are compared with: in few bytes, and without logs, which name places."""
    done = subprocess.run(["mx", "report", "runs", "--json"], cwd=folder, check=True, stdout=subprocess.PIPE)
    report = json.loads(done.stdout)
    for each in report["reports"]:
        if each["job"]["failure"]:
            each["job"]["failure"]["log"] = ""
    return json.dumps(report, separators=(",", ":")) + "\n"


def check_naive(folder: Path) -> None:
    """Let the naive script tag each export, and check its tags as those of mx were checked."""
    jobs = []
    for raw in sorted(folder.glob("runs/*/*/raw.onnx")):
        model, exporter = raw.parts[-3:-1]
        made = raw.with_name(NAIVE) / f"{NAIVE}.onnx"
        if not made.exists():
            made.parent.mkdir(exist_ok=True)
            subprocess.run([sys.executable, str(NAIVE_SCRIPT), str(raw), str(made)], check=True)
        place, trace = made.relative_to(folder), raw.parents[1].relative_to(folder) / "trace.json"
        check = ["verify", str(place), "--trace", str(trace), "--round-trip", "--fail-under", "0", "--json"]
        report, step = str(place.with_suffix(".job.json")), {"name": "round-trip", "line": check}
        jobs.append({"model": model, "exporter": exporter, "tool": NAIVE, "report": report, "steps": [step]})
    (folder / "naive.json").write_text(json.dumps({"jobs": jobs}))
    subprocess.run(["mx", "batch", "naive.json", "--exit-zero"], cwd=folder, check=True)


def page(runs: Path) -> str:
    """Return the page of the reports in a folder."""
    from mxtools.fleet.folder import gather, totals_of
    from mxtools.fleet.texts import figure_text, result_text

    found = gather(runs)
    jobs = {each.job.key: each.job for each in found}
    models = dict.fromkeys(each.job.model for each in found)

    def totals() -> Iterator[Sequence[str]]:
        for each in totals_of(found):
            if each.exporter:
                share = figure_text("fidelity", each.fidelity)
                exact = str(each.exact) if share else ""
                yield each.exporter, each.tool, str(each.jobs), str(each.done), exact, share, f"{each.seconds:.0f}"

    def figure(job: JobReport | None, name: str) -> str:
        return figure_text(name, job.figures.get(name)) if job and not job.failure else ""

    def row(model: str) -> Iterator[str]:
        yield model
        for exporter in EXPORTERS:
            for tool, name in OF_EXPORTER.values():
                yield figure(jobs.get((model, exporter, tool)), name)

    failed = [(*job.key, result_text(job).replace("|", "/")) for job in jobs.values() if _is_cause(job)]
    head = ("model", *(f"{name} ({exporter})" for exporter in EXPORTERS for name in OF_EXPORTER))
    return TEXT.format(
        models=len(models),
        totals=table([TOTALS, *totals()], left=2),
        rows=table([head, *map(tuple, map(row, models))], left=1),
        failures=table([FAILURES, *failed], left=len(FAILURES)),
        versions=", ".join(sorted({version for job in jobs.values() for version in job.versions})),
    )


def _is_cause(job: JobReport) -> bool:
    """Return whether a job failed by itself, and not since another one did."""
    return job.failure is not None and job.failure.kind != "blocked"


def table(rows: Sequence[Sequence[str]], left: int) -> str:
    """Return rows, the first of which is the head, as a table in Markdown."""
    head, *lines = (" | ".join(row) for row in rows)
    marks = "|".join("---" if at < left else "---:" for at in range(len(rows[0])))
    return "\n".join([f"| {head} |", f"|{marks}|", *(f"| {line} |" for line in lines)])


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
