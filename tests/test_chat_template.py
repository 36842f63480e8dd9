"""The chat template: its ids are those of `PromptLayout`, its text those of the Jinja template."""

import copy
import pickle

import numpy as np
import pytest
import torch
from transformers.utils.chat_template_utils import render_jinja_template

from monkeylib.messages import read_messages
from monkeylib.monkey import Monkey
from monkeylib.processing import MonkeyProcessor
from monkeylib.prompts import PROMPTS, SEPARATOR, build_prompt


def conversations(make_image):
    first, second = make_image(1), make_image(2, 60, 90)
    question = {"role": "user", "content": [{"type": "image", "image": first}, "Why <img>?"]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "So."}]}
    between = {
        "role": "user",
        "content": [
            {"type": "text", "text": "Is"},
            {"type": "image", "image": second},
            {"type": "text", "text": "like"},
            "or",
            {"type": "image_url", "image_url": {"url": first}},
            "?",
        ],
    }
    system = {"role": "system", "content": "Be brief."}
    return {
        "text": [{"role": "user", "content": "Why?"}],
        "image": [question],
        "image after text": [{"role": "user", "content": ["Why?", {"type": "image", "image": first}]}],
        "several images": [between],
        "turns": [question, answer, {"role": "user", "content": "And?"}],
        "images in turns": [question, answer, between, answer, question],
        "system": [system, question],
        "answered": [question, answer],
    }


CASES = tuple(conversations(lambda *arguments: None))


@pytest.fixture(scope="module", params=["", SEPARATOR])
def separated(request, processor):
    return MonkeyProcessor(
        processor.image_processor, processor.tokenizer, processor.queries, separator=request.param
    )


@pytest.mark.parametrize("name", PROMPTS)
def test_ids_are_those_of_the_layout(separated, make_image, name):
    image = make_image()
    messages = [{"role": "user", "content": [{"type": "image", "image": image}, "Why?"]}]
    inputs = separated.apply_chat_template(messages, prompt=name, tokenize=True, return_dict=True)
    expected = separated(images=image, text="Why?", prompt=name)

    assert inputs.keys() == expected.keys()
    assert all(torch.equal(inputs[key], expected[key]) for key in expected)

    # The released data's order, by hand.
    ids = separated.image_ids() + separated.layout.text_ids(build_prompt(name, "Why?", separated.separator))
    assert inputs["input_ids"][0].tolist() == ids


@pytest.mark.parametrize("name", PROMPTS)
def test_jinja_template_writes_the_same_text(separated, make_image, name):
    for case, messages in conversations(make_image).items():
        text = separated.apply_chat_template(messages, prompt=name)
        (rendered,), _ = render_jinja_template([messages], chat_template=separated.chat_template, prompt=name)
        assert rendered == text, case


@pytest.mark.parametrize("case", CASES)
def test_text_of_a_conversation_gives_the_ids_of_its_messages(separated, make_image, case):
    messages = conversations(make_image)[case]
    inputs = separated.apply_chat_template(messages, tokenize=True, return_dict=True)

    images = [image for message in read_messages(messages, accepts_answer=True) for image in message.images]
    text = separated.apply_chat_template(messages)
    for same in (text, copy.deepcopy(text), pickle.loads(pickle.dumps(text))):
        again = separated(images=images, text=same)
        assert again["input_ids"].tolist() == inputs["input_ids"].tolist()

    # As a tokenizer that knows the image tokens would, but for `<img>` in the user's text.
    if not images:
        assert (
            separated.tokenizer(text, add_special_tokens=False)["input_ids"]
            == inputs["input_ids"][0].tolist()
        )


def test_conversations_of_training_have_the_same_ids_and_masks(processor, make_image):
    messages = [*conversations(make_image)["images in turns"], {"role": "assistant", "content": "Yes."}]
    inputs = processor.apply_chat_template(
        [messages, conversations(make_image)["answered"]],
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    end = processor.tokenizer.eos_token
    for row, answers in zip((0, 1), (["So.", "So.", "Yes."], ["So."]), strict=True):
        ids = inputs["input_ids"][row][inputs["assistant_masks"][row] == 1]
        assert processor.tokenizer.decode(ids) == "".join(answer + end for answer in answers)


def test_last_answer_can_be_left_open(processor, make_image):
    messages = conversations(make_image)["answered"]
    closed = processor.apply_chat_template(messages, tokenize=True)[0].tolist()
    opened = processor.apply_chat_template(messages, tokenize=True, continue_final_message=True)[0].tolist()
    assert closed == [*opened, processor.tokenizer.eos_token_id]
    assert processor.apply_chat_template(messages, continue_final_message=True).endswith("So.")

    with pytest.raises(ValueError, match="needs a conversation whose last message is of the assistant"):
        processor.apply_chat_template(messages[:1], continue_final_message=True)


def test_batches_are_padded_and_converted(processor, make_image):
    examples = conversations(make_image)
    batch = [examples["text"], examples["several images"]]
    inputs = processor.apply_chat_template(
        batch, tokenize=True, return_dict=True, return_tensors="np", processor_kwargs={"grid": "1x2"}
    )
    assert all(isinstance(value, np.ndarray) for value in inputs.values())
    assert inputs["grids"].tolist() == [[1, 2], [1, 2]]

    alone = processor.apply_chat_template(batch[0], tokenize=True)[0].tolist()
    assert inputs["input_ids"][0, -len(alone) :].tolist() == alone
    assert not inputs["attention_mask"][0, : -len(alone)].any()
    assert processor.apply_chat_template(batch) == [processor.apply_chat_template(one) for one in batch]


def test_ids_of_answering_are_those_of_the_template(monkey, make_image):
    messages = conversations(make_image)["images in turns"]
    inputs = monkey.processor.apply_chat_template(messages, tokenize=True, return_dict=True)
    prepared = Monkey(monkey.model, monkey.processor).prepare_messages(messages)
    assert prepared["input_ids"].tolist() == inputs["input_ids"].tolist()
    assert torch.equal(prepared["pixel_values"], inputs["pixel_values"])


def test_what_cannot_be_encoded_raises(processor, make_image):
    messages = conversations(make_image)["image"]
    text = processor.apply_chat_template(messages)
    with pytest.raises(ValueError, match="the conversation has 1 places for images, got 2"):
        processor(images=[make_image(), make_image()], text=text)
    with pytest.raises(ValueError, match="prompt='vqa' and the text of a conversation"):
        processor(images=make_image(), text=text, prompt="vqa")
    with pytest.raises(ValueError, match="this chat template isn't Monkey's own"):
        processor.apply_chat_template(messages, chat_template="{{ messages }}", tokenize=True)
    with pytest.raises(TypeError, match="no argument 'paddin'; did you mean padding"):
        processor.apply_chat_template(messages, tokenize=True, paddin=True)
    with pytest.raises(ValueError, match="has no image"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}], tokenize=True)
    with pytest.raises(ValueError, match="prompt"):
        processor.apply_chat_template(messages, prompt="vqq")


def test_template_is_saved_and_another_one_is_kept(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text(encoding="utf-8") == processor.chat_template
    loaded = MonkeyProcessor.from_pretrained(tmp_path, separator=" ")
    assert loaded.chat_template != processor.chat_template

    loaded.chat_template = "{{ messages[0].content }}"
    loaded.save_pretrained(tmp_path / "other")
    other = MonkeyProcessor.from_pretrained(tmp_path / "other")
    assert other.apply_chat_template([{"role": "user", "content": "Why?"}]) == "Why?"
