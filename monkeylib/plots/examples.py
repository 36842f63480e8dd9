"""Questions with the answers of models: wrong answers, and one question at several resolutions."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from monkeylib.boxes import Box
from monkeylib.evaluation.error_gallery import ImageOf, WrongAnswer, describe_wrong_answer
from monkeylib.experiments.qualitative import QualitativeExample
from monkeylib.plots.images import (
    PANEL_WIDTH,
    ImagePanel,
    draw_panels,
    show_image,
    wrap_lines,
    write_below,
)
from monkeylib.plots.style import COLOURS
from monkeylib.tiling import Grid, tile_boxes

_MARK = {True: "✓", False: "✗"}  # right, wrong
_ANSWER_HEIGHT = 0.45  # inches below an image
_HEADING_HEIGHT = 0.7  # inches above the first row
_ZOOM = 1.4  # surroundings of a text, in its size


def draw_errors(wrong_answers: Sequence[WrongAnswer], image_of: ImageOf, columns: int = 4) -> Figure:
    """Draw wrong answers side by side: how wrong each is above, question, truth, answer and score below.

    Where the place of an answer in the image is known, it is boxed.
    """
    panels = []
    for wrong in wrong_answers:
        prediction = wrong.prediction
        texts = describe_wrong_answer(wrong)
        title = texts.pop("error")
        lines = tuple(f"{term}: {text}" for term, text in texts.items())

        box = prediction.meta.get("answer_box")
        if box is not None:
            box = tuple(box)

        panels.append(ImagePanel(image_of(prediction), title, lines, box))

    return draw_panels(panels, columns)


def draw_border_failures(
    examples: Mapping[str, Sequence[QualitativeExample]], model: str, grid: Grid
) -> Figure:
    """Draw images with the borders of their tiles and a box around the answer's text; below, it is enlarged.

    Args:
        examples: how borders cut the text -> questions about it.
        model: whose answers stand below.
        grid: rows and columns of the tiles.
    """
    columns = [(border, example) for border, group in examples.items() for example in group]
    size = (PANEL_WIDTH * len(columns), 1.75 * PANEL_WIDTH + _HEADING_HEIGHT + _ANSWER_HEIGHT)
    fig, axes = plt.subplots(2, len(columns), figsize=size, squeeze=False, height_ratios=(2, 1))

    for (above, below), (border, example) in zip(axes.T, columns, strict=True):
        image, box = example.image, example.answer_box
        show_image(above, image, box)
        above.set_title(wrap_lines((f"cut {border}", example.prediction.question)), fontsize=8)
        _draw_borders(above, image.size, grid)

        # The surroundings of the text, twice as wide as high.
        left, top, right, bottom = _surroundings(box, image.size)
        show_image(below, image)
        _draw_borders(below, image.size, grid)
        below.set(xlim=(left, right), ylim=(bottom, top))
        mark = _MARK[example.correct[model]]
        lines = (f"true: {example.prediction.answers[0]}", f"{mark} {example.answers[model]}")
        write_below(below, wrap_lines(lines))
    return fig


def _draw_borders(ax: Axes, size: tuple[int, int], grid: Grid) -> None:
    """Draw the borders between the tiles of an image of a size."""
    width, height = size
    for col in range(1, grid.cols):
        ax.axvline(col * width / grid.cols - 0.5, color=COLOURS[0], linewidth=1)
    for row in range(1, grid.rows):
        ax.axhline(row * height / grid.rows - 0.5, color=COLOURS[0], linewidth=1)


def _surroundings(box: Box, size: tuple[int, int]) -> Box:
    """Return what is twice as wide as high, holds a box with a margin, and lies within an image if it can."""
    (x0, y0, x1, y1), (width, height) = box, size
    across = max((x1 - x0) * _ZOOM, 2 * (y1 - y0) * _ZOOM)
    left = min(max((x0 + x1 - across) / 2, 0), max(width - across, 0))
    top = min(max((y0 + y1 - across / 2) / 2, 0), max(height - across / 2, 0))
    return left, top, left + across, top + across / 2


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


def draw_two_answers(
    image: Image.Image, box: Box, question: str, answers: Mapping[str, tuple[Grid, str, bool]], tile_size: int
) -> Figure:
    """Draw an image as each of several models sees it, the tiles outlined, with its answer below.

    Args:
        image: the image.
        box: around the answer, in pixels of the image.
        question: what the models were asked.
        answers: what to call each model -> its grid, its answer, and whether that is right.
        tile_size: side of a tile in pixels.
    """
    # The title of a panel, and the answer below it, in inches.
    texts = 1.1
    fig, axes = plt.subplots(1, len(answers), figsize=(3.4 * len(answers), 3.4 + texts), squeeze=False)
    fig.suptitle(f"\u201c{question}\u201d", fontsize=13)

    for ax, (title, (grid, answer, is_right)) in zip(axes.flat, answers.items(), strict=True):
        size = (grid.cols * tile_size, grid.rows * tile_size)
        scale = size[0] / image.width
        show_image(ax, image.resize(size, Image.Resampling.BICUBIC), tuple(edge * scale for edge in box))

        if grid.tiles > 1:
            for x0, y0, x1, y1 in tile_boxes(grid, tile_size):
                ax.add_patch(
                    Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=COLOURS[0])
                )
        ax.set_title(title)

        colour = COLOURS[2] if is_right else COLOURS[3]
        ax.text(
            0.5,
            -0.04,
            f"{_MARK[is_right]} {answer}",
            transform=ax.transAxes,
            ha="center",
            va="top",
            fontsize=16,
            color=colour,
            parse_math=False,
        )
    return fig
