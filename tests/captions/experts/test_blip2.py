"""BLIP-2's captions and matching scores against those of transformers, on tiny weights."""

import numpy as np
import pytest
import torch

from monkeylib.captions.experts import blip2, pretrained, segments
from tests.support import tiny_experts
from tests.support.tiny_experts import IMAGES, assert_same_captions

pytestmark = pytest.mark.usefixtures("tiny")


def test_provenance_states_the_licence_of_opt():
    for expert in (blip2.Blip2Captions(), segments.sam_blip2()):
        assert "OPT-2.7b: the OPT licence (research, not commercial)" in expert.provenance.licence


def test_captions_match_transformers_generate():
    expert = blip2.Blip2Captions()
    network, processor = expert.parts
    outputs = expert.annotate(IMAGES)

    for image, item in zip(IMAGES, outputs, strict=True):
        inputs = processor(images=image, return_tensors="pt")
        ids = network.generate(**inputs, num_beams=5, max_new_tokens=30, eos_token_id=[2, newline(processor)])
        (text,) = processor.batch_decode(ids, skip_special_tokens=True)
        (caption,) = item.captions
        assert caption.text == " ".join(text.split()) != "" and caption.expert == "blip2"

    assert len({round(item.captions[0].score, 6) for item in outputs}) == 3, "the image counts"


def newline(processor) -> int:
    (token,) = processor.tokenizer("\n", add_special_tokens=False).input_ids
    return token


@pytest.mark.parametrize("kind", [blip2.Blip2Captions, blip2.Blip2Segments])
def test_confidence_is_the_geometric_mean_of_token_probabilities(kind):
    expert = kind(maximum_tokens=12)
    network, processor = expert.parts
    prompt = [network.config.image_token_id] * tiny_experts.QUERIES + [2]
    for image, (text, score) in zip(IMAGES, expert.caption(IMAGES), strict=True):
        pixels = processor(images=image, return_tensors="pt").pixel_values
        ids = network.generate(
            pixels, num_beams=expert.beams, max_new_tokens=12, eos_token_id=[2, newline(processor)]
        )[0]
        ids = ids[len(prompt) :]
        assert " ".join(processor.tokenizer.decode(ids, skip_special_tokens=True).split()) == text
        # Teacher forcing: the logits before each token of the caption.
        full_sequence = torch.tensor([[*prompt, *ids.tolist()]])
        with torch.inference_mode():
            logits = network(pixel_values=pixels, input_ids=full_sequence).logits[0, len(prompt) - 1 : -1]
        steps = logits.log_softmax(-1).gather(1, ids[:, None])
        assert score == pytest.approx(float(steps.mean().exp()), rel=1e-3)


@pytest.mark.parametrize("kind", [blip2.Blip2Captions, blip2.Blip2Segments])
def test_captions_do_not_depend_on_the_batch_size(kind):
    together, alone = kind(batch_size=3, maximum_tokens=10), kind(batch_size=1, maximum_tokens=10)
    assert_same_captions(together.caption(IMAGES), alone.caption(IMAGES))
    assert together.provenance == alone.provenance != kind(maximum_tokens=11, batch_size=3).provenance


def test_caption_ends_at_a_newline():
    expert = blip2.Blip2Segments()
    network, processor = expert.parts
    bias = torch.zeros(network.config.text_config.vocab_size)
    letters = processor.tokenizer.convert_tokens_to_ids(["c", "a"])

    # Forces the tokens "c", "a", newline, "c".
    def two_letters_and_a_line(module, inputs, output):
        step = int(inputs[0].shape[1] == 1) and two_letters_and_a_line.step
        two_letters_and_a_line.step += 1
        token = [*letters, newline(processor), letters[0]][min(step, 3)]
        return output + 1e4 * torch.nn.functional.one_hot(torch.tensor(token), len(bias))

    two_letters_and_a_line.step = 0
    handle = network.language_model.lm_head.register_forward_hook(two_letters_and_a_line)
    try:
        ((text, score),) = expert.caption(IMAGES[:1])
    finally:
        handle.remove()

    assert text == "ca" and score == pytest.approx(1.0)


TEXTS = ["A cat on a mat.", "two dogs", "the sign says: stop"]


@pytest.mark.parametrize("placeholders", [True, False])
def test_match_scores_equal_those_of_transformers(placeholders, tmp_path, monkeypatch):
    tiny_experts.blip2_itm(tmp_path, placeholders)
    monkeypatch.setenv(pretrained.WEIGHTS, str(tmp_path))
    matcher = blip2.Blip2Matcher()
    network, processor = matcher.parts
    scores = matcher.match(IMAGES, TEXTS)
    for image, text, value in zip(IMAGES, TEXTS, scores, strict=True):
        inputs = processor(images=image, text=blip2.clean(text), return_tensors="pt")
        with torch.inference_mode():
            logits = network(**inputs, use_image_text_matching_head=True).logits_per_image
        assert value == pytest.approx(float(logits.softmax(dim=1)[0, 1]), rel=1e-4)

    assert len(set(scores)) == 3 and all(0 < value < 1 for value in scores)


def test_match_scores_do_not_depend_on_the_batch_size():
    crops, texts = IMAGES * 3, [text for text in TEXTS for _ in IMAGES]
    together, alone = (blip2.Blip2Matcher(batch_size=size).match(crops, texts) for size in (9, 1))

    np.testing.assert_allclose(together, alone, rtol=1e-4)
    assert len({round(value, 6) for value in together}) == 9, "image and text both count"
    assert blip2.Blip2Matcher().match([], []) == []


def test_crop_with_several_texts_is_preprocessed_once():
    matcher = blip2.Blip2Matcher()
    processor, preprocessed = matcher.parts[1], []
    prepare = processor.image_processor
    processor.image_processor = lambda images, **more: preprocessed.extend(images) or prepare(images, **more)
    values = matcher.match([IMAGES[0]] * 3, TEXTS)

    assert len(preprocessed) == 1 and len(set(values)) == 3


def test_texts_are_cleaned_and_truncated_as_in_lavis():
    assert blip2.clean('  A "Stop" sign:  (red)!\n') == "a stop sign red"
    assert blip2.clean("cat's tea-cup, 5%") == "cat's tea-cup, 5%"

    long = "two dogs and a cat " * 40
    assert len(blip2.clean(long).split()) == 50

    matcher = blip2.Blip2Matcher()
    assert matcher.match(IMAGES[:1], [long]) == matcher.match(IMAGES[:1], [long + "on a bus"])
    with pytest.raises(ValueError, match="one text for each crop, got 1 for 2"):
        matcher.match(IMAGES[:2], ["a"])
