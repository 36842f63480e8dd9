"""A vision model behind an endpoint as expert and judge: what is sent, what is kept, and what it may cost."""

import json
import re

import pytest
from PIL import Image

from monkeylib.captions.annotations import Caption, ExpertOutput, Region
from monkeylib.captions.composers.budget import Prices
from monkeylib.captions.composers.chat import ChatComposer
from monkeylib.captions.composers.chat_client import AnswerRejected, ChatFailed, RetryPolicy
from monkeylib.captions.composers.chat_model import IMAGE, MODEL
from monkeylib.captions.experts.chat_judge import STATEMENTS, ChatJudge
from monkeylib.captions.experts.chat_vision import ChatVision
from monkeylib.captions.input_images import InputImage
from monkeylib.captions.pipeline import RECORDS, Pipeline
from monkeylib.captions.record_files import read_records
from monkeylib.captions.registry import load_experts, load_matcher
from tests.captions.composers.test_chat_images import sent_image
from tests.support import chat_server
from tests.support.caption_models import Colours

POLICY = RetryPolicy(attempts=1, failed_requests=1000, timeout=60, first_delay=0.01)
CAPTION = "A red wall with a green door on the left."


@pytest.fixture()
def server(monkeypatch):
    pytest.importorskip("openai")
    with chat_server.serving(monkeypatch) as served:
        served.otherwise = answer
        yield served


def said(text, **more):
    return {"content": text, **more}


def answer(body):
    """Say yes to what is red, no to anything else, and describe what nothing is said about."""
    text, _ = body["messages"][0]["content"]
    statements = re.findall(r"^(\d+): (.*)$", text["text"], re.MULTILINE)
    if not statements:
        return said(CAPTION)
    return said("\n".join(f"{number}: {'Yes' if 'red' in line else 'no'}." for number, line in statements))


def make_inputs(folder, count=2):
    inputs = []
    for number in range(count):
        path = folder / f"{number}.png"
        Image.new("RGB", (100, 50), (250, number, 0)).save(path)
        inputs.append(InputImage(path, path.name))
    return inputs


class Guesses(Colours):
    """Names a right and a wrong object in two regions, and twice in one."""

    name = "guesses"

    def _describe(self, pixels):
        height, width = pixels.shape[:2]
        left, right = (0, 0, width / 2, height), (width / 2, 0, width, height)
        regions = [(left, "red wall"), (left, "blue sky"), (right, "green dog"), (right, "red door")]
        return ExpertOutput(
            regions=tuple(Region(box=box, text=text, score=0.9, expert=self.name) for box, text in regions)
        )


def test_expert_and_judge_see_each_image_capped_in_size(server, tmp_path, monkeypatch):
    monkeypatch.setenv(IMAGE, "40")
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path / "outputs"))
    names = [expert.name for expert in load_experts("vision")]
    assert names == ["chat-vision", "pp-ocr"] and load_matcher("auto", "vision").name == "chat-judge"

    pipeline = Pipeline([load_experts("chat-vision")[0], Guesses()], load_matcher("chat-judge"), batch_size=2)
    summary = pipeline.run(make_inputs(tmp_path), tmp_path / "out", progress=False)
    assert summary.described == 2
    for record in read_records(tmp_path / "out" / RECORDS):
        assert record.captions == (Caption(text=CAPTION, expert="chat-vision"),)
        assert [(region.text, region.match) for region in record.regions] == [
            ("red wall", 1),
            ("red door", 1),
        ]
        assert {item.text for item in record.dropped} == {"blue sky", "green dog"}
        sides = {item.expert: item.settings.get("image_side") for item in record.provenance}
        assert sides["chat-vision"] == sides["chat-judge"] == 40

    # One request for each image, and one for each crop with all that is said of it.
    sizes = []
    for _, _, body in server.requests:
        text, image = body["messages"][0]["content"]
        sizes.append(sent_image(image).size)
        assert ("red wall" in text["text"]) == ("blue sky" in text["text"])
    assert sorted(sizes) == [(40, 20)] * 2 + [(40, 40)] * 4

    # Files keep no image, and another run sends nothing.
    kept = [path.read_text() for path in (tmp_path / "outputs").rglob("*.json")]
    assert len(kept) == 6 and not any("base64" in text for text in kept)
    pipeline.run(make_inputs(tmp_path), tmp_path / "again", progress=False)
    assert len(server.requests) == 6


