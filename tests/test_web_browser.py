"""The web page in a real browser; skipped where Gradio, playwright or Chromium is not installed."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from networks import tiny_grn
from rectiseg.data.images import read_image
from rectiseg.inference import plan, predict_files
from rectiseg.models.combine import Cascade, SceneParser
from rectiseg.web.session import Session

if TYPE_CHECKING:
    from playwright.sync_api import Page

STREET = Path(__file__).parent.parent / "examples" / "street.jpg"
NAMES = ("sky", "road", "car")
COLORS = ((0, 0, 255), (90, 90, 90), (255, 0, 0))
ANSWER = 60_000  # milliseconds


@pytest.fixture(scope="module")
def parser() -> SceneParser:
    torch.manual_seed(0)
    return SceneParser(nn.Conv2d(3, 3, 5, padding=2), Cascade(tiny_grn(3)), NAMES, COLORS).eval()


@pytest.fixture(scope="module")
def page(parser: SceneParser) -> "Iterator[Page]":
    """The page with one model and street.jpg as an example; it fails on any request for another host."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    from rectiseg.web.app import serving

    asked: list[str] = []
    session = Session({"tiny": parser}, {"tiny": parser.refiner})
    with serving(session, [STREET]) as address, playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 1400})
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.get_by_role("button", name="Parse", exact=True).wait_for(timeout=ANSWER)
        yield page
        browser.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


def test_an_uploaded_image_is_parsed_as_the_command_does_and_its_files_come_down(
    page: "Page", parser: SceneParser, tmp_path: Path
):
    page.locator("input[type=file]").first.set_input_files(STREET)
    page.get_by_text("street", exact=False).first.wait_for()
    page.get_by_role("button", name="Parse", exact=True).click()
    link = page.locator("a[download='street.png']").first
    link.wait_for(timeout=ANSWER)
    with page.expect_download() as download:
        link.click()
    download.value.save_as(tmp_path / "down.png")
    predict_files(parser, plan([STREET], tmp_path / "out"), NAMES, np.array(COLORS, np.uint8))
    assert (tmp_path / "down.png").read_bytes() == (tmp_path / "out" / "street.png").read_bytes()
    assert read_image(tmp_path / "down.png").shape == (3, 540, 960)


def test_the_slider_moves(page: "Page"):
    slider = page.locator(".slider-wrap").first
    slider.scroll_into_view_if_needed()
    before, box = slider.screenshot(), slider.bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 150, middle, steps=5)
    page.mouse.up()
    assert slider.screenshot() != before


def test_a_broken_file_is_explained(page: "Page", tmp_path: Path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    page.get_by_label("Clear", exact=False).first.click()
    page.locator("input[type=file]").first.set_input_files(tmp_path / "broken.jpg")
    page.get_by_text("broken", exact=False).first.wait_for()
    page.get_by_role("button", name="Parse", exact=True).click()
    page.get_by_text("broken.jpg: empty, broken or not one of").first.wait_for(timeout=ANSWER)
