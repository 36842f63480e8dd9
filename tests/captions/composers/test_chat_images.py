"""Images in requests to a chat model: their size, what files keep of them, and a run that shows them."""

import base64
import io
import json

import pytest
from PIL import Image

from monkeylib.captions.annotations import Caption, Record
from monkeylib.captions.composers import chat, chat_images, chat_model
from monkeylib.captions.composers.budget import BudgetExhausted
from monkeylib.captions.input_images import InputImage
from monkeylib.captions.pipeline import Pipeline
from monkeylib.captions.record_files import RECORDS, read_records
from tests.support import chat_server


def sent_image(part):
    """The image in a part of a message."""
    address = part["image_url"]["url"]
    assert address.startswith("data:image/jpeg;base64,")
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


@pytest.mark.parametrize(
    ("size", "sent"), [((400, 100), (64, 16)), ((100, 400), (16, 64)), ((50, 20), (50, 20))]
)
def test_image_is_scaled_down_to_its_longest_side_and_never_up(size, sent):
    image = Image.new("RGB", size, (200, 10, 10))
    part = chat_images.image_part(image, 64)
    assert sent_image(part).size == sent and image.size == size
    assert sent[0] // 14 * (sent[1] // 14) <= chat_images.image_tokens(64)


@pytest.fixture()
def server(monkeypatch):
    pytest.importorskip("openai")
    with chat_server.serving(monkeypatch) as served:
        yield served


def test_run_shows_the_model_each_image_once(server, tmp_path, monkeypatch):
    monkeypatch.setenv(chat_model.IMAGE, "32")
    images = []
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        Image.new("RGB", (100, 50), colour).save(tmp_path / f"{name}.png")
        images.append(InputImage(tmp_path / f"{name}.png", name, f"a {name} wall"))

    out = tmp_path / "out"
    Pipeline([], composer=chat.ChatComposer.from_environment(tmp_path / "chat")).run(images, out)
    records = list(read_records(out / RECORDS))
    assert [record.detailed_caption for record in records] == ["A RED WALL.", "A BLUE WALL."]
    assert records[0].provenance[-1].settings["image_side"] == 32

    # Each request shows the image that its text is about.
    for _, _, body in server.requests:
        text, image = body["messages"][0]["content"]
        pixel = sent_image(image).getpixel((5, 5))
        assert sent_image(image).size == (32, 16) and "The picture is attached" in text["text"]
        assert (pixel[0] > 200) == ("a red wall" in text["text"])

    # Files keep no image; another run sends nothing.
    kept = [path.read_text() for path in (tmp_path / "chat").rglob("*.json")]
    assert len(kept) == 2 and all("sha256:" in text and "base64" not in text for text in kept)
    Pipeline([], composer=chat.ChatComposer.from_environment(tmp_path / "chat")).run(images, tmp_path / "b")
    assert len(server.requests) == 2


def test_budget_counts_the_image_before_it_is_sent(server, tmp_path):
    record = Record(name="a", width=9, height=9, captions=(Caption(text="a cat", expert="c"),))
    image = Image.new("RGB", (9, 9))
    composer = chat.ChatComposer(tmp_path, image_side=1400, maximum_tokens=10_000)
    with pytest.raises(BudgetExhausted):
        composer.compose(record, image)
    assert not server.requests


def test_model_that_sees_may_add_what_no_expert_said_but_not_talk_of_something_else(server, tmp_path):
    record = Record(name="a", width=9, height=9, captions=(Caption(text="a cat", expert="c"),))
    image = Image.new("RGB", (9, 9))
    composer = chat.ChatComposer(tmp_path, image_side=28)

    text = "A cat sits beside a vase, a lamp and a book."
    server.otherwise = {"content": text}
    assert composer.compose(record, image) == text
    assert json.loads(next(tmp_path.rglob("*.json")).read_text())["response"]

    server.otherwise = {"content": "A giraffe."}
    record = record.model_copy(update={"original_caption": "one more"})
    (answer,) = composer.compose_with_images([record], [image])
    assert isinstance(answer, Exception) and "nobody said giraffe" in str(answer)
