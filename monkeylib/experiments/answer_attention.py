"""Where a model looks while it answers: attention from each token of the answer back to the patches, and
occlusion, which hides a part of the image and measures what the answer loses.

    token of the answer ──language model's attention──▶ visual tokens ──resampler's attention──▶ patches

Attention says what was read, not what the answer depends on; occlusion says that, at the price of one pass
for every part of the image that is hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from monkeylib.boxes import Box, intersection_area
from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.likelihood import score_answers
from monkeylib.evaluation.prefix_sharing import visual_inputs
from monkeylib.evaluation.statistics import mean_interval
from monkeylib.experiments.attention import AttentionMaps, compute_attention_maps
from monkeylib.images import ImageInput, open_image
from monkeylib.inference import Monkey
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.progress import Progress
from monkeylib.tables import Row
from monkeylib.tiling import join_tiles


@dataclass(frozen=True)
class AnswerMaps:
    """Attention that each token of an answer pays to the patches of an image.

    Attributes:
        tokens: text of the answer's tokens; the last one ends the answer.
        weights: `[tokens, views, patches, patches]`, the mean over layers and heads of the language model;
            tiles first, the global view last. What is missing to 1 falls on the text of the prompt.
        resampler: the resampler's attention, with the views themselves.
    """

    tokens: tuple[str, ...]
    weights: Tensor
    resampler: AttentionMaps

    def by_view(self) -> Tensor:
        """Return the share of each token's attention that falls on each view, `[tokens, views]`."""
        return self.weights.sum((2, 3))

    def over_image(self, token: int | None = None) -> Tensor:
        """Return attention over the image, `[rows * patches, cols * patches]`, of tiles and global view.

        A patch of the global view covers as many patches of tiles as there are tiles, and is shared out among
        them.

        Args:
            token: number of a token of the answer; None for the mean over all of them.
        """
        weights = self.weights.mean(0) if token is None else self.weights[token]
        grid, overlap = self.resampler.grid, self.resampler.overlap
        has_global_view = len(weights) > grid.tiles
        if not grid.tiles:
            return weights[-1]

        over_tiles = join_tiles(weights[: grid.tiles, None], grid, overlap)
        if has_global_view:
            stretched = F.interpolate(weights[None, None, -1], size=over_tiles.shape[-2:], mode="nearest")[0]
            over_tiles = over_tiles + stretched * (weights[-1].sum() / stretched.sum().clamp(min=1e-12))
        return over_tiles[0]


@torch.no_grad()
def compute_answer_maps(
    monkey: Monkey, image: ImageInput, question: str, answer: str | None = None, prompt: str = "vqa"
) -> AnswerMaps:
    """Return what each token of an answer attends to; the model is put in evaluation mode.

    Args:
        monkey: a model with a resampler.
        image: anything that `images.open_image` reads.
        question: the question.
        answer: an answer, of which each token is predicted from the ones before; the model's own by default.
        prompt: name of a prompt.

    Raises:
        ValueError: a model whose projector gives one visual token per patch or group of patches.
    """
    if not hasattr(monkey.model.resampler, "query"):
        raise ValueError(
            "attention over patches needs a model with a resampler, and this one has a projector: its visual "
            "tokens are its patches already"
        )

    image = open_image(image)
    if answer is None:
        answer = str(monkey.answer(image, question, prompt=prompt))

    resampler = compute_attention_maps(monkey, image)
    views, queries, *patch_grid = resampler.weights.shape

    # Prompt and answer in one row: position t predicts the token of t + 1.
    layout, model = monkey.processor.layout, monkey.model
    pixels = monkey.processor.image_processor(image, monkey.grid).to(model.device)
    visual_tokens = model.get_image_features(pixels["pixel_values"], pixels["grids"])
    prefix = layout.prefix_ids([views * queries])
    answer_ids = layout.answer_ids(answer)
    ids = [*prefix, *layout.question_ids(question, prompt), *answer_ids]
    input_ids = torch.tensor([ids], device=model.device)

    with _attention_weights(model):
        attentions = model(
            input_ids,
            **visual_inputs(visual_tokens),
            output_attentions=True,
            logits_to_keep=1,
            use_cache=False,
        ).attentions

    predicting = slice(len(ids) - len(answer_ids) - 1, len(ids) - 1)
    is_visual = input_ids[0].cpu() == model.config.image_token_id
    over_patches = join_attention(attentions, resampler.weights, predicting, is_visual)
    tokens = tuple(monkey.processor.tokenizer.decode([id]) for id in answer_ids)
    return AnswerMaps(tokens, over_patches, resampler)


def join_attention(
    attentions: Sequence[Tensor], resampler: Tensor, predicting: slice, is_visual: Tensor
) -> Tensor:
    """Return the attention of each token of an answer on the patches, `[tokens, views, patches, patches]`.

    Args:
        attentions: of each layer of the language model, `[1, heads, T, T]`.
        resampler: `[views, queries, patches, patches]`, the mean over heads; a query's sums to 1.
        predicting: the positions that predict the answer's tokens.
        is_visual: `[T]`, True where a visual token stands.
    """
    # The mean over layers and heads. [layers, heads, T, T] -> [tokens, T] -> [tokens, views, queries]
    weights = torch.stack([layer[0] for layer in attentions]).float().mean((0, 1)).cpu()
    views, queries, *_ = resampler.shape
    on_visual_tokens = weights[predicting][:, is_visual].unflatten(1, (views, queries))

    # Through the resampler: a visual token is a mean of patches, with weights that sum to 1.
    return torch.einsum("tvq,vqyx->tvyx", on_visual_tokens, resampler.float())


