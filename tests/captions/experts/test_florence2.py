"""Florence-2's dense captions against those of transformers, on tiny weights."""

import pytest
import torch

from monkeylib.captions.experts import florence2
from tests.support.tiny_experts import ANSWERS, IMAGES, PLAIN, assert_same_captions

pytestmark = pytest.mark.usefixtures("tiny")


def test_dense_captions_become_regions():
    expert = florence2.Florence2Regions(maximum_tokens=60)
    first, second = expert.annotate(PLAIN)

    assert [region.text for region in first.regions] == ["a cat", "two dogs on a mat", "two dogs on a mat"]
    assert [region.text for region in second.regions] == ["the sign"]

    # Places are the middles of thousandths of the image, in whole pixels.
    assert first.regions[0].box == (int(80 * 0.0105), int(60 * 0.0205), int(80 * 0.4005), int(60 * 0.5005))
    assert second.regions[0].box == (0, 0, 39, 69)
    assert all(0.5 < region.score <= 1 for region in (*first.regions, *second.regions))


def test_regions_match_transformers_post_processing():
    expert = florence2.Florence2Regions(maximum_tokens=60)
    network, processor = expert.parts
    images = [*PLAIN, *IMAGES]

    for image, output in zip(images, expert.annotate(images), strict=True):
        inputs = processor(text=florence2.TASK, images=image, return_tensors="pt")
        ids = network.generate(**inputs, num_beams=3, max_new_tokens=60, do_sample=False)
        text = processor.batch_decode(ids, skip_special_tokens=False)[0]
        parsed = processor.post_process_generation(text=text, task=florence2.TASK, image_size=image.size)
        boxes, labels = parsed[florence2.TASK]["bboxes"], parsed[florence2.TASK]["labels"]
        usable = [(tuple(b), t) for b, t in zip(boxes, labels, strict=True) if b[0] < b[2] and b[1] < b[3]]
        assert [(region.box, region.text) for region in output.regions] == usable


def test_score_is_the_geometric_mean_over_phrase_and_corners():
    expert = florence2.Florence2Regions(maximum_tokens=60)
    network, processor = expert.parts
    inputs = processor(text=florence2.TASK, images=PLAIN[1], return_tensors="pt")
    # The tiny weights generate this answer.
    labels = processor.tokenizer(
        f"<s>{ANSWERS[1]}</s>", add_special_tokens=False, return_tensors="pt"
    ).input_ids
    with torch.inference_mode():
        steps = network(**inputs, labels=labels).logits.log_softmax(-1).gather(2, labels[..., None])[0, :, 0]
    (region,) = expert.annotate(PLAIN[1:])[0].regions

    assert region.score == pytest.approx(float(steps[1:-1].mean().exp()), rel=1e-3)


def test_regions_do_not_depend_on_the_batch_size():
    images = [PLAIN[0], IMAGES[2], PLAIN[1]]
    together = florence2.Florence2Regions(maximum_tokens=60, batch_size=3).annotate(images)
    alone = florence2.Florence2Regions(maximum_tokens=60, batch_size=1).annotate(images)

    for first, second in zip(together, alone, strict=True):
        assert_same_captions(
            [(r.text, r.score) for r in first.regions], [(r.text, r.score) for r in second.regions]
        )
        assert [region.box for region in first.regions] == [region.box for region in second.regions]
