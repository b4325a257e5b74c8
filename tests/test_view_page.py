"""What the page of `mx view` shows first and where: numbers with units, modules in place, addresses, copies, phones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from PIL import Image

from mxtools.views.html import html
from mxtools.views.metric_files import add_metrics
from tests.support.browsing import (
    PHONE,
    SCREENS,
    Box,
    Open,
    apart,
    box,
    is_in,
    needs_chromium,
    picture,
    rectangles,
    row,
    rows,
)
from tests.support.commands import Mx
from tests.support.shared_models import Build
from tests.support.shown_models import chain, shown

pytestmark = needs_chromium

LONG = ".".join(f"a_module_with_quite_a_long_name_{number}" for number in range(24))
"""A scope that no pane has room for."""
PROFILE = {
    "modules": [
        {"scope": ".", "microseconds": 2500, "own": 0, "kernels": []},
        {"scope": "enc", "microseconds": 2000, "own": 500, "kernels": []},
        {"scope": "enc.0", "microseconds": 1500, "own": 1500, "kernels": []},
        {"scope": "dec", "microseconds": 500, "own": 500, "kernels": []},
        {"scope": "end", "microseconds": 0, "own": 0, "kernels": []},
    ]
}


def write(folder: Path, model: onnx.ModelProto, *metrics: object) -> Path:
    """Write the page of a model; it opens with the last of the metrics."""
    found, first = shown(model), "parameters"
    for report in metrics:
        first = add_metrics(found, json.dumps(report), "f.json").names[0]
    (folder / "page.html").write_text(html(found, first))
    return folder / "page.html"


@pytest.fixture
def profiled(tmp_path: Path) -> Path:
    return write(tmp_path, chain("enc", "enc.0", "dec", "end"), PROFILE)


@pytest.fixture(scope="module")
def bert(built: Build, mx: Mx, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("bert") / "bert.html"
    done = mx("view", built("bert") / "tagged.onnx", "--statistics", "-o", file)
    assert done.returncode == 0, done.stderr.decode()
    return file


def test_opens_on_the_metric_with_its_unit_and_share_of_the_total(open_page: Open, profiled: Path) -> None:
    page = open_page(profiled)
    assert page.input_value("#metric") == "time"
    assert page.inner_text("#measure") == "time, and its share of 2.5 ms"
    assert rows(page) == [".", "enc", "enc.0", "dec", "end"], "open down to where the time goes"
    assert row(page, "enc")["number"] == "2 ms"
    assert row(page, "enc")["share"] == "80 %"
    assert row(page, "dec")["number"] == "500 µs"
    assert page.inner_text("#most") == "2 ms"
    ranked = page.locator(".ranked").all_inner_texts()
    assert [text.split()[0] for text in ranked] == ["enc.0", "dec", "enc"], "each by what no module in it has"
    page.select_option("#metric", "own time")
    assert row(page, "enc")["number"] == "500 µs"
    assert row(page, "enc")["share"] == "20 %"
    assert page.inner_text("#measure") == "own time, and its share of 2.5 ms"
    assert page.get_by_role("option", name="dec, Dec, own time 500 µs", exact=True).count() == 1


def test_opens_on_the_largest_error(open_page: Open, tmp_path: Path) -> None:
    """It is selected in the graph around it; the modules around it return the same error."""
    errors = {"error": {"enc": 0.5, "enc.ffn": 0.5, "enc.ffn.fc": 0.5, "enc.mix": 0.2, "dec": 0.4}}
    file = write(tmp_path, chain("enc.ffn.fc", "enc.mix", "dec"), errors)
    page = open_page(file)
    assert page.inner_text("#crumbs [aria-current]") == "ffn"
    assert page.locator("#tree .row.picked").get_attribute("title") == "enc.ffn.fc"
    page.keyboard.press("u")
    page.keyboard.press("u")
    assert page.inner_text("#crumbs [aria-current]") == "M"
    page.go_back()
    assert page.inner_text("#crumbs [aria-current]") == "enc"
    page.go_forward()
    assert page.inner_text("#crumbs [aria-current]") == "M", "the address of the whole model is empty"
    page = open_page(write(tmp_path, chain("enc", "dec"), {"error": {"enc": 0, "dec": 0}}))
    assert page.inner_text("#crumbs [aria-current]") == "M", "nothing is wrong"


def test_zero_is_no_full_bar(open_page: Open, profiled: Path, tmp_path: Path) -> None:
    def bar(scope: str) -> float:
        inner = page.locator(f"#tree .row[title='{scope}'] .bar i")
        return float(inner.evaluate("bar => bar.getBoundingClientRect().width / bar.parentNode.clientWidth"))

    page = open_page(profiled)
    assert (bar("enc"), bar("end")) == (1, 0)
    assert bar("dec") == pytest.approx(0.25, abs=0.05)
    nothing = {"error": {"enc": 0, "dec": 0}}
    page = open_page(write(tmp_path, chain("enc", "dec"), nothing))
    assert (bar("enc"), bar("dec")) == (0, 0), "also where all numbers are zero"
    assert row(page, "enc")["share"] == "", "errors are no parts of a total"


def test_units_come_with_the_file(open_page: Open, tmp_path: Path) -> None:
    report = {
        "metrics": {"energy": {".": 3000, "enc": 1200}, "wait": {"enc": 0.25}},
        "units": {"energy": "J", "wait": "s"},
    }
    page = open_page(write(tmp_path, chain("enc", "dec"), report))
    assert row(page, "enc")["number"] == "1.2 kJ"
    assert row(page, "enc")["share"] == "40 %"
    page.select_option("#metric", "wait")
    assert row(page, "enc")["number"] == "250 ms"


@pytest.mark.parametrize("screen", SCREENS)
def test_long_names_never_push_numbers_off(open_page: Open, tmp_path: Path, screen: str) -> None:
    size, scheme = SCREENS[screen]
    report = {"a metric whose name is longer than anybody would expect it to be": {".": 1234567, LONG: 1234567}}
    page = open_page(write(tmp_path, chain(LONG), report), scheme, size=size, at=f"#{LONG}")
    page.evaluate("document.body.dataset.pane = 'left'")
    left = rectangles(page, "#left")[0]
    numbers = rectangles(page, "#tree .row .number") + rectangles(page, "#tree .row .share")
    assert len(numbers) >= 4, "those of the root and of the last module"
    assert all(n["x"] >= left["x"] and n["x"] + n["width"] <= left["x"] + left["width"] for n in numbers)
    names = rectangles(page, "#tree .row .name")
    assert min(name["width"] for name in names) >= 30, "and something is left of each name"
    picture(page, f"long-names-{screen}")
    page.evaluate("document.body.dataset.pane = 'details'")
    window: Box = {"x": 0, "y": -1e6, "width": size[0], "height": 2e6}
    assert all(is_in(n, window) for n in rectangles(page, "#details td.number, #details .number"))
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize("screen", SCREENS)
def test_looks_right_on_every_screen(open_page: Open, bert: Path, screen: str) -> None:
    size, scheme = SCREENS[screen]
    page = open_page(bert, scheme, size=size, at="#encoder.layer.0.attention&in=encoder.layer.0.attention.self")
    with Image.open(picture(page, f"page-{screen}")) as image:
        assert image.size == size
        colours = image.convert("RGB").getcolors(1 << 20)
    background = max(colours)[1]
    assert (sum(background) < 150) == (scheme == "dark")
    assert len(colours) > 50
    pane = rectangles(page, "#graph")[0]
    boxes = rectangles(page, "#graph .box:not(.small) > rect")
    assert len(boxes) >= 20
    assert sum(is_in(b, pane) for b in boxes) >= 10
    window = {"x": 0, "y": 0, "width": size[0], "height": size[1]}
    assert all(is_in(b, window) for b in rectangles(page, "header button, header select, #zoom button, #panes button"))


def test_a_module_opens_in_place(open_page: Open, bert: Path) -> None:
    page = open_page(bert, at="#encoder.layer.0.attention")
    before = box(page, "encoder.layer.0.attention.output").bounding_box()
    box(page, "encoder.layer.0.attention.output").locator(".toggle").click()
    outer = rectangles(page, ".box.expanded > rect")
    assert len(outer) == 1
    inner = rectangles(page, "#graph g + g + g + g .box > rect")
    assert len(inner) >= 4, "dense, LayerNorm, and what comes in and goes out"
    assert all(is_in(b, outer[0]) for b in inner)
    assert all(apart(a, b) for i, a in enumerate(inner) for b in inner[i + 1 :])
    assert outer[0]["y"] == pytest.approx(before["y"], abs=2), "it opens where it was"
    assert page.inner_text("#crumbs").split()[-1] == "attention", "and the graph around stays"
    assert page.url.endswith("#encoder.layer.0.attention&in=encoder.layer.0.attention.output")
    page.click(".box:has-text('dense') >> nth=-1")
    assert "encoder.layer.0.attention.output.dense" in page.inner_text("#details")
    assert page.locator("#tree .row.picked").get_attribute("title") == "encoder.layer.0.attention.output.dense"
    page.keyboard.press("e")
    assert page.locator(".box.expanded").count() == 2, "one in the other"
    page.keyboard.press("e")
    box(page, "encoder.layer.0.attention.output").locator(".toggle").first.click()
    assert page.locator(".box.expanded").count() == 0
    page.dblclick(".box.module:has-text('output')")
    assert page.inner_text("#crumbs").split()[-1] == "output", "a double click still steps in"


def test_of_thousands_of_modules_the_tree_draws_some(open_page: Open, tmp_path: Path) -> None:
    """What is not drawn is reached by its row, by the arrows, by search, and by its address."""
    page = open_page(write(tmp_path, chain(*(f"m{number:04}" for number in range(3000)))))
    assert page.locator("#tree .row").count() == 202, "the root, 200 modules, and a row for the others"
    assert page.inner_text("#tree .more") == "… 2800 more"
    page.click("#tree .more")
    assert page.locator("#tree .row").count() == 402
    page.fill("#search", "m2500")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    assert page.inner_text("#crumbs").split()[-1] == "m2500"
    assert page.locator("#tree .row.picked").is_visible()
    assert page.locator("#tree .row").count() == 203
    page.focus("#tree")
    for _ in range(120):
        page.keyboard.press("ArrowDown")
    assert page.inner_text("#crumbs").split()[-1] == "m2620"
    assert page.locator("#tree .row.picked").is_visible()


def test_addresses_lead_back(open_page: Open, bert: Path) -> None:
    page = open_page(bert, at="#encoder.layer.0.attention.self")
    page.click(".box:has-text('Softmax')")
    page.select_option("#metric", "nodes")
    again = open_page(bert, at="#" + page.url.partition("#")[2])
    assert again.inner_text("#details h2") == "Softmax"
    assert again.input_value("#metric") == "nodes"
    assert again.locator(".box.picked").count() == 1
    for odd in ("#%E0%A4%A", "#no.such.module&in=neither&node=none&colour=none&&=", "#&module=encoder.layer.1"):
        assert open_page(bert, at=odd).inner_text("#crumbs") == "BertModel"


def test_weights_have_shapes_and_statistics(open_page: Open, bert: Path) -> None:
    page = open_page(bert, at="#embeddings.word_embeddings")
    weights = page.locator("#details h3:text-is('Weights') + ul").inner_text()
    assert "float32[" in weights
    assert "mean" in weights
    assert "deviation 0.0" in weights


ODD = "it's [a] *star?"


def test_copies_what_other_commands_take(open_page: Open, mx: Mx, tmp_path: Path) -> None:
    """The line is pasted into a shell, and cuts out just that module."""
    onnx.save(chain(ODD, "it's a *star?", "plain"), tmp_path / "-odd $HOME.onnx")
    done = mx("view", "./-odd $HOME.onnx", "-o", "odd.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    page = open_page(tmp_path / "odd.html")
    page.click(f'#tree .row[title="{ODD}"]')
    page.click("button:text-is('Copy scope')")
    page.wait_for_selector("#said:text('Copied: scope')")
    assert page.evaluate("navigator.clipboard.readText()") == ODD
    page.click("button:text-is('Copy mx filter')")
    page.wait_for_selector("#said:text('Copied: command')")
    line = page.evaluate("navigator.clipboard.readText()")
    assert page.inner_text("#details pre") == line
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    shell = subprocess.run(["sh", "-c", line], cwd=tmp_path, env={**os.environ, "PATH": places}, capture_output=True)
    assert shell.returncode == 0, (line, shell.stderr.decode())
    (made,) = set(tmp_path.glob("*.onnx")) - {tmp_path / "-odd $HOME.onnx"}
    assert len(onnx.load(made).graph.node) == 1
    page.click("button:text-is('Copy link')")
    page.wait_for_selector("#said:text('Copied: link')")
    assert page.evaluate("navigator.clipboard.readText()") == page.url


def test_a_screen_reader_is_told(open_page: Open, profiled: Path) -> None:
    page = open_page(profiled)
    assert page.get_by_role("treeitem", name="enc, Enc, time 2 ms 80 %", exact=True).count() == 1
    assert page.get_by_role("option", name="dec, Dec, time 500 µs", exact=True).count() == 1
    page.focus("#tree")
    page.keyboard.press("ArrowDown")
    active = page.get_attribute("#tree", "aria-activedescendant")
    assert page.get_attribute(f"#{active}", "aria-selected") == "true"
    assert page.get_attribute(f"#{active}", "aria-label").startswith("enc,")
    page.keyboard.press("End")
    assert page.inner_text("#crumbs").split()[-1] == "end"
    page.keyboard.press("Home")
    page.keyboard.press("g")
    page.keyboard.press("ArrowDown")
    active = page.get_attribute("#graph", "aria-activedescendant")
    assert page.get_attribute(f"#{active}", "aria-selected") == "true"
    assert page.inner_text("#spoken")
    nameless = page.eval_on_selector_all(
        "button, select, input, [role=tree], [role=listbox], [role=option], [role=treeitem], section, nav, dialog",
        "all => all.filter((e) => e.checkVisibility() && !(e.ariaLabel || e.textContent.trim() || e.labels?.length))"
        ".map((e) => e.outerHTML)",
    )
    assert nameless == []


def test_a_phone_shows_one_pane_and_follows_fingers(open_page: Open, bert: Path) -> None:
    page = open_page(bert, size=PHONE, touch=True)
    assert [page.is_visible(pane) for pane in ("#left", "#graphs", "#details")] == [False, True, False]
    page.tap("#panes button:text('Modules')")
    assert [page.is_visible(pane) for pane in ("#left", "#graphs", "#details")] == [True, False, False]
    assert all(r["height"] >= 40 for r in rectangles(page, "#tree .row"))
    page.tap("#tree .row[title='encoder']")
    assert [page.is_visible(pane) for pane in ("#left", "#graphs", "#details")] == [False, True, False]
    assert page.locator(".box.module:has-text('layer.1')").is_visible()
    page.tap(".box.module:has-text('layer.1')")
    page.tap("#panes button:text('Details')")
    assert page.inner_text("#details code >> nth=0") == "encoder.layer.1"
    page.tap("#details button:text('Open')")
    page.tap("#panes button:text('Graph')")
    assert page.locator(".box.module:has-text('intermediate')").is_visible()
    before, place = box(page, "intermediate").bounding_box(), rectangles(page, "#graph")[0]
    fingers = page.context.new_cdp_session(page)
    middle = place["y"] + place["height"] / 2
    for kind, spread in (("touchStart", 40), ("touchMove", 60), ("touchMove", 80), ("touchEnd", None)):
        points = [] if spread is None else [{"x": 195 + side * spread, "y": middle, "id": side} for side in (-1, 1)]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    after = box(page, "intermediate").bounding_box()
    assert after["width"] > 1.5 * before["width"], "two fingers make it larger"
