"""nano-base: dense losses, attention targets, examples with several images, and phases."""

import contextlib
import dataclasses
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from monkeylib.boxes import contains
from monkeylib.data.synthetic import make_sample
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.profiles import build
from monkeylib.runs import RunDiffers, read_manifest
from monkeylib.training import checkpointing
from recipes.nano_base import train as base
from recipes.nano_base.answer_locations import locate_texts, visual_token_targets
from recipes.nano_base.dense_heads import (
    CLASSES,
    DenseHead,
    FirstAttentionHead,
    attention_loss,
    dense_loss,
    reading_accuracy,
)
from recipes.nano_base.dense_labels import CHAR_CLASSES
from recipes.nano_base.examples import (
    MAX_POSITION_SHIFT,
    MEAN,
    POINTS,
    STD,
    BaseExamples,
    _crops_without_answers,
)


@pytest.fixture(scope="module")
def processor():
    return build.build_processor(base.base_profile())


def test_each_character_of_a_transcript_is_located(processor):
    for seed in range(60):
        sample = make_sample(seed, "train", (96, 96), "document")
        answer = sample.detailed_caption
        matches = locate_texts(sample, answer)
        assert len(matches) == len(sample.texts)

        targets = visual_token_targets(sample, answer, processor.tokenizer, 8)
        rows = [target // 8 for target in targets if target >= 0]
        glyphs = [glyph for _, text in matches for glyph in text.glyphs]
        assert len(rows) == len(glyphs)

        # 8 visual tokens per side of 96 pixels: each stands for 12.
        for glyph, row in zip(glyphs, rows, strict=True):
            assert glyph.box[1] - 12 <= 12 * row <= glyph.box[3] + 1


def test_text_that_stands_twice_is_not_located():
    for seed in range(300):
        sample = make_sample(seed, "train", (96, 96), "document")
        strings = [text.string for text in sample.texts]
        repeated = {string for string in strings if strings.count(string) > 1}
        for string in repeated:
            assert locate_texts(sample, string) == []

        unique = next(string for string in strings if string not in repeated)
        assert locate_texts(sample, unique)[0][1].string == unique


def test_dense_loss_vanishes_for_right_scores():
    labels = torch.stack([torch.randint(0, count, (2, 4, 4)) for count in CLASSES], 1)
    right_scores = _scores_of(labels)
    assert dense_loss(right_scores, labels) < 1e-4
    assert reading_accuracy(right_scores, labels) == 1

    wrong_scores = (torch.roll(right_scores[0], 1, -1), *right_scores[1:])
    assert dense_loss(wrong_scores, labels) > 10


def test_dense_loss_ignores_illegible_points():
    labels = torch.stack([torch.randint(0, count, (2, 4, 4)) for count in CLASSES], 1)
    _, object_scores, colour_scores = _scores_of(labels)
    labels[:, 0] = torch.where(labels[:, 0] == 1, labels[:, 0], IGNORE_INDEX)
    labels[0, 0, 0, 0] = 1

    scores = torch.randn(2, 16, CHAR_CLASSES)
    legible = (labels[:, 0].flatten() != IGNORE_INDEX).nonzero()[:, 0]
    expected = torch.nn.functional.cross_entropy(
        scores.flatten(0, 1)[legible], labels[:, 0].flatten()[legible]
    )
    loss = dense_loss((scores, object_scores, colour_scores), labels)
    assert torch.allclose(loss, expected, atol=1e-3)


def _scores_of(labels):
    """Return scores that leave no doubt of the labels."""
    return tuple(40 * torch.eye(count)[labels[:, kind].flatten(1)] for kind, count in enumerate(CLASSES))


def test_dense_head_scores_the_points_of_its_cell():
    head = DenseHead(6, 2, 4)
    x = torch.zeros(1, 4, 6)
    x[0, 3] = torch.randn(6)  # the bottom right vector
    differs = (head(x)[0] - head(torch.zeros_like(x))[0]).abs().sum(-1).view(4, 4) > 0
    assert differs.nonzero().tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]


