"""The web page in a real browser; skipped where Gradio, playwright or Chromium is not installed."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from networks import tiny_grn
from rectiseg.inference import Wanted
from rectiseg.jobs import plan
from rectiseg.models.combine import Cascade, SceneParser
from rectiseg.prediction import predict_files
from rectiseg.web.session import Session

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

PHOTOGRAPH = Path(__file__).parent.parent / "examples" / "street.jpg"
NAMES = ("sky", "road", "car")
COLORS = ((0, 0, 255), (90, 90, 90), (255, 0, 0))
ANSWER = 60_000  # milliseconds
IMAGES, PREDICTIONS = "input[accept*='.jpg']", "input[accept*='.npy']"


@pytest.fixture(scope="module")
def session() -> Session:
    torch.manual_seed(0)
    front = nn.Conv2d(3, 3, 5, padding=2)
    parser = SceneParser(front, Cascade(tiny_grn(3, iterations=2)), NAMES, COLORS).eval()
    return Session({"tiny": parser}, {"tiny": tiny_grn(3, iterations=2)})


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photograph at half its width."""
    path = tmp_path_factory.mktemp("examples") / "street.jpg"
    Image.open(PHOTOGRAPH).reduce(2).save(path)
    return path


@pytest.fixture(scope="module")
def page(session: Session, street: Path) -> "Iterator[Page]":
    """The page with one model and street.jpg as an example; it fails on any request for another host."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    from rectiseg.web.app import serving

    asked: list[str] = []
    with serving(session, [street]) as address, playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 1400})
        page.set_default_timeout(ANSWER)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        yield page
        browser.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


def shown(page: "Page") -> "Locator":
    """The tab that is open: what is hidden has no role."""
    return page.get_by_role("tabpanel")


def upload(page: "Page", path: Path, kind: str) -> None:
    shown(page).locator(kind).set_input_files(path)
    shown(page).locator(f"a[download='{path.name}']").wait_for()


def press(page: "Page", button: str) -> None:
    shown(page).get_by_role("button", name=button, exact=True).click()


def downloaded(page: "Page", name: str) -> bytes:
    with page.expect_download() as download:
        shown(page).locator(f"a[download='{name}']").click()
    return download.value.path().read_bytes()


def parse_example(page: "Page") -> bytes:
    """Whatever was done on the page before; returns the label map's file."""
    page.reload()
    press(page, "street.jpg")
    shown(page).locator("a[download='street.jpg']").wait_for()
    press(page, "Parse")
    return downloaded(page, "street.png")


def test_an_example_is_parsed(page: "Page"):
    assert len(parse_example(page)) > 0
    page.get_by_text("+GRN 2").first.wait_for()


def test_an_uploaded_image_is_parsed_as_the_command_does_and_its_files_come_down(
    page: "Page", session: Session, street: Path, tmp_path: Path
):
    image = shutil.copy(street, tmp_path / "mine.jpg")
    parse_example(page)
    shown(page).get_by_label("Clear").click()
    upload(page, image, IMAGES)
    press(page, "Parse")
    jobs = plan([image], tmp_path / "out")
    predict_files(session.parsers["tiny"], jobs, NAMES, np.array(COLORS, np.uint8), Wanted(probabilities=True))
    for name in ("mine.png", "mine_probabilities.safetensors"):
        assert downloaded(page, name) == (tmp_path / "out" / name).read_bytes()


def test_the_slider_moves_and_with_it_the_edge(page: "Page"):
    parse_example(page)
    after, handle = page.locator(".slider-wrap img").last, page.locator(".slider-wrap [data-testid=slider]")
    assert after.evaluate("image => image.style.clipPath") == "inset(0px 0px 0px 50%)"
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 150, y, steps=5)
    page.mouse.up()
    moved = handle.bounding_box()
    assert moved is not None
    assert moved["x"] == pytest.approx(box["x"] - 150, abs=2)
    share = after.evaluate("image => parseFloat(image.style.clipPath.split(' ').at(-1))")
    assert 20 < share < 35


def test_a_broken_file_is_explained(page: "Page", tmp_path: Path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    parse_example(page)
    shown(page).get_by_label("Clear").click()
    upload(page, tmp_path / "broken.jpg", IMAGES)
    press(page, "Parse")
    page.get_by_text("broken.jpg: empty, broken or not one of").first.wait_for()


def test_a_prediction_of_another_model_is_refined(page: "Page", session: Session, street: Path, tmp_path: Path):
    generator = torch.Generator().manual_seed(0)
    prediction = tmp_path / "street.npy"
    np.save(prediction, torch.randn(3, 28, 47, generator=generator).numpy())
    page.get_by_role("tab", name="Refine a prediction").click()
    upload(page, street, IMAGES)
    upload(page, prediction, PREDICTIONS)
    press(page, "Refine")
    labels, _ = session.refine("tiny", street, prediction).save(tmp_path / "out", "street")
    assert downloaded(page, "street.png") == labels.read_bytes()
