"""Splitting: the parts, run as the manifest says, compute what the whole model computes, bit for bit."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxtools.errors import AbsentError, CheckError, InputError, MxError, OutputError, UsageError
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.scopes.selection import Selection
from mxtools.split import manifest
from mxtools.split import running as parts_running
from mxtools.split.parts import split
from mxtools.split.records import Manifest
from tests.support import random_models, running
from tests.support.commands import Mx
from tests.support.paths import ROOT
from tests.support.shared_models import Build
from tests.support.small_graphs import BODIES, HEAD, SHARED, tagged

LADDER = (
    HEAD
    + """ g (float[2] x, float[2] z) => (float[2] d, float[2] e, float[2] x) <float[2] w = {1, 2}> {
        a = Mul(x, w)
        b = Add(a, z)
        c = Abs(b)
        d = Add(c, a)
        e = Sqrt(c)
        dead = Neg(e)
    }"""
)


def written(source: onnx.ModelProto | Path, folder: Path, check: bool = False, **options: Any) -> Manifest:
    """Split a model into a folder; `each` is a tuple of globs, `class_` a name."""
    loaded = WorkingModel.read(source) if isinstance(source, Path) else WorkingModel(source)
    selections = [Selection(scopes=(glob,)) for glob in options.pop("each", ())]
    selections += [Selection(classes=(options.pop("class_"),))] if "class_" in options else []
    return manifest.write(loaded, split(loaded, selections, **options), folder, check)


def assert_same(whole: Path, folder: Path, feeds: dict[str, Any] | None = None) -> None:
    """Check that the parts are sound, and compute, one after the other, what the whole does."""
    feeds = feeds or WorkingModel.read(whole).inputs()
    for part in folder.glob("*.onnx"):
        onnx.checker.check_model(part)
        random_models.check(onnx.load(part))
    np.testing.assert_equal(running.split_outputs(folder, feeds), running.outputs(whole, feeds))


def golden(text: str, scopes: dict[str, str], folder: Path, *each: str, **options: Any) -> list[Any]:
    """Return the parts of a small graph: scope, inputs, what the nodes make, outputs; they compute what it does."""
    model = tagged(text, scopes)
    onnx.save(model, folder / "whole.onnx")
    parts = written(model, folder / "parts", check=True, each=each, **options).parts
    assert_same(folder / "whole.onnx", folder / "parts")
    made = [" ".join(n.output[0] for n in onnx.load(folder / "parts" / p.file).graph.node) for p in parts]
    return [
        (p.scope, " ".join(i.name for i in p.inputs), m, " ".join(p.outputs)) for p, m in zip(parts, made, strict=True)
    ]


@pytest.mark.parametrize(
    ("scopes", "each", "expected"),
    [
        pytest.param(
            {"b": "m", "c": "m"},
            ["m"],
            [(None, "x", "a", "a"), ("m", "z a", "b c", "c"), (None, "c a", "d e", "d e")],
            id="a skip connection around a part",
        ),
        pytest.param(
            {"a": "m", "d": "n", "e": "n"},
            ["m", "n"],
            [("m", "x", "a", "a"), (None, "z a", "b c", "c"), ("n", "c a", "d e", "d e")],
            id="a rest between two parts",
        ),
        pytest.param(
            {"a": "m", "b": "m", "c": "n"},
            ["*"],
            [("m", "x z", "a b", "a b"), ("n", "b", "c", "c"), (None, "c a", "d e", "d e")],
            id="two in a row",
        ),
        pytest.param({"c": "m"}, ["."], [(".", "x z", "a b c d e dead", "d e")], id="everything"),
        pytest.param(
            {"c": "m.n", "a": "m"},
            ["m.*"],
            [(None, "x z", "a b", "a b"), ("m.n", "b", "c", "c"), (None, "c a", "d e", "d e")],
            id="the outer one is rest",
        ),
    ],
)
def test_parts(scopes: dict[str, str], each: list[str], expected: list[Any], tmp_path: Path) -> None:
    assert golden(LADDER, scopes, tmp_path, *each) == expected


def test_shared_constants_and_shapes_are_in_every_part(tmp_path: Path) -> None:
    found = golden(SHARED, {"a": "m", "b": "m", "r": "n"}, tmp_path, "*")
    assert found == [("m", "x", "k kk a b", "b"), ("n", "b", "s r", "r"), (None, "b r", "s e y", "y")]


def test_what_bodies_capture_is_given(tmp_path: Path) -> None:
    assert golden(BODIES, {"b": "m"}, tmp_path, "m") == [
        (None, "x", "a", "a"),
        ("m", "c x a", "b", "b"),
        (None, "b", "y", "y"),
    ]


def test_outputs_that_are_inputs_or_initializers(tmp_path: Path) -> None:
    text = HEAD + " g (float[2] x) => (float[2] x, float[2] w, float[2] y) <float[2] w = {1, 2}> { y = Neg(x) }"
    assert golden(text, {"y": "m"}, tmp_path, "m") == [(None, "", "", "w"), ("m", "x", "y", "y")]


def test_an_output_that_is_an_input_that_no_part_reads(tmp_path: Path, mx: Mx) -> None:
    text = HEAD + " g (float[2] x, int64[k] z) => (float[2] y, int64[k] z) { a = Neg(x)\n y = Abs(a) }"
    for number, options in enumerate((["--each", "m"], ["--parts", "2"])):
        model = tagged(text, {"a": "m", "y": "n"}).SerializeToString()
        (tmp_path / "m.onnx").write_bytes(model)
        folder = f"parts{number}"
        assert mx("split", "m.onnx", *options, "--verify", "-d", folder, cwd=tmp_path).returncode == 0
        assert mx("run-parts", folder, "--verify", "m.onnx", cwd=tmp_path).returncode == 0
        assert mx("join", folder, "-o", "j.onnx", cwd=tmp_path).returncode == 0
        assert mx("compare", "m.onnx", "j.onnx", cwd=tmp_path).returncode == 0
        assert_same(tmp_path / "j.onnx", tmp_path / folder)


def test_what_is_excluded_is_left_to_the_rest(tmp_path: Path) -> None:
    found = golden(LADDER, {"a": "m", "c": "n"}, tmp_path, "*", exclude=("n",))
    assert [part[0] for part in found] == ["m", None]


def test_a_constant_module_gives_what_it_computes(tmp_path: Path) -> None:
    text = HEAD + " g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { k = Neg(w)\n y = Add(x, k) }"
    assert golden(text, {"k": "m"}, tmp_path, "m") == [("m", "", "k", "k"), (None, "x k", "y", "y")]


@pytest.mark.parametrize(
    ("scopes", "options", "error", "message"),
    [
        ({"b": "m", "d": "m"}, {"each": ("m",)}, AbsentError, "m cannot be a part .* reads 'c', .* select \\.,"),
        ({"a": "o", "b": "o.m", "c": "o.n", "d": "o.m"}, {"each": ("o.*",)}, AbsentError, "select o, which contains"),
        ({"b": "m", "c": "m.n"}, {"each": ("m", "m.n")}, UsageError, "m.n is inside m"),
        ({"b": "m", "c": "m.n"}, {"each": ("m.n",), "depth": 1}, UsageError, "m.n is inside m"),
        ({"b": "m"}, {"each": ("mm",)}, UsageError, "did you mean m"),
        ({"b": "m"}, {}, UsageError, "nothing is selected"),
        ({"b": "m"}, {"each": ("m",), "exclude": ("m",)}, UsageError, "nothing is selected"),
        ({"b": "m", "dead": "n"}, {"each": ("*",)}, AbsentError, "n computes nothing .* exclude n"),
    ],
)  # fmt: skip
def test_refusals(
    scopes: dict[str, str], options: dict[str, Any], error: type[MxError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        written(tagged(LADDER, scopes), tmp_path / "parts", **options)
    assert not list(tmp_path.iterdir())


def test_untagged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"call `model\.tag\(\)` first"):
        written(onnx.parser.parse_model(LADDER), tmp_path / "parts", depth=1)


def test_calls_in_bodies_are_refused_and_no_level(tmp_path: Path) -> None:
    model = tagged(BODIES, {"b": "m"})
    inner = model.graph.node[1].attribute[0].g.node[0]
    inner.metadata_props.extend(model.graph.node[1].metadata_props)
    inner.metadata_props[0].value = "m.n"
    with pytest.raises(
        AbsentError,
        match="the then_branch of If '': select a module that contains it all, or cut it out with",
    ):
        written(model, tmp_path / "parts", each=("m.n",))
    assert [part.scope for part in written(model, tmp_path / "parts", depth=2).parts] == [None, "m", None]


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("bert", [{"each": ("encoder.layer.*",)}, {"depth": 1}, {"depth": 2}, {"class_": "BertAttention"}]),
        ("llama", [{"each": ("layers.*", "norm")}, {"depth": 1}, {"depth": 2}, {"class_": "LlamaMLP"}]),
        ("convnet", [{"each": ("stem",)}, {"depth": 1}, {"depth": 2}, {"class_": "Linear"}]),
        ("repeated", [{"each": ("layer*",)}, {"depth": 1}, {"depth": 2}, {"class_": "Linear"}]),
    ],
)
def test_models(built: Build, tmp_path: Path, name: str, choices: list[dict[str, Any]], exporter: str) -> None:
    whole = built(name, exporter) / "tagged.onnx"
    for options in choices:
        found = written(whole, tmp_path / "parts", **options)
        assert any(part.scope for part in found.parts)
        assert_same(whole, tmp_path / "parts")
        names = {path.name for path in (tmp_path / "parts").iterdir()}
        assert names == {"manifest.json", *(part.file for part in found.parts), *filter(None, [found.data])}


def test_command(built: Build, mx: Mx, tmp_path: Path) -> None:
    whole = built("bert") / "tagged.onnx"
    arguments = ("split", whole, "--each", "encoder.layer.*", "--verify", "-d", tmp_path / "parts")
    done = mx(*arguments)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr.decode()
    assert done.stderr.decode() == f"mx split: 4 parts in {tmp_path / 'parts'}\n"
    before = {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()}
    assert [name for name in sorted(before) if "layer" in name] == [
        "01-encoder.layer.0.onnx",
        "02-encoder.layer.1.onnx",
    ]
    done = mx(*arguments[:-1], tmp_path / "parts", "--json")
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()}
    assert done.stdout == before["manifest.json"]
    jsonschema.validate(json.loads(done.stdout), json.loads((ROOT / "docs" / "split.schema.json").read_text()))
    code = (ROOT / "docs" / "splitting.md").read_text().partition("```python\n")[2].partition("```")[0]
    page: dict[str, Any] = {}
    exec(compile(code, "page", "exec", dont_inherit=True), page)
    feeds = WorkingModel.read(whole).inputs()
    for found, wanted in zip(
        page["run"](tmp_path / "parts", dict(feeds)), running.session(whole).run(None, feeds), strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def large(external: bool, path: Path) -> Path:
    """Save a model whose two modules share a weight of 64 kB, and have one of as much each."""
    shape = [128, 128]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("MatMul", pair[:2], pair[2:]) for pair in ("xsa", "aub", "bsc", "cvd")],
            "g",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
            [onnx.helper.make_tensor_value_info("d", onnx.TensorProto.FLOAT, shape)],
            [onnx.numpy_helper.from_array(np.full(shape, i / 512, np.float32), n) for i, n in enumerate("suv", 1)],
        ),
        ir_version=10,
        opset_imports=[onnx.helper.make_opsetid("", 21)],
    )
    for node, scope in zip(model.graph.node, ("m", "m", "n", "n"), strict=True):
        keys.replace_props(node, keys.NODE_KEYS, {keys.SCOPE: scope, keys.EVIDENCE: "name"})
    onnx.save(model, path, save_as_external_data=external, location="all.bin", size_threshold=0)
    return path


@pytest.mark.parametrize("external", [False, True])
def test_shared_weights_are_written_once(external: bool, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    whole = large(external, tmp_path / "source" / "m.onnx")
    found = written(whole, tmp_path / "parts", check=True, depth=1)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "parts").iterdir()}
    weight = 128 * 128 * 4
    assert found.data == "weights.data"
    assert sizes["weights.data"] == (3 if external else 1) * weight
    assert 3 * weight < sum(sizes.values()) < 3 * weight + 8000
    assert_same(whole, tmp_path / "parts")


def test_an_earlier_split_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    written(large(False, tmp_path / "m.onnx"), folder, depth=1)
    (folder / "mine.txt").write_text("mine")
    written(tagged(LADDER, {"a": "m"}), folder, depth=1)
    assert {path.name for path in folder.iterdir()} == {"00-m.onnx", "01-rest.onnx", "manifest.json", "mine.txt"}


def test_files_from_elsewhere_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"schema": "other/1"}')
    with pytest.raises(OutputError, match="not a manifest"):
        written(tagged(LADDER, {"a": "m"}), tmp_path, depth=1)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "00-m.onnx").write_text("mine")
    with pytest.raises(OutputError, match="not from an earlier split"):
        written(tagged(LADDER, {"a": "m"}), tmp_path, depth=1)
    assert [path.name for path in tmp_path.iterdir()] == ["00-m.onnx"]


def test_a_difference_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "parts"
    written(tagged(LADDER, {"a": "m"}), folder, depth=1)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def wrong(*arguments: Any) -> dict[str, Any]:
        return {name: array + len(arguments[0].graph.node) for name, array in right(*arguments).items()}

    right = parts_running.run_model
    monkeypatch.setattr(parts_running, "run_model", wrong)
    for target in (folder, tmp_path / "new"):
        with pytest.raises(CheckError, match="differs"):
            written(tagged(LADDER, {"c": "m"}), target, check=True, depth=1)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]


def test_a_failed_move_leaves_one_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, link = Path.replace, os.link
    steps = 0

    def failing(act: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            nonlocal steps
            steps -= 1
            if steps == 0:
                raise OSError(28, "No space left on device")
            return act(*arguments)

        return step

    for number in range(1, 30):
        folder = tmp_path / f"{number}" / "parts"
        folder.parent.mkdir()
        written(tagged(LADDER, {"a": "m"}), folder, depth=1)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        steps = number
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", failing(rename))
            patch.setattr(os, "link", failing(link))
            with contextlib.suppress(OutputError):
                written(tagged(LADDER, {"c": "m"}), folder, depth=1)
        said = json.loads((folder / "manifest.json").read_bytes())
        assert all((folder / part["file"]).is_file() for part in said["parts"])
        if steps > 0:  # there are no more of them
            break
        if said == json.loads(before["manifest.json"]):
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        written(tagged(LADDER, {"c": "m"}), folder, depth=1)
        assert {path.name for path in folder.iterdir()} == {
            "manifest.json",
            *(part.file for part in written(tagged(LADDER, {"c": "m"}), folder, depth=1).parts),
        }
    assert 4 < number < 29


def test_file_names_are_safe(tmp_path: Path) -> None:
    scopes = {"a": "m%2F:" + "x" * 300, "b": "A", "c": "a"}
    files = [part.file for part in written(tagged(LADDER, scopes), tmp_path / "parts", depth=1).parts]
    assert [files[0][-3:], files[1], files[2]] == ["nnx", "01-A.onnx", "02-a.onnx"]
    assert len(files[0]) < 120
    scopes = {"a": "m%2F:x"}
    assert written(tagged(LADDER, scopes), tmp_path / "parts", depth=1).parts[0].file == "00-m_2F_x.onnx"


@settings(max_examples=200, deadline=None)
@given(random_models.models(("", "m", "m.a", "n", "o")), st.integers(1, 2), st.booleans())
def test_random_graphs(
    tmp_path_factory: pytest.TempPathFactory, model: onnx.ModelProto, depth: int, condition: bool
) -> None:
    """Any graph with any scopes is refused as not to be cut, or its parts compute what it computes."""
    folder = tmp_path_factory.mktemp("random")
    onnx.save(model, folder / "m.onnx")
    try:
        written(model, folder / "parts", depth=depth)
    except AbsentError:
        return
    assert_same(folder / "m.onnx", folder / "parts", random_models.feeds(condition))


def test_a_folded_model_is_split_as_if_it_were_not(tmp_path: Path, mx: Mx) -> None:
    text = (
        HEAD
        + """ g (float[4, 4] x) => (float[4, 4] y) <float[4, 4] v = {1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3, 2}> {
        a = MatMul(x, v)
        b = Relu(a)
        c = MatMul(b, v)
        y = Relu(c)
    }"""
    )
    scopes = {"a": "one.fc", "b": "one", "c": "two.fc", "y": "two"}
    (tmp_path / "m.onnx").write_bytes(tagged(text, scopes).SerializeToString())
    assert mx("fold", "m.onnx", "--each", "*", "-o", "f.onnx", cwd=tmp_path).returncode == 0
    for options in ("--parts 2 --balance multiply-adds --dry-run --json", "--each *.fc --dry-run --json"):
        found = [mx("split", name, *options.split(), cwd=tmp_path).stdout for name in ("m.onnx", "f.onnx")]
        assert found[0] == found[1] != b""
