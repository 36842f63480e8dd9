"""How nano-base is taught: dense labels, where to look, positions spread, and the phases' resume."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from monkeylib.boxes import contains
from monkeylib.data.synthetic import make_sample
from monkeylib.profiles import build
from monkeylib.prompts import IGNORE_INDEX
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


def test_every_character_of_a_transcript_is_looked_at_where_it_stands(processor):
    for seed in range(60):
        sample = make_sample(seed, "train", (96, 96), "document")
        answer = sample.detailed_caption
        looked = visual_token_targets(sample, answer, processor.tokenizer, 8)
        written = [glyph for _, text in locate_texts(sample, answer) for glyph in text.glyphs]
        assert len(locate_texts(sample, answer)) == len(sample.texts)
        assert sum(query >= 0 for query in looked) == len(written)
        rows = [query // 8 for query in looked if query >= 0]
        for glyph, row in zip(written, rows, strict=True):
            assert glyph.box[1] - 12 <= 12 * row <= glyph.box[3] + 1


def test_a_text_that_stands_twice_is_not_looked_at():
    for seed in range(300):
        sample = make_sample(seed, "train", (96, 96), "document")
        strings = [text.string for text in sample.texts]
        twice = {string for string in strings if strings.count(string) > 1}
        for string in twice:
            assert locate_texts(sample, string) == []
        once = next(string for string in strings if string not in twice)
        assert locate_texts(sample, once)[0][1].string == once


def test_dense_loss_falls_to_nothing_for_the_right_scores_and_ignores_the_unreadable():
    labels = torch.stack([torch.randint(0, count, (2, 4, 4)) for count in CLASSES], 1)
    right = tuple(40 * torch.eye(n)[labels[:, k].flatten(1)] for k, n in enumerate(CLASSES))
    assert dense_loss(right, labels) < 1e-4
    assert reading_accuracy(right, labels) == 1
    wrong = (torch.roll(right[0], 1, -1), *right[1:])
    assert dense_loss(wrong, labels) > 10
    labels[:, 0] = torch.where(labels[:, 0] == 1, labels[:, 0], IGNORE_INDEX)
    labels[0, 0, 0, 0] = 1
    scores = torch.randn(2, 16, CHAR_CLASSES)
    known = (labels[:, 0].flatten() != IGNORE_INDEX).nonzero()[:, 0]
    expected = torch.nn.functional.cross_entropy(scores.flatten(0, 1)[known], labels[:, 0].flatten()[known])
    only = dense_loss((scores, right[1], right[2]), labels)
    assert torch.allclose(only, expected, atol=1e-3)


def test_heads_put_scores_where_the_labels_are():
    head = DenseHead(6, 2, 4)
    x = torch.zeros(1, 4, 6)
    x[0, 3] = torch.randn(6)  # the bottom right vector
    differs = (head(x)[0] - head(torch.zeros_like(x))[0]).abs().sum(-1).view(4, 4) > 0
    assert differs.nonzero().tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]


def test_attention_loss_is_that_of_the_layer(tiny):
    language = tiny().language_model
    head = FirstAttentionHead(language.model.layers[1].self_attn)
    language.set_attn_implementation("eager")
    ids = torch.randint(5, 60, (2, 9))
    attention = language(ids, output_attentions=True).attentions[1][:, 0]
    targets = torch.full((2, 9), -1)
    targets[0, 4], targets[0, 8], targets[1, 6] = 2, 7, 1
    expected = -torch.stack([attention[0, 3, 2], attention[0, 7, 7], attention[1, 5, 1]]).log().mean()
    loss, _ = attention_loss(*head.query_and_key(), targets)
    assert torch.allclose(loss, expected, atol=1e-5)
    assert attention_loss(*head.query_and_key(), torch.full((2, 9), -1))[0] == 0


def test_attention_on_its_target_has_no_loss():
    keys = 30 * torch.eye(6)[None]
    queries = torch.zeros(1, 6, 6)
    queries[0, 3, 2] = 1.0  # the position before the label at 4 looks at 2
    loss, right = attention_loss(queries, keys, torch.tensor([[-1, -1, -1, -1, 2, -1]]))
    assert loss < 1e-6 and right == 1


def test_rows_are_the_same_each_time_and_shift_positions_after_the_image(processor):
    rows = BaseExamples(processor, "val", answers=True)
    batch = rows.collate([rows(number) for number in range(8)])
    again = rows.collate([rows(number) for number in range(8)])
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    span = len(processor.image_ids())
    steps = batch["position_ids"].diff(dim=1)
    assert (steps[:, : span - 1] == 1).all() and (steps[:, span:] == 1).all()
    assert (steps[:, span - 1] > 1).any()
    assert batch["position_ids"].max() < MAX_POSITION_SHIFT + batch["input_ids"].shape[1]


def test_crops_show_all_that_is_asked_of_them(processor):
    rows = BaseExamples(processor, "val", answers=True, several=1.0, bucket_size=64)
    crops = 0
    for number in range(80):
        sample, view = rows._sample_and_view(number, np.random.default_rng([11, number]))
        if view[2] - view[0] == sample.image.width:
            continue
        crops += 1
        row = rows(number)
        prompts = {f" {question.question} Answer: ": question for question in sample.questions}
        assert sample.family == "document" and row.asked and view[2] - view[0] == view[3] - view[1] == 96
        for asked in row.asked:
            left, top, right, bottom = prompts[asked].answer_box
            assert view[0] <= left and view[1] <= top and right <= view[2] and bottom <= view[3]
        assert (row.targets >= 0).any()
    assert crops > 3


def test_of_several_images_only_its_own_has_what_is_asked_for(processor):
    rows = BaseExamples(processor, "val", answers=True, several=1.0, bucket_size=64)
    made = [rows(number) for number in range(16)]
    batch, views = rows.collate(made), rows._images_of_prompts(made)
    assert batch["views"].tolist() == sum(views, [])
    assert len({len(images) for images in views}) >= 3
    span = len(processor.image_ids())
    for number, (row, images) in enumerate(zip(made, views, strict=True)):
        others = [made[other] for other in images if other != number]
        assert not any(row.asked & other.answers for other in others), "only its own image answers it"
        assert not any(row.family == other.family == "general" for other in others)
        ids = batch["input_ids"][number]
        assert (ids == processor.image_token_id).sum() == len(images) * processor.queries
        looked = batch["attention_targets"][number]
        assert (looked[looked >= 0] // span == images.index(number)).all(), "inside its own image"
        tail = row.conversation.input_ids[span:]
        assert torch.equal(ids[len(images) * span :][: len(tail)], tail)
    texts = [processor.tokenizer.decode(row.conversation.input_ids) for row in made if row.among]
    assert texts and not any("caption" in text for text in texts)


def test_details_of_a_image_do_not_answer_what_is_asked_of_it(processor):
    rows = BaseExamples(processor, "val", answers=True, several=1.0, details=2, bucket_size=64)
    made = [rows(number) for number in range(64)]
    crops, details, whole = set(), 0, 0
    for row in made:
        sample, view = rows._sample_and_view(row.number, np.random.default_rng([11, row.number]))
        questions = {f" {q.question} Answer: ": q for q in sample.questions}
        asked = [questions[prompt] for prompt in row.asked if prompt in questions]
        if view[2] - view[0] < sample.image.width:
            crops.add(sample.family)
            assert not any("written at" in q.question for q in asked), "places are those of the image"
        for part in _crops_without_answers(asked, sample, view, np.random.default_rng([29, row.number])):
            whole += part == (0, 0, *sample.image.size)
            fits = all(q.text_size == "fine" for q in asked)
            assert (
                fits
                if part == (0, 0, *sample.image.size)
                else not any(contains(part, q.answer_box) for q in asked)
            )
        details += len(row.images) - 1
        assert len(row.images) <= 3 and row.images.shape[0] == row.dense.shape[0]
    assert crops == {"document", "scene_text"} and details > 20 and whole > 3


def test_details_stand_among_the_images_of_their_own_prompt_alone(processor):
    rows = BaseExamples(processor, "val", answers=True, several=1.0, details=2, bucket_size=64)
    made = [rows(number) for number in range(16)]
    batch, views = rows.collate(made), rows._images_of_prompts(made)
    assert len(batch["pixel_values"]) == len(batch["dense"]) == sum(len(row.images) for row in made) > 16
    first = 16
    for number, (row, images) in enumerate(zip(made, views, strict=True)):
        own = set(range(first, first + len(row.images) - 1))
        assert number in images and {image for image in images if image >= 16} <= own
        for place in own:
            seen = (row.images[1 + place - first].permute(2, 0, 1) / 255 - MEAN) / STD
            assert torch.allclose(batch["pixel_values"][place], seen)
        first += len(own)


def test_a_share_of_the_images_shows_signs(processor):
    def signs(number, **more):
        rows = BaseExamples(processor, "val", answers=True, several=1.0, details=2, bucket_size=64, **more)
        return rows._sample_and_view(number, np.random.default_rng([11, number]))[0].family == "scene_text"

    assert all(signs(number, signs=1.0) for number in range(20))
    more, usual = (sum(signs(n, **share) for n in range(80)) for share in ({"signs": 0.6}, {}))
    assert 0.45 * 80 < more < 0.85 * 80 and usual < more


def test_apart_each_sign_is_asked_for_once_and_transcripts_stand_alone(processor):
    rows = BaseExamples(
        processor, "val", answers=True, several=0.5, details=2, signs=1.0, independent=True, bucket_size=8
    )
    made = [rows(number) for number in range(48)]
    told = 0
    for row in made:
        sample, _ = rows._sample_and_view(row.number, np.random.default_rng([11, row.number]))
        detailed = any("detailed" in prompt for prompt in row.asked)
        questions = [prompt for prompt in row.asked if prompt.endswith("Answer: ")]
        told += detailed
        assert not (detailed and questions) and len(questions) <= len(sample.signs)
    assert 0 < told < 24


def test_where_answers_start_weighs_as_much_as_the_phase_says(processor):
    profile = base.base_profile()
    model = build.build_model(profile, processor).eval()
    heads = DenseHead(profile.vision.width, 12, POINTS), DenseHead(192, 8, POINTS)
    rows = BaseExamples(processor, "train", answers=True, signs=1.0, independent=True)
    batch = rows.collate([rows(number) for number in range(4)])
    module = base.BaseTraining(model, heads, base.PARTS, processor, 0)
    plain = module.compute_losses(batch)["loss"]
    starts = (batch["attention_targets"] >= 0) & (
        batch["turns"].diff(dim=1, prepend=batch["turns"][:, :1]) != 0
    )
    found, _ = attention_loss(
        *module.first_head.query_and_key(), batch["attention_targets"].where(starts, torch.tensor(-1))
    )
    assert 0 < starts.sum() <= len({*batch["turns"].unique().tolist()} - {-1}) * 4
    module.phase = base.COLOURS
    assert torch.allclose(
        module.compute_losses(batch)["loss"], plain + base.COLOURS.starts * found, atol=1e-4
    )


def test_phase_trained_with_other_settings_is_refused(tmp_path):
    (tmp_path / "phase.json").write_text(json.dumps(dataclasses.asdict(base.PARTS)))
    module = SimpleNamespace(phase=dataclasses.replace(base.PARTS, lr=1.0))
    with pytest.raises(
        ValueError, match="trained with other settings: to train it again, remove that folder"
    ):
        base.train_phase(module, tmp_path)


@pytest.mark.parametrize("phase", [base.READING, base.LANGUAGE, base.MIXED], ids=lambda phase: phase.name)
def test_a_few_steps_on_one_batch_lower_the_loss(processor, phase):
    torch.manual_seed(0)
    profile = base.base_profile()
    model = build.build_model(profile, processor)
    base.initialize_weights(model)
    heads = DenseHead(profile.vision.width, 12, POINTS), DenseHead(192, 8, POINTS)
    module = base.BaseTraining(model, heads, dataclasses.replace(phase, batch_size=4), processor, 0)
    rows = BaseExamples(processor, "train", phase.answers, independent=phase.independent)
    batch = rows.collate([rows(number) for number in range(4)])
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = module.compute_losses(batch)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
