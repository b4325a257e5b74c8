"""`mx compare`: what differs is found in the modules where it is, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from mxtools.comparison.comparison import Comparison, compare
from mxtools.comparison.numbers import compare_numbers
from mxtools.errors import InputError
from mxtools.files.regular import PIECE
from mxtools.files.weights import WeightStore, is_deferred, is_external
from mxtools.graph.functions import every_node
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.traces.values import Values
from tests.support import golden_text as golden
from tests.support.commands import Mx
from tests.support.renaming import renamed

GENERATOR = np.random.default_rng(3)
ARRAYS = {name: GENERATOR.standard_normal((4, 4)).astype(np.float32) for name in ("one.w", "one.v", "two.w")}
TEXT = """
g (float[2, 4] x) => (float[2, 4] y) {
    m = MatMul(x, one__w)                   #@ one
    n = MatMul(m, one__v)                   #@ one
    r = Relu(n)                             #@ act
    s = Softmax <axis = 1> (r)              #@ act
    d = Sub(s, m)                           #@ two
    k = Constant <value_float = 2.0> ()     #@ two
    e = MatMul(d, two__w)                   #@ two
    y = Mul(e, k)                           #@ two
}"""


def model(text: str = TEXT, **arrays: np.ndarray) -> ModelProto:
    found = golden.read(text)
    given = {**ARRAYS, **{name.replace("__", "."): array for name, array in arrays.items()}}
    found.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in given.items())
    return found


def compared(one: ModelProto, other: ModelProto, inputs: dict[str, np.ndarray] | None = None) -> Comparison:
    values = Values(inputs.keys(), inputs.__getitem__) if inputs else None
    a, b = WorkingModel(one, values=values), WorkingModel(other)
    found = compare(a, b)
    if inputs:
        compare_numbers(found, a, b)
    return found


def differing(one: ModelProto, other: ModelProto) -> dict[str, list[str]]:
    return {module.scope: module.differs(1e-5) for module in compared(one, other).differing(1e-5)}


def test_names_make_no_difference() -> None:
    assert not differing(model(), model())
    assert not differing(model(), renamed(model()))
    assert not compared(model(), renamed(model())).interface


CHANGED: dict[str, tuple[str, str, dict[str, list[str]]]] = {
    "an attribute": ("axis = 1", "axis = 0", {"act": ["nodes"]}),
    "a default that is written out": ("Relu(n)", "Relu(n)", {}),
    "an operator": ("Relu(n)", "Tanh(n)", {"act": ["nodes"]}),
    "joined otherwise": ("MatMul(m, one__v)", "MatMul(x, one__v)", {"one": ["nodes"]}),
    "operands exchanged": ("Sub(s, m)", "Sub(m, s)", {"two": ["inputs"]}),
    "another source": ("Relu(n)", "Relu(x)", {"act": ["inputs"]}),
    "another weight of the same shape": ("MatMul(d, two__w)", "MatMul(d, one__w)", {"two": ["weights"]}),
    "weights exchanged": ("x, one__w", "x, one__v", {"one": ["weights"]}),
    "a constant": ("value_float = 2.0", "value_float = 3.0", {"two": ["nodes"]}),
}


@pytest.mark.parametrize(("before", "after", "found"), CHANGED.values(), ids=CHANGED.keys())
def test_a_change_is_in_its_module(before: str, after: str, found: dict[str, list[str]]) -> None:
    text = TEXT.replace(before, after)
    if before == "x, one__w":
        text = text.replace("m, one__v", "m, one__w")
    assert differing(model(), model(text)) == found
    assert differing(model(text), renamed(model())) == found


def test_a_change_of_weights_only_is_one() -> None:
    other = ARRAYS["two.w"].copy()
    other[3, 3] = np.nextafter(other[3, 3], np.float32(np.inf))
    assert differing(model(), model(two__w=other)) == {"two": ["weights"]}
    (two,) = compared(model(), model(two__w=other)).differing(0)
    assert [change.to_dict() for change in two.weights] == [
        {"name": "two.w", "before": "float[4,4]", "after": "float[4,4]"}
    ]
    half = compared(model(), model(two__w=ARRAYS["two.w"].astype(np.float16)))
    assert [c.after for m in half.modules for c in m.weights] == ["float16[4,4]"]


def test_a_tensor_in_a_constant_is_a_weight() -> None:
    text = """
