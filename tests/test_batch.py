"""`mx batch`: every job leaves a report, whatever happens to a step or the whole process; what is done stays done."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import onnx
import pytest
import tqdm
from onnx import parser

from mxtools.fleet.job import PASSING, JobReport, read_report
from mxtools.runtime.children import Limits, answered
from mxtools.scopes import keys
from mxtools_cli.forked import FORKS, import_for
from tests.support.commands import COMMAND, Done, Mx, forked
from tests.support.paths import ENVIRONMENT

MODEL = """<ir_version: 10, opset_import: ["" : 21]> g (float[2, 2] x) => (float[2, 2] y) { a = Neg(x) y = Relu(a) }"""
SCRIPT = """
import faulthandler, os, signal, time

def crash(graph):
    faulthandler.disable()  # which the tests' own process has enabled
    os.kill(os.getpid(), signal.SIGSEGV)
def killed(graph): os.kill(os.getpid(), signal.SIGKILL)
def fault(graph): raise RuntimeError("a bug")
def forever(graph): time.sleep(600)
def once(graph):
    if not os.path.exists("tried"):
        open("tried", "w").close()
        killed(graph)
def kill_all(graph):
    if not os.path.exists("tried"):
        open("tried", "w").close()
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
def begun(graph):
    open("begun", "w").close()
    time.sleep(600)
"""

forks = pytest.mark.skipif(not FORKS, reason="children are forked on Linux only")


def model(operator: str = "Neg") -> onnx.ModelProto:
    """Return a tagged model of two nodes."""
    made = parser.parse_model(MODEL.replace("Neg", operator))
    for node in made.graph.node:
        keys.replace_props(node, keys.NODE_KEYS, {keys.SCOPE: ".", keys.TAG: "/Net", keys.EVIDENCE: "name"})
    return made


def surgeon(function: str) -> str:
    return f"run m.onnx -p surgeon{{script=steps.py:{function}}} -o out.onnx"


def job(name: str, *lines: str, **fields: Any) -> dict[str, Any]:
    steps = [{"name": line.split()[0], "line": line} for line in lines]
    return {"model": name, "report": f"reports/{name}.job.json", "steps": steps, **fields}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a model, and functions that end as the names say; strings are hashed the same everywhere."""
    monkeypatch.setenv("PYTHONHASHSEED", "0")  # or `mx batch` would start again, as a process that imports everything
    onnx.save(model(), tmp_path / "m.onnx")
    (tmp_path / "steps.py").write_text(SCRIPT)
    return tmp_path


def batch(folder: Path, *jobs: dict[str, Any], options: tuple[str, ...] = ()) -> Done:
    """Run `mx batch` on jobs."""
    (folder / "jobs.json").write_text(json.dumps({"jobs": jobs}))
    import_for(["batch"])
    return forked(["batch", "jobs.json", *options], cwd=folder)[0]


def report(folder: Path, name: str) -> JobReport:
    return read_report(folder / "reports" / f"{name}.job.json")


ENDS = {
    "done": ("tag m.onnx -o out.onnx", None, 0, ""),
    "the answer is no": ("compare m.onnx other.onnx", "no", 1, "modules differ"),
    "wrong usage": ("filter m.onnx --scope none -o out.onnx", "usage", 2, ""),
    "no such option": ("tag m.onnx --nonsense", "usage", 2, "No such option"),
    "no such file": ("tag none.onnx -o out.onnx", "input", 3, "none.onnx"),
    "an error as JSON": ("tag none.onnx -o out.onnx --json", "input", 3, "none.onnx"),
    "a crash": (surgeon("crash"), "crash", -signal.SIGSEGV, "its process was ended by SIGSEGV"),
    "a kill": (surgeon("killed"), "killed", -signal.SIGKILL, "its process was ended by SIGKILL"),
    "too long": (surgeon("forever"), "timeout", None, "it took more than"),
}
"""Of a line: the class of the failure, the status, and a part of the message."""


@forks
def test_every_end_has_a_class_and_none_ends_the_others(folder: Path) -> None:
    onnx.save(model("Sin"), folder / "other.onnx")
    jobs = [job(name, line, seconds=2.0) for name, (line, *_) in ENDS.items()]
    done = batch(folder, *jobs)
    for name, (_, kind, status, problem) in ENDS.items():
        found = report(folder, name)
        assert (found.failure.kind if found.failure else None) == kind, name
        assert found.steps[0].status == status, name
        assert not found.failure or problem in found.failure.problem, found.failure
        assert found.steps[0].memory > 1 << 20
    assert (done.returncode, done.stderr.decode().splitlines()[-1]) == (
        1,
        "mx batch: 2 jobs were killed or took too long: run the command again",
    )


