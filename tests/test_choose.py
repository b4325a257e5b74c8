"""What selections, ranges and auxiliary operators come to, and that parts are verified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mxtools.cut.part_check import check_part, output_difference
from mxtools.errors import CheckError, UsageError
from mxtools.passes.filter import Auxiliary, Filter
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from tests.support.commands import Mx
from tests.support.small_graphs import LADDER, SHARED, cut, tagged


def names(model: onnx.ModelProto) -> tuple[list[str], list[str], list[str]]:
    """Return the inputs, what the nodes make, and the outputs."""
    graph = model.graph
    return [i.name for i in graph.input], [n.output[0] for n in graph.node], [o.name for o in graph.output]


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (["a"], ["c"], (["z", "a"], ["b", "c"], ["c"])),
        ([], ["b"], (["x", "z"], ["k", "a", "b"], ["b"])),
        (["b"], [], (["b"], ["c", "d", "e"], ["d", "e"])),
        (["x"], ["d", "b"], (["x", "z"], ["k", "a", "b", "c", "d"], ["d", "b"])),
        (["c", "z"], ["d"], (["c"], ["d"], ["d"])),
    ],
)
def test_range_needs_no_tags(
    first: list[str], last: list[str], expected: tuple[list[str], list[str], list[str]]
) -> None:
    model = onnx.parser.parse_model(LADDER)
    assert names(cut(model, from_tensor=tuple(first), to_tensor=tuple(last))) == expected


def test_range_within_a_selection() -> None:
    model = tagged(LADDER, {"a": "m", "b": "m", "c": "n"})
    assert names(cut(model, scope=("m",), from_tensor=("a",)))[1] == ["b"]
    with pytest.raises(UsageError, match="no selected node"):
        cut(tagged(LADDER, {"a": "m", "c": "n"}), scope=("n",), to_tensor=("a",))


@pytest.mark.parametrize(
    ("first", "last", "message"),
    [
        (["c"], ["a"], "no path"),
        (["cc"], ["d"], "did you mean c"),
        ([], ["q"], "q"),
        ([], ["b", "k"], "to 'k': leave it out of"),
        (["b"], ["b", "c"], "to 'b': leave it out of"),
    ],
)
def test_range_that_is_none(first: list[str], last: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cut(onnx.parser.parse_model(LADDER), from_tensor=tuple(first), to_tensor=tuple(last))


def test_range_to_outputs_that_it_reaches() -> None:
    model = onnx.parser.parse_model(LADDER)
    model.graph.output.append(onnx.helper.make_tensor_value_info("k", 1, None))
    assert names(cut(model, from_tensor=("c",)))[2] == ["d"]


@pytest.mark.parametrize(
    ("auxiliary", "expected"),
    [
        (Auxiliary.CONTEXT, (["b"], ["s", "r"], ["r"])),
        (Auxiliary.NONE, (["b", "s"], ["r"], ["r"])),
        (Auxiliary.ALL, (["x"], ["k", "kk", "a", "b", "s", "r"], ["r"])),
    ],
)
def test_auxiliary(auxiliary: Auxiliary, expected: tuple[list[str], list[str], list[str]]) -> None:
    assert names(cut(tagged(SHARED, {"r": "m"}), scope=("m",), auxiliary=auxiliary)) == expected


@pytest.mark.parametrize(("scopes", "pieces"), [({"a": "m", "d": "m"}, 2), ({"a": "m", "b": "m"}, 1), ({"k": "m"}, 1)])
def test_pieces_are_counted(scopes: dict[str, str], pieces: int) -> None:
    assert Filter(scope=("m",)).apply(WorkingModel(tagged(LADDER, scopes))).pieces == pieces


def test_verify_compares_with_the_whole() -> None:
    report = Filter(scope=("m",), verify=True).apply(WorkingModel(tagged(LADDER, {"b": "m", "c": "m"})))
    assert [(row["output"], row["max_abs"]) for row in report.to_dict()["verify"]] == [("b", 0.0), ("c", 0.0)]


def test_verify_finds_a_wrong_part() -> None:
    whole = onnx.parser.parse_model(LADDER)
    part = cut(tagged(LADDER, {"b": "m", "c": "m"}), scope=("m",))
    part.graph.node[1].op_type = "Exp"
    with pytest.raises(CheckError, match="'c' differs"):
        check_part(WorkingModel(whole), WorkingModel(part))


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        ([1.0, 2.0], [1.0, 4.0], (2.0, 0.5)),
        ([np.nan, np.inf], [np.nan, np.inf], (0.0, 0.0)),
        ([np.nan], [1.0], (np.inf, np.inf)),
        ([1.0], [1.0, 1.0], (np.inf, np.inf)),
        (["a"], ["b"], (np.inf, np.inf)),
    ],
)
def test_difference(found: list[Any], wanted: list[Any], expected: tuple[float, float]) -> None:
    result = output_difference("x", np.array(found), np.array(wanted))
    assert np.array_equal([result.max_abs, result.max_rel], expected, equal_nan=True)


def test_command_verifies_and_says_pieces(mx: Mx, tmp_path: Path) -> None:
    onnx.save(tagged(LADDER, {"a": "m", "d": "m"}), tmp_path / "m.onnx")
    done = mx("filter", tmp_path / "m.onnx", "--scope", "m", "--verify", "-o", tmp_path / "p.onnx")
    assert done.returncode == 0
    assert b"2 pieces" in done.stderr
    assert b"d: max difference 0" in done.stderr
    done = mx("filter", tmp_path / "m.onnx", "--to-tensor", "b", "--json", "-o", tmp_path / "p.onnx")
    assert json.loads(done.stdout)["outputs"] == ["b"]
    model = onnx.load(tmp_path / "m.onnx")
    model.graph.node[1].op_type = "NoSuchOperator"
    keys.replace_props(model, keys.MODEL_KEYS, {})
    onnx.save(model, tmp_path / "bad.onnx")
    (tmp_path / "p.onnx").unlink()
    done = mx("filter", tmp_path / "bad.onnx", "--scope", "m", "--verify", "-o", tmp_path / "p.onnx")
    assert done.returncode == 3
    assert not (tmp_path / "p.onnx").exists()


def test_everything_has_nodes_without_a_scope_too() -> None:
    model = tagged(LADDER, {"a": "m", "b": "m"})
    before = names(model)
    for node in model.graph.node:
        if node.output[0] in ("c", "e"):
            keys.replace_props(node, keys.NODE_KEYS, {})
    assert names(cut(model, scope=(".",))) == before
