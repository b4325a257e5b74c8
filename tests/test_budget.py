"""Splitting by a budget or a placement, and running the parts: what they compute, what they hold, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import parser

import mxtools
from mxtools.errors import CheckError, InputError, UsageError
from mxtools.model.model import Model
from mxtools.pipeline.working_model import WorkingModel
from mxtools.split import manifest
from mxtools.split.connections import join_parts
from mxtools.split.division.budget import Budget, amount_of
from mxtools.split.division.loads import Measure
from mxtools.split.division.placement import read_placement
from mxtools.split.division.units import units
from mxtools.split.planning import planned
from mxtools.split.records import Figures, Manifest
from mxtools.split.running import inputs_of, run_parts
from mxtools_cli.commands.split import MEASURES
from tests.support import random_models, running
from tests.support.commands import Mx
from tests.support.shared_models import Build
from tests.support.small_graphs import BODIES, HEAD, SHARED, tagged

ROW = (
    HEAD
    + """ g (float[n, 4] x) => (float[n, 4] y)
    <float[4, 4] v = {1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6}, float[4] w = {1, 2, 3, 4}> {
        a = MatMul(x, v)
        b = Add(a, w)
        c = Relu(b)
        d = MatMul(c, v)
        k = Neg(w)
        e = Add(d, k)
        s = Shape(x)
        y = Expand(e, s)
    }"""
)
"""Two linear modules that share weights, with an activation between; `k` is a constant, `s` a shape."""
SCOPES = {"a": "m.p", "b": "m.p", "c": "m.act", "d": "m.q", "k": "m.q", "e": "m.q", "s": "m", "y": "m"}


def written(model: onnx.ModelProto | Path, folder: Path, wanted: Any, **options: Any) -> Manifest:
    """Split a model by a budget or a placement into a folder, and check that the parts compute what it does."""
    loaded = WorkingModel.read(model) if isinstance(model, Path) else WorkingModel(model)
    parts, described = planned(loaded, wanted, **options)
    return manifest.write(loaded, parts, folder, verify=True, manifest=described)


def figures(found: Manifest) -> list[Figures]:
    return [part.figures for part in found.parts if part.figures]


def test_units_are_modules_and_what_lies_between() -> None:
    found = WorkingModel(tagged(ROW, SCOPES))
    names = [[found.graph.names[found.graph.writes[n][0]] for n in unit] for unit in units(found.annotations)]
    assert names == [["a", "b"], ["c"], ["d", "e"], ["s", "y"]] or names == [
        ["s"],
        ["a", "b"],
        ["c"],
        ["d", "e"],
        ["y"],
    ]
    inner = WorkingModel(tagged(LADDER, {"a": "m", "b": "m.n", "c": "m", "d": "o", "y": "o"}))
    call = inner.annotations.hierarchy.find("m")
    assert [len(unit) for unit in units(inner.annotations)] == [1, 1, 1, 2]
    assert [len(unit) for unit in units(inner.annotations, {call} if call else ())] == [3, 2]


def test_a_module_that_is_entered_again_is_one_unit_with_what_it_waits_for() -> None:
    text = HEAD + " g (float[2] x) => (float[2] y) { a = Neg(x) b = Abs(a) c = Exp(b) y = Sin(c) }"
    found = WorkingModel(tagged(text, {"a": "m", "b": "n", "c": "m", "y": "o"}))
    assert [len(unit) for unit in units(found.annotations)] == [3, 1]


def test_shared_weights_count_once_in_a_part_and_in_each_part(tmp_path: Path) -> None:
    one, two = (
        written(tagged(ROW, SCOPES), tmp_path / str(n), Budget(n, balance=Measure.MULTIPLY_ADDS)) for n in (1, 2)
    )
    assert [f.bytes for f in figures(one)] == [16 * 4 + 4 * 4]
    assert [f.bytes for f in figures(two)] == [80, 80]
    assert two.plan is not None
    assert (two.plan.measure, two.plan.largest, two.plan.bound) == ("multiply-adds", 128, 128)
    assert [(f.multiply_adds, f.uncounted) for f in figures(two)] == [(8 * 16, 0), (8 * 16, 0)]
    assert two.sizes == {"n": 8}
    assert [(f.tensors_in, f.bytes_in) for f in figures(two)] == [(0, 0), (1, 8 * 4 * 4)]
    assert [part.file for part in two.parts] == ["00-part.onnx", "01-part.onnx"]


def test_sizes_of_dimensions(tmp_path: Path) -> None:
    found = written(tagged(ROW, SCOPES), tmp_path / "p", Budget(2, balance=Measure.ACTIVATIONS), sizes={"n": 100})
    assert found.sizes == {"n": 100}
    assert figures(found)[1].bytes_in == 1600


@pytest.mark.parametrize(
    ("budget", "options", "error", "message"),
    [
        (Budget(9), {}, UsageError, "9 parts cannot be made of"),
        (Budget(limits={Measure.BYTES: 79}), {}, CheckError, r"^m.p has 80 bytes, .* smallest possible limit is 80$"),
        (Budget(1, {Measure.MULTIPLY_ADDS: 200}), {}, CheckError, "make 2 parts; the smallest .* is 256 multiply-adds"),
        (Budget(2, balance=Measure.TIME, times={"q": 1.0}), {}, UsageError, "no time of the modules"),
        (Budget(2), {"sizes": {"k": 2}}, UsageError, "no dimension 'k'"),
        ({"q": "gpu"}, {}, UsageError, "q"),
    ],
)
def test_refusals(budget: Any, options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        written(tagged(ROW, SCOPES), tmp_path / "parts", budget, **options)
    assert not list(tmp_path.iterdir())


def test_what_depends_on_no_input_cannot_be_split(tmp_path: Path) -> None:
    text = HEAD + " g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Neg(w) }"
    for wanted in (Budget(1), {".": "cpu"}):
        with pytest.raises(UsageError, match="nothing to split"):
            written(tagged(text, {"y": "m"}), tmp_path / "parts", wanted)


def test_outputs_that_are_constants_are_of_the_first_part(tmp_path: Path) -> None:
    text = (
        HEAD
        + """ g (float[2] x) => (float[2] y, float[2] k, float[2] w, float[2] x) <float[2] w = {1, 2}> {
        k = Neg(w) a = Sin(x) b = Cos(a) y = Exp(b)
    }"""
    )
    found = written(tagged(text, {"a": "m", "b": "n", "y": "o", "k": "p"}), tmp_path / "parts", Budget(3))
    assert [part.outputs for part in found.parts] == [("k", "w", "a"), ("b",), ("y",)]


def test_balance_by_time(tmp_path: Path) -> None:
    times = {"m.p": 90.0, "m.act": 5.0, "m.q": 5.0, "m": float("inf")}
    found = written(tagged(ROW, SCOPES), tmp_path / "p", Budget(2, balance=Measure.TIME, times=times))
    assert found.plan is not None
    assert (found.plan.largest, found.plan.mean, found.plan.bound) == (90_000, 50_000, 90_000)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("200MB", 200_000_000),
        ("1.5 G", 1_500_000_000),
        ("64KiB", 65536),
        ("4096", 4096),
        ("7 kB", 7000),
        ("3TiB", 3 << 40),
    ],
)
def test_amounts(text: str, amount: int) -> None:
    assert amount_of(text) == amount


@pytest.mark.parametrize("text", ["", "0", "-1", "MB", "1e9", "1 XB", "nan", "1" * 40, "٣", "0.5"])
def test_amounts_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="is no amount"):
        amount_of(text)


LADDER = (
    HEAD
    + """ g (float[2] x) => (float[2] y) {
    a = Sin(x) b = Cos(a) c = Add(b, a) d = Exp(c) y = Add(d, b)
}"""
)


def test_places_have_stages(tmp_path: Path) -> None:
    placement = {".": "cpu", "m": "gpu", "m.n": "cpu"}
    model = tagged(LADDER, {"a": "m", "b": "m.n", "c": "m", "d": "o", "y": "o"})
    found = written(model, tmp_path / "parts", placement, figures=True)
    assert [(part.place, part.file, part.outputs) for part in found.parts] == [
        ("gpu", "00-gpu.onnx", ("a",)),
        ("cpu", "01-cpu.onnx", ("b",)),
        ("gpu", "02-gpu.onnx", ("c",)),
        ("cpu", "03-cpu.onnx", ("y",)),
    ]
    assert [f.tensors_in for f in figures(found)] == [0, 1, 2, 2]


def test_what_no_entry_names_runs_where_its_neighbours_do(tmp_path: Path) -> None:
    model = tagged(LADDER, {"a": "o", "b": "m", "c": "o", "d": "n"})
    found = written(model, tmp_path / "parts", {"m": "one", "n": "two"})
    assert [(part.place, part.outputs) for part in found.parts] == [("one", ("b", "c")), ("two", ("y",))]


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", "3", "[" * 10**5, "\0"),
        *(f'{{"m": {place}}}' for place in ("null", '""', "-1", "true", "[1]", f'"{"x" * 101}"')),
    ],
)
def test_placements_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(InputError, match=r"p\.json is no (map|JSON)"):
        read_placement(tmp_path / "p.json")


def test_placements(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"m": "a/../b", "n": 3}')
    assert read_placement(tmp_path / "p.json") == {"m": "a/../b", "n": "3"}
    with pytest.raises(InputError, match="cannot be read"):
        read_placement(tmp_path)
    model = tagged(LADDER, {"a": "m", "b": "m", "c": "m", "d": "n", "y": "n"})
    found = written(model, tmp_path / "parts", read_placement(tmp_path / "p.json"))
    assert [part.file for part in found.parts] == ["00-a_.._b.onnx", "01-3.onnx"]


@pytest.mark.parametrize("text", [SHARED, BODIES])
def test_shapes_and_bodies(text: str, tmp_path: Path) -> None:
    model = tagged(text, {"a": "m", "b": "n", "r": "o", "e": "p"})
    for number in range(1, len(units(WorkingModel(model).annotations)) + 1):
        written(model, tmp_path / "parts", Budget(number))
        joined, _ = join_parts(tmp_path / "parts")
        assert {n.output[0] for n in joined.proto.graph.node} == {n.output[0] for n in model.graph.node}


@settings(max_examples=60, deadline=None)
@given(
    random_models.models(("", "m", "m.a", "n", "o")), st.integers(1, 5), st.sampled_from([*Measure][:2]), st.booleans()
)
def test_random_graphs(
    tmp_path_factory: pytest.TempPathFactory, model: onnx.ModelProto, parts: int, measure: Measure, condition: bool
) -> None:
    """Any graph with any scopes is refused with a reason, or its parts, and these joined, compute what it computes."""
    folder = tmp_path_factory.mktemp("random")
    onnx.save(model, folder / "m.onnx")
    feeds = random_models.feeds(condition)
    for wanted in (Budget(parts, balance=measure), {".": "one", "*": "two"} if parts % 2 else {"**.a": "x", ".": "y"}):
        try:
            loaded = WorkingModel.read(folder / "m.onnx")
            found, described = planned(loaded, wanted)
        except UsageError:
            continue
        manifest.write(loaded, found, folder / "parts", verify=False, manifest=described)
        expected = running.outputs(folder / "m.onnx", feeds)
        np.testing.assert_equal(running.split_outputs(folder / "parts", feeds), expected)
        joined, _ = join_parts(folder / "parts")
        names = {info.name for info in joined.proto.graph.input}
        given_ = {name: value for name, value in feeds.items() if name in names}
        np.testing.assert_equal(running.outputs(joined.proto, given_), expected)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", ["bert", "llama", "convnet", "repeated"])
def test_models(built: Build, tmp_path: Path, name: str, exporter: str) -> None:
    whole = built(name, exporter) / "tagged.onnx"
    model = Model.read(whole)
    feeds = model.inputs()
    expected = running.outputs(whole, feeds)
    for number, balance in ((3, "activations"), (4, "multiply-adds"), (2, "bytes")):
        found = model.split(parts=number, balance=balance).save(tmp_path / "parts")
        assert len(found.parts) == number
        assert found.plan is not None
        assert found.plan.bound <= found.plan.largest
        assert sum(f.multiply_adds for f in figures(found)) == model.tree().multiply_adds
        np.testing.assert_equal(run_parts(found, tmp_path / "parts", feeds), expected)
        joined, _ = join_parts(tmp_path / "parts")
        np.testing.assert_equal(running.outputs(joined.proto, feeds), expected)
    largest = max(f.bytes for f in figures(found))
    limited = model.split(max_bytes=largest)
    assert all(f.bytes <= largest for f in figures(limited.manifest))
    assert len(limited) <= len(found.parts)


def test_commands(built: Build, mx: Mx, tmp_path: Path) -> None:
    whole = built("bert") / "tagged.onnx"
    (tmp_path / "p.json").write_text('{".": "cpu", "encoder.layer.*": "gpu"}')
    for options, count in ((("--parts", "3", "--balance", "multiply-adds"), 3), (("--placement", "p.json"), 3)):
        done = mx("split", whole, *options, "--verify", "-d", "parts", cwd=tmp_path)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stderr.decode().startswith(f"mx split: {count} parts in parts")
        ran = mx("run-parts", "parts", "--verify", whole, "-o", "o.npz", cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr.decode()
        assert "max difference 0 (0 relative)" in ran.stderr.decode()
        expected = running.outputs(whole, WorkingModel.read(whole).inputs())
        np.testing.assert_equal(dict(np.load(tmp_path / "o.npz")), expected)
    table = mx("split", whole, "--parts", "2", "--dry-run", "--plot", "p.svg", cwd=tmp_path)
    assert [line.split()[0] for line in table.stdout.decode().splitlines()] == ["part", "00-part.onnx", "01-part.onnx"]
    assert (tmp_path / "p.svg").stat().st_size > 1000
    assert not (tmp_path / "00-part.onnx").exists()
    no = mx("split", whole, "--max-bytes", "1kB", "-d", "none", cwd=tmp_path)
    assert no.returncode == 1
    smallest = no.stderr.decode().rsplit(" ", 1)[1].strip()
    assert mx("split", whole, "--max-bytes", smallest, "-d", "none", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--parts 2", "there is no folder to write to"),
        ("--balance bytes --dry-run", "nothing to balance"),
        ("--parts 2 --balance time --dry-run", "times come from a profile"),
        ("--parts 2 --balance weight --dry-run", "nothing to balance by"),
        ("--max-bytes 1.x --dry-run", "is no amount"),
        ("--placement p.json --depth 1 --dry-run", "says all of where modules go"),
        ("--parts 2 --dim x --dry-run", "is not NAME=SIZE"),
        ("--dry-run", "nothing is selected"),
    ],
)
def test_options_that_do_not_fit(mx: Mx, tmp_path: Path, options: str, message: str) -> None:
    (tmp_path / "p.json").write_text('{".": "cpu"}')
    done = mx("split", *options.split(), cwd=tmp_path, stdin=tagged(ROW, SCOPES).SerializeToString())
    assert (done.returncode, message in done.stderr.decode()) == (2, True), done.stderr.decode()


def test_inputs_of_parts(tmp_path: Path) -> None:
    found = written(tagged(ROW, SCOPES), tmp_path / "parts", Budget(2))
    assert inputs_of(found, tmp_path / "parts")["x"].shape == (8, 4)


def test_inputs_that_a_file_lacks_are_named(mx: Mx, tmp_path: Path) -> None:
    text = HEAD + " g (float[2] x, float[2] m, float[2] k) => (float[2] y) { a = Add(x, m) y = Mul(a, k) }"
    model = tagged(text, {"a": "m", "y": "n"})
    written(model, tmp_path / "parts", Budget(2))
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "i.npz", x=np.ones(2, "f"))
    done = mx("run-parts", "parts", "--inputs", "i.npz", cwd=tmp_path)
    assert done.returncode == 0
    assert "mx run-parts: inputs that i.npz lacks are made: 'm', 'k'" in done.stderr.decode().splitlines()
    assert b"lacks" not in mx("run-parts", "parts", cwd=tmp_path).stderr
    done = mx("profile", "m.onnx", "--inputs", "i.npz", cwd=tmp_path)
    assert done.stderr.decode().splitlines().count("mx profile: inputs that i.npz lacks are made: 'm', 'k'") == 1


def test_an_input_that_no_part_reads_does_not_keep_from_verifying(mx: Mx, tmp_path: Path) -> None:
    text = HEAD + " g (float[2] x, float[2] unread) => (float[2] y) { a = Neg(x)\n y = Abs(a) }"
    model = tagged(text, {"a": "m", "y": "n"})
    written(model, tmp_path / "parts", Budget(2))
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "i.npz", x=np.ones(2, "f"), unread=np.ones(2, "f"))
    for options in ((), ("--inputs", "i.npz")):
        done = mx("run-parts", "parts", "--verify", "m.onnx", *options, cwd=tmp_path)
        assert (done.returncode, b"max difference 0" in done.stderr) == (0, True), done.stderr.decode()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"w": [2.0, 2.0]}, "no value for the model's input 'x': give inputs= with the model's inputs"),
        ({"x": [1.0, 1.0], "k": [2.0, 2.0]}, "the model has no input 'k': it has x, w"),
    ],
)
def test_inputs_that_are_not_those_of_the_model(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    text = HEAD + " g (float[2] x, float[2] w) => (float[2] y) { a = Neg(x)\n y = Mul(a, w) }"
    written(tagged(text, {"a": "m", "y": "n"}), tmp_path / "parts", Budget(2))
    with pytest.raises(InputError) as error:
        mxtools.run_parts(tmp_path / "parts", {name: np.array(value, "f") for name, value in given.items()})
    assert str(error.value) == said


def test_outputs_that_a_file_cannot_hold_are_named(mx: Mx, tmp_path: Path) -> None:
    text = HEAD + " g (float[2, 2] x) => (seq(float[2]) s, float[2, 2] y) { s = SplitToSequence(x) y = Neg(x) }"
    written(tagged(text, {"s": "m", "y": "n"}), tmp_path / "parts", Budget(2))
    done = mx("run-parts", "parts", "-o", "o.npz", cwd=tmp_path)
    first, last = done.stderr.decode().splitlines()
    assert first == "mx run-parts: left s: the file can hold only tensors of numbers"
    assert last.endswith("; y: o.npz")
    with np.load(tmp_path / "o.npz") as values:
        assert values.files == ["y"]


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [("none", 3, "there is no file none"), ("none.npz", 3, "there is no file none.npz"), (".", 3, ". is a folder")],
)
def test_files_of_inputs_that_are_none(mx: Mx, tmp_path: Path, name: str, status: int, said: str) -> None:
    written(tagged(ROW, SCOPES), tmp_path / "parts", Budget(2))
    done = mx("run-parts", "parts", "--inputs", name, cwd=tmp_path)
    message = f"mx run-parts: {said}: give a .safetensors, .npz or .json file\n"
    assert (done.returncode, done.stderr.decode()) == (status, message)


def test_manifests_that_do_not_fit_their_parts(mx: Mx, tmp_path: Path) -> None:
    written(tagged(ROW, SCOPES), tmp_path / "parts", Budget(2))
    path = tmp_path / "parts" / "manifest.json"
    said: dict[str, Any] = json.loads(path.read_text())

    def refusal(**changes: Any) -> str:
        path.write_text(json.dumps({**said, **changes}))
        done = mx("run-parts", tmp_path / "parts")
        assert done.returncode == 3
        assert done.stderr.decode().count("\n") == 1
        return done.stderr.decode()

    assert "no part before 01-part.onnx" in refusal(parts=said["parts"][1:])
    assert "no part has the output 'q'" in refusal(outputs=[{"name": "q", "source": "00-part.onnx"}])
    assert "is not a manifest" in refusal(parts=[{**said["parts"][0], "file": "../x.onnx"}])
    assert "is not a manifest" in refusal(schema="mxtools.split/9")
    path.unlink()
    assert mx("run-parts", tmp_path / "parts").returncode == 3


def test_a_part_whose_weights_lie_outside_runs(tmp_path: Path) -> None:
    model = tagged(ROW, SCOPES)
    weights = np.arange(4 * 256, dtype=np.float32).reshape(4, 256)
    text = HEAD + " g (float[2, 4] x) => (float[2, 4] y) { a = MatMul(x, p) y = MatMul(a, q) }"
    model = tagged(text, {"a": "m", "y": "n"})
    for name, array in (("p", weights), ("q", weights.T)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    found = written(tmp_path / "m.onnx", tmp_path / "parts", Budget(2))
    assert found.data == "weights.data"
    assert [f.bytes for f in figures(found)] == [4096, 4096]


def test_a_parsed_text_has_these_scopes() -> None:
    assert {node.output[0] for node in parser.parse_model(ROW).graph.node} == SCOPES.keys()


def test_the_command_lists_the_measures_that_there_are() -> None:
    assert tuple(Measure) == MEASURES


def test_branches_are_run_in_the_order_in_which_parts_are_even(mx: Mx, tmp_path: Path) -> None:
    """Of 27, 3, 72 and 8 weights in two branches, 72 can be alone only if its branch is run first."""
    text = (
        HEAD
        + " g (float[2, 9] x, float[2, 9] z) => (float[2, 1] y) { a = MatMul(x, p) b = MatMul(a, q) c = MatMul(z, r)"
        + " d = MatMul(c, s) y = Add(b, d) }"
    )
    model = tagged(text, dict(zip("abcdy", ("m.a", "m.b", "n.c", "n.d", "o"), strict=True)))
    shapes = {"p": (9, 3), "q": (3, 1), "r": (9, 8), "s": (8, 1)}
    weights = [onnx.numpy_helper.from_array(np.ones(shape, "f"), name) for name, shape in shapes.items()]
    model.graph.initializer.extend(weights)
    found = written(model, tmp_path / "parts", Budget(2))
    assert found.plan is not None
    assert (found.plan.largest, found.plan.bound) == (4 * 72, 4 * 72)
    assert [part.figures.bytes for part in found.parts if part.figures] == [4 * 72, 4 * 38]
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert mx("run-parts", tmp_path / "parts", "--verify", tmp_path / "m.onnx").returncode == 0
