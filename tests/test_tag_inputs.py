"""What `mx tag` reads: graph, sidecar and earlier model, each once, of files or of a real pipe; and its strategy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import Mx
from tests.support.shared_models import Build


@pytest.fixture(scope="module")
def folder(built: Build, mx: Mx, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a graph whose tags were lost, the tagged one that it comes from, and the sidecar."""
    made = built("repeated")
    place = tmp_path_factory.mktemp("tag-inputs")
    for name in ("tagged.onnx", "trace.json"):
        (place / name).write_bytes((made / name).read_bytes())
    done = mx("run", "tagged.onnx", "-p", "untag", "-o", "bare.onnx", cwd=place)
    assert done.returncode == 0, done.stderr
    return place


def shell(text: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    line = ["bash", "-o", "pipefail", "-c", text]
    return subprocess.run(
        line, cwd=cwd, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False, timeout=120
    )


def test_the_sidecar_comes_from_a_pipe_beside_an_earlier_model(folder: Path) -> None:
    done = shell(
        "mx tag bare.onnx --from tagged.onnx --trace trace.json -o files.onnx"
        " && cat trace.json | mx tag bare.onnx --from tagged.onnx --trace - -o piped.onnx",
        folder,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "piped.onnx").read_bytes() == (folder / "files.onnx").read_bytes()


def test_the_graph_comes_from_a_pipe_beside_an_earlier_model(folder: Path) -> None:
    done = shell(
        "mx tag bare.onnx --from tagged.onnx -o files.onnx && cat bare.onnx | mx tag --from tagged.onnx > piped.onnx",
        folder,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "piped.onnx").read_bytes() == (folder / "files.onnx").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--trace -", "the model and the sidecar cannot both come from stdin: give the file of one"),
        ("--from tagged.onnx --trace -", "the model and the sidecar cannot both come from stdin: give the file of one"),
        ("--from -", "--from names a file: the model to tag comes from stdin"),
        ("bare.onnx --from - --trace -", "--from names a file: the model to tag comes from stdin"),
    ],
)
def test_one_pipe_cannot_give_two_things(folder: Path, arguments: str, said: str) -> None:
    done = shell(f"cat trace.json | mx tag {arguments} -o none.onnx", folder)
    assert done.returncode == 2
    assert done.stderr == f"mx tag: {said}\n"
    assert not (folder / "none.onnx").exists()


def evidence(mx: Mx, folder: Path, *arguments: str) -> dict[str, int]:
    """Return the nodes by evidence that `mx tag --json` reports of the graph whose tags were lost."""
    done = mx("tag", "bare.onnx", "-o", "out.onnx", "--json", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)["evidence"]
    return found


def test_the_strategy_is_that_of_the_earlier_model_unless_another_is_named(mx: Mx, folder: Path) -> None:
    earlier = ("--from", "tagged.onnx")
    assert set(evidence(mx, folder, *earlier)) == {"previous"}
    assert set(evidence(mx, folder, *earlier, "-s", "previous")) == {"previous"}
    assert "name" in evidence(mx, folder, *earlier, "-s", "auto")
    assert "parameter" in evidence(mx, folder, *earlier, "-s", "usage")
    assert "name" in evidence(mx, folder)


def test_the_help_says_which_strategy_that_is(mx: Mx) -> None:
    text = " ".join(mx("tag", "--help", env={"COLUMNS": "300"}).stdout.decode().split())
    assert "by default auto, with --from previous" in text
