"""Pipelines: spec text and registry."""

from __future__ import annotations

import types
import typing
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import parser

from mxtools.errors import UsageError
from mxtools.passes.filter import Filter
from mxtools.pipeline.base import Pass
from mxtools.pipeline.pipeline import Pipeline
from mxtools.pipeline.registry import load, names, types_of
from mxtools.pipeline.spec import parse, spec_of
from tests.support.commands import Mx


def test_every_file_is_a_pass_of_its_name() -> None:
    assert "filter" in names()
    for name in names():
        assert load(name).name == name


def test_parse() -> None:
    pipeline = Pipeline.parse('untag, filter{scope=a.*,scope="b{},=\\"",class=Linear}')
    assert [step.name for step in pipeline.passes] == ["untag", "filter"]
    assert pipeline.passes[1] == Filter(scope=("a.*", 'b{},="'), class_=("Linear",))


@given(st.lists(st.text(min_size=1), max_size=3), st.lists(st.text(), max_size=2))
def test_str_is_the_inverse_of_parse(scopes: list[str], ops: list[str]) -> None:
    pipeline = Pipeline((Filter(scope=tuple(scopes), op=tuple(ops)),))
    assert Pipeline.parse(str(pipeline)) == pipeline


def options(hint: Any) -> st.SearchStrategy[Any]:
    """Return any values of an option's type."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        optional = type(None) in typing.get_args(hint)
        plain = options(typing.get_args(hint)[0])
        return st.none() | plain if optional else plain
    if typing.get_origin(hint) is tuple:
        return st.lists(options(typing.get_args(hint)[0]), max_size=3).map(tuple)
    if issubclass(hint, StrEnum):
        return st.sampled_from(hint)
    return {bool: st.booleans(), str: st.text(), int: st.integers(), float: st.floats(allow_nan=False)}[hint]


def steps(name: str) -> st.SearchStrategy[Pass]:
    """Return a pass with any options; to name none is to leave it at its default."""
    cls = load(name)
    hints = types_of(cls)
    given_ = {
        item.name: options(hints[item.name]).filter(lambda value, item=item: value is not None or item.default is None)
        for item in fields(cls)
    }
    return st.builds(cls, **given_)


@pytest.mark.parametrize("name", names())
@given(data=st.data())
@settings(max_examples=50)
def test_the_spec_of_every_pass_is_the_inverse_of_its_parsing(name: str, data: st.DataObject) -> None:
    step = data.draw(steps(name))
    text = spec_of(step)
    assert parse(text) == (step,)
    assert str(Pipeline.parse(text)) == text
    pipeline = Pipeline((step, Filter(scope=(".",)), step))
    assert Pipeline.parse(str(pipeline)) == pipeline


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not complete"),
        ("filter{", "is not complete"),
        ("filter{scope}", "has an error at"),
        ("filter,", "is not complete"),
        ("filter filter", "has an error at"),
        ('filter{scope="a}', "has an error at"),
        ("filtre", "filter"),
        ("filter{scopes=a}", "it takes scope"),
        ("move-arguments-out{x=1}", "no options"),
    ],
)
def test_errors_say_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Pipeline.parse(text)


def test_an_old_name_of_a_pass_still_works_and_says_so_in_one_line(mx: Mx, tmp_path: Path) -> None:
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[2] x) => (float[2] y) { y = Neg(x) }'
    onnx.save(parser.parse_model(text), tmp_path / "m.onnx")
    done = mx("run", "m.onnx", "-p", "settle-given", "-o", "o.onnx", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.decode().splitlines()[1] == "mx run: the pass 'settle-given' is now called 'move-arguments-out'"
    assert len(done.stderr.splitlines()) == 2
