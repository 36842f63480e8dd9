"""Test sets: the same each time, and of the text size that they state."""

import pytest

from monkeylib.data import synthetic
from tests.support.synthetic_truth import answer_from_truth


@pytest.mark.parametrize("name", ["fine", "large", "general"])
def test_test_set_is_the_same_each_time_and_has_its_text_size(name):
    first = synthetic.make_test_set(name, 12)
    second = synthetic.make_test_set(name, 9)

    assert [(a.id, a.question, a.answers) for a in first[:9]] == [
        (a.id, a.question, a.answers) for a in second
    ]
    assert len({a.id for a in first}) == len(first) == 12

    # Two questions about an image at most.
    images = [a.sample.seed for a in first]
    assert max(images.count(seed) for seed in images) <= 2
    for question in first:
        assert question.sample.split == "test" and question.prompt == "vqa"
        assert question.annotation.text_size == ("object" if name == "general" else name)
        assert question.answers == (answer_from_truth(question.sample, question.question),)


def test_captions_are_those_of_the_test_split():
    questions = synthetic.make_test_set("caption", 5)
    assert [q.answers for q in questions] == [(synthetic.make_sample(n, "test").caption,) for n in range(5)]
    assert {q.prompt for q in questions} == {"caption"} and {q.question for q in questions} == {""}


def test_validation_shares_no_fact_with_test():
    sets = [synthetic.make_test_set("fine", 20, split=split) for split in ("val", "test")]
    facts = [{fact for question in questions for fact in question.sample.facts} for questions in sets]
    assert facts[0] and not facts[0] & facts[1]


def test_unknown_test_set_raises():
    with pytest.raises(ValueError, match="no test set called 'tiny': choose one of fine, large"):
        synthetic.make_test_set("tiny", 3)