g (float[2] x) => (float[2] y) {
    k = Constant <value = float[2] {1, 2}> ()   #@ one
    y = Add(x, k)                               #@ one
}"""
    assert differing(model(text), model(text.replace("1, 2", "1, 3"))) == {"one": ["weights"]}


def test_attributes_that_an_operator_has_anyway_make_no_difference() -> None:
    written = model()
    relu = next(node for node in written.graph.node if node.op_type == "Softmax")
    del relu.attribute[:]
    relu.attribute.append(helper.make_attribute("axis", -1))
    bare = ModelProto.FromString(written.SerializeToString())
    next(node for node in bare.graph.node if node.op_type == "Softmax").ClearField("attribute")
    assert not differing(written, bare)
    assert differing(model(), bare) == {"act": ["nodes"]}


def test_modules_of_one_model_only() -> None:
    text = TEXT.replace("#@ act", "#@ two previous act two")
    other = model(text)
    other.metadata_props.add(key=keys.ABSENT, value='{"gone": "folded"}')
    found = {module.scope: module for module in compared(model(), other).modules}
    assert (found["act"].only_in, found["act"].reason) == ("A", "merged: two")
    assert found["act"].nodes == (2, 0)
    assert found["two"].operators == {"Relu": (0, 1), "Softmax": (0, 1)}
    back = {module.scope: module for module in compared(other, model()).modules}
    assert (back["act"].only_in, back["act"].reason) == ("B", "merged: two")
    gone = model(TEXT.replace("#@ act", "#@ gone"))
    assert next(m for m in compared(gone, other).modules if m.scope == "gone").reason == "folded"


def test_nodes_without_scope_are_shown() -> None:
    found = compared(model(), model(TEXT.replace("#@ act", "")))
    untagged = found.modules[-1]
    assert (untagged.scope, untagged.nodes, untagged.only_in) == ("(untagged)", (0, 2), "")
    with pytest.raises(InputError, match=r"no node of B has a scope: call `model.tag\(\)`"):
        compared(model(), golden.untagged(TEXT))


CONVERTED = TEXT.replace(
    "    r = Relu(n) ",
    """    q = Cast <to = 10> (n)      #@ act dataflow
    p = Cast <to = 1> (q)       #@ act dataflow
    r = Relu(p) """,
)


def test_a_conversion_between_modules_is_in_neither() -> None:
    found = compared(model(), model(CONVERTED))
    assert {m.scope: m.operators for m in found.differing(0)} == {".": {"Cast": (0, 2)}}
    assert differing(model(CONVERTED), renamed(model(CONVERTED))) == {}
    changed = model(CONVERTED.replace("axis = 1", "axis = 0"))
    assert {m.scope: m.nodes for m in compared(model(), changed).differing(0)} == {"act": (2, 4)}
    inner = CONVERTED.replace("Softmax <axis = 1> (r)", "Softmax <axis = 1> (p)")
    assert differing(model(), model(inner)) == {"act": ["nodes"]}
    assert differing(model(CONVERTED), model(CONVERTED.replace("to = 10", "to = 16"))) == {"act": ["nodes"]}
    other = ARRAYS["two.w"] + 1
    assert differing(model(), model(CONVERTED, two__w=other)) == {".": ["nodes"], "two": ["weights"]}


def test_a_conversion_with_weights_is_in_the_nearest_module_around() -> None:
    before, after = (re.sub(r"#@ (one|act|two)", r"#@ net.\1", text) for text in (TEXT, CONVERTED))
    after = after.replace("q = Cast <to = 10> (n)", "q = Mul(n, scale)").replace(
        "p = Cast <to = 1> (q)", "p = Div(q, scale)"
    )
    found = compared(model(before), model(after, scale=np.float32([2]))).differing(0)
    assert {m.scope: m.operators for m in found} == {"net": {"Div": (0, 1), "Mul": (0, 1)}}
    assert [change.name for change in found[0].weights] == ["scale"]


def test_a_conversion_of_what_a_module_makes_is_its_own() -> None:
    text = TEXT.replace(
        "    s = Softmax <axis = 1> (r) ",
        """    o = Softmax <axis = 1> (r)  #@ act
    q = Cast <to = 10> (o)      #@ act dataflow
    s = Cast <to = 1> (q) """,
    )
    text = re.sub(r"(\(q\) +#@ act)", r"\1 dataflow", text)
    assert golden.tags(text)["s"] == "act dataflow"
    assert differing(model(), model(text)) == {"act": ["nodes"]}


BODIES = """
<ir_version: 10, opset_import: ["" : 21, "f" : 1]>
g (bool c, float[2] x) => (float[2] y) {
    z = f.twice(x)
    y = If (c) <
        then_branch = yes () => (float[2] t) { t = Neg(z) },
        else_branch = no () => (float[2] e) { e = Abs(z) }>
}
<domain: "f", opset_import: ["" : 21]>
twice (a) => (b) { b = Add(a, a) }
"""


@pytest.mark.parametrize(
    ("before", "after", "scope"), [("Abs", "Exp", "m.e"), ("Add", "Mul", "m.b"), ("Neg(z)", "Neg(x)", "m.t")]
)
def test_bodies_and_functions_are_looked_at(before: str, after: str, scope: str) -> None:
    one, other = (onnx.parser.parse_model(text) for text in (BODIES, BODIES.replace(before, after)))
    for found in (one, other):
        nodes = [*every_node(found.graph.node), *found.functions[0].node]
        for node in nodes:
            entries = {keys.SCOPE: f"m.{node.output[0]}", keys.TAG: f"/M/M/{node.output[0].title()}"}
            keys.replace_props(node, keys.NODE_KEYS, entries)
    assert list(differing(one, other)) == [scope]
    assert not differing(one, one)


def test_a_module_that_is_gone_is_no_other_source() -> None:
    text = TEXT.replace("    r = Relu(n) ", "    i = Identity(n)     #@ drop\n    r = Relu(i) ")
    assert differing(model(text), model()) == {"drop": ["presence", "nodes"]}
    kept = text.replace("Sub(s, m)", "Sub(i, m)")
    assert differing(model(text), model(kept)) == {"two": ["inputs"]}


INTERFACE = {
    "a name": ("x)", "z)", ["input x: float[2,4] → None", "input z: None → float[2,4]"]),
    "a shape": ("float[2, 4] y", "float[N, 4] y", ["output y: float[2,4] → float[N,4]"]),
    "a type": ("=> (float[2, 4] y)", "=> (float16[2, 4] y)", ["output y: float[2,4] → float16[2,4]"]),
    "one more": ("(float[2, 4] x)", "(float[2, 4] x, bool b)", ["input b: None → bool[]"]),
}


@pytest.mark.parametrize(("before", "after", "changes"), INTERFACE.values(), ids=INTERFACE.keys())
def test_the_interface(before: str, after: str, changes: list[str]) -> None:
    text = TEXT.replace(before, after, 1)
    text = text.replace("(x, one__w", "(z, one__w") if "z)" in text.partition("{")[0] else text
    found = compared(model(), model(text)).interface
    assert [f"{change.name}: {change.before} → {change.after}" for change in found] == changes


def test_operator_sets_that_are_used_and_the_order_of_inputs() -> None:
    other = model()
    other.opset_import[0].version = 22
    other.opset_import[1].version = 2
    assert [c.to_dict() for c in compared(model(), other).interface] == [
        {"name": "operator set ai.onnx", "before": "21", "after": "22"}
    ]
    both = TEXT.replace("(float[2, 4] x)", "(float[2, 4] x, float[2, 4] z)")
    swapped = TEXT.replace("(float[2, 4] x)", "(float[2, 4] z, float[2, 4] x)")
    assert [c.name for c in compared(model(both), model(swapped)).interface] == ["order of inputs"]


def test_outputs_exchanged() -> None:
    text = """
