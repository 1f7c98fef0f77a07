"""The report in a real browser; skipped where playwright or Chromium is not installed."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from test_report import Told, written

if TYPE_CHECKING:
    from playwright.sync_api import Page

PHONE = 390  # pixels


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Page]":
    """The page of three images, on a phone in dark mode; it fails on any error and any request but for itself."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    path: Path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(written(Told()), encoding="utf-8")
    said: list[str] = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": PHONE, "height": 800}, color_scheme="dark")
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url))
        page.goto(path.as_uri())
        yield page
        browser.close()
    assert [text for text in said if not text.startswith(("data:", path.as_uri()))] == []


def style(page: "Page", selector: str, name: str) -> str:
    return page.evaluate(f"getComputedStyle(document.querySelector({selector!r})).getPropertyValue({name!r})")


def test_the_arrow_keys_move_the_slider_and_with_it_the_edge(page: "Page"):
    slider, edge = page.locator(".cut").first, page.locator(".edge").first
    before = edge.bounding_box()
    slider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert slider.input_value() == "60"
    assert style(page, ".compare", "--cut") == "60%"
    after = edge.bounding_box()
    assert before is not None
    assert after is not None
    assert after["x"] > before["x"]
    assert style(page, ".compare .right", "clip-path") == "inset(0px 0px 0px 60%)"


@pytest.mark.parametrize(
    ("choice", "visible"),
    [("input", []), ("truth", ["truth"]), ("before", ["before"])],
    ids=["image", "truth", "front"],
)
def test_the_left_side_is_what_was_chosen(choice: str, visible: list[str], page: "Page"):
    page.locator(f".compare input[value={choice}]").first.check()
    sides = {side: style(page, f".compare .{side}", "visibility") for side in ("before", "truth")}
    assert [side for side, shown in sides.items() if shown == "visible"] == visible


def test_it_fits_a_phone_and_follows_dark_mode(page: "Page"):
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE
    assert style(page, "body", "background-color") == "rgb(22, 24, 27)"
