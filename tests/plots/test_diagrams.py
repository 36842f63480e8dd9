"""Diagrams name the sizes of the configuration that they draw."""

import pytest
from PIL import Image

from monkeylib import profiles
from monkeylib.plots import diagrams
from monkeylib.tiling import Grid


@pytest.mark.parametrize(
    ("profile", "grid", "expected"),
    [
        (
            "paper-896",
            Grid(2, 2),
            ["896 x 896", "LoRA 3", "448 x 448", "1280 visual tokens", "1.8 B", "7.7 B"],
        ),
        ("nano", Grid(1, 2), ["192 x 96", "LoRA 1", "96 x 96", "192 visual tokens", "1.3 M", "64 queries"]),
    ],
)
def test_architecture_has_the_sizes_of_the_configuration(profile, grid, expected):
    config = profiles.build_config(profiles.load_profile(profile))
    ax = diagrams.draw_architecture(config, grid).axes[0]
    texts = [text.get_text() for text in ax.texts]
    for words in expected:
        assert any(words in text for text in texts), words

    drawn = sum(text.startswith("LoRA") for text in texts)
    assert drawn == min(3, grid.tiles)
    assert texts.count("no LoRA") == 1


def test_pipeline_has_every_level_and_the_description():
    levels = [("OCR", "“exit”"), ("global caption", "a street")]
    image = Image.new("RGB", (40, 20))
    ax = diagrams.draw_description_pipeline(
        levels, "filter", "chat model", "a street with a sign", image
    ).axes[0]
    texts = [text.get_text() for text in ax.texts]
    assert texts[:2] == ["OCR\n“exit”", "global caption\na street"]
    assert texts[2:] == ["filter", "chat model", "a street with a sign"]


def test_long_description_is_wrapped_within_its_box():
    description = "A picture of a motorcycle that stands in a garage. " * 6
    levels = [("text", "“exit”")]
    ax = diagrams.draw_description_pipeline(
        levels, "filter", "rules", description, Image.new("RGB", (40, 20))
    ).axes[0]
    drawn = ax.texts[-1]
    assert drawn.get_text().replace("\n", " ") == description.strip()

    # As wide and as high as its box, and the box as high as the figure.
    ax.figure.canvas.draw()
    box, text = ax.patches[-1].get_window_extent(), drawn.get_window_extent()
    assert box.x0 < text.x0 and text.x1 < box.x1 and box.y0 < text.y0 and text.y1 < box.y1
    assert box.y1 < ax.get_window_extent().y1


def test_pipeline_of_nothing_says_so():
    ax = diagrams.draw_description_pipeline([], "filter", "rules", "", Image.new("RGB", (4, 2))).axes[0]
    assert [text.get_text() for text in ax.texts] == ["filter", "rules", "nothing"]