g (float[2] x) => (float[2] y, float[2] z) {
    y = Abs(x)      #@ one
    z = Abs(x)      #@ two
}"""
    exchanged = text.replace("    y = Abs(x)      #@ one", "    y = Abs(x)      #@ two")
    exchanged = exchanged.replace("    z = Abs(x)      #@ two", "    z = Abs(x)      #@ one")
    assert [c.to_dict() for c in compared(golden.read(text), golden.read(exchanged)).interface] == [
        {"name": "maker of output y", "before": "one", "after": "two"},
        {"name": "maker of output z", "before": "two", "after": "one"},
    ]


def test_numbers_at_the_boundaries() -> None:
    """A module is right until the one that was changed, whatever its tensors are called."""
    given = {"x": GENERATOR.standard_normal((2, 4)).astype(np.float32)}
    same = compared(model(), renamed(model()), given)
    assert not same.differing(0)
    pairs = {m.scope: [(n.tensor, n.other) for n in m.numbers] for m in same.modules}
    assert pairs == {".": [("y", "y")], "one": [("m", "vm"), ("n", "vn")], "act": [("s", "vs")], "two": [("y", "y")]}
    weights = ARRAYS["two.w"] * np.float32(1.01)
    found = compared(model(), renamed(model(two__w=weights)), given)
    apart = {module.scope: module.distance.relative for module in found.modules if module.distance}
    assert apart == {"one": 0, "act": 0, "two": pytest.approx(0.01, rel=1e-3), ".": pytest.approx(0.01, rel=1e-3)}
    assert {m.scope: m.differs(0.02) for m in found.differing(0.02)} == {"two": ["weights"]}


def test_numbers_of_a_model_with_other_inputs() -> None:
    given = {"x": GENERATOR.standard_normal((2, 4)).astype(np.float32)}
    text = TEXT.replace("(float[2, 4] x)", "(float[2, 4] z)").replace("(x, ", "(z, ")
    found = compared(model(), model(text), given)
    assert [m.distance.relative for m in found.modules if m.distance] == [0, 0, 0, 0]


def test_a_tensor_stands_for_one_other_only() -> None:
    one = """
