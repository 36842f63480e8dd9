"""nano-base as a LLaVA of transformers answers as the same weights in monkeylib's own class."""

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration

from monkeylib import profiles, raise_resolution
from monkeylib.evaluation.benchmarks import synthetic_examples
from monkeylib.experiments import nano_llava
from monkeylib.monkey import Monkey
from monkeylib.profiles import build
from monkeylib.raised_monkey import RaisedMonkey


@pytest.fixture(scope="module")
def profile():
    return profiles.load_profile("nano")


@pytest.fixture(scope="module")
def own(profile):
    changed = nano_llava.llava_profile(profile)
    processor = build.build_processor(changed)
    return Monkey(build.build_model(changed, processor).eval(), processor)


@pytest.fixture(scope="module")
def folder(profile, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))
        folder = nano_llava.write_base(profile)
        assert nano_llava.write_base(profile) == folder
    return folder


@pytest.fixture(scope="module")
def llava(folder):
    model, processor = (
        AutoModelForImageTextToText.from_pretrained(folder),
        AutoProcessor.from_pretrained(folder),
    )
    assert type(model) is LlavaForConditionalGeneration
    return model.eval(), processor


@pytest.fixture(scope="module")
def example():
    return synthetic_examples("large", 1)[0]


def test_one_view_gives_the_inputs_and_logits_of_our_own_class(own, llava, example):
    model, processor = llava
    image = example.rendered_image
    content = [{"type": "image"}, {"type": "text", "text": example.question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=image, text=text, return_tensors="pt")

    expected = own.prepare([image], [example.question], "vqa")
    assert torch.equal(inputs["input_ids"], expected["input_ids"])
    torch.testing.assert_close(inputs["pixel_values"], expected["pixel_values"], atol=1e-5, rtol=0)
    with torch.no_grad():
        logits, expected_logits = model(**inputs).logits, own.model(**expected).logits
    torch.testing.assert_close(logits, expected_logits, atol=1e-3, rtol=0)


def test_raised_it_reads_the_views_of_a_monkey(own, llava, profile, example):
    raised = raise_resolution(*llava, grid="2x2", rank=2)
    assert len(raised.settings.ranks) == 4 * profile.vision.layers
    monkey = RaisedMonkey(raised.model, raised.processor)

    # A prompt that says all by itself, as training records have it, is taken as it is.
    image, prompt = example.rendered_image, f" {example.question} Answer: "
    inputs = monkey.prepare([image], [prompt], "plain")
    tiles = build.build_processor(
        nano_llava.llava_profile(profile).model_copy(update={"views": "tiles+global"})
    )
    expected = tiles(images=[image], text=[prompt], prompt="exact")
    assert torch.equal(inputs["input_ids"], expected["input_ids"])
    torch.testing.assert_close(inputs["pixel_values"], expected["pixel_values"], atol=1e-5, rtol=0)
    assert inputs["tile_index"].tolist() == [0, 1, 2, 3, -1]

    answer = monkey.answer(image, example.question, max_new_tokens=8, grid=(0, 0))
    assert answer.text == own.answer(image, example.question, max_new_tokens=8).text


def test_profile_without_checkpoint_has_random_weights_always_the_same():
    smoke = profiles.load_profile("smoke")
    first, second = (nano_llava.build_base(smoke)[0].state_dict() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
