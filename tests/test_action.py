"""The GitHub Action and the hook for pre-commit: their steps, run here as a service would."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import numpy_helper

from tests.support.commands import Done
from tests.support.paths import ENVIRONMENT, ROOT
from tests.support.shared_models import Build

ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
GH = """#!/bin/sh
echo "$*" >> "$GH_LOG"
case "$*" in *--paginate*) cat "$GH_FOUND" ;; esac
"""
"""Stands for GitHub's `gh`: notes what it is asked, and finds the comments that a file lists."""
LAYER = "encoder.layer.1"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    line = ["git", *identity, *arguments]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, check=True).stdout


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)


def with_other_weight(model: onnx.ModelProto, module: str) -> onnx.ModelProto:
    """Return a model in which one weight of a module has other numbers."""
    tensor = next(t for t in model.graph.initializer if t.name.startswith(f"{module}.") and len(t.dims) == 1)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(1), tensor.name))
    return model


@pytest.fixture(scope="module")
def pull_request(built: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a clone on the branch of a pull request that changes models in each way there is."""
    folder = tmp_path_factory.mktemp("action")
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", folder / "origin"], check=True)
    subprocess.run(["git", "clone", "--quiet", folder / "origin", folder / "clone"], check=True, capture_output=True)
    clone = folder / "clone"
    git(clone, "checkout", "--quiet", "-b", "main")
    tagged, raw = (onnx.load(built("trained", "dynamo") / f"{name}.onnx") for name in ("tagged", "raw"))
    (clone / "models").mkdir()
    for name in ("changed", "same", "removed"):
        onnx.save(tagged, clone / "models" / f"{name}.onnx")
    onnx.save(raw, clone / "untagged.onnx")
    onnx.save(tagged, clone / "ext.onnx", save_as_external_data=True, location="ext.bin")
    tagged = onnx.load(clone / "ext.onnx")
    commit(clone, "models")
    git(clone, "push", "--quiet", "origin", "main")
    git(clone, "checkout", "--quiet", "-b", "change")
    onnx.save(with_other_weight(tagged, LAYER), clone / "models" / "changed.onnx")
    onnx.save(with_other_weight(raw, LAYER), clone / "untagged.onnx")
    stored = onnx.load(clone / "ext.onnx", load_external_data=False).graph.initializer
    *_, place = (t.external_data for t in stored if t.external_data)
    offset = next(int(entry.value) for entry in place if entry.key == "offset")
    weights = bytearray((clone / "ext.bin").read_bytes())
    weights[offset : offset + 4] = np.float32(7).tobytes()
    (clone / "ext.bin").write_bytes(weights)
    (clone / "models" / "removed.onnx").unlink()
    (clone / "models" / "a|b.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    commit(clone, "change")
    return clone


def run_action(folder: Path, place: Path, found: str = "", **inputs: str) -> tuple[dict[str, Done], str, str]:
    """Run the steps of the Action in a folder; return what each said, the comment, and what `gh` was asked.

    In the place of the first step, which installs mxtools into an environment, that of the tests is taken.
    """
    runner = place / "runner"
    runner.mkdir()
    (runner / "mxtools").symlink_to(sys.prefix)
    (place / "gh").write_text(GH)
    (place / "gh").chmod(0o755)
    (place / "found").write_text(found)
    values = {
        "github.action_path": str(ROOT),
        "github.base_ref": "main",
        "github.token": "secret",
        "github.repository": "someone/models",
        "github.event.pull_request.number": "7",
        "steps.check.outputs.comment": str(runner / "models.md"),
    }
    for name, described in ACTION["inputs"].items():
        values[f"inputs.{name}"] = inputs.get(name, expanded(described["default"], values))
    known = {
        "RUNNER_TEMP": str(runner),
        "GITHUB_OUTPUT": str(place / "output"),
        "GITHUB_STEP_SUMMARY": str(place / "summary"),
        "GH_LOG": str(place / "asked"),
        "GH_FOUND": str(place / "found"),
        "PATH": f"{place}:{os.environ['PATH']}",
    }
    done = {}
    for step in ACTION["runs"]["steps"][1:]:
        own = {name: expanded(value, values) for name, value in step["env"].items()}
        line = [step["shell"], "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        done[step["name"]] = subprocess.run(
            line, cwd=folder, env={**os.environ, **known, **own}, capture_output=True, check=False
        )
    asked = (place / "asked").read_text() if (place / "asked").exists() else ""
    return done, (runner / "models.md").read_text(), asked


def expanded(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\$\{\{ (.*?) \}\}", lambda found: values[found[1]], str(text))


def rows(comment: str) -> dict[str, list[str]]:
    """Return the cells of the first table by the first of a line."""
    lines = [
        line.strip("| ").split(" | ") for line in comment.partition("<details>")[0].splitlines() if line[:1] == "|"
    ]
    return {line[0]: line[1:] for line in lines[2:]}


def test_the_action_compares_what_a_pull_request_changed(pull_request: Path, tmp_path: Path) -> None:
    done, comment, asked = run_action(pull_request, tmp_path)
    assert done["Check models"].returncode == 1, done["Check models"].stderr.decode()
    table = rows(comment)
    one = "1 of 39 modules differ (weights 1)"
    assert table["<code>models/changed.onnx</code>"] == ["yes", one]
    assert table["<code>ext.onnx</code>"] == ["yes", one]
    assert table["<code>untagged.onnx</code>"] == ["yes", one]
    assert table["<code>models/removed.onnx</code>"] == ["", "removed"]
    assert "Git LFS" in table["<code>models/a&#124;b.onnx</code>"][0]
    assert "&quot;error&quot;" not in comment
    assert len(table) == 5
    details = comment.partition("<details><summary><code>models/changed.onnx</code></summary>")[2].partition(
        "</details>"
    )
    assert "| module | class | nodes | what differs |" in details[0]
    assert f"weights: {LAYER}.attention.self.query.bias" in details[0]
    assert comment == (tmp_path / "summary").read_text()
    assert done["Comment"].returncode == 0, done["Comment"].stderr.decode()
    assert f"--method POST repos/someone/models/issues/7/comments -F body=@{tmp_path}" in asked
    assert git(pull_request, "status", "--porcelain") == ""


def test_the_comment_of_an_earlier_run_is_replaced(pull_request: Path, tmp_path: Path) -> None:
    done, _, asked = run_action(
        pull_request, tmp_path, found="123\n", models="models/same.onnx", **{"fail-on": "changes"}
    )
    assert done["Check models"].returncode == 0
    assert "--method PATCH repos/someone/models/issues/comments/123" in asked
    assert "POST" not in asked


@pytest.mark.parametrize(("fail_on", "status"), [("errors", 0), ("changes", 1), ("never", 0)])
def test_what_fails_the_check(pull_request: Path, tmp_path: Path, fail_on: str, status: int) -> None:
    done, _, _ = run_action(pull_request, tmp_path, models="models/removed.onnx", **{"fail-on": fail_on})
    assert done["Check models"].returncode == status


def test_without_a_base_all_models_are_checked(pull_request: Path, tmp_path: Path) -> None:
    done, comment, _ = run_action(pull_request, tmp_path, base="", models="models/[cs]*.onnx\next.onnx")
    assert done["Check models"].returncode == 0, done["Check models"].stderr.decode()
    assert list(rows(comment)) == [f"<code>{name}.onnx</code>" for name in ("ext", "models/changed", "models/same")]


def test_inputs_reach_no_shell_as_text() -> None:
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step["run"]


def hook() -> dict[str, Any]:
    (found,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    return dict(found)


def test_the_hook_checks_the_models_that_it_is_given(pull_request: Path) -> None:
    files = git(pull_request, "ls-files", "-z").split("\0")
    models = [file for file in files if re.search(hook()["files"], file)]
    assert len(models) == 5
    for names, status in ((["models/same.onnx", "ext.onnx"], 0), (models, 3)):
        line = [*shlex.split(hook()["entry"]), *names]
        done = subprocess.run(line, cwd=pull_request, env=ENVIRONMENT, capture_output=True, check=False)
        assert done.returncode == status, done.stderr.decode()


def test_pre_commit_itself_runs_the_hook(pull_request: Path, tmp_path: Path) -> None:
    """In the environment of the tests: what pre-commit makes of its own needs a package index."""
    pytest.importorskip("pre_commit")
    clone = tmp_path / "clone"
    shutil.copytree(pull_request, clone)
    own = {**hook(), "language": "system", "args": ["--ignore", "untagged"]}
    (clone / ".pre-commit-config.yaml").write_text(json.dumps({"repos": [{"repo": "local", "hooks": [own]}]}))
    commit(clone, "hook")
    line = [sys.executable, "-m", "pre_commit", "run", "--files"]
    environment = {**ENVIRONMENT, "PRE_COMMIT_HOME": str(tmp_path / "home")}
    for names, said in ((["ext.onnx", "untagged.onnx"], "Passed"), (["models/a|b.onnx"], "Failed")):
        done = subprocess.run([*line, *names], cwd=clone, env=environment, capture_output=True, text=True, check=False)
        assert said in done.stdout, done.stdout
