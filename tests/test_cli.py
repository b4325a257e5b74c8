"""The command `mx`: pipes in a real shell, imports, and bad input."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import helper

from mxtools_cli.help import COMMANDS, GROUPS
from tests.support.commands import Mx, shell
from tests.support.paths import ENVIRONMENT, MODELS
from tests.support.shared_models import Build

PASSES = (
    "untag,project-metadata,project-names,project-parameters,project-values,resolve-auxiliary,"
    "assign-fused,hoist-shared,record-absent"
)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_pipe_equals_one_process(built: Build, tmp_path: Path, exporter: str) -> None:
    folder = built("bert", exporter)
    done = shell(
        f"cat {folder}/raw.onnx | mx tag --trace {folder}/trace.json | tee tagged.onnx "
        f"| mx filter --scope encoder.layer.0 > piped.onnx && mx run {folder}/raw.onnx --trace {folder}/trace.json "
        f"-p '{PASSES},filter{{scope=encoder.layer.0}}' -o run.onnx",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "piped.onnx").read_bytes() == (tmp_path / "run.onnx").read_bytes()
    assert (tmp_path / "tagged.onnx").read_bytes() == (folder / "tagged.onnx").read_bytes()


NEVER = {"torch", "transformers", "onnxruntime", "onnx_graphsurgeon", "onnx.compose", "google.protobuf.json_format"}
"""What no command imports that only reads and writes models; `onnx.compose` stands for the whole package onnx."""
LIGHT = NEVER | {"numpy", "onnx.helper", "onnx.checker", "pydantic", "rich", "importlib.metadata", "ctypes"}
"""The same where no array is touched and no trace is read."""


@pytest.mark.parametrize(
    ("line", "forbidden"),
    [
        ("--help", LIGHT | {"onnx.onnx_ml_pb2", "typer"}),
        ("tag --help", LIGHT),
        ("tag raw.onnx -o OUT", LIGHT),
        ("tag raw.onnx --trace trace.json -o OUT", NEVER),
        ("filter tagged.onnx --scope encoder.layer.0 -o OUT", LIGHT),
        ("run raw.onnx -p untag -o OUT", LIGHT),
        ("graft tagged.onnx tagged.onnx -o OUT", NEVER),
        ("select tagged.onnx --scope encoder", LIGHT),
        ("tree tagged.onnx", NEVER | {"pydantic"}),
        ("text tagged.onnx", NEVER | {"pydantic"}),
        ("view tagged.onnx -o OUT.html", NEVER | {"pydantic"}),
        ("split tagged.onnx --depth 1 -d OUT", NEVER),
        ("compare tagged.onnx tagged.onnx", NEVER),
    ],
)
def test_imports(built: Build, tmp_path: Path, line: str, forbidden: set[str]) -> None:
    """Of a file that says all shapes: what it leaves open, ONNX Runtime is asked for."""
    code = (
        "import sys, atexit; sys.argv = ['mx', *sys.argv[1:]]\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        "from mxtools_cli.start import main; main()"
    )
    given = line.replace("OUT", str(tmp_path / "out")).split()
    done = subprocess.run(
        [sys.executable, "-c", code, *given], cwd=built("bert", "dynamo"), capture_output=True, text=True, check=True
    )
    assert forbidden & set(done.stderr.splitlines()[-1].split()) == set()


@pytest.mark.parametrize(
    "line", ["trace ./bert -o O", "export ./bert -o O", "auto ./bert -o O", "recommend ./bert", "demo"]
)
def test_commands_that_need_torch_say_so_where_it_is_not(tmp_path: Path, line: str) -> None:
    code = (
        "import sys; sys.argv = ['mx', *sys.argv[1:]]\n"
        "class Without:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'transformers'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Without())\n"
        "from mxtools_cli.main import main; main()"
    )
    (tmp_path / "bert").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, *line.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT | {"PYTHONHASHSEED": "0"},
    )
    assert (
        done.stderr == f"mx {line.split()[0]}: this needs PyTorch and transformers: pip install 'onnx-mxtools[torch]'\n"
    )
    assert done.returncode == 2


def test_every_command_has_help_with_an_example(mx: Mx) -> None:
    listed = mx("--help").stdout.decode()
    for name in COMMANDS:
        done = mx(name, "--help")
        assert done.returncode == 0
        assert "Example: mx " + name in " ".join(done.stdout.decode().split())
        assert f" {name} " in listed


def _external(folder: Path) -> Path:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="nowhere.bin")
    value = helper.make_tensor_value_info("x", 1, [4])
    result = helper.make_tensor_value_info("y", 1, [4])
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [value], [result], [tensor])
    (folder / "external.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    return folder / "external.onnx"


BAD = {
    "not ONNX": (["tag", "{dir}/text", "-o", "{out}"], 3),
    "truncated": (["tag", "{dir}/short.onnx", "-o", "{out}"], 3),
    "truncated, to filter": (["filter", "{dir}/short.onnx", "--scope", ".", "-o", "{out}"], 3),
    "a folder": (["tag", "{dir}", "-o", "{out}"], 3),
    "no file": (["tag", "{dir}/none.onnx", "-o", "{out}"], 3),
    "missing external data": (["tag", "{dir}/external.onnx", "-o", "{out}"], 3),
    "sidecar of another model": (["tag", "{bert}/raw.onnx", "--trace", "{deep}/trace.json", "-o", "{out}"], 3),
    "sidecar of an unknown version": (["tag", "{bert}/raw.onnx", "--trace", "{dir}/future.json", "-o", "{out}"], 3),
    "sidecar that is not JSON": (["tag", "{bert}/raw.onnx", "--trace", "{dir}/text", "-o", "{out}"], 3),
    "sidecar that does not exist": (["tag", "{bert}/raw.onnx", "--trace", "{dir}/none", "-o", "{out}"], 3),
    "model that does not exist": (["trace", "{dir}/none", "-o", "{out}"], 3),
    "model file that does not exist": (["export", "{dir}/none.py:x", "-o", "{out}"], 3),
    "name that does not exist": (["trace", "{models}:brt", "-o", "{out}"], 3),
    "model that raises on import": (["trace", "{dir}/raises.py:x", "-o", "{out}"], 3),
    "model that exits on import": (["trace", "{dir}/exits.py:x", "-o", "{out}"], 3),
    "forward that raises": (["trace", "{models}:failing", "-o", "{out}"], 3),
    "forward that raises, exported": (["export", "{models}:failing", "-o", "{out}"], 3),
    "input that is missing": (["trace", "{models}:plain", "-o", "{out}"], 2),
    "input that has no place": (["trace", "{models}:plain", "--input", "z=1,3", "-o", "{out}"], 2),
    "selector that matches nothing": (["filter", "{bert}/tagged.onnx", "--scope", "encoder.layer.9", "-o", "{out}"], 2),
    "no selector": (["filter", "{bert}/tagged.onnx", "-o", "{out}"], 2),
    "no tags": (["filter", "{bert}/raw.onnx", "--scope", "encoder", "-o", "{out}"], 3),
    "part that does not exist": (["graft", "{bert}/tagged.onnx", "{dir}/none.onnx", "-o", "{out}"], 3),
    "part of another model": (["graft", "{bert}/tagged.onnx", "{deep}/tagged.onnx", "-o", "{out}"], 3),
    "model and part on stdin": (["graft", "-", "-o", "{out}"], 2),
    "unknown option": (["filter", "{bert}/tagged.onnx", "--scop", "encoder", "-o", "{out}"], 2),
    "unknown command": (["flter"], 2),
    "unknown pass": (["run", "{bert}/raw.onnx", "-p", "tagg", "-o", "{out}"], 2),
    "output folder that does not exist": (["tag", "{bert}/raw.onnx", "-o", "{dir}/none/x.onnx"], 3),
    "output folder that is not writable": (["tag", "{bert}/raw.onnx", "-o", "/proc/x.onnx"], 3),
    "output of trace in no folder": (["trace", "{models}:bert", "-o", "{dir}/none/x.json"], 3),
    "JSON and a model on stdout": (["tag", "{bert}/raw.onnx", "--json"], 2),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_one_line_and_no_file(built: Build, mx: Mx, tmp_path: Path, case: str) -> None:
    (tmp_path / "text").write_text("a text\n")
    (tmp_path / "short.onnx").write_bytes((built("bert") / "raw.onnx").read_bytes()[:5000])
    (tmp_path / "future.json").write_text(json.dumps({"schema": "mxtools.trace/9"}))
    (tmp_path / "raises.py").write_text("import nothing_of_that_name\n")
    (tmp_path / "exits.py").write_text("raise SystemExit(7)\n")
    _external(tmp_path)
    template, status = BAD[case]
    out = tmp_path / "result"
    places = {"dir": tmp_path, "out": out, "bert": built("bert"), "deep": built("deep"), "models": MODELS}
    before = sorted(p.name for p in tmp_path.iterdir())
    done = mx(*(part.format(**places) for part in template), cwd=tmp_path)
    message = done.stderr.decode()
    assert done.returncode == status, message
    assert message.startswith('{"error"' if "--json" in template else "mx")
    assert message.count("\n") == 1
    assert "Traceback" not in message
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "__pycache__") == before


@pytest.mark.parametrize(
    "command", [["tag"], ["filter", "--scope", "."], ["graft", "part.onnx"], ["tree"], ["validate"]]
)
def test_empty_stdin(mx: Mx, command: list[str]) -> None:
    done = mx(*command)
    assert done.returncode == 3
    assert b"empty" in done.stderr
    assert done.stdout == b""


def test_a_failed_command_leaves_what_was_there(built: Build, mx: Mx, tmp_path: Path) -> None:
    (tmp_path / "kept.onnx").write_bytes(b"before")
    assert (
        mx("filter", built("bert") / "tagged.onnx", "--scope", "nowhere", "-o", tmp_path / "kept.onnx").returncode == 2
    )
    assert (tmp_path / "kept.onnx").read_bytes() == b"before"


def test_binary_is_refused_on_a_terminal(built: Build) -> None:
    master, slave = pty.openpty()
    command = [Path(sys.executable).with_name("mx"), "tag", built("bert") / "raw.onnx"]
    done = subprocess.run(command, stdout=slave, stderr=subprocess.PIPE, check=False)
    os.close(slave)
    os.close(master)
    assert done.returncode == 2
    assert b"terminal" in done.stderr


def test_a_reader_that_stops_is_no_error(built: Build, tmp_path: Path) -> None:
    done = shell(f"mx tag {built('bert')}/raw.onnx | head -c 10 > /dev/null", tmp_path)
    assert b"Traceback" not in done.stderr
    assert b"rror" not in done.stderr


def test_debug_shows_the_traceback(mx: Mx, tmp_path: Path) -> None:
    done = mx("tag", tmp_path / "none.onnx", "--debug")
    assert done.returncode == 3
    assert b"Traceback" in done.stderr


def test_in_place(built: Build, mx: Mx, tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes((built("bert") / "raw.onnx").read_bytes())
    assert mx("tag", file, "--trace", built("bert") / "trace.json", "-o", file).returncode == 0
    assert file.read_bytes() == (built("bert") / "tagged.onnx").read_bytes()


def test_tree(built: Build, mx: Mx) -> None:
    root = json.loads(mx("tree", built("bert") / "tagged.onnx", "--json").stdout)
    model = onnx.load(built("bert") / "tagged.onnx")
    assert root["nodes"] == len(model.graph.node)
    encoder = next(child for child in root["children"] if child["scope"] == "encoder")
    assert [layer["scope"] for layer in encoder["children"]] == ["encoder.layer.0", "encoder.layer.1"]
    assert encoder["tag"] == "/BertModel/BertEncoder"
    shown = mx("tree", built("bert") / "tagged.onnx", "--depth", "1").stdout.decode()
    assert "encoder" in shown
    assert "layer.0" not in shown


def test_help_has_groups_and_flags_without_types(mx: Mx) -> None:
    said = mx("--help").stdout.decode()
    assert all(f"─ {group} ─" in said for group in GROUPS)
    assert "<bool>" not in said + mx("tag", "--help").stdout.decode() + mx("wrap", "--help").stdout.decode()


@pytest.mark.parametrize(("typed", "meant"), [("tga", "tag"), ("trees", "tree")])
def test_a_mistyped_command(mx: Mx, typed: str, meant: str) -> None:
    done = mx(typed, "m.onnx")
    assert done.returncode == 2
    assert done.stderr.decode().startswith(f"mx: there is no command {typed!r}: did you mean {meant}")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"junk\n", "stdin is a text file, not an ONNX model: give an .onnx file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "stdin is a Git LFS pointer, not the model itself: fetch it with `git lfs pull`",
        ),
        (
            b"PK\x03\x04",
            "stdin is an archive, such as PyTorch's files of weights, not an ONNX model: give an .onnx file",
        ),
        (b"\xff\xfe", "stdin is not an ONNX model, or only the beginning of one: export it again"),
    ],
)
def test_what_is_no_model(mx: Mx, data: bytes, said: str) -> None:
    done = mx("tag", stdin=data)
    assert (done.returncode, done.stderr.decode()) == (3, f"mx tag: {said}\n")