@contextmanager
def _attention_weights(model: MonkeyForConditionalGeneration) -> Iterator[None]:
    """Let the language model compute attention in a way that keeps its weights: fused kernels keep none."""
    before = model.language_model.config._attn_implementation
    model.language_model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.language_model.set_attn_implementation(before)


def occlusion_map(
    monkey: Monkey, image: ImageInput, question: str, answer: str, cells: int = 8, prompt: str = "vqa"
) -> Tensor:
    """Hide one part of the image after the other, and return what the answer loses.

    Args:
        monkey: the model.
        image: anything that `images.open_image` reads.
        question: the question.
        answer: the answer whose log-likelihood is compared.
        cells: rows and columns of parts; each is painted in the mean colour of the image.
        prompt: name of a prompt.

    Returns:
        `[cells, cells]`, loss of log-likelihood in nats per character; negative where hiding helps.
    """
    image = open_image(image)
    mean_colour = tuple(np.asarray(image).mean((0, 1)).round().astype(int).tolist())

    # The whole image first, then one copy for each part.
    variants = [image]
    for box in cell_boxes((cells, cells), image.size):
        variant = image.copy()
        variant.paste(mean_colour, tuple(round(edge) for edge in box))
        variants.append(variant)

    examples = [
        Example(str(number), variant, question, (answer,), prompt=prompt)
        for number, variant in enumerate(variants)
    ]
    scores = torch.from_numpy(score_answers(monkey, examples).log_likelihood)
    return (scores[0] - scores[1:]).view(cells, cells)


def cell_boxes(shape: tuple[int, int], size: tuple[int, int]) -> list[Box]:
    """Return the boxes of a map's cells, row by row, in pixels of the image.

    Args:
        shape: rows and columns of the map.
        size: width and height of the image.
    """
    (rows, cols), (width, height) = shape, size
    return [
        (col * width / cols, row * height / rows, (col + 1) * width / cols, (row + 1) * height / rows)
        for row in range(rows)
        for col in range(cols)
    ]


def points_into(importance: Tensor, box: Box, size: tuple[int, int]) -> bool:
    """Return whether the largest value of a map lies in a cell that overlaps a box.

    Args:
        importance: `[rows, cols]` over the image.
        box: in pixels of the image.
        size: width and height of the image.
    """
    rows, cols = importance.shape
    return intersection_area(cell_boxes((rows, cols), size)[int(importance.argmax())], box) > 0


def pointing_game(
    monkey: Monkey, examples: Sequence[Example], cells: int = 8, progress: bool = False
) -> list[Row]:
    """Measure how often attention and occlusion point at the answer.

    Maps of both kinds have `cells` rows and columns, so that a hit means the same. The true answer is given,
    so that every question counts, also those that the model answers wrongly.

    Args:
        monkey: the model.
        examples: questions whose `meta` has an `answer_box`.
        cells: rows and columns of the maps.
        progress: show a bar.

    Returns:
        A row for each way: `points`, the share of questions whose largest value lies on the answer, with
        its interval (`low`, `high`), and `n`. "chance" is the share of cells that the answer overlaps.

    Raises:
        ValueError: an example without an `answer_box`.
    """
    hits: dict[str, list[float]] = {"chance": [], "attention": [], "occlusion": []}
    for example in examples:
        if example.meta.get("answer_box") is None:
            raise ValueError(f"{example.id} has no answer_box in its meta: leave it out")

    with Progress("questions", enabled=progress) as bars:
        bars.add_task("pointing", total=len(examples))
        for example in examples:
            for way, hit in _pointing_of(monkey, example, cells).items():
                hits[way].append(hit)
            bars.advance("pointing")

    images = [example.image_key for example in examples]
    rows: list[Row] = []
    for way, values in hits.items():
        interval = mean_interval(values, clusters=images)
        limits = {"points": interval.value, "low": interval.low, "high": interval.high}
        rows.append({"by": way, **limits, "n": interval.n})
    return rows


def _pointing_of(monkey: Monkey, example: Example, cells: int) -> dict[str, float]:
    """Return whether each way points at the answer of a question, and the chance to."""
    image, answer = open_image(example.rendered_image), example.answers[0]
    box, size = tuple(example.meta["answer_box"]), image.size

    over_image = compute_answer_maps(monkey, image, example.question, answer, example.prompt).over_image()
    attention = F.adaptive_avg_pool2d(over_image[None], cells)[0]
    occlusion = occlusion_map(monkey, image, example.question, answer, cells, example.prompt)

    touched = [intersection_area(cell, box) > 0 for cell in cell_boxes((cells, cells), size)]
    return {
        "chance": sum(touched) / len(touched),
        "attention": float(points_into(attention, box, size)),
        "occlusion": float(points_into(occlusion, box, size)),
    }
