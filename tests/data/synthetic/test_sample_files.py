"""Sample images: the committed files equal the rendered ones, and their README states correct answers."""

import re

import numpy as np
import pytest
from PIL import Image

from monkeylib import resources
from monkeylib.data.synthetic import sample_files
from monkeylib.data.synthetic.canvas import PHOTOS

README = (resources.samples() / "README.md").read_text(encoding="utf-8")


def pixels(image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize("name", sample_files.NAMES)
def test_committed_image_equals_the_rendered_one(name):
    with Image.open(resources.samples() / name) as committed:
        difference = np.abs(pixels(committed) - pixels(sample_files.make_image(name)))
    # PNG is lossless; JPEG at quality 90 changes a pixel by a few levels of 255.
    assert difference.max() == 0 if name in sample_files.SYNTHETIC else difference.mean() < 3


@pytest.mark.parametrize("name", sample_files.NAMES)
def test_image_is_small_and_has_a_licence(name):
    assert (resources.samples() / name).stat().st_size < 200_000
    row = next(line for line in README.splitlines() if line.startswith(f"| `{name}` | "))
    assert re.search("Apache-2.0|CC0|public domain", row.split("|")[3])


def test_every_committed_image_can_be_rendered():
    committed = {path.name for path in resources.samples().iterdir() if path.suffix in {".png", ".jpg"}}
    assert committed == set(sample_files.NAMES)


def test_images_belong_to_the_test_split():
    assert all(sample_files.synthetic_sample(name).split == "test" for name in sample_files.SYNTHETIC)
    assert set(sample_files.PHOTOGRAPHS.values()) <= set(PHOTOS["test"])


def test_readme_states_correct_answers():
    # Rows of the README: file, question, answer, text size.
    rows = re.findall(r"\| `(\w+\.png)` \| ([^|]+\?) \| ([^|]+) \| (\w+) \|", README)
    assert {name for name, *_ in rows} == set(sample_files.SYNTHETIC)
    for name, question, answer, size in rows:
        questions = sample_files.synthetic_sample(name).questions
        truth = next(candidate for candidate in questions if candidate.question == question)
        assert (truth.answer, truth.text_size) == (answer, size)


def test_saved_images_are_the_same(tmp_path):
    assert [path.name for path in sample_files.write_images(tmp_path)] == list(sample_files.NAMES)
    for name in sample_files.SYNTHETIC:
        with Image.open(tmp_path / name) as saved:
            assert np.array_equal(pixels(saved), pixels(sample_files.make_image(name)))


def test_unknown_image_raises_with_the_list():
    with pytest.raises(
        ValueError,
        match="no sample image called 'cat.png': choose one of receipt.png, form.png, sign.png, coffee.jpg",
    ):
        sample_files.make_image("cat.png")
