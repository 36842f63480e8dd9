"""A raised LLaVA, trained and scored in its smallest form."""

import numpy as np
import pytest
import torch

from monkeylib import tables
from monkeylib.evaluation.benchmarks import synthetic_examples
from monkeylib.experiments import raised_llava
from monkeylib.experiments.raised_llava import CONDITIONS, folder_of
from tests.support.smoke_experiments import smallest_profile


@pytest.fixture(scope="module")
def profile():
    return smallest_profile()


def test_table_has_all_conditions_and_nothing_is_computed_twice(outputs, monkeypatch, profile):
    path = raised_llava.run(profile)
    rows = tables.read_csv(path)
    assert [row["condition"] for row in rows] == [condition.title for condition in CONDITIONS.values()]
    assert [row["steps"] for row in rows] == [0, 0, 1, 1]
    # 16 patches a view, of one view or of four tiles and the global view.
    assert [row["visual_tokens"] for row in rows] == [16, 80, 80, 80]

    before = path.read_bytes()
    monkeypatch.setattr(raised_llava, "score_raised", None)
    assert raised_llava.run(profile).read_bytes() == before

    names = [file.name for file in (folder_of(profile) / "per_tile" / "model").iterdir()]
    assert "monkey.json" in names and "tile-3" in names


def test_scores_are_those_of_each_question_alone(outputs, profile):
    """Beside the log-probability that the model gives the answer when it reads the views itself."""
    monkey = raised_llava.load(profile, "untrained")
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
    for name, views in (("base", 1), ("untrained", 5)):
        inputs = raised_llava.load(profile, name).prepare([image], ["who?"])
        assert len(inputs["pixel_values"]) == views
