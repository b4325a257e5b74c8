"""`mx text`: models as text that shows what changed, module by module, in `git diff`."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from mxtools.pipeline.working_model import WorkingModel
from mxtools.tools.module_text import module_text, sections
from tests.support import golden_text as golden
from tests.support.commands import Mx
from tests.support.pages import blocks
from tests.support.paths import ENVIRONMENT
from tests.support.renaming import renamed
from tests.support.shared_models import Build

QUERY = "encoder.layer.1.attention.self.query"
TEXT = """
g (float[2, 4] x, bool c) => (float[2, 4] y) {
    k = Constant <value = float[4] {1, 2, 3, 0.1}> ()       #@ one
    w = Constant <value_float = -3.4028235e38> ()           #@ two
    m = Neg(x)                                              #@ one
    n = Neg(m)                                              #@ one
    o = Add(n, k)                                           #@ one
    p, q = Split <num_outputs = 2> (o)                      #@ two
    r = Clip(q, , w)                                        #@ two previous two three
    s = If (c) <then_branch = t () => (t1) { t1 = Neg(r) }, else_branch = e () => (e1) { e1 = Abs(p) }>     #@ two
    y = Sub(s, o)                                           #@ .
}"""
SECTIONS = """\
module . Model
    Sub(two/If, one/Add)
module one One
    Neg.1(x)
    Neg.2(Neg.1)
    Add(Neg.2, float32[4] [1.0, 2.0, 3.0, 0.1])
module two Two
    Constant(value_float=-3.4028235e+38)
    Split(one/Add, num_outputs=2)
    Clip(Split:1, _, Constant) does the work of two, three
    If(c, else_branch=graph of 1 nodes, then_branch=graph of 1 nodes, returns Neg, returns Abs)
module (untagged)
    Neg(two/Clip)
    Abs(two/Split)
