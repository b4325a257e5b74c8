"""Pages of `mx view` in headless Chromium: opened, watched for what they must not do, and measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.page import CHROMIUM
from tests.support.paths import ROOT

MUST = os.environ.get("MX_NEEDS_CHROMIUM") == "1"
DESKTOP, PHONE = (1440, 900), (390, 844)
SCREENS = {"light": (DESKTOP, "light"), "dark": (DESKTOP, "dark"), "phone": (PHONE, "light")}
"""Widths and schemes in which a page is looked at."""
PICTURES = ROOT / "build" / "screenshots"

Box = dict[str, float]
Open = Callable[..., Any]
"""Opens a file, with the fragment of its address, a size and a scheme, and returns Playwright's page."""

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and not MUST, reason="no Chromium on this machine: apt-get install chromium"
)


@contextmanager
def chromium() -> Iterator[Any]:
    """Return a running browser; the test is left out without Playwright, and fails without a browser that must be."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'")
    assert CHROMIUM, "MX_NEEDS_CHROMIUM is set, and there is no Chromium: apt-get install chromium"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opening(browser: Any) -> Iterator[Open]:
    """Return what opens pages; afterwards the console must be empty, and nothing but the files was asked for."""
    contexts, said = [], []

    def open_(
        file: Path, scheme: str = "light", *, at: str = "", size: tuple[int, int] = DESKTOP, touch: bool = False
    ) -> Any:
        viewport = {"width": size[0], "height": size[1]}
        context = browser.new_context(viewport=viewport, color_scheme=scheme, has_touch=touch)
        contexts.append(context)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: said.append(request.url) if request.url != file.as_uri() else None)
        page.goto(file.as_uri() + at)
        page.wait_for_selector("#tree .row", state="attached")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert said == []


def picture(page: Any, name: str) -> Path:
    """Write a screenshot where people can look at it; return the file."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    file = PICTURES / f"{name}.png"
    page.screenshot(path=file)
    return file


def is_in(inner: Box, outer: Box, slack: float = 1) -> bool:
    """Return whether a rectangle lies in another one."""
    return (
        inner["x"] >= outer["x"] - slack
        and inner["y"] >= outer["y"] - slack
        and inner["x"] + inner["width"] <= outer["x"] + outer["width"] + slack
        and inner["y"] + inner["height"] <= outer["y"] + outer["height"] + slack
    )


def apart(one: Box, other: Box) -> bool:
    """Return whether two rectangles do not overlap."""
    beside = one["x"] + one["width"] <= other["x"] or other["x"] + other["width"] <= one["x"]
    return beside or one["y"] + one["height"] <= other["y"] or other["y"] + other["height"] <= one["y"]


def rectangles(page: Any, selector: str) -> list[Box]:
    """Return where elements are on the screen, those that are not shown left out."""
    found: list[Box] = page.eval_on_selector_all(
        selector,
        "all => all.map((e) => e.getBoundingClientRect()).filter((r) => r.width && r.height)"
        ".map(({x, y, width, height}) => ({x, y, width, height}))",
    )
    return found


def rows(page: Any) -> list[str]:
    """Return the scopes that the tree shows."""
    found: list[str] = page.eval_on_selector_all("#tree .row", "all => all.map((row) => row.title.split('\\n')[0])")
    return found


def row(page: Any, scope: str) -> dict[str, str]:
    """Return what a row of the tree says, by the classes of its parts."""
    found: dict[str, str] = page.locator("#tree .row").evaluate_all(
        "(all, scope) => Object.fromEntries([...all.find((row) => row.title.split('\\n')[0] === scope).children]"
        ".map((part) => [part.className, part.textContent]))",
        scope,
    )
    return found


def box(page: Any, title: str, pane: str = "#graph") -> Any:
    """Return the first box whose title has a text."""
    return page.locator(f"{pane} .box", has=page.locator("title", has_text=title)).first
