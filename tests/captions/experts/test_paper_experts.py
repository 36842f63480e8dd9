"""The paper's experts, on tiny weights of their true architectures that are loaded as real ones are."""

import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import MaskGenerationPipeline

from monkeylib import digests
from monkeylib.captions import experts
from monkeylib.captions.annotations import Mask
from monkeylib.captions.experts import blip2, florence2, pretrained, sam, segments
from tests.support import tiny_experts

ANSWERS = [
    "a cat<loc_10><loc_20><loc_400><loc_500>two dogs on a mat<loc_500><loc_20><loc_900><loc_990>"
    "<loc_1><loc_2><loc_30><loc_40>",
    "the sign<loc_0><loc_0><loc_999><loc_999>",
]
IMAGES = [
    tiny_experts.squares(80, 60, "red", "white"),
    tiny_experts.squares(40, 70, "blue"),
    tiny_experts.squares(97, 41, "yellow", "red", "cyan"),
]


PLAIN = [Image.new("RGB", (80, 60), "red"), Image.new("RGB", (40, 70), "blue")]


def test_records_say_that_blip2s_language_model_is_not_for_commercial_use():
    for expert in (blip2.Blip2Captions(), segments.sam_blip2()):
        assert "OPT-2.7b: the OPT licence (research, not commercial)" in expert.provenance.licence


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    root = tmp_path_factory.mktemp("weights")
    tiny_experts.blip2(root)
    tiny_experts.blip2_itm(root)
    tiny_experts.sam(root)
    tiny_experts.florence2(root, PLAIN, ANSWERS)
    return root


@pytest.fixture(autouse=True)
def tiny(weights, monkeypatch):
    monkeypatch.setenv(pretrained.WEIGHTS, str(weights))


def same(first, second):
    """The same texts in the same order, and scores as close as batches of another size leave them."""
    assert [text for text, _ in first] == [text for text, _ in second]
    np.testing.assert_allclose([score for _, score in first], [score for _, score in second], rtol=1e-4)


# --- weights -----------------------------------------------------------------------------------------

HUB = [
    blip2.Blip2Captions,
    blip2.Blip2Segments,
    blip2.Blip2Matcher,
    sam.SamMasks,
    florence2.Florence2Regions,
]


@pytest.mark.parametrize("kind", HUB)
def test_an_expert_says_which_weights_it_is_before_it_loads_any(kind, monkeypatch):
    monkeypatch.delenv(pretrained.WEIGHTS)
    expert = pickle.loads(pickle.dumps(kind(device="cpu")))
    assert len(kind.revision) == 40 and expert.settings["revision"] == kind.revision
    assert expert.settings["weights"] == kind.hub and "/" in kind.hub
    assert expert.version == f"{kind.hub.split('/')[1]}@{kind.revision[:12]}"
    assert expert.provenance.licence.split(",")[0] in ("MIT", "Apache-2.0")
    assert kind().gpu_share > 0 and expert.gpu_share == 0
    assert expert.settings["dtype"] == "float32" and kind(dtype="bfloat16").settings["dtype"] == "bfloat16"


def test_weights_in_a_folder_are_told_apart_by_what_they_are(tmp_path, monkeypatch, weights):
    expert = blip2.Blip2Captions()
    (name, digest) = expert.settings["weights"], expert.settings["revision"]
    assert name == "blip2-opt-2.7b" and expert.version == f"{name}@{digest[:12]}"
    assert digest == digests.folder_digest(weights / name)
    tiny_experts.blip2(tmp_path, seed=1)
    monkeypatch.setenv(pretrained.WEIGHTS, str(tmp_path))
    assert blip2.Blip2Captions().version != expert.version
    assert blip2.Blip2Matcher().settings["weights"] == "Salesforce/blip2-itm-vit-g"  # isn't in this folder


def test_large_files_differ_at_their_ends(tmp_path):
    path, prints = tmp_path / "weights", set()
    for start, end, length in [(0, 0, 5 << 20), (1, 0, 5 << 20), (0, 1, 5 << 20), (0, 0, (5 << 20) + 1)]:
        path.write_bytes(bytes([start]) + bytes(length - 2) + bytes([end]))
        prints.add(digests.quick_file_digest(path))
    assert len(prints) == 4


def test_weights_that_are_nowhere_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.delenv(pretrained.WEIGHTS)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match="hf download facebook/sam-vit-huge --revision .*MONKEYLIB_WEIGHTS"
    ):
        sam.SamMasks().prepare()


def test_weights_are_freed_and_loaded_again(weights):
    expert = blip2.Blip2Segments()
    expert.release()
    expert.prepare()
    network = expert.parts[0]
    assert expert.parts[0] is network and not network.training
    before = expert.caption(IMAGES[:1])
    expert.release()
    assert expert._loaded is None
    assert expert.caption(IMAGES[:1]) == before and expert.parts[0] is not network


