"""Run the example fleet, and write what its jobs came to into docs/scoreboard/.

    python benchmarks/scoreboard.py [FOLDER]

Everything lies in FOLDER, build/scoreboard by default. A run that was ended goes on where it was, and one that is done
only writes the page. `docs/scoreboard/report.json` is what a later run is compared with.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXAMPLE, PAGE = ROOT / "examples" / "fleet", ROOT / "docs" / "scoreboard"
TOTALS = ("exporter", "tool", "jobs", "done", "all exact", "mean share of exact modules", "seconds")
JOBS = ("model", "exporter", "tool", "exact modules", "largest error", "nodes", "bytes", "seconds", "result")
TEXT = """# Scoreboard

What became of the models of the [example fleet](../fleet.md#a-fleet), which are small and have random weights: each was
traced, exported by each exporter, tagged, taken apart, and changed by each tool.

Of the modules that a file still has, the share is given that returns, cut out and run alone, what PyTorch's module
returned, and nothing else. int8 changes what modules return, so there only the largest error of the outputs is given,
relative to their largest value. Times are of one core of a machine that had other work too.

{totals}

## Each job

{jobs}

## How to repeat it

Made with {versions}, by one command, which goes on where it was ended:

```
python benchmarks/scoreboard.py
```

[report.json](report.json) is the report of this run. This compares your run with it, and ends with 1 if anything is
worse; times are those of the machine:

```
mx report build/scoreboard/runs --against docs/scoreboard/report.json
```
"""


def main(folder: Path) -> None:
    """Run what is missing, and write the page."""
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "runs"))
    subprocess.run(["snakemake", "--cores", "1", "--quiet", "all"], cwd=folder, check=True)
    PAGE.mkdir(exist_ok=True)
    shutil.copy(folder / "runs" / "report.json", PAGE / "report.json")
    (PAGE / "index.md").write_text(page(folder / "runs"))


def page(runs: Path) -> str:
    """Return the page of the reports in a folder."""
    from mxtools.fleet.folder import gather, totals_of
    from mxtools.fleet.job import JobReport
    from mxtools.fleet.texts import figure_text

    found = gather(runs)

    def totals() -> Iterator[Sequence[str]]:
        for each in totals_of(found):
            if each.exporter:
                share = figure_text("fidelity", each.fidelity)
                exact = str(each.exact) if share else ""
                yield each.exporter, each.tool, str(each.jobs), str(each.done), exact, share, f"{each.seconds:.1f}"

    def row(job: JobReport) -> Sequence[str]:
        figures = [figure_text(name, job.figures.get(name)) for name in ("fidelity", "error", "nodes", "bytes")]
        result = f"{job.failure.kind}: {job.failure.step}" if job.failure else "done"
        return *job.key, *figures, f"{job.seconds:.1f}", result

    versions = ", ".join(sorted({version for each in found for version in each.job.versions}))
    jobs = table([JOBS, *(row(each.job) for each in found if each.job.exporter)], left=3)
    return TEXT.format(totals=table([TOTALS, *totals()], left=2), jobs=jobs, versions=versions)


def table(rows: Sequence[Sequence[str]], left: int) -> str:
    """Return rows, the first of which is the head, as a table in Markdown."""
    head, *lines = (" | ".join(row) for row in rows)
    marks = "|".join("---" if at < left else "---:" for at in range(len(rows[0])))
    return "\n".join([f"| {head} |", f"|{marks}|", *(f"| {line} |" for line in lines)])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "scoreboard")
