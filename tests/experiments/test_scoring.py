import lightning as L
import numpy as np
import pytest
import torch

from monkeylib import profiles
from monkeylib.evaluation.likelihood import AnswerScores, score_answers
from monkeylib.experiments import scoring
from monkeylib.experiments.variants import variant_profile
from monkeylib.model.tile_lora import tile_loras
from monkeylib.monkey import Monkey
from monkeylib.profiles import build, trainable
from monkeylib.training.module import MonkeyTraining
from monkeylib.training.synthetic_records import synthetic_data

COUNTS = {"fine": 3, "general": 2, "caption": 2}


@pytest.fixture(scope="module")
def profile():
    return profiles.load_profile("smoke").with_training(steps=3)


@pytest.fixture(scope="module")
def questions(profile):
    return scoring.load_questions(profile, COUNTS)


@pytest.fixture()
def module(profile):
    torch.manual_seed(0)
    processor = build.build_processor(profile)
    model = build.build_model(profile, processor)
    trainable.set_trainable(model, profile)
    return MonkeyTraining(model, processor, profile, synthetic_data(profile))


def _train(module, callbacks, folder):
    trainer = L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_steps=module.profile.training.steps,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        limit_val_batches=0,
    )
    trainer.fit(module)
    return {name: weight.clone() for name, weight in module.model.state_dict().items()}


def test_questions_are_those_of_the_profile(profile, questions):
    assert {split: len(examples) for split, examples in questions.items()} == COUNTS
    sizes = {example.rendered_image.size for examples in questions.values() for example in examples}
    assert sizes == {profile.image_size}

    # As many in another rendering, about other pixels.
    fixed = scoring.load_questions(profile.model_copy(update={"rendering": "fixed"}), COUNTS)
    pixels = [np.asarray(by_split["general"][0].rendered_image) for by_split in (questions, fixed)]
    assert (pixels[0] != pixels[1]).any()


def test_splits_are_scored_as_if_alone(module, questions):
    monkey = Monkey(module.model, module.processor)
    scores = scoring.score_questions(monkey, questions)
    for split, examples in questions.items():
        alone = score_answers(monkey, examples)
        assert np.allclose(scores[split].log_likelihood, alone.log_likelihood, rtol=1e-5)


def test_scores_survive_the_disk(tmp_path):
    scores = {
        "fine": AnswerScores(np.array([-0.5, -2.25]), np.array([True, False])),
        "large": AnswerScores(np.array([-1.0]), np.array([False])),
    }
    scoring.write_scores(scores, tmp_path / "scores.npz")
    read = scoring.read_scores(tmp_path / "scores.npz")

    assert list(read) == ["fine", "large"]
    for split, values in scores.items():
        assert read[split].log_likelihood.tolist() == values.log_likelihood.tolist()
        assert read[split].exact.tolist() == values.exact.tolist()


def test_training_is_the_same_with_and_without_scoring(profile, questions, tmp_path):
    weights = []
    for name, steps in (("scored", (0, 1, 3)), ("plain", ())):
        torch.manual_seed(0)
        processor = build.build_processor(profile)
        model = build.build_model(profile, processor)
        trainable.set_trainable(model, profile)
        fresh = MonkeyTraining(model, processor, profile, synthetic_data(profile))
        callback = scoring.ScoreAtSteps(
            {step: questions for step in steps}, tmp_path / name, tmp_path / "untrained"
        )
        weights.append(_train(fresh, [callback], tmp_path))

    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    files = sorted(path.name for path in (tmp_path / "scored").iterdir())
    assert files == ["step-0000.npz", "step-0001.npz", "step-0003.npz"]
    means = [scoring.read_scores(tmp_path / "scored" / file)["fine"].log_likelihood.mean() for file in files]
    # A few steps from random weights make answers likelier.
    assert means[0] < means[1] < means[2]


def test_models_of_equal_weights_share_the_scores_before_training(module, questions, tmp_path, monkeypatch):
    folders = [tmp_path / "first", tmp_path / "second"]
    trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")

    for folder in folders:
        # Other fresh LoRA, which changes no answer.
        for lora in tile_loras(module.model):
            lora.reset_parameters()
        callback = scoring.ScoreAtSteps({0: questions}, folder, tmp_path / "untrained")
        callback.on_train_start(trainer, module)
        # From here on, scoring again would fail.
        monkeypatch.setattr(scoring, "score_questions", lambda *_: pytest.fail("scored twice"))

    assert len(list((tmp_path / "untrained").iterdir())) == 1
    first, second = (scoring.read_scores(scoring.step_file(folder, 0)) for folder in folders)
    assert first["fine"].log_likelihood.tolist() == second["fine"].log_likelihood.tolist()


@pytest.mark.parametrize("part", ["lora", "weights", "questions"])
def test_models_that_differ_are_scored_each(part, module, profile, questions, tmp_path):
    trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    untrained = tmp_path / "untrained"
    scoring.ScoreAtSteps({0: questions}, tmp_path / "first", untrained).on_train_start(trainer, module)

    with torch.no_grad():
        if part == "lora":
            tile_loras(module.model)[0].lora_B.fill_(0.1)
        elif part == "weights":
            module.model.get_input_embeddings().weight.mul_(2)
    if part == "questions":
        questions = scoring.load_questions(profile, COUNTS | {"fine": 2})

    scoring.ScoreAtSteps({0: questions}, tmp_path / "second", untrained).on_train_start(trainer, module)
    assert len(list(untrained.iterdir())) == 2


def test_models_of_equal_weights_and_other_tokens_are_scored_each(module, profile, questions, tmp_path):
    """As a variant whose visual tokens are averaged."""
    trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    untrained = tmp_path / "untrained"
    scoring.ScoreAtSteps({0: questions}, tmp_path / "first", untrained).on_train_start(trainer, module)

    pooled = variant_profile(profile, "pooled")
    processor = build.build_processor(pooled)
    model = build.build_model(pooled, processor)
    model.load_state_dict(module.model.state_dict())
    other = MonkeyTraining(model, processor, pooled, synthetic_data(pooled))
    scoring.ScoreAtSteps({0: questions}, tmp_path / "second", untrained).on_train_start(trainer, other)

    assert len(list(untrained.iterdir())) == 2
    first, second = (
        scoring.read_scores(scoring.step_file(tmp_path / name, 0)) for name in ("first", "second")
    )
    assert first["fine"].log_likelihood.tolist() != second["fine"].log_likelihood.tolist()


def test_questions_are_described_by_image_kind_and_height(questions):
    rows = scoring.describe_questions(questions)
    assert [row["split"] for row in rows] == ["fine"] * 3 + ["general"] * 2 + ["caption"] * 2
    assert rows[0]["height"] > 0 and rows[0]["kind"]
    assert rows[-1]["height"] is None
    # Questions about one image share it across splits.
    images = {row["image"] for row in rows}
    assert len(images) < len(rows)