@forks
def test_a_step_that_fails_is_the_last_and_what_needs_it_is_blocked(folder: Path) -> None:
    jobs = [
        job("first", "tag m.onnx -o tagged.onnx --json", "tag none.onnx", "tree m.onnx", result="tagged.onnx"),
        job("second", "tree m.onnx", needs=["reports/first.job.json"]),
        job("third", "tree m.onnx", needs=["reports/second.job.json"]),
    ]
    done = batch(folder, *jobs)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1].startswith("mx batch: 3 jobs failed: see the reports")
    first = report(folder, "first")
    assert [step.status for step in first.steps] == [0, 3]
    assert first.failure is not None
    assert "mx tag: none.onnx" in first.failure.log
    assert first.figures["nodes"] == 2
    for name in ("second", "third"):
        found = report(folder, name)
        assert found.failure is not None
        assert (found.failure.kind, found.steps) == ("blocked", ())


@forks
def test_what_is_done_is_not_done_again_unless_it_changed(folder: Path) -> None:
    jobs = [job("one", "tree m.onnx"), job("two", "tree m.onnx", needs=["reports/one.job.json"]), job("bad", "tree no")]
    told = [json.loads(batch(folder, *jobs, options=("--json",)).stdout) for _ in range(2)]
    assert told == [
        {"done": 3, "failed": 1, "before": 0, "again": 0},
        {"done": 0, "failed": 1, "before": 3, "again": 0},
    ]
    jobs[0] = job("one", "tree m.onnx --csv")  # and so what needs it
    assert json.loads(batch(folder, *jobs, options=("--json",)).stdout)["done"] == 2
    (folder / "reports" / "two.job.json").write_text("half a rep")
    assert json.loads(batch(folder, *jobs, options=("--json",)).stdout)["done"] == 1
    assert report(folder, "two").failure is None


@forks
def test_what_failed_is_done_again_when_it_is_asked_for(folder: Path) -> None:
    jobs = [job("bad", "tree late.onnx"), job("after", "tree m.onnx", needs=["reports/bad.job.json"])]
    jobs.append(job("good", "tree m.onnx"))
    assert batch(folder, *jobs).returncode == 1
    (folder / "late.onnx").write_bytes((folder / "m.onnx").read_bytes())
    assert batch(folder, *jobs).returncode == 1
    again = batch(folder, *jobs, options=("--retry-failed", "--json"))
    assert (again.returncode, json.loads(again.stdout)) == (0, {"done": 2, "failed": 0, "before": 1, "again": 0})


@forks
def test_what_may_pass_is_tried_again_and_not_for_ever(folder: Path) -> None:
    jobs = [job("once", surgeon("once")), job("always", surgeon("killed")), job("crash", surgeon("crash"))]
    statuses = [batch(folder, *jobs, options=("--attempts", "3", "--exit-zero")).returncode for _ in range(4)]
    assert statuses == [1, 1, 0, 0]
    assert batch(folder, *jobs).returncode == 1
    assert [report(folder, name).attempts for name in ("once", "always", "crash")] == [2, 3, 1]
    assert report(folder, "once").failure is None


