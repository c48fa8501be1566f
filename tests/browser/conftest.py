"""A headless browser that looks at the running demo.

Screenshots go to build/screenshots; with UPDATE_SCREENSHOTS=1 to docs/images, which the documentation shows.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.system.running import ROOT

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PATIENCE_MS = 60_000
PICTURES = ROOT / ("docs/images" if os.environ.get("UPDATE_SCREENSHOTS") else "build/screenshots")
Open = Callable[..., Page]
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        message = "Chromium is not on this machine (Debian: apt-get install chromium)"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Return a function that opens an address in a fresh window; nothing may be asked of other machines."""
    contexts = []
    strangers: list[str] = []

    def opened(url: str, *, width: int = 1360, height: int = 900, scheme: str = "light") -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("request", lambda request: strangers.append(request.url) if _is_foreign(request.url) else None)
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert strangers == []


def _is_foreign(url: str) -> bool:
    return url.startswith(("http:", "https:", "ws:", "wss:")) and "//127.0.0.1:" not in url


def picture(page: Page, name: str) -> None:
    """Keep what the page looks like now."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(1500)  # charts draw after their data has come
    path = Path(PICTURES / f"{name}.png")
    page.screenshot(path=path)
    assert path.stat().st_size > 20_000, "an almost empty picture"
