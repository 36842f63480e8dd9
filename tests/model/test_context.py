"""Prompts that do not fit into the context with their answers are refused wherever they come from."""

import pytest

from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.prefix_sharing import PrefixSharingMonkey
from monkeylib.integrations import common


def test_every_door_refuses_a_prompt_beyond_the_context(monkey, make_image):
    """Also a prompt that fits alone, but not together with its answer."""
    image, question = make_image(), "What?"
    prompt_tokens = monkey.prepare([image], [question], "vqa")["input_ids"].shape[1]
    context = monkey.model.config.text_config.max_position_embeddings = prompt_tokens + 9
    numbers = (
        rf"has {prompt_tokens} tokens, 20 of them visual, and max_new_tokens is 10, {context + 1} together"
    )
    refused = pytest.raises(ValueError, match=rf"{numbers}, but the model takes {context}: .* to 9 at most")

    monkey.answer(image, question, max_new_tokens=9)
    with refused:
        monkey.answer(image, question, max_new_tokens=10)
    with refused:
        monkey.chat(image, question, max_new_tokens=10)
    with refused:
        monkey.stream(image, question, max_new_tokens=10)
    with refused:
        PrefixSharingMonkey(monkey, 10)([Example("a", image, question, ())])
    with refused:
        common.generate_answers(monkey, [(question, [image])], "vqa", 10)
    with refused:
        common.generate_answers(monkey, [(question, [image])], "vqa", 10, num_beams=2)
    with pytest.raises(ValueError, match=f"prompt 2 of 2 has {prompt_tokens} tokens"):
        monkey.answer_batch([(image, "?"), (image, question)], max_new_tokens=10)

    assert common.compute_log_likelihood(monkey, question, [image], "vqa", "y" * 4)
    with pytest.raises(ValueError, match=f"but the model takes {context}"):
        common.compute_log_likelihood(monkey, question, [image], "vqa", "y" * 10)

    # A prompt that does not fit at all.
    with pytest.raises(ValueError, match=r"has \d+ tokens, 20 of them visual, but the model takes"):
        monkey.prepare([image], ["what? " * 50], "vqa")
    with pytest.raises(ValueError, match=f"but the model takes {context}"):
        monkey.chat(image, question, [("What?", "an answer " * 20)], max_new_tokens=1)