@forks
def test_a_batch_that_is_killed_says_so_and_goes_on_where_it_was(folder: Path) -> None:
    jobs = {
        "jobs": [
            job("before", "tree m.onnx"),
            job("amid", "tree m.onnx", surgeon("kill_all")),
            job("after", "tree m.onnx"),
        ]
    }
    (folder / "jobs.json").write_text(json.dumps(jobs))
    line = [COMMAND, "batch", "jobs.json"]
    killed = subprocess.run(line, cwd=folder, env=ENVIRONMENT, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    amid = report(folder, "amid")
    assert amid.failure is not None
    assert (amid.failure.kind, amid.failure.step, amid.attempts) == ("killed", "run", 1)
    assert not (folder / "reports" / "after.job.json").exists()
    written = (folder / "reports" / "before.job.json").stat().st_mtime_ns
    subprocess.run(line, cwd=folder, env=ENVIRONMENT, capture_output=True, check=True)
    assert (report(folder, "amid").failure, report(folder, "amid").attempts) == (None, 2)
    assert report(folder, "after").failure is None
    assert (folder / "reports" / "before.job.json").stat().st_mtime_ns == written


@forks
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_batch_that_is_stopped_does_not_count_the_attempt(folder: Path, number: int) -> None:
    (folder / "jobs.json").write_text(json.dumps({"jobs": [job("m", surgeon("begun"))]}))
    process = subprocess.Popen([COMMAND, "batch", "jobs.json"], cwd=folder, env=ENVIRONMENT, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (folder / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(60) == 130
    found = report(folder, "m")
    assert found.failure is not None
    assert (found.failure.kind, found.attempts) == ("interrupted", 0)
    assert found.failure.kind in PASSING
    assert b"Traceback" not in (process.stderr.read() if process.stderr else b"")


@forks
def test_a_child_of_a_killed_batch_ends_too(folder: Path) -> None:
    (folder / "steps.py").write_text(SCRIPT.replace('"begun", "w").close()', '"begun", "w").write(str(os.getpid()))'))
    (folder / "jobs.json").write_text(json.dumps({"jobs": [job("m", surgeon("begun"))]}))
    process = subprocess.Popen([COMMAND, "batch", "jobs.json"], cwd=folder, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (folder / "begun").exists() or not (folder / "begun").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child = int((folder / "begun").read_text())
    process.kill()
    process.wait()
    while Path(f"/proc/{child}").exists() and "\nState:\tZ" not in Path(f"/proc/{child}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@forks
def test_a_process_for_each_step_does_the_same(folder: Path) -> None:
    jobs = [job("good", "tag m.onnx -o out.onnx --json", result="out.onnx"), job("bad", "tag none.onnx")]
    batch(folder, *jobs)
    forked = [report(folder, name) for name in ("good", "bad")]
    content = (folder / "out.onnx").read_bytes()
    for name in ("good", "bad"):
        (folder / "reports" / f"{name}.job.json").unlink()
    batch(folder, *jobs, options=("--separate",))
    separate = [report(folder, name) for name in ("good", "bad")]
    assert [each.figures for each in forked] == [each.figures for each in separate]
    assert [each.failure for each in forked] == [each.failure for each in separate]
    assert (folder / "out.onnx").read_bytes() == content


TOML = """
[[jobs]]
model = "m"
tool = "slim"
report = "a/b/m.job.json"
pages = ["pages/m.html"]
steps = [
  {name = "view", line = "view m.onnx -o 'pages/m.html'"},
  {name = "tree", line = ["tree", "m.onnx"]},
]
"""


def test_a_person_writes_jobs_in_toml(mx: Mx, folder: Path) -> None:
    (folder / "pages").mkdir()
    (folder / "jobs.toml").write_text(TOML)
    assert mx("batch", "jobs.toml", cwd=folder).returncode == 0
    found = read_report(folder / "a" / "b" / "m.job.json")
    assert found.failure is None
    assert found.pages == ("../../pages/m.html",)
    assert found.steps[0].line == ("view", "m.onnx", "-o", "pages/m.html")


REFUSED = {
    "no file": ("none.json", 3, "none.json cannot be read"),
    "no JSON": ("text.json", 3, "text.json is no list of jobs"),
    "no TOML": ("text.toml", 3, "cannot be read as TOML"),
    "another name of the report": ("name.json", 3, "jobs.0.report"),
    "no steps": ("steps.json", 3, "jobs.0.steps"),
    "a word too many": ("more.json", 3, "jobs.0.more"),
    "two with one report": ("twice.json", 3, "2 jobs have the report reports/m.job.json"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(mx: Mx, folder: Path, case: str) -> None:
    good = job("m", "tree m.onnx")
    for name, jobs in {
        "name": [{**good, "report": "m.json"}],
        "steps": [{**good, "steps": []}],
        "more": [{**good, "more": 1}],
        "twice": [good, good],
    }.items():
        (folder / f"{name}.json").write_text(json.dumps({"jobs": jobs}))
    for name in ("text.json", "text.toml"):
        (folder / name).write_text("jobs, one, two")
    file, status, problem = REFUSED[case]
    done = mx("batch", file, cwd=folder)
    assert (done.returncode, done.stderr.count(b"\n")) == (status, 1)
    assert problem in done.stderr.decode()
    assert not (folder / "reports").exists()


def test_a_child_that_is_killed_does_not_stop_the_others() -> None:
    """Progress bars share a lock with forked children, and nobody unlocks it for one that is killed."""

    def bar() -> str:
        return f"{[*tqdm.tqdm([1], file=io.StringIO())]}"

    def killed_and_another() -> str:
        lock = multiprocessing.RLock()  # not that of the tests, which others need
        tqdm.tqdm.set_lock(lock)
        child = os.fork()
        if not child:
            lock.acquire()
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        return answered(bar, Limits(10))[0] or "hangs"

    assert answered(killed_and_another, Limits(60))[0] == "[1]"