def test_reading_accuracy_counts_only_written_points():
    labels = torch.zeros(1, 3, 2, 2, dtype=torch.long)
    labels[0, 0] = torch.tensor([[0, 3], [5, IGNORE_INDEX]])
    character_scores = torch.zeros(1, 4, CLASSES[0])
    character_scores[0, 1, 3] = 1
    character_scores[0, 2, 9] = 1  # wrong: 5 is written there

    scores = (character_scores, *(torch.zeros(1, 4, count) for count in CLASSES[1:]))
    assert reading_accuracy(scores, labels).item() == 0.5
    assert torch.isfinite(dense_loss(scores, labels))


def test_attention_loss_equals_that_of_the_layer(tiny):
    language = tiny().language_model
    head = FirstAttentionHead(language.model.layers[1].self_attn)
    language.set_attn_implementation("eager")
    ids = torch.randint(5, 60, (2, 9))
    attention = language(ids, output_attentions=True).attentions[1][:, 0]
    targets = torch.full((2, 9), -1)
    targets[0, 4] = 2
    targets[0, 8] = 7
    targets[1, 6] = 1
    expected = -torch.stack([attention[0, 3, 2], attention[0, 7, 7], attention[1, 5, 1]]).log().mean()
    loss, _ = attention_loss(*head.query_and_key(), targets)
    assert torch.allclose(loss, expected, atol=1e-5)
    assert attention_loss(*head.query_and_key(), torch.full((2, 9), -1))[0] == 0


def test_attention_on_its_target_has_no_loss():
    keys = 30 * torch.eye(6)[None]
    queries = torch.zeros(1, 6, 6)
    queries[0, 3, 2] = 1.0  # the position before the label at 4 looks at 2
    loss, accuracy = attention_loss(queries, keys, torch.tensor([[-1, -1, -1, -1, 2, -1]]))
    assert loss < 1e-6 and accuracy == 1


def test_examples_are_deterministic_and_shift_positions(processor):
    examples = BaseExamples(processor, "val", answers=True)
    batch = examples.collate([examples(number) for number in range(8)])
    repeated = examples.collate([examples(number) for number in range(8)])
    assert all(torch.equal(batch[name], repeated[name]) for name in batch)

    # Positions grow by 1, but for a jump between image and text.
    span = len(processor.image_ids())
    steps = batch["position_ids"].diff(dim=1)
    assert (steps[:, : span - 1] == 1).all() and (steps[:, span:] == 1).all()
    assert (steps[:, span - 1] > 1).any()
    assert batch["position_ids"].max() < MAX_POSITION_SHIFT + batch["input_ids"].shape[1]


def test_crop_shows_the_answers_to_its_questions(processor):
    examples = BaseExamples(processor, "val", answers=True, several=1.0, bucket_size=64)
    crops = 0
    for number in range(80):
        sample, view = _sample_and_view(examples, number)
        if view[2] - view[0] == sample.image.width:
            continue

        crops += 1
        example = examples(number)
        assert sample.family == "document" and example.prompts
        assert view[2] - view[0] == view[3] - view[1] == 96

        questions = _questions_by_prompt(sample)
        for prompt in example.prompts:
            assert contains(view, questions[prompt].answer_box)
        assert (example.targets >= 0).any()
    assert crops > 3