g (float[4] x) => (float[4] y) {
    a = Abs(x)      #@ o.i
    b = Neg(a)      #@ o
    y = Exp(b)      #@ .
}"""
    other = """
g (float[4] x) => (float[4] y) {
    c = Abs(x)      #@ o.i
    y = Exp(c)      #@ .
}"""
    found = compared(golden.read(one), golden.read(other), {"x": np.ones(4, np.float32)})
    pairs = {m.scope: [(n.tensor, n.other) for n in m.numbers] for m in found.modules}
    assert {scope: of for scope, of in pairs.items() if of} in (
        {".": [("y", "y")], "o.i": [("a", "c")]},
        {".": [("y", "y")], "o": [("b", "c")]},
    )


def test_weights_in_files_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And those that both models have in one place only once."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        onnx.save(model(), tmp_path / name / "m.onnx", save_as_external_data=True, location="w", size_threshold=0)
    read: list[str] = []
    pieces = WeightStore.pieces
    monkeypatch.setattr(WeightStore, "data", None)
    monkeypatch.setattr(WeightStore, "pieces", lambda self, place: read.append(str(place)) or pieces(self, place))
    one, other = (WorkingModel.read(tmp_path / name / "m.onnx") for name in ("a", "b"))
    assert not compare(one, other).differing(0)
    assert len(read) == 6
    with (tmp_path / "b" / "w").open("r+b") as file:
        file.write(b"\1")
    other = WorkingModel.read(tmp_path / "b" / "m.onnx")
    found = compare(one, other).differing(0)
    assert [(m.scope, m.differs(0)) for m in found] == [("one", ["weights"])]
    read.clear()
    assert not compare(one, one).differing(0)
    assert len(read) == 3


@pytest.mark.parametrize("external", [True, False], ids=["external", "inline"])
def test_pieces_are_the_whole(tmp_path: Path, external: bool) -> None:
    array = GENERATOR.standard_normal((3, PIECE // 8)).astype(np.float32)
    onnx.save(model(two__w=array), tmp_path / "m.onnx", save_as_external_data=external, location="w", size_threshold=0)
    loaded = WorkingModel.read(tmp_path / "m.onnx")
    tensor = next(tensor for tensor in loaded.proto.graph.initializer if tensor.name == "two.w")
    assert is_external(tensor) == external
    assert is_deferred(tensor) != external
    for _ in range(2):
        pieces = [bytes(piece) for piece in loaded.weights.streamed(tensor)]
        assert len(pieces) == 2
        assert b"".join(pieces) == array.tobytes()


def test_sequences_between_modules_are_compared() -> None:
    text = """
    g (float[2, 4] x) => (float[2, 4] y) {
        s = SplitToSequence <axis = 0> (x)      #@ one
        c = ConcatFromSequence <axis = 0> (s)   #@ two
        y = Neg(c)                              #@ two
    }"""
    inputs = {"x": np.ones((2, 4), np.float32)}
    numbers = {m.scope: m.numbers for m in compared(golden.read(text), golden.read(text), inputs).modules}
    assert [(n.tensor, n.distance.max_abs) for n in numbers["one"]] == [("s", 0)]
    assert [n.distance.max_abs for n in numbers["two"]] == [0]


def test_layers_that_differ_in_the_same_way_are_one_row(mx: Mx, tmp_path: Path) -> None:
    def layers(operators: list[str]) -> ModelProto:
        lines = "".join(f"    t{i + 1} = {op}(t{i})   #@ layers.{i}\n" for i, op in enumerate(operators))
        return golden.read(f"\ng (float[2] t0) => (float[2] y) {{\n{lines}    y = Neg(t{len(operators)})   #@ last\n}}")

    onnx.save(layers(["Relu"] * 5), tmp_path / "a.onnx")
    onnx.save(layers(["Exp", "Exp", "Relu", "Exp", "Abs"]), tmp_path / "b.onnx")
    done = mx("compare", "a.onnx", "b.onnx", cwd=tmp_path)
    assert done.returncode == 1
    rows = [re.split("  +", line)[0] for line in done.stdout.decode().splitlines()]
    assert rows == ["module", ".", "├─ layers.0, 1, 3", "└─ layers.4"]
    unfolded = mx("compare", "a.onnx", "b.onnx", "--no-fold", cwd=tmp_path)
    assert len(unfolded.stdout.splitlines()) == len(rows) + 2


def test_one_model_alone_is_not_compared(mx: Mx, tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "a.onnx")
    done = mx("compare", "a.onnx", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert (
        done.stderr.decode() == "mx compare: only one model is given, and stdin is empty: give both, mx compare A B\n"
    )
