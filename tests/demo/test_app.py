"""The demo's routes, over HTTP and without a browser."""

import json
import urllib.error
import urllib.request
from base64 import b64decode
from io import BytesIO

import pytest

from monkeylib import resources
from monkeylib.demo.app import _SIDE, Demo, build_app
from monkeylib.explore.answers import BASE
from monkeylib.images import open_image
from monkeylib.raised_monkey import RaisedMonkey
from monkeylib.serving.limits import Limits
from tests.support import random_monkey
from tests.support.raised_models import raise_base, save_base
from tests.support.serving import data_url, image_part, running, user

PATH = {"role": "user", "content": [image_part("/etc/passwd"), {"type": "text", "text": "x"}]}


@pytest.fixture(scope="module")
def demo_monkey():
    monkey = random_monkey.make_monkey()
    random_monkey.train_loras(monkey.model)
    monkey.model.eval()
    return monkey


@pytest.fixture(scope="module")
def address(demo_monkey):
    def build():
        return build_app(Demo(demo_monkey, "tiny", Limits(max_images=2), base=demo_monkey))

    with running(build) as address:
        yield address


@pytest.fixture()
def image(make_image):
    return make_image(3)


def send(address, path, body=None, **headers):
    """Send a request, and return status, type and content of the answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def post(address, path, body):
    """Return the answer to a request, or the sentence that refuses it."""
    status, _, content = send(address, path, body)
    parsed = json.loads(content)
    return parsed if status == 200 else parsed["error"]["message"]


def test_page_loads_nothing_from_elsewhere(address):
    for path, kind in (
        ("/", "text/html"),
        ("/static/style.css", "text/css"),
        ("/static/script.js", "text/javascript"),
    ):
        status, headers, content = send(address, path)
        assert status == 200 and headers["Content-Type"].startswith(kind)
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert b"http://" not in content and b"https://" not in content


def test_no_other_file_is_sent(address):
    for path in (
        "/static/index.html",
        "/static/..%2Fapp.py",
        "/samples/..%2F..%2FREADME.md",
        "/samples/x.png",
    ):
        assert send(address, path)[0] == 404, path
    status, headers, content = send(address, "/samples/receipt.png")
    assert status == 200 and content.startswith(b"\x89PNG")


def test_start_lists_the_choices(address):
    start = json.loads(send(address, "/api/start")[2])
    assert start["titles"] == [BASE, "one view", "tiles, no LoRA", "tiles, LoRA per tile"]
    assert (start["model"], start["grid"]) == ("tiny", "2x2")
    # Of an image; a request holds it as text, and more than once.
    assert start["max_bytes"] == Limits().max_bytes // 3
    assert set(start["answer_grids"]) <= set(start["grids"]) and "2x2" in start["answer_grids"]
    truths = {question["question"]: question["ground_truth"] for question in start["questions"]}
    assert truths["how much is the juice?"] == "1.75"


@pytest.fixture(scope="module", params=["2x3", "auto:6"])
def raised_address(request, tmp_path_factory):
    base = save_base(tmp_path_factory.mktemp("base") / "llava")
    raised = raise_base(base, request.param)
    monkey = RaisedMonkey(raised.model, raised.processor)
    with running(lambda: build_app(Demo(monkey, "raised", Limits()))) as address:
        yield address, monkey


def test_page_of_a_raised_model(raised_address, image):
    address, monkey = raised_address
    start = json.loads(send(address, "/api/start")[2])
    is_automatic = monkey.conversations.views.grids.max_tiles is not None
    assert start["titles"] == ["one view", "tiles, LoRA per tile"] and not start["has_attention"]
    assert start["grid"] == ("auto" if is_automatic else "2x3")
    # What it has adapters for.
    assert "2x3" in start["grids"] and ("6x1" in start["grids"]) is is_automatic
    assert set(start["answer_grids"]) == {start["grid"], *start["grids"]}

    for grid in ("", start["grid"], "1x2"):
        tiles = post(address, "/api/tiles", {"image": data_url(image), "grid": grid})
        tokens = monkey.prepare([image], ["x"], grid=grid if grid == "1x2" else None)["input_ids"]
        visual_tokens = int((tokens == monkey.model.config.image_token_id).sum())
        assert ["visual tokens", str(visual_tokens)] in tiles["rows"]
    assert "no grid called '3x3'" in post(address, "/api/tiles", {"image": data_url(image), "grid": "3x3"})

    body = {"messages": [user(image, "a")], "grid": "1x2"}
    events = send(address, "/api/answers", body)[2].decode().split("\n\n")
    texts = json.loads(events[-3].removeprefix("data: "))["texts"]
    assert texts["tiles, LoRA per tile"] == monkey.answer(image, "a", grid="1x2", max_new_tokens=128).text
    assert texts["one view"] == monkey.answer(image, "a", grid=(0, 0), max_new_tokens=128).text
    body = {"image": data_url(image), "question": "a"}
    assert "this needs a Monkey, got a raised model" in post(address, "/api/attention", body)


def test_tiles(address, image):
    tiles = post(address, "/api/tiles", {"image": data_url(image), "grid": "3x1"})
    assert ["grid", "3x1 tiles"] in tiles["rows"]
    assert tiles["grid"].startswith("data:image/png;base64,") and tiles["views"] != tiles["grid"]
    assert "no grid called '40x40'" in post(
        address, "/api/tiles", {"image": data_url(image), "grid": "40x40"}
    )


def test_answers_stream_side_by_side(address, demo_monkey, image):
    body = {"messages": [user(image, "x")], "grid": "2x2"}
    status, headers, content = send(address, "/api/answers", body)
    events = [line.removeprefix("data: ") for line in content.decode().split("\n\n") if line]
    assert status == 200 and headers["Content-Type"].startswith("text/event-stream")
    assert events[-1] == "[DONE]" and len(events) > 4
    texts = json.loads(events[-2])["texts"]
    assert texts["tiles, LoRA per tile"] == demo_monkey.answer(image, "x").text
    assert len(texts) == 4


def test_question_that_is_too_long_is_told_in_the_words_of_the_page(address, image):
    status, _, content = send(
        address, "/api/answers", {"messages": [user(image, "who? " * 20_000)], "grid": "2x2"}
    )
    assert "max_new_tokens" not in content.decode()
    assert "shorten the question, press New conversation" in content.decode()


def test_attention(address, demo_monkey, image):
    attention = post(address, "/api/attention", {"image": data_url(image), "question": "x"})
    assert attention["tokens"][0] == "all" and len(attention["tokens"]) == len(attention["maps"])
    assert [name for name, _ in attention["maps"][1]["shares"]][-2:] == ["global view", "text"]

    # With the colour bar of the scale that all tokens share beside the image.
    drawn = [open_image(BytesIO(b64decode(one["image"].partition(",")[2]))) for one in attention["maps"]]
    assert len({one.size for one in drawn}) == 1
    bars = [one.crop((_SIDE, 0, *one.size)).tobytes() for one in drawn]
    assert drawn[0].width > _SIDE + 50 and max(map(len, map(set, bars))) > 30


def test_captions(address, monkeypatch):
    # The expert that reads text brings its weights in its package.
    image = data_url(open_image(resources.samples() / "sign.png"))
    request = {"image": image, "experts": ["pp-ocr"]}
    result = post(address, "/api/captions", {**request, "thresholds": {"ocr": 0.5}})
    assert [stage["svg"][:4] for stage in result["stages"]] == ["<svg"] * 2
    assert result["thresholds"] == {"ocr": 0.5, "same_caption": 0.6}
    # What one reader has moved doesn't stay for the next one.
    assert post(address, "/api/captions", request)["thresholds"]["ocr"] == 0.85
    assert "no threshold called 'yolox'" in post(
        address, "/api/captions", {**request, "thresholds": {"yolox": 0.5}}
    )
    assert "choose at least one" in post(address, "/api/captions", {"image": image, "experts": []})
    assert "no expert called 'x'" in post(address, "/api/captions", {"image": image, "experts": ["x"]})


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("/api/tiles", {"image": "/etc/passwd"}, "expected a data URL"),
        ("/api/attention", {"image": "http://127.0.0.1/a.png"}, "expected a data URL"),
        ("/api/captions", {"image": ["data:"]}, "expected a data URL"),
        ("/api/answers", {"messages": [PATH]}, "opens nothing else"),
        ("/api/answers", {"messages": [user("x")]}, "there is no image yet"),
        ("/api/answers", {"messages": []}, "expected a list of objects"),
        ("/api/tiles", {"image": "data:image/png;base64,AAAA"}, "cannot be read as an image"),
        ("/api/tiles", [], "expected a JSON object"),
    ],
)  # fmt: skip
def test_no_path_and_no_address_is_opened(address, path, body, sentence):
    assert sentence in post(address, path, body)


def test_chat_api_is_there_too(address, demo_monkey, image):
    body = {"model": "tiny", "messages": [user(image, "x")], "max_tokens": 3}
    choice = post(address, "/v1/chat/completions", body)["choices"][0]
    assert choice["message"]["content"] == demo_monkey.answer(image, "x", max_new_tokens=3).text
    assert send(address, "/", Host="evil.example")[0] == 403
