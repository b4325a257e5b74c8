"""Pipelines: spec text and registry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxtools.errors import UsageError
from mxtools.passes.filter import Filter
from mxtools.pipeline.pipeline import Pipeline
from mxtools.pipeline.registry import load, names


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "wrong at"),
        ("filter{", "wrong at"),
        ("filter{scope}", "wrong at"),
        ("filter,", "wrong at"),
        ("filter filter", "wrong at"),
        ('filter{scope="a}', "wrong at"),
        ("filtre", "filter"),
        ("filter{scopes=a}", "it takes scope"),
        ("move-arguments-out{x=1}", "no options"),
    ],
)
def test_errors_say_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Pipeline.parse(text)
