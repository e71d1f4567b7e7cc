"""A browser for pages, a plugin: a module that uses it says ``pytest_plugins = ["helpers.browser"]``."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from helpers.pages import SCREENSHOTS


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not SCREENSHOTS["CHROMIUM"].is_file():
        pytest.skip(f"there is no {SCREENSHOTS['CHROMIUM']} to open the page with")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=SCREENSHOTS["CHROMIUM"], args=SCREENSHOTS["OPTIONS"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a file, with options of a browser's window; at the end nothing may have gone wrong or been fetched in any."""
    wrong: list[str] = []
    pages: list[Page] = []

    def opened(path: Path, **options: Any) -> Page:
        page = browser.new_page(**options)
        pages.append(page)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        own = (path.as_uri(), "data:", "blob:")  # the last is what the page has made itself
        page.on("request", lambda request: None if request.url.startswith(own) else wrong.append(request.url))
        page.goto(path.as_uri())
        return page

    yield opened
    for page in pages:
        page.close()
    assert wrong == []
