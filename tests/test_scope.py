"""Scopes and tags."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import parser

from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import hierarchy
from mxtools.scopes.annotations import Annotations, Evidence
from mxtools.scopes.hierarchy import Hierarchy
from mxtools.scopes.scope import call_number, contains, enclosing_scopes, escape, join, numbered_call, split_call
from mxtools.scopes.selection import Selection
from mxtools.scopes.tags import align, tags_of
from tests.support.small_graphs import LADDER


def test_escape_keeps_separators_out() -> None:
    assert escape("a%b@c/d") == "a%25b%40c%2Fd"


@pytest.mark.parametrize(
    ("ancestor", "scope", "expected"),
    [
        (".", "a", True),
        ("a", "a", True),
        ("a", "a.b", True),
        ("layer.1", "layer.10", False),
        ("a", "a@1", False),
        ("a.b", "a", False),
    ],
)
def test_contains(ancestor: str, scope: str, expected: bool) -> None:
    assert contains(ancestor, scope) is expected


@pytest.mark.parametrize(("scope", "expected"), [("a.b.c", ["a", "a.b"]), ("a", []), (".", []), ("a@1.b", ["a@1"])])
def test_enclosing_scopes(scope: str, expected: list[str]) -> None:
    assert list(enclosing_scopes(scope)) == expected


def test_join() -> None:
    assert join(".", "a") == "a"
    assert join("a", "b.0") == "a.b.0"


def test_tags_name_what_classes_leave_open() -> None:
    calls = [
        (".", None, "Net"),
        ("layer.0", 0, "Block"),
        ("layer.0.a", 1, "Linear"),
        ("layer.0.b", 1, "Linear"),
        ("layer.0.a@1", 1, "Linear"),
        ("layer.0.norm", 1, "Norm"),
    ]
    assert tags_of(calls) == [
        "/Net",
        "/Net/Block.0",
        "/Net/Block.0/Linear.a",
        "/Net/Block.0/Linear.b",
        "/Net/Block.0/Linear.a@1",
        "/Net/Block.0/Norm",
    ]


@st.composite
def call_trees(draw: st.DrawFn) -> list[tuple[str, int | None, str]]:
    calls: list[tuple[str, int | None, str]] = [(".", None, "Root")]
    seen = {"."}
    for _ in range(draw(st.integers(0, 12))):
        parent = draw(st.integers(0, len(calls) - 1))
        local = ".".join(draw(st.lists(st.sampled_from(["a", "b", "0", "1", "x.0"]), min_size=1, max_size=2)))
        scope = join(calls[parent][0], local + draw(st.sampled_from(["", "@1", "@2"])))
        if scope not in seen:
            seen.add(scope)
            calls.append((scope, parent, draw(st.sampled_from(["A", "B", "<lambda>", "A.B"]))))
    return calls


@given(call_trees())
def test_scope_and_tag_map_one_to_one(calls: list[tuple[str, int | None, str]]) -> None:
    tags = tags_of(calls)
    assert len(set(tags)) == len(calls)


KNOWN = {
    "enc.layer.0": "/M/Layer.0",
    "enc.layer.0.attn": "/M/Layer.0/Attention",
    "enc.layer.1": "/M/Layer.1",
    "enc.layer.10": "/M/Layer.10",
    "enc@1.layer.0": "/M/Layer.0@1",
    "head": "/M/Head",
}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("enc.layer.1", {"enc.layer.1"}),
        ("enc.layer.0", {"enc.layer.0", "enc.layer.0.attn"}),
        ("enc", {"enc.layer.0", "enc.layer.0.attn", "enc.layer.1", "enc.layer.10"}),
        ("enc*.layer.0", {"enc.layer.0", "enc.layer.0.attn", "enc@1.layer.0"}),
        ("**.attn", {"enc.layer.0.attn"}),
        ("*" * 201 + "attn", {"enc.layer.0.attn"}),
        ("enc.layer.1[0]", {"enc.layer.10"}),
        ("enc.layer.?", {"enc.layer.0", "enc.layer.0.attn", "enc.layer.1"}),
        (".", set(KNOWN)),
    ],
)
def test_selectors(pattern: str, expected: set[str]) -> None:
    assert Selection(scopes=(pattern,)).matching_scopes(KNOWN, {}) == expected


def test_exclusion() -> None:
    assert Selection(scopes=("enc",), exclude=("enc.layer.0",)).matching_scopes(KNOWN, {}) == {
        "enc.layer.1",
        "enc.layer.10",
    }


@given(call_trees())
def test_a_scope_is_divided_into_as_many_levels_as_its_tag(calls: list[tuple[str, int | None, str]]) -> None:
    for (scope, _, _), tag in zip(calls, tags_of(calls), strict=True):
        steps = align(scope, tag)
        assert len(steps) == tag.count("/") - 1
        assert ".".join(local for local, _ in steps) == ("" if scope == "." else scope)


def test_numbers_stay_with_their_container() -> None:
    steps = align("encoder.layer.0.attn@1.q", "/M/Encoder/Layer.0/Attention@1/Linear.q")
    assert [local for local, _ in steps] == ["encoder", "layer.0", "attn@1", "q"]
    assert [local for local, _ in align("layer.0", "/M/Sequential/Linear.0")] == ["layer", "0"]
    assert align("a.b", "/M") == []


def test_scopes_of_a_file_tell_where_levels_end() -> None:
    """A model that calls `model.decoder` and never `model`: the layer, met first, does not make a call of `model`."""
    layer, decoder = ("model.decoder.layers.0", "/M/Decoder/Layer.0"), ("model.decoder", "/M/Decoder")
    tree = Hierarchy()
    tree.expect({tag: scope for scope, tag in (layer, decoder)})
    calls = [tree.adopt(*entry) for entry in (layer, decoder)]
    assert [tree.scopes[call] for call in tree.lineage(calls[0])] == ["model.decoder.layers.0", "model.decoder", "."]
    assert tree.scopes[calls[1]] == "model.decoder"


def test_a_file_keeps_the_calls_that_its_scopes_do_not_show() -> None:
    """A wrapper calls `base.model` and never `base`; `base.model` and its encoder have no nodes of their own."""
    scopes = (".", "base.model", "base.model.stem", "base.model.enc", "base.model.enc.0.x")
    tags = ("/W", "/W/Model", "/W/Model/Stem", "/W/Model/Enc", "/W/Model/Enc/X.0.x")
    calls = [
        SimpleNamespace(scope=s, tag=t, parent=p) for s, t, p in zip(scopes, tags, (None, 0, 1, 1, 3), strict=True)
    ]
    file = parser.parse_model(LADDER)
    annotations = Annotations(file, WorkingModel(file).graph, Hierarchy(calls))
    for node, call in enumerate((2, 4, 4, 4, 4, 4)):
        annotations.set(node, call, Evidence.NAME)
    annotations.save()
    annotations.write_absent({})
    tree = WorkingModel(file).annotations.hierarchy
    assert {scope: tree.scopes[parent] for scope, parent in zip(tree.scopes[1:], tree.parent[1:], strict=True)} == {
        call.scope: scopes[call.parent] for call in calls[1:]
    }
    assert tree.hidden_around({call for call in range(len(tree)) if tree.scopes[call] in scopes}) == {}


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (".", (".", 0)),
        ("layer", ("layer", 0)),
        ("layer@2", ("layer", 2)),
        ("a@1.layer.0@12", ("a@1.layer.0", 12)),
        ("a@1.layer", ("a@1.layer", 0)),
        ("a@x", ("a@x", 0)),  # only a file can hold the last two
        ("a@" + 5000 * "9", ("a@" + 5000 * "9", 0)),
    ],
)
def test_call_numbers(scope: str, expected: tuple[str, int]) -> None:
    assert call_number(scope) == expected
    assert numbered_call(*expected) == scope
    assert "".join(split_call(scope)) == scope


def test_levels_of_a_tag_are_aligned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(hierarchy, "align", lambda scope, tag: asked.append(scope) or align(scope, tag))
    entries = {"/M/A": "a", "/M/A/B.0": "a.b.0", "/M/A/B.1": "a.b.1", "/M/A/B.1/C": "a.b.1.c"}
    tree = Hierarchy()
    tree.expect(entries)
    for tag, scope in entries.items():
        assert [tree.adopt(scope, tag) for _ in range(3)] == [tree.find(scope)] * 3
    assert tree.scopes == [".", "a", "a.b.0", "a.b.1", "a.b.1.c"]
    assert len(asked) == len(entries)
