"""Questions with the answers of models: wrong answers, and one question at several resolutions."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from monkeylib.evaluation.error_gallery import ImageOf, WrongAnswer, describe_prediction
from monkeylib.experiments.qualitative import QualitativeExample
from monkeylib.plots.images import (
    PANEL_WIDTH,
    ImagePanel,
    draw_panels,
    show_image,
    wrap_lines,
    write_below,
)

_MARK = {True: "✓", False: "✗"}  # right, wrong
_ANSWER_HEIGHT = 0.45  # inches below an image
_HEADING_HEIGHT = 0.7  # inches above the first row


def draw_errors(wrong_answers: Sequence[WrongAnswer], image_of: ImageOf, columns: int = 4) -> Figure:
    """Draw wrong answers side by side; where the place of an answer in the image is known, it is boxed."""
    panels = []
    for wrong in wrong_answers:
        prediction = wrong.prediction
        title = f"{wrong.metric} {wrong.score:.2f}"
        lines = tuple(f"{term}: {text}" for term, text in describe_prediction(prediction).items())

        box = prediction.meta.get("answer_box")
        if box is not None:
            box = tuple(box)

        panels.append(ImagePanel(image_of(prediction), title, lines, box))

    return draw_panels(panels, columns)


def draw_resolutions(
    examples: Mapping[str, QualitativeExample], sides: Mapping[str, int], names: Mapping[str, str]
) -> Figure:
    """Draw one column per example: the image at each model's resolution, the answer boxed, predictions below.

    Args:
        examples: the title of each column and its example.
        sides: the models from top to bottom, each with the side in pixels of its square input.
        names: what to call the models.
    """
    # One row per model, one column per example.
    size = (PANEL_WIDTH * len(examples), len(sides) * (PANEL_WIDTH + _ANSWER_HEIGHT) + _HEADING_HEIGHT)
    fig, axes = plt.subplots(len(sides), len(examples), figsize=size, squeeze=False)

    for column, (title, example) in enumerate(examples.items()):
        prediction = example.prediction
        heading = (title, prediction.question, f"label: {prediction.answers[0]}")
        axes[0, column].set_title(wrap_lines(heading), fontsize=8)

        image = example.image
        for ax, (model, side) in zip(axes[:, column], sides.items(), strict=True):
            # The box is in pixels of the original image.
            scale = side / image.width
            box = None
            if example.answer_box:
                box = tuple(edge * scale for edge in example.answer_box)

            show_image(ax, image.resize((side, side), Image.Resampling.BICUBIC), box)
            answer = f"{_MARK[example.correct[model]]} {example.answers[model]}"
            write_below(ax, wrap_lines((f"{names[model]}:", answer)))

    return fig