def test_only_the_own_image_answers_a_prompt_of_several(processor):
    examples = BaseExamples(processor, "val", answers=True, several=1.0, bucket_size=64)
    rows = [examples(number) for number in range(16)]
    batch = examples.collate(rows)
    images_of_prompts = examples._images_of_prompts(rows)
    assert batch["views"].tolist() == sum(images_of_prompts, [])
    assert len({len(images) for images in images_of_prompts}) >= 3

    span = len(processor.image_ids())
    for number, (row, images) in enumerate(zip(rows, images_of_prompts, strict=True)):
        for other in (rows[image] for image in images if image != number):
            assert row.prompts.isdisjoint(other.answerable_prompts)
            assert not row.family == other.family == "general"

        ids = batch["input_ids"][number]
        assert (ids == processor.image_token_id).sum() == len(images) * processor.queries

        # Attention targets lie in the span of the example's own image.
        targets = batch["attention_targets"][number]
        assert (targets[targets >= 0] // span == images.index(number)).all()

        text = row.conversation.input_ids[span:]
        assert torch.equal(ids[len(images) * span :][: len(text)], text)


def test_prompts_of_several_images_ask_for_no_caption(processor):
    examples = BaseExamples(processor, "val", answers=True, several=1.0, bucket_size=64)
    rows = [examples(number) for number in range(16)]
    texts = [processor.tokenizer.decode(row.conversation.input_ids) for row in rows if row.has_other_images]
    assert texts and not any("caption" in text for text in texts)


def test_details_of_an_image_do_not_show_its_answers(processor):
    examples = BaseExamples(processor, "val", answers=True, several=1.0, details=2, bucket_size=64)
    cropped_families, num_details, num_full_images = set(), 0, 0

    for row in [examples(number) for number in range(64)]:
        sample, view = _sample_and_view(examples, row.number)
        by_prompt = _questions_by_prompt(sample)
        questions = [by_prompt[prompt] for prompt in row.prompts if prompt in by_prompt]

        # A place in the full image is another place in a crop.
        if view[2] - view[0] < sample.image.width:
            cropped_families.add(sample.family)
            assert not any("written at" in question.question for question in questions)

        for crop in _crops_without_answers(questions, sample, view, np.random.default_rng([29, row.number])):
            if crop == (0, 0, *sample.image.size):
                num_full_images += 1
                assert all(question.text_size == "fine" for question in questions)
            else:
                assert not any(contains(crop, question.answer_box) for question in questions)

        num_details += len(row.images) - 1
        assert len(row.images) <= 3 and len(row.images) == len(row.dense)

    assert cropped_families == {"document", "scene_text"}
    assert num_details > 20 and num_full_images > 3


def test_details_stand_only_in_the_prompt_of_their_image(processor):
    examples = BaseExamples(processor, "val", answers=True, several=1.0, details=2, bucket_size=64)
    rows = [examples(number) for number in range(16)]
    batch = examples.collate(rows)
    images_of_prompts = examples._images_of_prompts(rows)
    num_images = sum(len(row.images) for row in rows)
    assert len(batch["pixel_values"]) == len(batch["dense"]) == num_images > 16

    first_detail = 16
    for number, (row, images) in enumerate(zip(rows, images_of_prompts, strict=True)):
        details = range(first_detail, first_detail + len(row.images) - 1)
        assert number in images
        assert {image for image in images if image >= 16} <= set(details)

        for position, image in enumerate(details, start=1):
            pixels = (row.images[position].permute(2, 0, 1) / 255 - MEAN) / STD
            assert torch.allclose(batch["pixel_values"][image], pixels)
        first_detail += len(details)


def test_share_of_images_with_signs(processor):
    def shows_signs(number, **options):
        examples = BaseExamples(
            processor, "val", answers=True, several=1.0, details=2, bucket_size=64, **options
        )
        sample, _ = _sample_and_view(examples, number)
        return sample.family == "scene_text"

    assert all(shows_signs(number, signs=1.0) for number in range(20))

    with_share = sum(shows_signs(number, signs=0.6) for number in range(80))
    by_default = sum(shows_signs(number) for number in range(80))
    assert 0.45 * 80 < with_share < 0.85 * 80
    assert by_default < with_share


def test_independent_examples_ask_for_each_sign_once_and_mix_no_transcript(processor):
    examples = BaseExamples(
        processor, "val", answers=True, several=0.5, details=2, signs=1.0, independent=True, bucket_size=8
    )
    num_transcripts = 0
    for row in [examples(number) for number in range(48)]:
        sample, _ = _sample_and_view(examples, row.number)
        has_transcript = any("detailed" in prompt for prompt in row.prompts)
        questions = [prompt for prompt in row.prompts if prompt.endswith("Answer: ")]

        num_transcripts += has_transcript
        assert not (has_transcript and questions)
        assert len(questions) <= len(sample.signs)
    assert 0 < num_transcripts < 24


def _sample_and_view(examples, number):
    """Return the image and the view of an example, by the same random numbers."""
    return examples._sample_and_view(number, np.random.default_rng([11, number]))


def _questions_by_prompt(sample):
    return {f" {question.question} Answer: ": question for question in sample.questions}


def test_loss_weighs_the_starts_of_answers_as_the_phase_says(processor):
    profile = base.base_profile()
    model = build.build_model(profile, processor).eval()
    heads = DenseHead(profile.vision.width, 12, POINTS), DenseHead(192, 8, POINTS)
    examples = BaseExamples(processor, "train", answers=True, signs=1.0, independent=True)
    batch = examples.collate([examples(number) for number in range(4)])
    module = base.BaseTraining(model, heads, base.PARTS, processor, 0)
    loss_without_starts = module.compute_losses(batch)["loss"]

    targets, turns = batch["attention_targets"], batch["turns"]
    starts = (targets >= 0) & (turns.diff(dim=1, prepend=turns[:, :1]) != 0)
    assert 0 < starts.sum() <= len({*turns.unique().tolist()} - {-1}) * 4

    start_loss, _ = attention_loss(
        *module.first_head.query_and_key(), targets.where(starts, torch.tensor(-1))
    )
    module.phase = base.COLOURS
    expected = loss_without_starts + base.COLOURS.starts * start_loss
    assert torch.allclose(module.compute_losses(batch)["loss"], expected, atol=1e-4)


def build_phase(processor, **settings):
    """Return a phase of three steps on two images each, the same with every call."""
    torch.manual_seed(0)
    profile = base.base_profile()
    heads = DenseHead(profile.vision.width, 12, POINTS), DenseHead(192, 8, POINTS)
    phase = dataclasses.replace(base.READING, steps=3, batch_size=2, **settings)
    return base.BaseTraining(build.build_model(profile, processor), heads, phase, processor, 0)


def test_phase_resumes_at_its_last_readable_checkpoint(processor, tmp_path, monkeypatch):
    monkeypatch.setattr(base, "SAVE_INTERVAL", 1)
    module = build_phase(processor)
    base.train_phase(module, tmp_path)
    weights = {name: weight.clone() for name, weight in module.state_dict().items()}
    checkpoints = checkpointing.list_checkpoints(tmp_path)
    assert [path.name for path in checkpoints] == ["step-000002.ckpt", "step-000003.ckpt"]
    assert read_manifest(tmp_path).finished

    # A finished phase gives its weights, and so does one whose last checkpoint was cut off.
    for size in (None, 1000):
        if size is not None:
            os.truncate(checkpoints[-1], size)
        resumed = build_phase(processor)
        with (
            pytest.warns(UserWarning, match="step-000002.ckpt is used") if size else contextlib.nullcontext()
        ):
            base.train_phase(resumed, tmp_path)
        assert all(torch.equal(weights[name], weight) for name, weight in resumed.state_dict().items())

    with pytest.raises(RunDiffers, match=r"other settings \(phase.lr 0.002 -> 1.0\): .*move that folder"):
        base.train_phase(build_phase(processor, lr=1.0), tmp_path)


def test_phase_shares_no_folder(tmp_path):
    module = SimpleNamespace(phase=base.PARTS, seed=0)
    with base._open_folder(module, tmp_path), pytest.raises(BlockingIOError, match="in use by process"):
        base.train_phase(module, tmp_path)

    (tmp_path / "metrics.csv").write_text("mine")
    with pytest.raises(FileExistsError, match="such as metrics.csv"):
        base.train_phase(module, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize("phase", [base.READING, base.LANGUAGE, base.MIXED], ids=lambda phase: phase.name)
def test_loss_falls_on_one_batch(processor, phase):
    torch.manual_seed(0)
    profile = base.base_profile()
    model = build.build_model(profile, processor)
    base.initialize_weights(model)
    heads = DenseHead(profile.vision.width, 12, POINTS), DenseHead(192, 8, POINTS)
    module = base.BaseTraining(model, heads, dataclasses.replace(phase, batch_size=4), processor, 0)
    examples = BaseExamples(processor, "train", phase.answers, independent=phase.independent)
    batch = examples.collate([examples(number) for number in range(4)])

    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-3)
    losses = []

    for _ in range(8):
        loss = module.compute_losses(batch)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_saved_model_replaces_its_own_files_only(tiny, processor, tmp_path):
    for content in ("old", "new"):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / "config.json").write_text(content)
        (tmp_path / "model" / "notes.txt").write_text("mine")
        base.save_model(tiny(), processor, tmp_path / "model")

    assert (tmp_path / "model" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "model" / "config.json").read_text().startswith("{")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
