"""Monkey among transformers' own models: its Auto classes and its pipeline."""

import os
import subprocess
import sys
from importlib import import_module

import pytest
from transformers import pipeline
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES, model_type_to_module_name

from monkeylib import resources
from monkeylib.model import MonkeyVisionConfig
from tests.support import random_monkey

# In the environment of the harnesses, torchvision is there, and cannot always be imported.
DECLARE = "from tests.support.torchvision_operators import declare; declare()"
IMPORTS = {
    "monkeylib first": "import monkeylib, transformers",
    "transformers first": "from transformers import AutoModel, AutoProcessor; import monkeylib",
}
LOAD = """
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor
classes = [AutoProcessor, AutoImageProcessor, AutoConfig, AutoModel, AutoModelForImageTextToText]
print(*(type(auto.from_pretrained(folder)).__name__ for auto in classes))
"""


@pytest.fixture(scope="module")
def monkey():
    monkey = random_monkey.make_monkey()
    monkey.model.eval()
    return monkey


@pytest.fixture(scope="module")
def folder(monkey, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    monkey.model.save_pretrained(path)
    monkey.processor.save_pretrained(path)
    return path


@pytest.fixture()
def messages(make_image):
    content = [{"type": "image", "image": make_image()}, {"type": "text", "text": "Why?"}]
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize("order", IMPORTS)
def test_auto_classes_find_monkey(folder, order):
    program = f"{DECLARE}\nfolder = {os.fspath(folder)!r}\n{IMPORTS[order]}\n{LOAD}"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=resources.REPOSITORY, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == [
        "MonkeyProcessor",
        "MonkeyImageProcessor",
        "MonkeyConfig",
        "MonkeyForConditionalGeneration",
        "MonkeyForConditionalGeneration",
    ]


def test_vision_tower_in_another_model_is_found_where_transformers_looks_for_it():
    """As for a LLaVA whose configuration names it, before any module of the model is imported."""
    module = import_module(f"transformers.models.{model_type_to_module_name('monkey_vision')}")
    assert getattr(module, CONFIG_MAPPING_NAMES["monkey_vision"]) is MonkeyVisionConfig


def test_pipeline_answers_as_monkey_does(monkey, folder, messages, make_image):
    pipe = pipeline("image-text-to-text", model=os.fspath(folder))
    for prompt in ("vqa", "caption"):
        (output,) = pipe(text=messages, max_new_tokens=5, prompt=prompt, return_full_text=False)
        answer = monkey.answer(make_image(), "Why?", prompt, max_new_tokens=5)
        assert output["generated_text"].strip() == answer.text

    # The conversation goes on where its answer has been appended.
    (output,) = pipe(text=messages, max_new_tokens=5)
    assert output["generated_text"][:-1] == messages
    assert output["generated_text"][-1]["role"] == "assistant"
    pipe(text=[*output["generated_text"], {"role": "user", "content": "And?"}], max_new_tokens=2)


def test_pipeline_answers_batches_and_plain_texts(monkey, messages, make_image):
    pipe = pipeline("image-text-to-text", model=monkey.model, processor=monkey.processor)
    longer = [{"role": "user", "content": [*messages[0]["content"], {"type": "text", "text": " Or not?"}]}]
    outputs = pipe(text=[messages, longer], max_new_tokens=5, batch_size=2, return_full_text=False)
    alone = [
        pipe(text=conversation, max_new_tokens=5, return_full_text=False)
        for conversation in (messages, longer)
    ]
    assert outputs == alone

    (output,) = pipe(images=make_image(), text="Why? Answer: ", max_new_tokens=5, return_full_text=False)
    assert output["generated_text"] == alone[0][0]["generated_text"]
