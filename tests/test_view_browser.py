"""The page of `mx view` in headless Chromium: opens, expands, searches, colours, keys, nothing on the console."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from benchmarks.page import large
from mxtools.scopes import keys
from mxtools.views.html import html
from tests.support.browsing import Open, apart, box, needs_chromium, rectangles, rows
from tests.support.commands import Mx
from tests.support.shared_models import Build
from tests.support.shown_models import HOSTILE, hostile, shown

NODES = 5000
ELEMENTS = 400
"""Elements that a page of so many nodes may have: what it draws at first decides how long it takes to open."""

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def bert_page(built: Build, mx: Mx, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    scopes = {"encoder.layer.0": 0.25, "encoder.layer.1": 4, "encoder": 4.25, "pooler": "Infinity", ".": 5}
    (folder / "time.json").write_text(json.dumps({"metrics": {"time": scopes}}))
    done = mx("view", built("bert") / "tagged.onnx", "--metric", folder / "time.json", "-o", folder / "bert.html")
    assert done.returncode == 0, done.stderr.decode()
    return folder / "bert.html"


def names(page: Any) -> list[str]:
    """Return what the boxes of modules are called, from top to bottom."""
    return page.eval_on_selector_all(
        ".box.module",
        "all => all.sort((a, b) => a.getBoundingClientRect().y - b.getBoundingClientRect().y)"
        ".map((box) => box.querySelector('text').textContent)",
    )


def details(page: Any) -> str:
    return page.inner_text("#details")


def fill(page: Any, title: str) -> str:
    return box(page, title).locator("> rect").evaluate("rect => getComputedStyle(rect).fill")


def test_opens_on_the_whole_model(open_page: Open, bert_page: Path) -> None:
    page = open_page(bert_page)
    assert page.title() == "tagged.onnx"
    assert names(page) == ["embeddings", "encoder", "pooler"]
    assert rows(page) == [".", "embeddings", "encoder", "pooler"]
    assert page.locator(".box.end").count() == 4
    assert details(page).startswith("BertPooler"), "which has the largest number, and that is no part of a sum"
    page.locator("#tree .row[title='.']").click()
    assert "input_ids" in details(page)
    tops = [box(page, name).bounding_box()["y"] for name in ("embeddings", "encoder", "pooler")]
    assert tops == sorted(tops)


def test_expands_by_click_and_by_key(open_page: Open, bert_page: Path) -> None:
    page = open_page(bert_page)
    page.dblclick(".box.module:has-text('encoder')")
    assert names(page) == ["layer.0", "layer.1"]
    assert rows(page)[2:5] == ["encoder", "encoder.layer.0", "encoder.layer.1"]
    page.click("#tree .row[title='encoder.layer.1']")
    assert names(page) == ["attention", "intermediate", "output"]
    assert page.inner_text("#crumbs").split() == ["BertModel", "encoder", "layer.1"]
    page.keyboard.press("m")
    page.keyboard.press("ArrowRight")
    assert "encoder.layer.1.attention.self" in rows(page)
    assert names(page) == ["self", "output"]
    page.keyboard.press("ArrowDown")
    assert set(names(page)) == {"query", "key", "value"}
    page.keyboard.press("u")
    page.keyboard.press("u")
    assert names(page) == ["attention", "intermediate", "output"]
    page.click("#crumbs button:first-child")
    assert names(page) == ["embeddings", "encoder", "pooler"]
    page.go_back()
    page.wait_for_selector(".box:has-text('intermediate')")
    fold = page.locator("#tree .row[title='encoder'] .fold")
    fold.click()
    assert "encoder.layer.0" not in rows(page)


def test_an_address_opens_a_module(open_page: Open, bert_page: Path) -> None:
    page = open_page(bert_page)
    page.evaluate("location.hash = '#encoder.layer.0.attention.self'")
    page.wait_for_selector(".box:has-text('query')")
    assert set(names(page)) == {"query", "key", "value"}


def test_details_of_a_node_lead_to_its_neighbours(open_page: Open, bert_page: Path) -> None:
    page = open_page(bert_page)
    page.evaluate("location.hash = '#encoder.layer.0.attention.self'")
    page.wait_for_selector(".box:has-text('Softmax')")
    page.click(".box:has-text('Softmax')")
    text = details(page)
    for part in ("Softmax", "name: the exporter's node name holds the scope", "axis", "-1", "float32["):
        assert part in text
    assert page.locator(".edge.near").count() >= 2
    page.focus("#graph")
    page.keyboard.press("ArrowUp")
    assert details(page).startswith("Add")
    page.click("#details a:has-text('encoder.layer.0.attention.self') >> nth=0")
    assert details(page).startswith("BertSelfAttention")
    assert "QUERY" not in details(page)


def test_searches(open_page: Open, bert_page: Path) -> None:
    page = open_page(bert_page)
    page.keyboard.press("/")
    page.keyboard.type("layer.1 query")
    found = page.locator("#results li").all_inner_texts()
    assert found[0].startswith("encoder.layer.1.attention.self.query")
    assert all("layer.1" in text for text in found)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator(".box.picked").count() == 1
    assert "encoder.layer.1.attention.self.query" in details(page)
    page.fill("#search", "Softmax")
    assert ["Softmax in" in text for text in page.locator("#results li").all_inner_texts()][:3] == [True, True, False]
    page.fill("#search", "no such thing")
    assert page.inner_text("#results") == "nothing found"
    page.keyboard.press("Escape")
    assert page.is_visible("#tree")


def test_colours_by_metric(open_page: Open, bert_page: Path) -> None:
    page = open_page(bert_page)
    assert page.input_value("#metric") == "time"
    page.dblclick(".box.module:has-text('encoder')")
    assert fill(page, "encoder.layer.1") == "rgb(12, 66, 122)"
    assert page.inner_text("#most") == "4"
    page.select_option("#metric", "parameters")
    assert page.inner_text("#most") != "4"
    equal = fill(page, "encoder.layer.1")
    assert fill(page, "encoder.layer.0") == equal
    page.select_option("#metric", "")
    assert page.is_hidden("#legend")
    assert fill(page, "encoder.layer.0") not in (equal, "rgb(12, 66, 122)")


def test_light_and_dark(open_page: Open, bert_page: Path) -> None:
    def brightness(page: Any) -> int:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour.removeprefix("rgb(").rstrip(")").split(","))

    light, dark = open_page(bert_page), open_page(bert_page, "dark")
    assert brightness(light) > 600
    assert brightness(dark) < 150
    light.keyboard.press("t")
    assert brightness(light) < 150
    dark.click("#theme")
    assert brightness(dark) > 600


def test_constants_come_and_go(open_page: Open, bert_page: Path) -> None:
    page = open_page(bert_page)
    page.evaluate("location.hash = '#encoder.layer.0.attention.self'")
    page.wait_for_selector(".box:has-text('query')")
    before = page.locator(".box").count()
    page.keyboard.press("c")
    assert page.locator(".box").count() > before
    assert page.locator(".box:has-text('Constant')").count()


def test_keys_are_shown_and_the_graph_zooms(open_page: Open, bert_page: Path) -> None:
    page = open_page(bert_page)
    page.keyboard.press("?")
    assert page.is_visible("#keys")
    page.keyboard.press("Escape")
    width = box(page, "encoder").bounding_box()["width"]
    page.keyboard.press("+")
    assert box(page, "encoder").bounding_box()["width"] == pytest.approx(1.3 * width, rel=0.05)
    page.mouse.move(720, 450)
    page.mouse.wheel(0, 500)
    assert box(page, "encoder").bounding_box()["width"] < width
    page.keyboard.press("0")
    assert box(page, "encoder").bounding_box()["width"] == pytest.approx(width, rel=0.01)


def test_a_module_that_is_entered_again_is_drawn_with_a_line_back(open_page: Open, tmp_path: Path) -> None:
    nodes = []
    for number, scope in enumerate(("a", "b", "a", ".")):
        node = helper.make_node("Relu", [f"v{number}"], [f"v{number + 1}"], name=f"n{number}")
        tag = "/M" if scope == "." else f"/M/{scope.upper()}"
        keys.replace_props(node, keys.NODE_KEYS, {keys.SCOPE: scope, keys.TAG: tag, keys.EVIDENCE: "name"})
        nodes.append(node)
    ends = [helper.make_tensor_value_info(name, 1, [4]) for name in ("v0", "v4")]
    model = helper.make_model(helper.make_graph(nodes, "again", ends[:1], ends[1:]), ir_version=10)
    (tmp_path / "again.html").write_text(html(shown(model)))
    page = open_page(tmp_path / "again.html")
    assert names(page) == ["a", "b"]
    assert page.locator(".edge").count() == 5
    assert page.locator(".edge.back title").all_text_contents() == ["v2  float32[4]"]


def test_no_box_lies_on_another(open_page: Open, bert_page: Path) -> None:
    page = open_page(bert_page)
    for scope in ("", "#encoder.layer.0.attention.self", "#embeddings"):
        page.evaluate(f"location.hash = '{scope}'")
        page.wait_for_timeout(100)
        boxes = rectangles(page, ".box > rect")
        assert all(apart(a, b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])


def test_names_are_shown_and_do_nothing(open_page: Open, tmp_path: Path) -> None:
    (tmp_path / "hostile.html").write_text(html(hostile()))
    page = open_page(tmp_path / "hostile.html")
    assert page.inner_text("h1").split() == HOSTILE.split()
    for row in range(page.locator("#tree .row").count()):
        page.locator("#tree .row").nth(row).click()
    page.fill("#search", "script")
    page.keyboard.press("Enter")
    assert page.locator("img, #details script, #results script").count() == 0


@pytest.mark.parametrize("flat", [False, True], ids=["in modules", "all in the root"])
def test_draws_no_more_than_a_reader_can_see(mx: Mx, open_page: Open, tmp_path: Path, flat: bool) -> None:
    onnx.save(large(NODES, flat), tmp_path / "large.onnx")
    done = mx("view", tmp_path / "large.onnx", "-o", tmp_path / "large.html")
    assert done.returncode == 0, done.stderr.decode()
    page = open_page(tmp_path / "large.html")
    assert page.evaluate("document.querySelectorAll('*').length") <= ELEMENTS
    page.fill("#search", "node 4321")
    page.keyboard.press("Enter")
    assert "node 4321" in details(page)
    assert page.locator(".box.picked").is_visible()
