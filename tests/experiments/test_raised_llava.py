"""A raised LLaVA, trained and scored in its smallest form."""

import numpy as np
import pytest
import torch

from monkeylib import tables
from monkeylib.evaluation.benchmarks import synthetic_examples
from monkeylib.experiments import grid, raised_llava
from monkeylib.experiments.cell import Cell
from monkeylib.experiments.raised_llava import run_folder_of, training_profile
from monkeylib.profiles import load_profile
from monkeylib.training.signals import StoppedAsPlanned
from tests.support.smoke_experiments import smallest_profile


@pytest.fixture(scope="module")
def profile():
    return smallest_profile()


def test_table_has_curves_from_step_0_and_nothing_is_computed_twice(outputs, monkeypatch, profile):
    path = raised_llava.run(profile)
    rows = tables.read_csv(path)
    columns = ("variant", "records", "visual_tokens")
    # 16 patches a view, of one view or of four tiles and the global view.
    assert list(dict.fromkeys(tuple(row[name] for name in columns) for row in rows)) == [
        ("llava_one_view", 0, 16),
        ("llava_no_adapters", 0, 80),
        ("llava_no_adapters", profile.training.batch_size, 80),
        ("llava_per_tile", 0, 80),
        ("llava_per_tile", profile.training.batch_size, 80),
    ]
    assert {row["variant"] for row in rows} == set(raised_llava.TITLES)
    assert {(row["split"], row["n"]) for row in rows} == {("fine", 2), ("large", 1)}
    answers = tables.read_table("raised_llava_answers", profile.name)
    assert list(answers[0]) == ["question", "label", "base", "untrained", "trained"]

    # A loss that has moved the model gives other scores than at step 0.
    values = {
        (row["variant"], row["step"]): row["value"]
        for row in rows
        if (row["split"], row["metric"]) == ("fine", "log-likelihood")
    }
    assert values["llava_per_tile", 0] == values["llava_no_adapters", 0] != values["llava_per_tile", 1]

    # By question, for what is compared with the grid.
    scores = np.load(raised_llava.scores_path(profile, Cell("llava_per_tile", "ordinary", 0)))
    for moment, step in (("start", 0), ("end", 1)):
        mean = scores[f"{moment}_fine_log_likelihood"].mean()
        assert mean == pytest.approx(values["llava_per_tile", step], rel=1e-2)

    before = path.read_bytes()
    monkeypatch.setattr(raised_llava, "score_raised", None)
    assert raised_llava.run(profile).read_bytes() == before

    names = [file.name for file in (run_folder_of(profile, "per_tile") / "model").iterdir()]
    assert "monkey.json" in names and "tile-3" in names


def test_training_is_that_of_the_profiles_own_monkey():
    """Steps, batch, rates and seed are those of a cell of the grid."""
    nano = load_profile("nano").with_seed(2)
    own, raised = Cell("per_tile", "ordinary", 2).profile(nano).training, training_profile(nano, "base")
    for name in ("steps", "batch_size", "lr", "lora_lr", "warmup", "weight_decay", "seed"):
        assert getattr(raised.training, name) == getattr(own, name), name
    assert (raised.connector, raised.language_model, raised.mode) == ("full", "full", "per_tile")


def test_what_is_published_of_an_incomplete_training_ends_with_its_last_score(outputs, profile):
    ablation = profile.ablation.model_copy(update={"steps": 4, "curve_steps": [1, 2]})
    longer = profile.model_copy(update={"ablation": ablation})
    earlier = {"variant": "llava_per_tile", "rendering": "ordinary", "seed": 0, "steps": 9, "batch_size": 9}
    earlier |= {"step": 9, "value": 0.25}
    path = tables.write_table([earlier], "raised_llava", profile.name)

    with pytest.raises(StoppedAsPlanned):
        raised_llava.train(longer, "per_tile", stop_after=1)
    published = tables.read_csv(raised_llava.publish(longer))
    assert {row["step"] for row in published if row["steps"] == 4} == {0, 1}
    assert [row for row in published if row["steps"] == 9] == [dict.fromkeys(published[0]) | earlier]
    assert not tables.table_path("raised_llava_answers", profile.name).exists()
    assert not raised_llava.scores_path(longer, Cell("llava_per_tile", "ordinary", 0)).exists()

    # Again, it is written in place of what it had.
    before = path.read_bytes()
    assert raised_llava.publish(longer).read_bytes() == before


def test_scores_of_other_questions_than_the_grids_are_not_published(outputs, profile):
    questions = [{"split": "fine", "image": image} for image in ("a", "b", "c")]
    tables.write_csv(questions, grid.questions_path(profile, Cell("per_tile", "ordinary", 0)))
    raised_llava._require_same_questions(profile, questions[:2])
    with pytest.raises(ValueError, match="holds other questions: publish the grid anew"):
        raised_llava._require_same_questions(profile, questions[1:])


def test_scores_are_those_of_each_question_alone(outputs, profile):
    """Beside the log-probability that the model gives the answer when it reads the views itself."""
    monkey = raised_llava.load_untrained(profile)
    examples = synthetic_examples("fine", 4, profile.image_size)
    scores = raised_llava.score_raised(monkey, examples)

    for number, example in enumerate(examples):
        inputs = monkey.prepare([example.rendered_image], [example.question])
        answer = torch.tensor([[*monkey.text_ids(example.answers[0]), *monkey.end_ids[:1]]])
        with torch.no_grad():
            logits = monkey.model(**monkey.append_ids(inputs, answer)).logits
        predicted = logits[0, -answer.shape[1] - 1 : -1].log_softmax(-1)
        expected = predicted.gather(-1, answer[0][:, None]).sum().item() / len(example.answers[0])
        np.testing.assert_allclose(scores.log_likelihood[number], expected, atol=1e-4)
        assert scores.exact[number] == bool((predicted.argmax(-1) == answer[0]).all())


def test_base_sees_one_view(outputs, profile):
    image = synthetic_examples("fine", 1, profile.image_size)[0].rendered_image
    for has_tiles, views in ((False, 1), (True, 5)):
        inputs = raised_llava.load_untrained(profile, has_tiles).prepare([image], ["who?"])
        assert len(inputs["pixel_values"]) == views