"""


def read(text: str = TEXT) -> ModelProto:
    return golden.read(text)


def test_sections_of_a_model() -> None:
    found = sections(WorkingModel(read()))
    assert sorted(found.splitlines()) == sorted(SECTIONS.splitlines())
    assert found == SECTIONS


def lines_that_differ(one: ModelProto, other: ModelProto) -> set[str]:
    texts = [module_text(WorkingModel(model)).splitlines() for model in (one, other)]
    return {line.strip() for line in set(texts[0]) ^ set(texts[1])}


@pytest.mark.parametrize(
    ("before", "after", "differing"),
    [
        (
            "0.1}",
            "0.2}",
            {"Add(Neg.2, float32[4] [1.0, 2.0, 3.0, 0.1])", "Add(Neg.2, float32[4] [1.0, 2.0, 3.0, 0.2])"},
        ),
        ("Sub(s, o)", "Sub(o, s)", {"Sub(two/If, one/Add)", "Sub(one/Add, two/If)"}),
        ("Clip(q, , w)", "Clip(q, w)", {"Clip(Split:1, _, Constant)", "Clip(Split:1, Constant)"}),
        ("Clip(q,", "Clip(p,", {"Clip(Split:1, _, Constant)", "Clip(Split, _, Constant)"}),
        ("Neg(m)  ", "Neg(x)  ", {"Neg.2(Neg.1)", "Neg.2(x)"}),
        ("float[2, 4] x", "float[N, 4] x", {"input x float32[2, 4]", "input x float32[N, 4]"}),
    ],
)
def test_a_change_is_in_its_line(before: str, after: str, differing: set[str]) -> None:
    other = read(TEXT.replace(before, after))
    found = {re.sub(" does the work.*", "", line) for line in lines_that_differ(read(), other)}
    assert {line for line in found if not line.startswith("names, metadata, order")} == differing


def test_names_that_exporters_make_up_do_not_matter(built: Build) -> None:
    model = onnx.load(built("trained", "dynamo") / "tagged.onnx")
    differing = lines_that_differ(model, renamed(model))
    assert len(differing) > 2
    without = {re.sub(r"(?<=[(, ])(\w+\.)*(weight|bias|position_ids) ", "", line) for line in differing}
    assert len(without) == 2 + (len(differing) - 2) // 2, "but for the names of parameters, which modules give"


def test_elements_are_told_by_a_digest_wherever_they_lie(built: Build, mx: Mx, tmp_path: Path) -> None:
    file = built("trained", "dynamo") / "tagged.onnx"
    model = onnx.load(file)
    inline = mx("text", file).stdout.decode()
    unpacked = ModelProto.FromString(model.SerializeToString())
    for tensor in unpacked.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            numbers = numpy_helper.to_array(tensor).ravel().tolist()
            tensor.CopyFrom(helper.make_tensor(tensor.name, tensor.data_type, tensor.dims, numbers))
    assert sections(WorkingModel(unpacked)) == inline[inline.index("module .") :]
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=4096)
    with_data = mx("text", "m.onnx", cwd=tmp_path)
    (tmp_path / "m.data").unlink()
    assert with_data.stdout == mx("text", "m.onnx", cwd=tmp_path).stdout
    assert "float32[32, 32] in m.data" in with_data.stdout.decode()


def test_text_of_texts_is_the_same_in_every_process(mx: Mx, tmp_path: Path) -> None:
    text = '<ir_version: 10, opset_import: ["" : 21]> g () => (string[2] y) { y = Identity (w) }'
    model = parser.parse_model(text)
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.STRING, [2], ["a", "b"]))
    onnx.save(model, tmp_path / "n.onnx")
    first, second = (mx("text", "n.onnx", cwd=tmp_path, separate=True).stdout for _ in range(2))
    assert first == second
    assert b"Identity(string[2] " in first


def git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = ["git", "-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false", *arguments]
    return subprocess.run(line, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.fixture
def repository(built: Build, tmp_path: Path) -> Path:
    """Return a repository that is set up as the page says, with a model that is committed."""
    git(tmp_path, "init", "--quiet")
    setup = blocks("docs/how-to/see-changes-in-git.md", "sh")[0]
    done = subprocess.run(["bash", "-eu", "-c", setup], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    (tmp_path / "m.onnx").write_bytes((built("trained", "dynamo") / "tagged.onnx").read_bytes())
    git(tmp_path, "add", "--all")
    assert git(tmp_path, "commit", "--quiet", "--message", "model").returncode == 0
    return tmp_path


def test_git_shows_the_module_that_changed(repository: Path) -> None:
    model = onnx.load(repository / "m.onnx")
    bias = next(t for t in model.graph.initializer if t.name == f"{QUERY}.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(1), bias.name))
    onnx.save(model, repository / "m.onnx")
    done = git(repository, "diff", "--unified=0")
    assert done.returncode == 0, done.stderr
    _, *hunks = re.split("^@@", done.stdout, flags=re.MULTILINE)
    (hunk,) = (hunk for hunk in hunks if "names, metadata" not in hunk)
    title, before, after = hunk.splitlines()
    assert title.endswith(f"@@ module {QUERY} Linear")
    assert before.startswith("-    Add(")
    assert after.startswith("+    Add(")
    assert re.sub("bias float32.*? [0-9a-f]{8}", "", before)[1:] == re.sub("bias float32.*? [0-9a-f]{8}", "", after)[1:]


def test_git_goes_on_after_a_file_that_is_no_model(repository: Path) -> None:
    (repository / "a.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    model = onnx.load(repository / "m.onnx")
    del model.graph.output[1]
    onnx.save(model, repository / "m.onnx")
    git(repository, "add", "--all")
    done = git(repository, "diff", "--cached")
    assert done.returncode == 0, done.stderr
    assert "+    it is a Git LFS pointer" in done.stdout
    assert re.search(r"^-    output \w+ float32", done.stdout, re.MULTILINE)


def test_what_cannot_be_read_is_an_error_elsewhere(mx: Mx, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"junk")
    assert mx("text", "m.onnx", cwd=tmp_path).returncode == 3
    done = mx("text", "m.onnx", "--keep-going", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().startswith("no model\n    it is a text file, not an ONNX model")
    done = mx("text", "--keep-going", stdin=b"junk")
    assert (done.returncode, b"give one" in done.stderr) == (2, True)
    assert mx("text", "none.onnx", "--keep-going", cwd=tmp_path).returncode == 3


def test_a_model_without_tags_is_written_by_its_exporters_scopes(built: Build, mx: Mx) -> None:
    raw = built("trained", "torchscript") / "raw.onnx"
    before = raw.read_bytes()
    done = mx("text", raw)
    assert f"module {QUERY}" in done.stdout.decode()
    assert f"IR version {onnx.load(raw).ir_version}\n" in done.stdout.decode()
    assert raw.read_bytes() == before
