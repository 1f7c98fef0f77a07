"""Take a picture of a report, as docs/report.md shows it. Needs playwright and Chromium.

rectiseg report --images examples -o report.html
python benchmarks/screenshot.py report.html docs/report.jpg
"""

import shutil
from pathlib import Path

import tyro
from tyro.conf import Positional


def main(report: Positional[Path], picture: Positional[Path]) -> None:
    """Open the report in a browser without a window and save what it shows first.

    Args:
        report: The page, .html.
        picture: The file to write, .jpg.
    """
    from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 1240})
        page.goto(report.resolve().as_uri())
        page.screenshot(path=picture, type="jpeg", quality=55, full_page=True)
        browser.close()


if __name__ == "__main__":
    tyro.cli(main)
