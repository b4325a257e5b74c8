"""`mx validate` as a command: reports, what it mends, files beside the model."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from mxtools.scopes import keys
from tests.support.commands import Mx
from tests.support.faults import DENSE, at, duplicate, external, read
from tests.support.pages import blocks
from tests.support.paths import ENVIRONMENT
from tests.support.shared_models import Build


def test_the_command(built: Build, mx: Mx, tmp_path: Path) -> None:
    folder = built("bert", "dynamo")
    done = mx("validate", folder / "tagged.onnx", "--trace", folder / "trace.json")
    assert done.returncode == 0
    assert all(line.startswith(b"note: exporter-differs: ") for line in done.stdout.splitlines())
    assert b"0 errors, 0 warnings, " in done.stderr
    model, trace = read(folder)
    name, wrong = duplicate(model, trace), tmp_path / "wrong.onnx"
    at(model, "pooler.activation", "Tanh").ClearField("metadata_props")
    onnx.save(model, wrong)

    done = mx("validate", wrong, "--trace", folder / "trace.json")
    assert done.returncode == 1
    line = done.stdout.decode().splitlines()[0]
    assert line.startswith(f"error: duplicate-key: MatMul {name!r} in {DENSE}: {keys.SCOPE} occurs 2 times: keep one")
    assert done.stderr.decode().count("\n") == 1

    report = json.loads(mx("validate", wrong, "--json").stdout)
    assert report["counts"] == {"error": 2, "warning": 0, "note": 0}
    assert report["findings"][0]["node"] == name
    assert mx("validate", "--format", "json", stdin=wrong.read_bytes()).returncode == 1


def test_repair_of_the_command(built: Build, mx: Mx, tmp_path: Path) -> None:
    folder = built("bert", "dynamo")
    model, trace = read(folder)
    duplicate(model, trace)
    wrong, right = tmp_path / "wrong.onnx", tmp_path / "right.onnx"
    onnx.save(model, wrong)
    done = mx("validate", wrong, "--repair", "-o", right, "--json")
    assert done.returncode == 0
    assert [item["rule"] for item in json.loads(done.stdout)["mended"]] == ["duplicate-key"]
    assert onnx.load(right) == onnx.load(folder / "tagged.onnx")
    piped = mx("validate", "--repair", stdin=wrong.read_bytes())
    assert piped.stdout == right.read_bytes()
    assert b"mended: duplicate-key" in piped.stderr


@pytest.mark.parametrize("location", ["gone.bin", "../gone.bin", "/etc/hostname", ""])
def test_data_that_are_not_there_are_a_finding(built: Build, mx: Mx, tmp_path: Path, location: str) -> None:
    model, trace = read(built("bert", "dynamo"))
    name = external(model, trace)
    tensor = next(t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL)
    tensor.external_data[0].value = location
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    done = mx("validate", tmp_path / "m.onnx", "--json")
    assert done.returncode == 1
    assert [(f["rule"], f["node"]) for f in json.loads(done.stdout)["findings"]] == [("external-data", name)]


def test_external_data_are_read(built: Build, mx: Mx, tmp_path: Path) -> None:
    folder, file = built("bert", "dynamo"), tmp_path / "m.onnx"
    onnx.save(onnx.load(folder / "tagged.onnx"), file, save_as_external_data=True)
    assert mx("validate", file).stdout == b""
    data = next(path for path in tmp_path.iterdir() if path != file)
    data.write_bytes(data.read_bytes()[:-4])
    done = mx("validate", file)
    assert done.returncode == 1
    assert b"the file is truncated" in done.stdout or b"end beyond" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--format", "xml"], "there is no format 'xml': there are text, json, sarif"),
        (["--json", "--format", "sarif"], "are two formats"),
        (["-o", "out.onnx"], "--repair"),
        (["--repair", "--json"], "would both go to stdout"),
        (["other.onnx", "--repair", "-o", "out.onnx"], "--repair is for one model"),
        (["other.onnx", "--trace", "t.json"], "--trace is for one model"),
        (["-"], "none can come from stdin"),
        (["--ignore", "untaged"], "there is no rule 'untaged': did you mean untagged?"),
    ],
)
def test_nonsense_is_refused(mx: Mx, arguments: list[str], said: str) -> None:
    done = mx("validate", "none.onnx", *arguments)
    assert done.returncode == 2
    assert said in done.stderr.decode()


@pytest.mark.parametrize("page", ["validating", "tree"])
def test_the_commands_of_the_page_run(built: Build, tmp_path: Path, page: str) -> None:
    folder = built("bert", "dynamo")
    (tmp_path / "bert.tagged.onnx").symlink_to(folder / "tagged.onnx")
    (tmp_path / "bert.trace.json").symlink_to(folder / "trace.json")
    script = "".join(["set -eu\n", *blocks(f"docs/{page}.md", "sh")])
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_sarif(built: Build, mx: Mx, tmp_path: Path) -> None:
    model, trace = read(built("bert", "dynamo"))
    node, file = duplicate(model, trace), tmp_path / "a model.onnx"
    onnx.save(model, file)
    done = mx("validate", file.name, "--format", "sarif", cwd=tmp_path)
    assert done.returncode == 1
    log = json.loads(done.stdout)
    assert log["version"] == "2.1.0"
    run = log["runs"][0]
    (result,) = run["results"]
    assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"] == "duplicate-key"
    assert result["level"] == "error"
    (place,) = result["locations"]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == "a%20model.onnx"
    assert [logical["fullyQualifiedName"] for logical in place["logicalLocations"]] == [node, DENSE]


def test_several_models_are_all_checked(built: Build, mx: Mx, tmp_path: Path) -> None:
    model, trace = read(built("bert", "dynamo"))
    onnx.save(model, tmp_path / "good.onnx")
    node = duplicate(model, trace)
    onnx.save(model, tmp_path / "bad.onnx")
    names = ["good.onnx", "bad.onnx", "good.onnx"]
    done = mx("validate", *names, cwd=tmp_path)
    assert done.returncode == 1
    assert [line.partition(": ")[0] for line in done.stdout.decode().splitlines()] == ["error"]
    *each, last = done.stderr.decode().splitlines()
    assert [line.split(": ")[1] for line in each] == names
    assert "1 of 3 models have errors: bad.onnx" in last
    reports = json.loads(mx("validate", *names, "--json", cwd=tmp_path).stdout)
    assert [(report["model"], report["counts"]["error"]) for report in reports] == list(
        zip(names, (0, 1, 0), strict=True)
    )
    log = json.loads(mx("validate", *names, "--format", "sarif", cwd=tmp_path).stdout)
    (result,) = log["runs"][0]["results"]
    (place,) = result["locations"]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == "bad.onnx"
    assert node in place["logicalLocations"][0]["fullyQualifiedName"]
    done = mx("validate", "good.onnx", "good.onnx", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, b"")


def test_a_rule_can_be_ignored(built: Build, mx: Mx) -> None:
    raw = built("bert", "dynamo") / "raw.onnx"
    assert mx("validate", raw).returncode == 1
    done = mx("validate", raw, "--ignore", "untagged")
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"0 errors" in done.stderr
