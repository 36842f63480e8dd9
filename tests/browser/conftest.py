"""A headless Chromium, for `make test-browser`."""

import os
import shutil

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="package")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="`make test-browser` has it")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: install one, or name it in CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        # Its sandbox takes rights that a container may not have; only our own page is opened.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
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
