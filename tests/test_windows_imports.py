"""Nothing that only Unix has is needed to import the library, to show help, or to tag a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.commands import Mx

WITHOUT_UNIX = """
import sys

for name in ("fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"):
    sys.modules[name] = None  # makes its import an ImportError

import mmap
import os
import signal

for module, start in ((mmap, "MADV_"), (os, "getuid"), (os, "geteuid"), (os, "fork"), (signal, "SIGALRM")):
    for name in [name for name in vars(module) if name.startswith(start)]:
        delattr(module, name)
"""
COMMAND = "sys.argv = ['mx', *sys.argv[1:]]; from mxtools_cli.main import main; main()"


def without_unix(code: str, *arguments: str, cwd: Path | None = None) -> str:
    """Run code in a Python that lacks what Windows lacks; return what it writes to stdout."""
    line = [sys.executable, "-c", WITHOUT_UNIX + code, *arguments]
    done = subprocess.run(line, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "module",
    ["mxtools", "mxtools.files.weights", "mxtools.strategies.metrics", "mxtools.passes.filter", "mxtools_cli.main"],
)
def test_it_can_be_imported(module: str) -> None:
    without_unix(f"import {module}")


@pytest.mark.parametrize("arguments", [["--help"], ["tag", "--help"], ["passes"], ["strategies"]], ids=" ".join)
def test_commands_that_only_print(mx: Mx, arguments: list[str]) -> None:
    assert without_unix(COMMAND, *arguments) == mx(*arguments).stdout.decode()


def test_a_file_with_large_weights_is_tagged_to_the_same_bytes_and_compared(mx: Mx, tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.arange(1 << 20, dtype=np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1 << 20]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"], name="/one/Add")], "g", [x], [y], [weight])
    (tmp_path / "raw.onnx").write_bytes(helper.make_model(graph, ir_version=10).SerializeToString())
    without_unix(COMMAND, "tag", "raw.onnx", "-o", "without.onnx", cwd=tmp_path)
    assert mx("tag", "raw.onnx", "-o", "with.onnx", cwd=tmp_path).returncode == 0
    assert (tmp_path / "without.onnx").read_bytes() == (tmp_path / "with.onnx").read_bytes()
    without_unix(COMMAND, "compare", "without.onnx", "with.onnx", cwd=tmp_path)


def test_stages_are_measured_without_a_peak() -> None:
    code = """
from pathlib import Path
from mxtools.strategies import metrics
metrics._STATUS = metrics._CLEAR = Path("no/such/file")
meter = metrics.Meter()
with meter.stage("tag"):
    pass
print(meter.stages["tag"].peak_memory, meter.stages["tag"].seconds >= 0)
"""
    assert without_unix(code).split() == ["0", "True"]