BEHAVIOURS = {
    "refusal": said("I'm sorry, but I can't assist with that request."),
    "no image": said("No image was provided: please upload it."),
    "Chinese": said("这是一张图片，上面有文字。"),
    "French": said("Un chat noir est assis sur un tapis rouge devant la maison du village."),
    "markup": said("<b>A red wall</b> with a green door."),
    "terminal": said("A red wall \x1b[2J with a green door."),
    "coordinates": said("A red wall at [0.10, 0.20, 0.30, 0.40] with a green door."),
    "sentences": said("A red wall with a door. " * 7),
    "again and again": said("the red wall with the green door " * 30),
    "megabytes": said("word " * 400_000),
    "says nothing": said("It is a picture."),
    "empty": "empty",
    "cut": "length",
    "filtered": "content_filter",
    "half": "half",
    "HTML": "garbage",
    "server error": (500, {}, "echo"),
}


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_answer_that_is_no_caption_is_a_failure_and_not_kept(server, tmp_path, name):
    server.otherwise = BEHAVIOURS[name]
    image = Image.new("RGB", (20, 20))
    (output,) = ChatVision(tmp_path, retry_policy=POLICY).annotate([image])
    assert isinstance(output, ChatFailed), output
    with pytest.raises(ChatFailed):
        ChatJudge(tmp_path, retry_policy=POLICY).match([image], ["a red wall"])
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    "text",
    ["yes", "1: yes", "1: yes\n2: maybe", "1: yes\n1: no", "1: yes\n2: no\n3: yes", "2: no\nso:\n1: no"],
)
def test_judgement_that_leaves_something_open_is_asked_for_again(server, tmp_path, text):
    judge, image = ChatJudge(tmp_path, retry_policy=POLICY), Image.new("RGB", (20, 20))
    server.script = [said(text)]
    assert judge.match([image, image], ["a blue\n1: sky", "red"]) == [0, 1]
    _, objection = (turn["content"] for turn in server.requests[1][2]["messages"][1:])
    assert "there must be 2 lines" in objection and objection.endswith("and nothing else.")

    server.otherwise = said(text)
    with pytest.raises(AnswerRejected, match="2 answers were rejected"):
        judge.match([image, image], ["green", "red"])


def test_many_statements_are_divided(server, tmp_path):
    image = Image.new("RGB", (20, 20))
    texts = [("red" if number % 3 else "blue") for number in range(2 * STATEMENTS + 1)]
    scores = ChatJudge(tmp_path).match([image] * len(texts), texts)
    assert scores == [float(text == "red") for text in texts] and len(server.requests) == 3


def test_all_models_of_a_run_share_one_budget_over_restarts(server, tmp_path):
    inputs = make_inputs(tmp_path, count=6)
    limits = {
        "maximum_dollars": 3.2, "prices": Prices(1000.0, 1000.0), "answer_tokens": 50,
        "retry_policy": POLICY, "image_side": 28, "concurrency": 2,
    }  # fmt: skip

    def compose(body):
        return said("A red wall.") if "You write captions" in str(body) else answer(body)

    server.otherwise = compose
    described = []
    for _ in range(3):
        cache = tmp_path / "chat"
        models = ChatVision(cache, **limits), ChatJudge(cache, **limits), ChatComposer(cache, **limits)
        pipeline = Pipeline([models[0], Guesses()], models[1], models[2], max_failures=0)
        summary = pipeline.run(inputs, tmp_path / "out", progress=False)
        described.append(summary.described)

        accounts = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("spending*.json")]
        assert len(accounts) == 3
        spent = sum(account["spent"]["dollars"] for account in accounts)
        assert 0 < spent <= 3.2
    # The server counts fewer tokens than are reserved: what is left goes on, and never beyond the limit.
    assert 0 < described[-1] < 6 and summary.pending == 6 - described[-1]


def test_missing_model_is_named_before_the_first_image(server, monkeypatch):
    monkeypatch.delenv(MODEL)
    with pytest.raises(ValueError, match="MONKEYLIB_CHAT_MODEL isn't set"):
        ChatVision().check()
    with pytest.raises(ValueError, match="has to see an image"):
        ChatJudge(image_side=0)


def test_estimate_counts_images_and_what_is_said_of_them():
    prices = Prices(1.0, 1.0)
    assert "3 requests to " in ChatVision(prices=prices, image_side=28).estimate(3)
    assert "30 requests to " in ChatJudge(prices=prices, image_side=28).estimate(3)
