"""A headless Chromium, for `make test-browser`."""

import os
import shutil
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_CHROMIUM = "there is no Chromium: install it or Google Chrome, or name one in CHROMIUM"


def find_chromium(playwright):
    """Return the path of Chromium: the one in CHROMIUM, the machine's, or playwright's; None without any."""
    if path := os.environ.get("CHROMIUM"):
        return path
    paths = [path for name in NAMES if (path := shutil.which(name))]
    own = playwright.chromium.executable_path
    return next(iter([*paths, *([own] if Path(own).exists() else [])]), None)


def pytest_terminal_summary(terminalreporter):
    """Say aloud that nothing was tested, where a run of points and letters would hide it."""
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum(NO_CHROMIUM in str(report.longrepr) for report in skipped)
    if count:
        terminalreporter.section("NOT TESTED IN A BROWSER", sep="!", red=True, bold=True)
        terminalreporter.line(f"{count} tests were skipped: {NO_CHROMIUM}.")


@pytest.fixture(scope="package")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="`make test-browser` has it")
    with sync_api.sync_playwright() as playwright:
        path = find_chromium(playwright)
        if path is None:
            pytest.skip(NO_CHROMIUM)
        # Its sandbox takes rights that a container may not have; only our own page is opened.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture()
def page(browser):
    """A page that fails the test if its script fails, or if it asks for anything elsewhere."""
    page = browser.new_page(viewport={"width": 1240, "height": 900})
    page.set_default_timeout(120_000)
    errors, addresses = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: addresses.append(request.url))
    yield page
    page.close()

    assert errors == []
    assert [address for address in addresses if not address.startswith(("http://127.0.0.1", "data:"))] == []
