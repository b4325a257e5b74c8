"""`mx view A --against B`: both graphs side by side, and the modules that differ are marked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import parser

import mxtools
from mxtools.comparison.comparison import compare
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.views.html import html
from tests.support.browsing import PHONE, SCREENS, Open, is_in, needs_chromium, picture, rectangles, row, rows
from tests.support.commands import Mx
from tests.support.shared_models import Build
from tests.support.shown_models import HOSTILE, chain, hostile, tagged

GONE = "\N{MINUS SIGN}"


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a model and what became of it: `enc.1` computes something else, `old` is gone, `dec.new` is new."""
    folder = tmp_path_factory.mktemp("pair")
    before = chain("enc", "enc.0", "enc.1", "old", "dec", "dec.out")
    after = chain("enc", "enc.0", "enc.1", "dec", "dec.new", "dec.out")
    after.graph.node[2].op_type = "Sigmoid"
    onnx.save(before, folder / "before.onnx")
    onnx.save(after, folder / "after.onnx")
    return folder / "before.onnx", folder / "after.onnx"


@pytest.fixture(scope="module")
def page_file(pair: tuple[Path, Path], mx: Mx) -> Path:
    before, after = pair
    done = mx("view", after, "--against", before, "-o", after.with_suffix(".html"))
    assert done.returncode == 0, done.stderr.decode()
    return after.with_suffix(".html")


def test_says_how_many_differ(pair: tuple[Path, Path], mx: Mx, tmp_path: Path) -> None:
    done = mx("view", pair[1], "--against", pair[0], "-o", "page.html", cwd=tmp_path)
    assert done.stderr.decode() == "mx view: 6 nodes in 7 calls; 3 calls differ from before.onnx: page.html\n"


def test_marks_what_mx_compare_lists(pair: tuple[Path, Path], page_file: Path, mx: Mx) -> None:
    before, after = pair
    report = json.loads(mx("compare", before, after, "--json").stdout)
    data = data_of(page_file)
    assert [model["title"] for model in data["models"]] == ["after.onnx", "before.onnx"]
    differing = {m["scope"]: m for m in report["modules"] if m["differs"]}
    assert dict(data["changes"]).keys() == differing.keys() == {"enc.1", "old", "dec.new"}
    assert dict(data["changes"])["enc.1"] == ["-1 Relu", "+1 Sigmoid"]
    assert dict(data["changes"])["old"][0] == "only in before.onnx"
    assert len(data["interface"]) == len(report["interface"]) == 0


def test_python_writes_the_same_page(pair: tuple[Path, Path], page_file: Path, tmp_path: Path) -> None:
    before, after = map(mxtools.load, pair)
    after.view(tmp_path / "page.html", against=before)
    own, other = data_of(tmp_path / "page.html"), data_of(page_file)
    assert dict(own["changes"])["enc.1"] == dict(other["changes"])["enc.1"]
    assert dict(own["changes"]).keys() == dict(other["changes"]).keys()
    assert [model["nodes"] for model in own["models"]] == [model["nodes"] for model in other["models"]]
    with pytest.raises(mxtools.UsageError, match="shows one graph"):
        after.view(tmp_path / "dot", format="dot", against=before)