def test_half_precision_runs_and_says_nearly_the_same():
    whole, half = (blip2.Blip2Matcher(dtype=dtype) for dtype in ("float32", "bfloat16"))
    np.testing.assert_allclose(half.match(IMAGES, TEXTS), whole.match(IMAGES, TEXTS), atol=0.1)
    assert len(blip2.Blip2Captions(dtype="bfloat16", maximum_tokens=5).caption(IMAGES)) == 3
    assert len(sam.SamMasks(**SAM, dtype="bfloat16").annotate(IMAGES)) == 3
    expert = florence2.Florence2Regions(dtype="bfloat16", maximum_tokens=60)
    assert expert.annotate(PLAIN[1:])[0].regions[0].text == "the sign"


# --- BLIP-2 ------------------------------------------------------------------------------------------


def test_captions_are_those_of_transformers_own_way():
    expert = blip2.Blip2Captions()
    network, processor = expert.parts
    found = expert.annotate(IMAGES)
    for image, item in zip(IMAGES, found, strict=True):
        inputs = processor(images=image, return_tensors="pt")
        ids = network.generate(**inputs, num_beams=5, max_new_tokens=30, eos_token_id=[2, newline(processor)])
        (text,) = processor.batch_decode(ids, skip_special_tokens=True)
        (caption,) = item.captions
        assert caption.text == " ".join(text.split()) != "" and caption.expert == "blip2"
    assert len({item.captions[0].text for item in found}) > 1


def newline(processor) -> int:
    (token,) = processor.tokenizer("\n", add_special_tokens=False).input_ids
    return token


@pytest.mark.parametrize("kind", [blip2.Blip2Captions, blip2.Blip2Segments])
def test_confidence_is_the_mean_probability_of_what_was_written(kind):
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
        whole = torch.tensor([[*prompt, *ids.tolist()]])
        with torch.inference_mode():
            logits = network(pixel_values=pixels, input_ids=whole).logits[0, len(prompt) - 1 : -1]
        steps = logits.log_softmax(-1).gather(1, ids[:, None])
        assert score == pytest.approx(float(steps.mean().exp()), rel=1e-3)


@pytest.mark.parametrize("kind", [blip2.Blip2Captions, blip2.Blip2Segments])
def test_captions_do_not_depend_on_the_batch(kind):
    together, alone = kind(batch_size=3, maximum_tokens=10), kind(batch_size=1, maximum_tokens=10)
    same(together.caption(IMAGES), alone.caption(IMAGES))
    assert together.provenance == alone.provenance != kind(maximum_tokens=11, batch_size=3).provenance


def test_a_caption_ends_with_its_line():
    expert = blip2.Blip2Segments()
    network, processor = expert.parts
    bias = torch.zeros(network.config.text_config.vocab_size)
    letters = processor.tokenizer.convert_tokens_to_ids(["c", "a"])

    def two_letters_and_a_line(module, inputs, output):
        step = int(inputs[0].shape[1] == 1) and two_letters_and_a_line.step
        two_letters_and_a_line.step += 1
        wanted = [*letters, newline(processor), letters[0]][min(step, 3)]
        return output + 1e4 * torch.nn.functional.one_hot(torch.tensor(wanted), len(bias))

    two_letters_and_a_line.step = 0
    handle = network.language_model.lm_head.register_forward_hook(two_letters_and_a_line)
    try:
        ((text, score),) = expert.caption(IMAGES[:1])
    finally:
        handle.remove()
    assert text == "ca" and score == pytest.approx(1.0)


# --- matching ----------------------------------------------------------------------------------------

TEXTS = ["A cat on a mat.", "two dogs", "the sign says: stop"]


@pytest.mark.parametrize("placeholders", [True, False])
def test_matches_are_those_of_transformers_own_way(placeholders, tmp_path, monkeypatch):
    tiny_experts.blip2_itm(tmp_path, placeholders)
    monkeypatch.setenv(pretrained.WEIGHTS, str(tmp_path))
    matcher = blip2.Blip2Matcher()
    network, processor = matcher.parts
    found = matcher.match(IMAGES, TEXTS)
    for image, text, value in zip(IMAGES, TEXTS, found, strict=True):
        inputs = processor(images=image, text=blip2.clean(text), return_tensors="pt")
        with torch.inference_mode():
            said = network(**inputs, use_image_text_matching_head=True).logits_per_image
        assert value == pytest.approx(float(said.softmax(dim=1)[0, 1]), rel=1e-4)
    assert len(set(found)) == 3 and all(0 < value < 1 for value in found)


