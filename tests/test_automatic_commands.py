"""`mx auto`, `recommend`, `bench` and `cache`: one call that exports, as commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fixtures import models
from tests.support.commands import Mx
from tests.support.paths import MODELS


def test_the_commands(mx: Mx, tmp_path: Path) -> None:
    spec, cache = f"{MODELS}:convnet", tmp_path / "cache"
    done = mx("recommend", spec, "--priority", "compatibility", "--json", "--cache", cache)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["strategy"] == "htp"
    output, report = tmp_path / "o.onnx", tmp_path / "r.json"
    done = mx("auto", spec, "-o", output, "--verify", "--report", report, "--cache", cache)
    assert done.returncode == 0, done.stderr
    data = json.loads(report.read_text())
    assert data["strategy"] == "fx"
    assert data["performance_metrics"]["schema"] == "mxtools.metrics/1"
    assert data["performance_metrics"]["round_trip"]["bad"] == 0
    done = mx("auto", spec, "-o", output, "--primary", "htp", "--report", tmp_path / "r.md", "--cache", cache)
    assert done.returncode == 0, done.stderr
    assert "Strategy: **htp**" in (tmp_path / "r.md").read_text()
    raw = mx("export", spec, "--exporter", "torchscript", "--cache", cache)
    assert raw.stdout == mx("export", spec, "--exporter", "torchscript").stdout
    listed = json.loads(mx("cache", cache, "--json").stdout)
    assert [entry["spec"] for entry in listed] == [spec]
    assert mx("cache", cache, "--prune", "--days", "1").returncode == 0
    assert len(json.loads(mx("cache", cache, "--json").stdout)) == 1
    assert mx("cache", cache, "--prune").returncode == 0
    assert json.loads(mx("cache", cache, "--json").stdout) == []


def test_bench_sets_strategies_side_by_side(mx: Mx, tmp_path: Path) -> None:
    plot = tmp_path / "bars.svg"
    models = [f"{MODELS}:convnet", f"{MODELS}:repeated"]
    done = mx("bench", *models, "--strategies", "fx,htp,usage", "--plot", str(plot), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)[f"{MODELS}:repeated"]
    rows = report["strategies"]
    assert list(rows) == ["fx", "htp", "usage"]
    for row in rows.values():
        assert row["error"] is None
        assert row["seconds"] > 0
        assert row["peak_memory"] > 1e7
    assert rows["fx"]["metrics"]["round_trip"]["exact"] == rows["htp"]["metrics"]["round_trip"]["exact"] > 5
    assert rows["usage"]["metrics"]["round_trip"]["exact"] < rows["fx"]["metrics"]["round_trip"]["exact"]
    agreement = {tuple(a["strategies"]): a for a in report["agreement"]}
    assert agreement["fx", "htp"]["agreed"] == agreement["fx", "htp"]["compared"] > 5
    assert agreement["fx", "usage"]["agreed"] < agreement["fx", "usage"]["compared"]
    assert agreement["fx", "usage"]["differing"]
    drawn = plot.read_text()
    assert all(f"{model}: {strategy}" in drawn for model in models for strategy in rows)


def test_bench_shows_a_table_and_failures(mx: Mx, tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        "import torch\n"
        "class Branching(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x + 1 if float(x.sum()) > -9 else x\n"
        "def branching():\n"
        "    return Branching(), {'x': torch.ones(2)}\n"
    )
    done = mx("bench", f"{tmp_path}/m.py:branching", "--strategies", "fx,htp")
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert "failed" in next(line for line in lines if " fx " in line)
    assert "1.0000" in next(line for line in lines if " htp " in line)
    assert b"fx failed: Branching cannot be exported" in done.stderr


def test_what_is_kept_of_a_folder_needs_no_pytorch(mx: Mx, tmp_path: Path) -> None:
    folder, cache = tmp_path / "bert", tmp_path / "cache"
    models.bert()[0].save_pretrained(folder)
    first = [mx(command, folder, "--cache", cache) for command in ("trace", "export")]
    assert [done.returncode for done in first] == [0, 0], [done.stderr for done in first]
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "torch.py").write_text("raise RuntimeError('torch was imported')")
    environment = {"PYTHONPATH": str(blocked)}
    again = [mx(command, folder, "--cache", cache, env=environment) for command in ("trace", "export")]
    assert [done.returncode for done in again] == [0, 0], [done.stderr for done in again]
    assert [done.stdout for done in again] == [done.stdout for done in first]
    changed = mx("trace", folder, "--cache", cache, "--input", "input_ids=1,5:int64", env=environment)
    assert changed.returncode != 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--report", "r.txt"), "give a .json or .md file"),
        (("--primary", "hpt"), "there is no strategy 'hpt'"),
        (("--priority", "beauty"), "there is no priority 'beauty'"),
    ],
)
def test_wrong_options(mx: Mx, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = mx("auto", f"{MODELS}:convnet", "-o", tmp_path / "o.onnx", *arguments)
    assert done.returncode == 2
    assert message in done.stderr.decode()
    assert not (tmp_path / "o.onnx").exists()
