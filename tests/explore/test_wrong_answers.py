"""Wrong answers of a run."""

import pytest

from monkeylib.experiments.qualitative import render_image
from monkeylib.explore.wrong_answers import read_wrong_answers


def test_wrong_answers_have_their_images(predictions):
    wrong = read_wrong_answers(predictions)
    assert wrong.benchmark == "nano-fine"
    assert [answer.prediction.id for answer in wrong.answers] == ["fine-0", "fine-1"]
    first = wrong.answers[0].prediction
    assert wrong.image_of(first).tobytes() == render_image(first).tobytes()
    assert len(read_wrong_answers(predictions, count=1).answers) == 1


def test_folders_without_them_are_one_sentence(predictions, tmp_path_factory):
    with pytest.raises(ValueError, match="no benchmark called 'vqa'"):
        read_wrong_answers(predictions, "vqa")
    with pytest.raises(FileNotFoundError, match="no predictions"):
        read_wrong_answers(tmp_path_factory.mktemp("empty"))
