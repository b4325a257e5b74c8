"""`mx report`: what is worse between two runs is found, and nothing else; counts, tables, and what is refused."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from mxtools.fleet.changes import LEAST_SECONDS, changes, regressions
from mxtools.fleet.folder import gather, totals_of
from mxtools.fleet.job import FailureClass, JobReport, text_of
from tests.support.commands import Mx
from tests.support.fleets import STEPS, changed_figure, changed_step, failing, fleet, found, report, write

Change = Callable[[JobReport], JobReport | None]

PLANTED: dict[str, Change] = {
    "a missing job": lambda job: None,
    "a new failure": lambda job: failing(job, "export"),
    "a crash": lambda job: failing(job, "verify", FailureClass.CRASH),
    "a lower fidelity": lambda job: changed_figure(job, "fidelity", 0.94999),
    "a figure that is gone": lambda job: changed_figure(job, "fidelity", None),
    "a larger error": lambda job: changed_figure(job, "error", 1.2e-4),
    "an invalid model": lambda job: changed_figure(job, "invalid", 1.0),
    "more nodes": lambda job: changed_figure(job, "nodes", 409.0),
    "a larger file": lambda job: changed_figure(job, "bytes", 5.1e6),
    "a slower step": lambda job: changed_step(job, "export", seconds=6.1),
    "more memory": lambda job: changed_step(job, "trace", memory=520 << 20),
}
"""Ways to be worse, one job each."""
HARMLESS: dict[str, Change] = {
    "a step that is a little slower": lambda job: changed_step(job, "export", seconds=5.9),
    "a short step that takes thrice as long": lambda job: changed_step(job, "tag", seconds=0.0),
    "a little more memory": lambda job: changed_step(job, "trace", memory=450 << 20),
    "an error within rounding": lambda job: changed_figure(job, "error", 1.1e-4),
    "a few nodes more": lambda job: changed_figure(job, "nodes", 407.0),
    "a figure that is new": lambda job: changed_figure(job, "exact", 5.0),
}
BETTER: dict[str, Change] = {
    "a higher fidelity": lambda job: changed_figure(job, "fidelity", 1.0),
    "a faster step": lambda job: changed_step(job, "export", seconds=1.0),
    "a smaller file": lambda job: changed_figure(job, "bytes", 4e6),
}


@pytest.mark.parametrize("seed", range(5))
def test_planted_regressions_are_found_and_nothing_else(seed: int) -> None:
    numbers = random.Random(seed)
    before = fleet(12)
    ways = {**PLANTED, **HARMLESS, **BETTER}
    chosen = dict(zip(numbers.sample([*before], len(ways)), ways, strict=False))
    after = {key: ways[chosen[key]](job) if key in chosen else job for key, job in before.items()}
    new = report("a new model")
    kept = [job for job in after.values() if job]
    numbers.shuffle(kept)
    told = changes(found(before.values()), found([*kept, new]))
    worse = {(change.model, change.exporter, change.tool) for change in regressions(told)}
    assert worse == {key for key, way in chosen.items() if way in PLANTED}
    assert len(regressions(told)) == len(PLANTED)
    better = {(change.model, change.exporter, change.tool) for change in told if not change.worse}
    assert better == {key for key, way in chosen.items() if way in BETTER} | {new.key}


@pytest.mark.parametrize("way", HARMLESS)
def test_what_is_within_the_tolerance_is_no_change(way: str) -> None:
    job = report("m")
    assert changes(found([job]), found([HARMLESS[way](job) or job])) == []


def test_a_short_step_may_take_much_longer() -> None:
    short = changed_step(report("m"), "tag", seconds=0.2)
    assert changes(found([short]), found([changed_step(short, "tag", seconds=0.2 + LEAST_SECONDS)])) == []
    assert changes(found([short]), found([changed_step(short, "tag", seconds=0.3 + LEAST_SECONDS)]))


def test_what_a_failure_blocks_is_no_failure_of_its_own() -> None:
    export, tool = report("m"), report("m", tool="int8")
    broken = [failing(export, "export"), failing(tool, "", FailureClass.BLOCKED)]
    told = changes(found([export, tool]), found(broken))
    assert [(change.what, change.tool, change.after) for change in told] == [("failure", "", "export: input")]
    back = changes(found(broken), found([export, tool]))
    assert [(change.what, change.tool, change.worse) for change in back] == [("failure", "", False)]


FAILURES = {
    "the same": (("verify", "no"), ("verify", "no"), None),
    "another class": (("verify", "no"), ("verify", "crash"), True),
    "an earlier step": (("verify", "no"), ("export", "input"), True),
    "a later step": (("export", "input"), ("verify", "no"), False),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_that_becomes_another(case: str) -> None:
    (step, kind), (later, other), worse = FAILURES[case]
    job = report("m")
    told = changes(found([failing(job, step, FailureClass(kind))]), found([failing(job, later, FailureClass(other))]))
    assert [change.worse for change in told] == ([] if worse is None else [worse])


def test_the_totals_are_those_of_the_files(tmp_path: Path) -> None:
    numbers = random.Random(0)
    jobs = [
        failing(job, numbers.choice(STEPS), numbers.choice([*FailureClass])) if numbers.random() < 0.3 else job
        for job in fleet(20).values()
    ]
    write(tmp_path, jobs)
    read = [json.loads(file.read_text()) for file in tmp_path.rglob("*.job.json")]
    totals = totals_of(gather(tmp_path))
    assert len(read) == 120
    for group in totals[:-1]:
        own = [job for job in read if (job["exporter"], job["tool"]) == (group.exporter, group.tool)]
        assert (group.jobs, group.done) == (len(own), sum(job["failure"] is None for job in own))
    kinds = Counter(job["failure"]["class"] for job in read if job["failure"])
    assert totals[-1].failed == dict(sorted(kinds.items()))
    assert totals[-1].seconds == pytest.approx(sum(step["seconds"] for job in read for step in job["steps"]))


@pytest.fixture
def two_runs(tmp_path: Path) -> Path:
    """Return a folder with an old and a new run, in which one job fails and one lost fidelity."""
    old = fleet(2)
    write(tmp_path / "old", old.values())
    new = dict(old)
    new["model-0", "dynamo", ""] = failing(old["model-0", "dynamo", ""], "export", problem="no such | operator")
    new["model-1", "torchscript", "slim"] = changed_figure(old["model-1", "torchscript", "slim"], "fidelity", 0.5)
    write(tmp_path / "new", new.values())
    return tmp_path


def test_the_table_has_a_row_a_job_in_the_order_of_models(mx: Mx, tmp_path: Path) -> None:
    write(tmp_path / "jobs", fleet(11).values())
    done = mx("report", "jobs", cwd=tmp_path)
    rows = done.stdout.decode().splitlines()[1:]
    assert done.returncode == 0
    assert [row.split()[0] for row in rows[::6]] == [f"model-{number}" for number in range(11)]
    assert rows[1].split() == [
        "model-0",
        "dynamo",
        "int8",
        "0.9500",
        "1.0e-04",
        "400",
        "5",
        "MB",
        "16.0",
        "419",
        "MB",
        "done",
    ]
    assert done.stderr == b"mx report: 66 jobs, 66 done, 0 failed\n"


def test_any_name_has_a_place_in_the_order(tmp_path: Path) -> None:
    names = ["m10", "m2", "m²", "m" + "9" * 5000, "m٣"]
    jobs = [report(name) for name in names]
    for number, job in enumerate(jobs):
        (tmp_path / f"{number}.job.json").write_text(text_of(job))
    ordered = [each.job.model for each in gather(tmp_path)]
    assert sorted(ordered) == sorted(names)
    assert ordered.index("m2") < ordered.index("m10")


def test_against_ends_with_1_where_something_is_worse(mx: Mx, two_runs: Path) -> None:
    done = mx("report", "new", "--against", "old", cwd=two_runs)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1] == (
        "mx report: 2 changes for the worse (failure 1, fidelity 1): see the table"
    )
    assert [row.split(maxsplit=2)[0] for row in done.stdout.decode().splitlines()] == ["model", "model-0", "model-1"]
    back = mx("report", "old", "--against", "new", cwd=two_runs)
    assert (back.returncode, back.stdout.count(b"better: ")) == (0, 2)


def test_a_json_report_stands_for_its_folder(mx: Mx, two_runs: Path) -> None:
    (two_runs / "base.json").write_bytes(mx("report", "old", "--json", cwd=two_runs).stdout)
    one, two = (mx("report", "new", "--against", old, "--json", cwd=two_runs) for old in ("old", "base.json"))
    assert (one.returncode, one.stdout) == (two.returncode, two.stdout)
    assert len(json.loads(one.stdout)["changes"]) == 2


def test_markdown_has_totals_failures_and_changes(mx: Mx, two_runs: Path) -> None:
    done = mx("report", "new", "--against", "old", "--markdown", cwd=two_runs)
    totals, failures, changed = done.stdout.decode().split("\n\n")
    assert "| all |  | 12 | 11 | 0 | 0.9091 | 184.0 | input 1 |" in totals
    assert "| model-0 | dynamo |  | input: export: no such \\| operator |" in failures
    assert len(changed.splitlines()) == 4


def test_links_of_the_page_lead_from_where_it_is(mx: Mx, two_runs: Path) -> None:
    (two_runs / "site").mkdir()
    done = mx("report", "new", "--against", "old", "-o", "site/jobs.html", cwd=two_runs)
    assert done.returncode == 1
    text = (two_runs / "site" / "jobs.html").read_text()
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    links = [href for job in data["jobs"] for _, href in job["pages"]] + [job["file"] for job in data["jobs"]]
    assert len(links) == 11 + 12
    assert all((two_runs / "site" / href).is_file() for href in links)
    assert sum(bool(job["changes"]) for job in data["jobs"]) == 2


REFUSED = {
    "no folder": ("report none", 3, "there is no folder none"),
    "no reports": ("report empty", 2, "empty has no file *.job.json"),
    "a damaged report": ("report damaged", 3, "a.job.json is no report of a job: "),
    "two of one job": ("report twice", 2, "are of one job (m dynamo)"),
    "no report as a baseline": ("report new --against other.json", 3, "other.json is no summary of reports in JSON"),
    "a page to stdout": ("report new -o -", 2, "would both go to stdout"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(mx: Mx, two_runs: Path, case: str) -> None:
    (two_runs / "empty").mkdir()
    (two_runs / "damaged").mkdir()
    (two_runs / "damaged" / "a.job.json").write_text('{"schema": "mxtools.job/1", "model": 7}')
    for name in ("one", "two"):
        write(two_runs / "twice" / name, [report("m")])
    (two_runs / "other.json").write_text("[]")
    line, status, problem = REFUSED[case]
    done = mx(*line.split(), cwd=two_runs)
    assert (done.returncode, done.stderr.count(b"\n"), done.stdout) == (status, 1, b"")
    assert problem in done.stderr.decode()


def test_an_infinite_error_is_a_change_and_valid_json(mx: Mx, tmp_path: Path) -> None:
    job = report("m")
    write(tmp_path / "old", [job])
    write(tmp_path / "new", [changed_figure(job, "error", float("inf"))])
    done = mx("report", "new", "--against", "old", "--json", cwd=tmp_path)
    told = json.loads(done.stdout, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    assert (done.returncode, told["changes"][0]["after"]) == (1, "Infinity")
    assert mx("report", "new", "--against", "new", cwd=tmp_path).returncode == 0
