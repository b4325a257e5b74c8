"""Run the example fleet: on a Slurm cluster of this machine while jobs are killed, and on one core for what it costs.

    python benchmarks/fleet.py cluster [--kills 10] [--zoo COUNT] [--slots 4] [--folder build/fleet]
    python benchmarks/fleet.py overhead [--zoo COUNT] [--rounds 3]
    python benchmarks/fleet.py page

`cluster` (as root; it installs Slurm) gives every job a Slurm job of its own, kills running ones at random (scancel, or
SIGKILL for its `mx batch`), and once the head, the process `snakemake`. Then it starts the head again until all is
done, and counts the files itself: no job may be lost, none done twice, and `mx report` must come to the same totals.

`overhead` compares three ways on one core: the fleet, one `mx batch` of all jobs, and a process for each step. `page`
opens the page of 2 000 jobs in Chromium. With `--zoo`, the models are so many of `zoo/`, and not the example's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
EXAMPLE, ZOO = ROOT / "examples" / "fleet", ROOT / "benchmarks" / "zoo"
TINY = ("unet", "resnet")
"""Models whose steps are shorter than importing PyTorch."""
MOST_OVERHEAD, LEAST_GAIN, MOST_SECONDS = 1.15, 2.0, 2.0
ON_SLURM = [
    *("--executor", "slurm", "--slurm-no-account", "--slurm-status-command", "squeue", "--latency-wait", "10"),
    *("--slurm-init-seconds-before-status-checks", "5", "--seconds-between-status-checks", "5"),
    *("--default-resources", "slurm_partition=main"),
]
QUEUED = 4
"""So many jobs for each slot are with Slurm, so that no slot waits for the head."""
PAUSE = 2.0
"""Seconds between two looks at the cluster."""
HEADS = 20
"""The head is started again so many times at most."""
LAST = re.compile(r"^mx batch: (.+): (done|\w+: .*) \([\d.]+ s\)$", re.MULTILINE)
"""The line that `mx batch` says of a job that has ended."""


def main() -> int:
    """Run one of the benchmarks; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cluster", "overhead", "page"))
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "fleet")
    parser.add_argument("--zoo", type=int, metavar="COUNT")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--slots", type=int, default=2 * (os.cpu_count() or 1))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.what == "page":
        return page(given.rounds)
    if not shutil.which("snakemake"):
        raise SystemExit("snakemake is not on the path: pip install 'onnx-mxtools[fleet]'")
    return cluster(given) if given.what == "cluster" else overhead(given)


# ---- on a cluster, with kills


def cluster(given: argparse.Namespace) -> int:
    """Run the fleet on Slurm, kill, resume, and count."""
    folder: Path = given.folder.resolve() / "cluster"
    shutil.rmtree(folder, ignore_errors=True)
    prepare(folder, given.zoo and zoo(given.zoo))
    script = str(EXAMPLE / "slurm" / "cluster.sh")
    subprocess.run(["sh", script, "start", str(folder / "slurm"), str(given.slots)], check=True)
    try:
        start = time.monotonic()
        killed = Killer(folder, random.Random(given.seed), given.kills, given.slots).run()
        print(f"{time.monotonic() - start:.0f} s, killed: {dict(killed)}")
        return counted(folder, killed)
    finally:
        subprocess.run(["sh", script, "stop", str(folder / "slurm")], check=False)


def zoo(count: int | None = None) -> list[str]:
    """Return so many models of the zoo, spread over the whole list; all of them without a number."""
    names = (ZOO / "models.txt").read_text().split()
    count = min(count or len(names), len(names))
    return [names[at * len(names) // count] for at in range(count)]


def prepare(folder: Path, models: Sequence[str] | None = None) -> None:
    """Copy the example to a folder, with its own models or others that the example or the zoo has."""
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "runs"))
    if models:
        table = (EXAMPLE / "models.toml").read_text()
        if not tomllib.loads(table)["models"].keys() >= set(models):
            shutil.copy(ZOO / "models.py", folder)
        head = table[: table.index("[models.")]
        (folder / "models.toml").write_text(head + "".join(f'[models."{name}"]\n' for name in models))


