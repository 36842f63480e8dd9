"""A run against a chat model that misbehaves in every way: nothing that is no caption gets the status ok."""

import json
import re

import pytest
from PIL import Image

from monkeylib.captions.composers.budget import Prices
from monkeylib.captions.composers.chat import ChatComposer
from monkeylib.captions.composers.chat_client import RetryPolicy
from monkeylib.captions.composers.chat_model import BASE_URL
from monkeylib.captions.input_images import InputImage
from monkeylib.captions.pipeline import SPENDING, Pipeline
from monkeylib.captions.record_files import RECORDS, read_records
from tests.support import chat_server

KEY, PASSWORD = "sk-a-key-that-nobody-may-see", "PASSWORD123"


def said(text, **more):
    return {"content": text, **more}


# What the endpoint does, and the kind of the failure that the record gets. `test_http_limits` has slow ones.
GOOD = {"a caption": said("A black cat on a red mat."), "capitals": "answer"}
BEHAVIOURS = {
    "refusal": (said("I'm sorry, but I can't assist with that request."), "rejected"),
    "refusal in quotes": (said('"I am unable to describe the black cat on the red mat."'), "rejected"),
    "no image": (said("No image was provided: please upload the cat on the mat."), "rejected"),
    "Chinese": (said("这是一张图片，上面有文字。"), "rejected"),
    "French": (said("Un chat noir est assis sur un tapis rouge devant la maison du village."), "rejected"),
    "markup": (said("<script>alert(1)</script> A black cat on a red mat."), "rejected"),
    "special tokens": (said("A black cat on a red mat.<|im_end|>"), "rejected"),
    "JSON": (said('{"caption": "A black cat on a red mat."}'), "rejected"),
    "terminal": (said("A black cat \x1b[2J\x1b[31mon a red mat."), "rejected"),
    "surrogate": (said("A black cat \ud800 on a red mat."), "rejected"),
    "coordinates": (said("A black cat at [0.10, 0.20, 0.30, 0.40] on a red mat."), "rejected"),
    "sentences": (said("A black cat on a red mat. " * 7), "rejected"),
    "unseen": (said("A giraffe and two elephants drink tea while a dragon sings."), "rejected"),
    "one unseen": (said("A giraffe."), "rejected"),
    "says nothing": (said("It is a picture."), "rejected"),
    "again and again": (said("the black cat on the red mat " * 30), "rejected"),
    "megabytes": (said("word " * 400_000), "rejected"),
    "bad request": ((400, {}, "echo"), "refused"),
    "empty": ("empty", "no-answer"),
    "cut": ("length", "no-answer"),
    "filtered": ("content_filter", "no-answer"),
    "refusal field": (said(None, refusal="I can't help with that."), "no-answer"),
    "no choices": ("no answer", "unavailable"),
    "parts": (said([{"type": "text", "text": "A black cat on a red mat."}]), "unavailable"),
    "a list": ("raw:[]", "unavailable"),
    "deep": ("raw:" + "[" * 100_000, "unavailable"),
    "half": ("half", "unavailable"),
    "HTML": ("garbage", "unavailable"),
    "endless": ("endless", "unavailable"),
    "compressed": ("compressed", "unavailable"),
    "too long a pause": ((429, {"Retry-After": "86400"}, None), "unavailable"),
    "server error": ((500, {}, "echo"), "unavailable"),
}
POLICY = RetryPolicy(attempts=1, failed_requests=1000, timeout=60, first_delay=0.01)


@pytest.fixture()
def server(monkeypatch):
    pytest.importorskip("openai")
    with chat_server.serving(monkeypatch, KEY) as served:
        monkeypatch.setenv(BASE_URL, f"http://name:{PASSWORD}@127.0.0.1:{served.server_port}/v1")
        yield served


def make_images(folder, captions):
    """Small images of different colours with original captions."""
    images = []
    for number, caption in enumerate(captions):
        path = folder / f"{number:02d}.png"
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
        images.append(InputImage(path, path.name, caption))
    return images


def test_no_refusal_no_foreign_and_no_ungrounded_text_is_ok(server, tmp_path, capfd, caplog):
    caplog.set_level("INFO")
    behaviours = [*GOOD.values(), *(how for how, _ in BEHAVIOURS.values())]
    images = make_images(
        tmp_path, [f"a black cat on a red mat {number}" for number in range(len(behaviours))]
    )
    server.otherwise = lambda body: behaviours[int(re.search(r"mat (\d+)", str(body))[1])]
    out = tmp_path / "out"
    # Those that fail for good are in a shard of their own, behind the good ones.
    settled = len(GOOD) + sum(kind in ("rejected", "refused") for _, kind in BEHAVIOURS.values())

    def run():
        composer = ChatComposer(tmp_path / "chat", retry_policy=POLICY)
        summary = Pipeline([], composer=composer, max_failures=0).run(images, out, shard_size=settled)
        return summary, list(read_records(out / RECORDS))

    summary, records = run()
    assert [record.status for record in records[: len(GOOD)]] == ["ok"] * len(GOOD)
    kinds = {}
    for name, record in zip(BEHAVIOURS, records[len(GOOD) :], strict=True):
        kinds[name] = [failure.kind for failure in record.failures]
        assert record.status == "failed" and not record.detailed_caption, name
    assert kinds == {name: [kind] for name, (_, kind) in BEHAVIOURS.items()}
    assert summary.pending == sum(kind in ("no-answer", "unavailable") for _, kind in BEHAVIOURS.values())

    # Nothing that was refused is kept, and no secret is anywhere.
    assert len(list((tmp_path / "chat").rglob("*.json"))) == len(GOOD)
    texts = [path.read_bytes().decode("utf-8", "replace") for path in tmp_path.rglob("*.*") if path.is_file()]
    texts += [*capfd.readouterr(), caplog.text]
    for text in texts:
        assert KEY not in text and PASSWORD not in text
    assert "\x1b[2J" not in "".join(texts)

    # A shard whose failures are all settled is not asked again; the others may answer now.
    before = len(server.requests)
    server.otherwise = said("A black cat on a red mat.")
    summary, records = run()
    assert len(server.requests) - before == len(behaviours) - settled
    assert summary.pending == 0


def test_cost_is_never_above_the_budget_over_restarts(server, tmp_path):
    images = make_images(tmp_path, [f"a black cat, a red mat and a dog {number}" for number in range(12)])
    prices, budget = Prices(1000.0, 1000.0), 2.0
    costs = []

    for _ in range(4):
        composer = ChatComposer(
            tmp_path / "chat",
            retry_policy=POLICY,
            concurrency=2,
            maximum_dollars=budget,
            prices=prices,
            answer_tokens=50,
        )
        summary = Pipeline([], composer=composer, max_failures=0).run(
            images, tmp_path / "out", shard_size=4, progress=False
        )
        costs.append(summary.cost)
        spent = json.loads((tmp_path / "out" / SPENDING).read_text())["spent"]["dollars"]
        assert spent == pytest.approx(sum(costs)) and spent <= budget

    assert costs[0] > 0 and costs[1:] == [0, 0, 0]
    assert 0 < summary.described < 12 and summary.pending == 12 - summary.described