def test_matches_do_not_depend_on_the_batch():
    crops, texts = IMAGES * 3, [text for text in TEXTS for _ in IMAGES]
    together, alone = (blip2.Blip2Matcher(batch_size=size).match(crops, texts) for size in (9, 1))
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    assert len({round(value, 6) for value in together}) == 9  # image and text both count
    assert blip2.Blip2Matcher().match([], []) == []


def test_a_crop_with_several_texts_is_prepared_once():
    matcher = blip2.Blip2Matcher()
    processor, seen = matcher.parts[1], []
    prepare = processor.image_processor
    processor.image_processor = lambda images, **more: seen.extend(images) or prepare(images, **more)
    values = matcher.match([IMAGES[0]] * 3, TEXTS)
    assert len(seen) == 1 and len(set(values)) == 3


def test_texts_are_cleaned_and_cut_as_lavis_does():
    assert blip2.clean('  A "Stop" sign:  (red)!\n') == "a stop sign red"
    assert blip2.clean("cat's tea-cup, 5%") == "cat's tea-cup, 5%"
    long = "two dogs and a cat " * 40
    assert len(blip2.clean(long).split()) == 50
    matcher = blip2.Blip2Matcher()
    assert matcher.match(IMAGES[:1], [long]) == matcher.match(IMAGES[:1], [long + "on a bus"])
    with pytest.raises(ValueError, match="one text for each crop, got 1 for 2"):
        matcher.match(IMAGES[:2], ["a"])


# --- SAM ---------------------------------------------------------------------------------------------

SAM = {"points": 6, "stability": 0.5}


def suppressed(boxes: np.ndarray, scores: np.ndarray, overlap: float) -> list[int]:
    """What torchvision's suppression keeps, in plain loops: best first, unless a kept box overlaps it."""
    kept = []
    for index in np.argsort(-scores, kind="stable"):
        for other in kept:
            low, high = (
                np.maximum(boxes[index, :2], boxes[other, :2]),
                np.minimum(boxes[index, 2:], boxes[other, 2:]),
            )
            shared = np.prod(np.clip(high - low, 0, None))
            areas = sum(np.prod(boxes[i, 2:] - boxes[i, :2]) for i in (index, other))
            if shared > overlap * (areas - shared):
                break
        else:
            kept.append(index)
    return kept


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: str(image.size))
def test_masks_are_those_of_transformers_pipeline(image):
    expert = sam.SamMasks(**SAM, points_at_once=7)
    network, processor = expert.parts
    pipe = MaskGenerationPipeline(model=network, image_processor=processor)
    masks, boxes, scores = [], [], []
    with torch.inference_mode():
        for part in pipe.preprocess(image, points_per_batch=11, points_per_crop=6):
            found = pipe._forward(part, pred_iou_thresh=0.88, stability_score_thresh=0.5)
            masks += found["masks"]
            boxes.append(found["boxes"])
            scores.append(found["iou_scores"])
    boxes, scores = torch.cat(boxes).numpy(), torch.cat(scores).numpy()
    kept = suppressed(boxes.astype(float), scores, sam.OVERLAP)
    (found,) = expert.annotate([image])
    assert 0 < len(kept) < len(masks)
    ours = [(region.mask, region.box) for region in found.regions]
    theirs = [
        (Mask(size=tuple(masks[i]["size"]), counts=masks[i]["counts"]), (*boxes[i][:2], *(boxes[i][2:] + 1)))
        for i in kept
    ]
    assert sorted(ours, key=str) == sorted(((m, tuple(map(float, b))) for m, b in theirs), key=str)
    np.testing.assert_allclose(
        [region.score for region in found.regions], np.clip(scores[kept], 0, 1), rtol=1e-4
    )


def test_masks_do_not_depend_on_the_batch(monkeypatch):
    together = sam.SamMasks(**SAM, batch_size=3, points_at_once=36).annotate(IMAGES)
    monkeypatch.setattr(sam, "_ENLARGED", 1)  # one mask at once
    alone = sam.SamMasks(**SAM, batch_size=1, points_at_once=5).annotate(IMAGES)
    for first, second in zip(together, alone, strict=True):
        assert [region.mask for region in first.regions] == [region.mask for region in second.regions]
        assert [region.box for region in first.regions] == [region.box for region in second.regions]


def test_a_region_is_the_box_of_its_mask_and_waits_for_its_text():
    for image, found in zip(IMAGES, sam.SamMasks(**SAM).annotate(IMAGES), strict=True):
        for region in found.regions:
            inside = region.mask.array()
            assert inside.shape == (image.height, image.width) and region.kind == "segment"
            (ys, xs) = np.nonzero(inside)
            assert region.box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            assert region.text == "" and 0.88 < region.score <= 1 and region.expert == "sam"