class Killer:
    """A head that is started again until all is done, and whose jobs are killed meanwhile."""

    def __init__(self, folder: Path, numbers: random.Random, kills: int, slots: int) -> None:
        self.folder, self.numbers, self.slots = folder, numbers, slots
        self.ways = [numbers.choice(("scancel", "kill -9")) for _ in range(kills)]
        self.kills, self.head_at = kills, kills // 2
        self.done: Counter[str] = Counter()

    def run(self) -> Counter[str]:
        """Return how often what was killed, when the fleet is done."""
        for _ in range(HEADS):
            head = self._head()
            while head.poll() is None:
                time.sleep(PAUSE * (1 + self.numbers.random()))
                self._kill(head)
                resume_node()
            if head.returncode == 0:
                return self.done
            while running():  # jobs of a head that was killed go on; to start them again would do them twice
                time.sleep(PAUSE)
            subprocess.run(
                ["snakemake", "--unlock", "--config", "alone=1"], cwd=self.folder, capture_output=True, check=True
            )
        raise SystemExit(f"the fleet is not done after {HEADS} heads: see {self.folder / 'head.log'}")

    def _head(self) -> subprocess.Popen[bytes]:
        line = ["snakemake", *ON_SLURM, "--jobs", str(QUEUED * self.slots), "--config", "alone=1"]
        with (self.folder / "head.log").open("ab") as log:
            return subprocess.Popen(line, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)

    def _kill(self, head: subprocess.Popen[bytes]) -> None:
        """Kill one of what runs, if there is still something to be killed, and not all of them at the start."""
        jobs = sum(1 for _ in self.folder.glob("runs/batches/*.json"))
        begun = sum(1 for _ in self.folder.glob("runs/**/*.job.json"))
        if self.done.total() * jobs > begun * self.kills:
            return
        if self.ways and len(self.ways) == self.head_at and not self.done["head"]:
            os.killpg(head.pid, signal.SIGKILL)
            self.done["head"] += 1
        elif self.ways and self.ways[-1] == "scancel" and (left := running("--states=R")):
            subprocess.run(["scancel", self.numbers.choice(left)], check=False)
            self.done[self.ways.pop()] += 1
        elif self.ways and self.ways[-1] != "scancel" and (batches := self._batches()):
            try:
                os.kill(self.numbers.choice(batches), signal.SIGKILL)
                self.done[self.ways.pop()] += 1
            except ProcessLookupError:
                return  # it has just ended

    def _batches(self) -> list[int]:
        """Return the processes `mx batch` of this fleet; those that they forked bear the same name."""
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                line = (place / "cmdline").read_bytes().split(b"\0")
                status = (place / "status").read_text()
                if b"batch" in line and line[0].endswith(b"python") and (place / "cwd").readlink() == self.folder:
                    found[int(place.name)] = int(re.findall(r"^PPid:\s+(\d+)", status, re.MULTILINE)[0])
            except OSError:  # it has just ended
                continue
        return [process for process, parent in found.items() if parent not in found]


def running(*options: str) -> list[str]:
    """Return the Slurm jobs that run or wait, or only some of them."""
    done = subprocess.run(["squeue", "--noheader", "--format=%i", *options], capture_output=True, text=True, check=True)
    return done.stdout.split()


def resume_node() -> None:
    """Let the node take jobs again if a job that was killed while it started made Slurm give it up."""
    state = subprocess.run(["sinfo", "--noheader", "--format=%n %T"], capture_output=True, text=True, check=True)
    node, _, said = state.stdout.strip().partition(" ")
    if "drain" in said:
        subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"], check=False)


