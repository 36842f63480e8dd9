"""The demo's page in a real browser, with the shipped models.

With SCREENSHOTS=1, the screenshots in docs/ are taken anew.
"""

import os

import pytest
from PIL import Image

from monkeylib import resources
from monkeylib.demo.app import Demo, build_app
from monkeylib.images import open_image
from monkeylib.inference import load_model
from monkeylib.serving.limits import Limits
from tests.support.serving import running


@pytest.fixture(scope="module")
def address(browser):
    monkey = load_model(resources.models() / "nano-monkey")
    base = load_model(resources.models() / "nano-base")
    with running(lambda: build_app(Demo(monkey, "nano-monkey", Limits(), base))) as address:
        yield address


@pytest.fixture()
def demo(page, address):
    page.goto(address)
    page.wait_for_selector("body[data-ready=yes]")
    return page


def idle(page, *names):
    """Wait until nothing is computed any more."""
    for name in names:
        page.wait_for_selector(f"#{name}:not(.busy)", state="attached")


def screenshot(page, name):
    """Write a screenshot into docs/, if they are taken anew: few colours, few bytes."""
    if not os.environ.get("SCREENSHOTS"):
        return
    page.mouse.move(0, 0)
    image = open_image(page.screenshot()).quantize(128, dither=Image.Dither.NONE)
    image.save(resources.REPOSITORY / "docs" / f"demo-{name}.png", optimize=True)


def test_tiles_read_what_one_view_does_not(demo):
    demo.get_by_role("button", name="how much is the juice? small print").click()
    demo.wait_for_selector(".column.right")
    idle(demo, "columns", "grid-image")
    answers = dict(
        zip(
            demo.locator(".column h3").all_inner_texts(),
            demo.locator(".column p").all_inner_texts(),
            strict=True,
        )
    )
    assert answers["tiles, LoRA per tile"] == "1.75" and answers["base model"] != "1.75"
    assert demo.locator(".column.wrong").count() >= 1
    assert demo.locator("#ground-truth").inner_text() == "Right answer: 1.75"
    screenshot(demo, "answers")


def test_grid_moves(demo):
    idle(demo, "grid-image")
    before = demo.locator("#grid-image").get_attribute("src")
    demo.select_option("#grid", "3x3")
    demo.wait_for_function("before => document.getElementById('grid-image').src !== before", arg=before)
    assert "3x3 tiles" in demo.locator("#facts").inner_text()
    assert "answers with its own" in demo.locator("#facts").inner_text()


def test_chat_goes_on_and_takes_images(demo):
    demo.get_by_role("tab", name="Chat").click()
    demo.fill("#utterance", "what shop is this?")
    demo.keyboard.press("Enter")
    demo.wait_for_function(
        "() => document.querySelectorAll('.turn.assistant')[0]?.innerText === 'sunrise 47'"
    )
    idle(demo, "turns")

    demo.set_input_files("#more", resources.samples() / "sign.png")
    demo.wait_for_selector("#attached img")
    demo.fill("#utterance", "what is the total?")
    demo.keyboard.press("Enter")
    demo.wait_for_function("() => document.querySelectorAll('.turn').length === 4")
    idle(demo, "turns")
    assert demo.locator(".turn.user img").count() == 2 and demo.locator("#attached img").count() == 0
    assert demo.locator(".turn.assistant").all_inner_texts()[1].strip(" …")
    screenshot(demo, "chat")

    demo.click("#forget")
    assert demo.locator(".turn").count() == 0


def test_attention_of_a_token(demo):
    demo.get_by_role("tab", name="Attention").click()
    demo.get_by_role("button", name="how much is the juice? small print").click()
    demo.wait_for_selector("#tokens button")
    first = demo.locator("#overlay").get_attribute("src")
    demo.locator("#tokens button").nth(1).click()
    assert demo.locator("#overlay").get_attribute("src") != first
    assert [row.split("\t")[0] for row in demo.locator("#shares tr").all_inner_texts()] == [
        "tile 0", "tile 1", "tile 2", "tile 3", "global view", "text"
    ]  # fmt: skip
    screenshot(demo, "attention")


def test_captions_by_stages(demo):
    demo.get_by_role("tab", name="Captions").click()
    for box in demo.locator("#experts input").all():
        box.set_checked(box.get_attribute("value") == "pp-ocr")
    demo.get_by_role("button", name="Describe the image").click()
    demo.wait_for_selector("#annotated svg")
    idle(demo, "annotated")
    assert "SUNRISE" in demo.locator("#caption-rows").inner_text().upper()
    screenshot(demo, "captions")

    slider = demo.locator("#thresholds input[name=ocr]")
    slider.fill("1")
    demo.wait_for_function(
        "() => document.querySelector('#caption-rows').innerText.includes('lines of text\\t0')"
    )


def test_own_image_and_what_is_none(demo, tmp_path):
    demo.set_input_files("#file", resources.samples() / "coffee.jpg")
    demo.wait_for_function("() => document.getElementById('facts').innerText.includes('600 x 400')")
    assert demo.locator("#questions li").count() == 0

    (tmp_path / "text.png").write_text("no image")
    demo.set_input_files("#file", tmp_path / "text.png")
    demo.wait_for_selector("#error:not([hidden])")
    assert "cannot be read as an image" in demo.locator("#error").inner_text()
