"""Takes the pictures of a search's page, docs/search-page.png and docs/search-page-phone.png:

python docs/screenshots.py MODEL/search/SEARCH/report.html
"""

from __future__ import annotations

import argparse
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, FloatRect, Page, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]
COLOURS = 256
BUDGET = "700"  # of 1000, with which some members are over the budget, and some within the error of the best
MARGIN = 18  # pixels below the table
DESKTOP, PHONE = {"width": 1200, "height": 1060}, {"width": 390, "height": 844}


def take(browser: Browser, report: Path, folder: Path) -> tuple[Path, Path]:
    """Writes both pictures.

    Args:
        browser: the browser.
        report: report.html of a search.
        folder: folder of the pictures.

    Returns:
        Paths of the picture of a desktop and of that of a phone, where a member was tapped.
    """
    desktop, phone = folder / "search-page.png", folder / "search-page-phone.png"
    page = browser.new_page(viewport=DESKTOP)
    page.goto(report.resolve().as_uri())
    page.locator("#budget").fill(BUDGET)
    page.locator("#budget").blur()
    table = page.locator("section", has=page.locator("#choices")).bounding_box()
    assert table is not None
    _shoot(page, desktop, table["y"] + table["height"] + MARGIN)
    page = browser.new_page(viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2)
    page.goto(report.resolve().as_uri())
    dots = page.locator("#chart .choice.best:not(.chosen)")
    dots.nth(dots.count() // 2).tap()
    _shoot(page, phone, PHONE["height"])
    return desktop, phone


def _shoot(page: Page, path: Path, height: float) -> None:
    """The page from its top down to ``height``, with few colours, which makes a small file."""
    clip: FloatRect = {"x": 0, "y": 0, "width": page.evaluate("innerWidth"), "height": height}
    with Image.open(BytesIO(page.screenshot(full_page=True, clip=clip))) as image:
        image.convert("RGB").quantize(COLOURS, kmeans=COLOURS).save(path, optimize=True)
    page.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        take(browser, parser.parse_args().report, Path(__file__).parent)