def counted(folder: Path, killed: Counter[str]) -> int:
    """Count what the files say, beside what `mx report` says; return the exit status."""
    wanted = [
        job for file in (folder / "runs" / "batches").glob("*.json") for job in json.loads(file.read_text())["jobs"]
    ]
    reports = {job["report"]: folder / job["report"] for job in wanted}
    lost = [name for name, file in reports.items() if not file.exists()]
    read = [json.loads(file.read_text()) for file in reports.values() if file.exists()]
    failed = Counter(job["failure"]["class"] for job in read if job["failure"])
    said = Counter(
        found[1] for file in (folder / "runs" / "batches").glob("*.log") for found in LAST.finditer(file.read_text())
    )
    twice = [name for name, count in said.items() if count > 1]
    again = sum(job["attempts"] > 1 for job in read)
    told = json.loads((folder / "runs" / "report.json").read_text())["totals"][-1]
    agree = (told["jobs"], told["done"], told["failed"]) == (
        len(read),
        len(read) - failed.total(),
        dict(sorted(failed.items())),
    )
    print(f"jobs: {len(wanted)}, reports: {len(read)}, lost: {len(lost)}, done twice: {len(twice)}")
    print(f"tried again after a kill: {again} (killed: {killed.total()}), failed by class: {dict(failed)}")
    print(f"`mx report` comes to the same totals: {agree}")
    return int(bool(lost or twice or not agree))


# ---- on one core


def overhead(given: argparse.Namespace) -> int:
    """Compare the fleet on one core with one process for all jobs, and that with a process for each step.

    On a machine that has other work too, the seconds of processor time say more than those of the clock.
    """
    everything, few = given.folder.resolve() / "overhead", given.folder.resolve() / "tiny"
    for folder in (everything, few):
        shutil.rmtree(folder, ignore_errors=True)
    prepare(everything, given.zoo and zoo(given.zoo))
    prepare(few, TINY)
    subprocess.run(["snakemake", "--dry-run"], cwd=few, capture_output=True, check=True)  # it writes the lists of jobs
    fleet, batch = ["snakemake", "--cores", "1"], ["mx", "batch", "runs/batches/small-0.json", "--exit-zero"]
    whole = [(timed(fleet, everything), timed(batch, everything)) for _ in range(given.rounds)]
    tiny = [(timed([*batch, "--separate"], few), timed(batch, few)) for _ in range(given.rounds)]
    cost, gain = told("fleet ÷ batch", whole), told("separate ÷ batch, tiny models", tiny)
    print(f"limits: at most {MOST_OVERHEAD}, at least {LEAST_GAIN}")
    return int(cost > MOST_OVERHEAD or gain < LEAST_GAIN)


def timed(line: list[str], folder: Path) -> tuple[float, float]:
    """Return the seconds of a command on one core, and of processor time, after the reports of others are gone."""
    for path in (folder / "runs").iterdir() if (folder / "runs").is_dir() else ():
        if path.name != "batches":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for done in folder.glob("runs/batches/*.done"):
        done.unlink()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(["taskset", "--cpu-list", "0", *line], cwd=folder, env=environment, capture_output=True, check=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - start, busy


def told(name: str, pairs: list[tuple[tuple[float, float], tuple[float, float]]]) -> float:
    """Print the medians of two ways, by the clock and of processor time; return the ratio of those by the clock."""
    ratios = []
    for kind, unit in enumerate(("s", "s of processor time")):
        one, other = (median(way[kind] for way in ways) for ways in zip(*pairs, strict=True))
        print(f"{name}: {one:.1f} {unit} ÷ {other:.1f} {unit} = {one / other:.2f}", flush=True)
        ratios.append(one / other)
    return ratios[0]


# ---- the page


def page(rounds: int) -> int:
    """Open the page of 2 000 jobs in Chromium, each time in a new tab."""
    from playwright.sync_api import sync_playwright

    from benchmarks.page import CHROMIUM
    from mxtools.fleet.page import fleet_page
    from tests.support.fleets import fleet, found

    with tempfile.TemporaryDirectory() as made, sync_playwright() as playwright:
        file = Path(made) / "jobs.html"
        file.write_text(fleet_page("jobs", found(fleet(334).values()), Path(made), Path(made)))
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        times = []
        for _ in range(rounds):
            tab, start = browser.new_page(), time.monotonic()
            tab.goto(file.as_uri())
            tab.wait_for_selector("#rows tr")
            times.append(time.monotonic() - start)
            rows = tab.locator("#rows tr").count()
            tab.close()
        browser.close()
    print(f"{rows} jobs, {median(times):.2f} s (limit {MOST_SECONDS})")
    return int(median(times) > MOST_SECONDS)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