def test_thresholds_are_segment_anythings_and_part_of_the_settings():
    expert = sam.SamMasks()
    stated = {name: expert.settings[name] for name in ("points", "predicted_iou", "stability", "overlap")}
    assert stated == {"points": 32, "predicted_iou": 0.88, "stability": 0.95, "overlap": 0.7}
    assert expert._grid((64, 48)).shape == (32 * 32, 2)
    strict = sam.SamMasks(points=6, predicted_iou=9.0, stability=0.5)
    assert [found.regions for found in strict.annotate(IMAGES)] == [(), (), ()]


# --- Florence-2 --------------------------------------------------------------------------------------


def test_dense_captions_come_back_as_regions():
    expert = florence2.Florence2Regions(maximum_tokens=60)
    first, second = expert.annotate(PLAIN)
    assert [region.text for region in first.regions] == ["a cat", "two dogs on a mat", "two dogs on a mat"]
    assert [region.text for region in second.regions] == ["the sign"]
    # Places are the middles of thousandths of the image, in whole pixels.
    assert first.regions[0].box == (int(80 * 0.0105), int(60 * 0.0205), int(80 * 0.4005), int(60 * 0.5005))
    assert second.regions[0].box == (0, 0, 39, 69)
    assert all(0.5 < region.score <= 1 for region in (*first.regions, *second.regions))


def test_regions_are_those_of_transformers_own_reading():
    expert = florence2.Florence2Regions(maximum_tokens=60)
    network, processor = expert.parts
    images = [*PLAIN, *IMAGES]
    for image, found in zip(images, expert.annotate(images), strict=True):
        inputs = processor(text=florence2.TASK, images=image, return_tensors="pt")
        ids = network.generate(**inputs, num_beams=3, max_new_tokens=60, do_sample=False)
        text = processor.batch_decode(ids, skip_special_tokens=False)[0]
        whole = processor.post_process_generation(text=text, task=florence2.TASK, image_size=image.size)
        boxes, labels = whole[florence2.TASK]["bboxes"], whole[florence2.TASK]["labels"]
        usable = [(tuple(b), t) for b, t in zip(boxes, labels, strict=True) if b[0] < b[2] and b[1] < b[3]]
        assert [(region.box, region.text) for region in found.regions] == usable


def test_a_score_is_the_mean_probability_of_phrase_and_corners():
    expert = florence2.Florence2Regions(maximum_tokens=60)
    network, processor = expert.parts
    inputs = processor(text=florence2.TASK, images=PLAIN[1], return_tensors="pt")
    labels = processor.tokenizer(
        f"<s>{ANSWERS[1]}</s>", add_special_tokens=False, return_tensors="pt"
    ).input_ids
    with torch.inference_mode():
        steps = network(**inputs, labels=labels).logits.log_softmax(-1).gather(2, labels[..., None])[0, :, 0]
    (region,) = expert.annotate(PLAIN[1:])[0].regions
    assert region.score == pytest.approx(float(steps[1:-1].mean().exp()), rel=1e-3)


def test_dense_captions_do_not_depend_on_the_batch():
    images = [PLAIN[0], IMAGES[2], PLAIN[1]]
    together = florence2.Florence2Regions(maximum_tokens=60, batch_size=3).annotate(images)
    alone = florence2.Florence2Regions(maximum_tokens=60, batch_size=1).annotate(images)
    for first, second in zip(together, alone, strict=True):
        same([(r.text, r.score) for r in first.regions], [(r.text, r.score) for r in second.regions])
        assert [region.box for region in first.regions] == [region.box for region in second.regions]


# --- the set -----------------------------------------------------------------------------------------


def test_the_papers_set_describes_images_from_end_to_end(monkeypatch):
    loaded = {expert.name: expert for expert in experts.load_experts("paper")}
    assert list(loaded) == ["blip2", "florence2", "sam+blip2", "pp-ocr"]
    loaded["sam+blip2"].upstream.points, loaded["sam+blip2"].upstream.stability = 6, 0.5
    loaded["florence2"].maximum_tokens = 60
    found = {name: expert.annotate(IMAGES) for name, expert in loaded.items()}
    assert all(len(item.captions) == 1 for item in found["blip2"])
    captioned = [region for item in found["sam+blip2"] for region in item.regions]
    assert captioned and all(region.text and region.kind == "segment" for region in captioned)
    assert all(len(item.regions) <= segments.LARGEST for item in found["sam+blip2"])
    matcher = experts.load_matcher("auto", "paper")
    crops = [Image.new("RGB", (9, 9), "red")] * len(captioned)
    assert all(0 < value < 1 for value in matcher.match(crops, [region.text for region in captioned]))
    assert [expert.name for expert in experts.load_experts("paper-grit")] == [
        "blip2",
        "grit",
        "sam+blip2",
        "pp-ocr",
    ]
    assert os.environ[pretrained.WEIGHTS]
