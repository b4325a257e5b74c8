"""The page of `mx report` in headless Chromium: 2 000 rows open, search, filters, order and links work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mxtools.fleet.changes import changes
from mxtools.fleet.job import FailureClass, JobReport
from mxtools.fleet.page import fleet_page
from tests.support.browsing import DESKTOP, needs_chromium, picture
from tests.support.fleets import changed_figure, failing, fleet, found, write

pytestmark = needs_chromium

MODELS, ROWS = 334, 2004
MOST_SECONDS = 4.0
"""Twice what the page may take: the machine runs other tests too. `benchmarks/fleet.py` measures it alone."""
HOSTILE = "<script>alert(1)</script> | </script>"


def runs() -> tuple[list[JobReport], list[JobReport]]:
    """Return an earlier run, and one in which some jobs fail, one lost fidelity and one is gone."""
    before = fleet(MODELS)
    after = dict(before)
    for number in range(0, MODELS, 10):
        key = (f"model-{number}", "dynamo", "")
        after[key] = failing(before[key], "export", FailureClass.INPUT, f"operator {number} is {HOSTILE}")
    lost = ("model-7", "torchscript", "int8")
    after[lost] = changed_figure(before[lost], "fidelity", 0.125)
    del after["model-8", "dynamo", "slim"]
    return [*before.values()], [*after.values()]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet")
    before, after = runs()
    write(folder / "jobs", after)
    told = changes(found(before), found(after))
    (folder / "jobs.html").write_text(fleet_page("jobs", found(after), folder / "jobs", folder, told))
    return folder / "jobs.html"


@pytest.fixture
def page(browser: Any, page_file: Path) -> Iterator[Any]:
    """Open the page; afterwards the console must be empty."""
    context = browser.new_context(viewport={"width": DESKTOP[0], "height": DESKTOP[1]})
    opened, said = context.new_page(), []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("dialog", lambda dialog: said.append(dialog.message))
    opened.goto(page_file.as_uri())
    yield opened
    context.close()
    assert said == []


def rows(page: Any) -> list[list[str]]:
    """Return the texts of the rows that are shown."""
    return page.eval_on_selector_all(
        "#rows > tr:not(.more)", "all => all.map((row) => [...row.children].map((cell) => cell.textContent))"
    )


def test_two_thousand_rows_open_soon(browser: Any, page_file: Path) -> None:
    times = []
    for _ in range(3):
        page = browser.new_page()
        start = time.perf_counter()
        page.goto(page_file.as_uri())
        page.wait_for_selector("#rows tr")
        times.append(time.perf_counter() - start)
        assert page.locator("#rows tr").count() == ROWS
        page.close()
    assert min(times) < MOST_SECONDS


def test_search_and_filters_leave_the_rows_that_are_wanted(page: Any) -> None:
    picture(page, "fleet")
    assert page.inner_text("#count") == "2004 of 2004 jobs, 35 failed"
    page.fill("#search", "model-33 DYNAMO")
    assert [row[:3] for row in rows(page)] == [
        [name, "dynamo", tool]
        for name in ("model-33", *(f"model-33{n}" for n in range(4)))
        for tool in ("", "int8", "slim")
    ]
    page.select_option("#tool", "slim")
    assert [row[0] for row in rows(page)] == ["model-33", "model-330", "model-331", "model-332", "model-333"]
    page.select_option("#tool", "")
    page.select_option("#result", "input")
    assert [row[:3] for row in rows(page)] == [["model-330", "dynamo", ""]]
    page.fill("#search", "no such model")
    assert page.is_visible("#none")


def test_what_changed_is_shown(page: Any) -> None:
    page.select_option("#change", "worse")
    shown = {tuple(row[:3]): row[-1] for row in rows(page)}
    assert len(shown) == 34 + 2
    assert "fidelity 0.9500 → 0.1250" in shown["model-7", "torchscript", "int8"]
    assert shown["model-8", "dynamo", "slim"].startswith("missing")
    picture(page, "fleet-changes")


def test_a_head_sorts_by_numbers_and_what_is_not_known_comes_last(page: Any) -> None:
    page.click("th button:has-text('fidelity')")
    assert rows(page)[0][:4] == ["model-7", "torchscript", "int8", "0.1250"]
    assert rows(page)[-1][3] == ""
    page.click("th button:has-text('fidelity')")
    assert rows(page)[0][3] == "0.9500"
    assert rows(page)[-1][3] == ""
    page.click("th button:has-text('model')")
    page.click("th button:has-text('model')")
    assert rows(page)[0][0] == "model-333"


def test_a_row_opens_on_its_steps_and_its_log(page: Any) -> None:
    page.select_option("#result", "input")
    page.click("#rows tr >> nth=0")
    opened = page.inner_text("#rows tr.more")
    assert "mx export model-0" in opened
    assert f"mx export: operator 0 is {HOSTILE}" in opened
    assert "mend it" in opened
    page.keyboard.press("Tab")
    page.click("#rows tr >> nth=0")
    assert page.locator("#rows tr.more").count() == 0


def test_links_lead_to_the_pages_of_models_and_to_reports(page: Any) -> None:
    page.fill("#search", "model-5 torchscript int8")
    page.click("#rows tr >> nth=0")
    report = page.locator("#rows tr.more a").get_attribute("href")
    assert report == "jobs/model-5/torchscript/int8/report.job.json"
    page.click("#rows tr:not(.more) a >> nth=0")
    page.wait_for_load_state()
    assert page.title() == "model-5 torchscript int8"


def test_the_address_keeps_the_filters(page: Any) -> None:
    page.fill("#search", "model-1")
    page.select_option("#tool", "")
    before = rows(page)
    assert page.url.endswith("#tool=&search=model-1") or page.url.endswith("#search=model-1&tool=")
    page.reload()
    assert rows(page) == before
