import pytest
import torch

import monkeylib
from tests.support.answers import assert_same
from tests.support.hub_uploads import HubUploads
from tests.support.raised_models import save_base, save_raised


@pytest.fixture(scope="module")
def llava_base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("bases") / "llava")


@pytest.fixture(scope="module")
def raised_monkey(llava_base, tmp_path_factory):
    folder = save_raised(tmp_path_factory.mktemp("raised") / "llava", llava_base)
    return monkeylib.load_model(folder, device="cpu")


def test_raised_model_answers_as_its_processor_and_generate_do(raised_monkey, make_image):
    model, processor = raised_monkey.model, raised_monkey.processor
    image = make_image(1)
    answer = raised_monkey.answer(image, "why", max_new_tokens=4)

    inputs = processor(images=image, text="user: <image>why\nassistant:", return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert answer.token_ids == tuple(ids.tolist())
    assert (answer.visual_tokens, answer.prompt_tokens) == (20, inputs["input_ids"].shape[1])
    assert raised_monkey.answer(image, "why", max_new_tokens=4, grid="1x2").visual_tokens == 12


def test_raised_model_answers_in_batches_and_streams(raised_monkey, make_image):
    questions = [(make_image(1), "what"), (make_image(2, 40, 120), "why is this so")]
    batch = raised_monkey.prepare([image for image, _ in questions], [text for _, text in questions], "plain")
    with torch.no_grad():
        logits = raised_monkey.model(**batch).logits[:, -1]
        for (image, question), row in zip(questions, logits, strict=True):
            alone = raised_monkey.model(**raised_monkey.prepare([image], [question], "plain")).logits[0, -1]
            torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-4)

    image, question = questions[0]
    stream = raised_monkey.stream(image, question, max_new_tokens=3)
    assert_same([stream.answer], [raised_monkey.answer(image, question, max_new_tokens=3)])


def test_raised_model_chats_in_its_template(raised_monkey, make_image):
    image = make_image(1)
    history = [("what", "a cat")]
    answer = raised_monkey.chat(image, "why", history, max_new_tokens=3)
    text = "user: <image>what\nassistant: a cat</s>\nuser: why\nassistant:"
    inputs = raised_monkey.processor(images=image, text=text, return_tensors="pt")
    assert answer.prompt_tokens == inputs["input_ids"].shape[1]
    prepared = raised_monkey.prepare_messages(
        [
            {"role": "user", "content": [image, "what"]},
            {"role": "assistant", "content": "a cat"},
            {"role": "user", "content": "why"},
        ]
    )
    assert torch.equal(prepared["input_ids"], inputs["input_ids"])


def test_no_questions_have_no_answers(raised_monkey):
    assert raised_monkey.answer_batch([]) == []


def test_saved_raised_model_is_a_folder_of_what_was_learned(raised_monkey, make_image, tmp_path):
    raised_monkey.save(tmp_path / "raised")
    assert (tmp_path / "raised" / "tile-3" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "raised" / "model.safetensors").exists(), "the base stays where it is"

    loaded = monkeylib.load_model(tmp_path / "raised", device="cpu")
    question = (make_image(1), "why")
    assert_same(
        [loaded.answer(*question, max_new_tokens=3)], [raised_monkey.answer(*question, max_new_tokens=3)]
    )
    with pytest.raises(FileExistsError, match="exists already"):
        raised_monkey.save(tmp_path / "raised")


def test_hub_gets_what_was_learned(raised_monkey, tmp_path, monkeypatch):
    uploads = HubUploads(tmp_path / "uploaded", monkeypatch)
    with pytest.raises(ValueError, match='pass base="owner/name"'):
        raised_monkey.push_to_hub("me/raised")
    assert raised_monkey.push_to_hub("me/raised", base="owner/name") == "hub/me/raised"
    assert '"base": "owner/name"' in (uploads.folder / "monkey.json").read_text()