def test_a_model_and_itself_differ_in_nothing(pair: tuple[Path, Path], mx: Mx, tmp_path: Path) -> None:
    done = mx("view", pair[0], "--against", pair[0], "-o", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr.decode()
    data = data_of(tmp_path / "page.html")
    assert data["changes"] == []
    assert [model["title"] for model in data["models"]] == ["before.onnx", "before.onnx (before)"]


def test_nodes_without_a_scope_count_for_the_root() -> None:
    one, other = tagged(), tagged()
    for model in (one, other):
        keys.replace_props(model.graph.node[5], keys.NODE_KEYS, {})
    other.graph.node[5].op_type = "Sub"
    notes = compare(WorkingModel(one), WorkingModel(other)).notes("a", "b")
    assert notes == {".": ["nodes without a scope: -1 Add", "nodes without a scope: +1 Sub"]}


def test_an_interface_that_changed_is_told(tmp_path: Path, mx: Mx) -> None:
    for name, size in (("a", 4), ("b", 8)):
        text = f'<ir_version: 10, opset_import: ["" : 21]> g (float[{size}] x) => (float[{size}] y) {{ y = Relu(x) }}'
        onnx.save(
            tagged(str(onnx.printer.to_text(parser.parse_model(text))), {"y": ("a", "/M/A")}), tmp_path / f"{name}.onnx"
        )
    mx("view", tmp_path / "b.onnx", "--against", tmp_path / "a.onnx", "-o", tmp_path / "page.html")
    assert data_of(tmp_path / "page.html")["interface"] == [
        "input x: float[4] → float[8]",
        "output y: float[4] → float[8]",
    ]


def test_both_graphs_cannot_come_from_stdin(mx: Mx) -> None:
    done = mx("view", "-", "--against", "-", stdin=chain("a").SerializeToString())
    assert done.returncode == 2
    assert done.stderr == b"mx view: both graphs cannot come from stdin: give the file of one\n"


@needs_chromium
@pytest.mark.parametrize("screen", SCREENS)
def test_side_by_side(open_page: Open, page_file: Path, screen: str) -> None:
    size, scheme = SCREENS[screen]
    page = open_page(page_file, scheme, size=size)
    left, right = rectangles(page, "#other")[0], rectangles(page, "#graph")[0]
    if size == PHONE:
        assert left["y"] + left["height"] <= right["y"], "one above the other"
    else:
        assert left["x"] + left["width"] <= right["x"]
        assert left["width"] == pytest.approx(right["width"], abs=2)
    assert page.inner_text("#before") == "before.onnx"
    assert page.inner_text("#after") == "after.onnx"
    for pane, place in (("#other", left), ("#graph", right)):
        boxes = rectangles(page, f"{pane} .box > rect")
        assert len(boxes) >= 4
        assert all(is_in(b, place) for b in boxes)
    assert page.locator("#other .box.gone text.mark").all_text_contents() == [GONE]
    assert page.locator("#graph .box.inside text.mark").all_text_contents() == ["•", "•"]
    picture(page, f"against-{screen}")


@needs_chromium
def test_the_tree_holds_both_and_shows_what_differs(open_page: Open, page_file: Path) -> None:
    page = open_page(page_file)
    assert page.is_checked("#differing")
    assert rows(page) == [".", "enc", "old", "dec"]
    assert [row(page, scope)["mark"] for scope in rows(page)] == ["•", "•", GONE, "•"]
    assert row(page, ".")["number"] == "3", "modules that differ"
    page.click("#tree .row[title='enc'] .fold")
    assert rows(page) == [".", "enc", "enc.1", "old", "dec"], "not enc.0, which is the same"
    page.keyboard.press("d")
    assert rows(page) == [".", "enc", "enc.0", "enc.1", "old", "dec"]
    text = page.inner_text("#details")
    assert "3 MODULES IN IT DIFFER" in text
    page.click("#details a:text-is('enc.1')")
    assert "-1 Relu" in page.inner_text("#details")
    assert page.text_content("#other .box.node text") == "Relu"
    assert page.text_content("#graph .box.node text") == "Sigmoid"
    page.click("#tree .row[title^='old']")
    assert page.inner_text("#graph .empty") == "This module is not in after.onnx."
    assert page.locator("#other .box.node").count() == 1
    assert "in before.onnx" in page.inner_text("#details")
    again = open_page(page_file, at="#" + page.url.partition("#")[2])
    assert again.inner_text("#graph .empty") == "This module is not in after.onnx."


@needs_chromium
def test_modules_of_both_stand_in_their_order(open_page: Open, tmp_path: Path, mx: Mx) -> None:
    """What only the older model has stands behind what it follows there, at the beginning too."""
    onnx.save(chain("first", "a", "then", "after", "b", "last"), tmp_path / "before.onnx")
    onnx.save(chain("new", "a", "b", "end"), tmp_path / "after.onnx")
    mx("view", tmp_path / "after.onnx", "--against", tmp_path / "before.onnx", "-o", tmp_path / "page.html")
    page = open_page(tmp_path / "page.html")
    page.uncheck("#differing")
    assert rows(page) == [".", "first", "new", "a", "then", "after", "b", "last", "end"]


@needs_chromium
def test_both_graphs_move_together(open_page: Open, page_file: Path) -> None:
    page = open_page(page_file)
    page.click("#other .box.module:has-text('dec')")
    assert page.locator("#graph .box.picked text").nth(0).text_content() == "dec"
    assert page.locator("#other .box.picked").count() == 1
    page.locator("#graph .box.module:has-text('dec') .toggle").click()
    assert [page.locator(f"{pane} .box.expanded").count() for pane in ("#graph", "#other")] == [1, 1]
    assert page.locator("#graph .box.new text.mark").all_text_contents() == ["+"]
    page.click("#other .box.module:has-text('out')")
    page.dblclick("#other .box.module:has-text('out')")
    assert page.inner_text("#crumbs").split()[-1] == "out"
    page.click("#other .box.node")
    assert "in before.onnx" in page.inner_text("#details")
    assert page.locator("#graph .box.picked").count() == 0
    again = open_page(page_file, at="#" + page.url.partition("#")[2])
    assert again.locator("#other .box.picked").count() == 1


@needs_chromium
def test_a_quantised_model_beside_its_original(open_page: Open, built: Build, mx: Mx, tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    source = built("bert") / "tagged.onnx"
    quantize_dynamic(source, tmp_path / "raw.onnx")
    assert mx("tag", tmp_path / "raw.onnx", "--from", source, "-o", tmp_path / "int8.onnx").returncode == 0
    done = mx("view", tmp_path / "int8.onnx", "--against", source, "--statistics", "-o", tmp_path / "int8.html")
    assert done.returncode == 0, done.stderr.decode()
    page = open_page(tmp_path / "int8.html", at="#encoder.layer.0.attention.self.query")
    assert page.locator("#graph .box:has-text('MatMulInteger')").count() == 1
    assert page.locator("#other .box:has-text('MatMulInteger')").count() == 0
    assert "+1 MatMulInteger" in page.inner_text("#details")


@needs_chromium
def test_names_of_both_are_text(open_page: Open, tmp_path: Path) -> None:
    from mxtools.views.html import Earlier

    (tmp_path / "page.html").write_text(html(hostile(), "", Earlier(hostile(), {".": [HOSTILE]}, [HOSTILE])))
    page = open_page(tmp_path / "page.html")
    assert HOSTILE.split()[0] in page.inner_text("#details")
    for at in range(page.locator("#tree .row").count()):
        page.locator("#tree .row").nth(at).click()
    assert page.locator("img, #details script, .side script").count() == 0
