"""Words: facts and photographs belong to one split only."""

from hypothesis import given
from hypothesis import strategies as st

from monkeylib.data import synthetic
from monkeylib.data.synthetic import canvas, words
from tests.data.synthetic.conftest import SAMPLES_PER_SPLIT


def test_every_fact_belongs_to_the_split_of_its_image(samples_by_split):
    for split, samples in samples_by_split.items():
        facts = [fact for sample in samples for fact in sample.facts]
        assert len(facts) > 3 * SAMPLES_PER_SPLIT / 2
        assert {words.split_of(*fact) for fact in facts} == {split}


@given(st.text(max_size=12), st.text(max_size=12))
def test_fact_always_belongs_to_the_same_split(key, value):
    assert words.split_of(key, value) in words.SPLITS
    assert words.split_of(key, value) == words.split_of(key, value)


def test_rule_of_the_splits_is_fixed():
    """A change would let a trained model be tested on facts that it has read."""
    pairs = [("milk", "4.20"), ("total", "49.35"), ("apple", "1.05")]
    assert [words.split_of(*pair) for pair in pairs] == ["train", "test", "val"]


def test_every_answer_read_from_text_is_a_fact_of_the_image(all_samples):
    """So no answer of one split can be read in an image of another."""
    for sample in all_samples:
        values = {value for _, value in sample.facts}
        answers = {q.answer for q in sample.questions if q.kind in ("read", "value", "cell", "title")}
        assert answers <= values


def test_no_photograph_is_used_in_two_splits(monkeypatch):
    names = [name for split in words.SPLITS for name in canvas.PHOTOS[split]]
    assert len(names) == len(set(names)) and set(canvas.PHOTOS) == set(words.SPLITS)

    # The photographs that are actually drawn are those of the split, all of them.
    used = set()
    load_photo = canvas.photo

    def recording_photo(name):
        used.add(name)
        return load_photo(name)

    monkeypatch.setattr(canvas, "photo", recording_photo)
    for split in words.SPLITS:
        used.clear()
        for number in range(40):
            synthetic.make_sample(number, split, family="general" if number % 2 else "scene_text")
        assert used == set(canvas.PHOTOS[split])
