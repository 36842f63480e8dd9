"""Figures of wrong answers: image, question, accepted answers, prediction and score."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from monkeylib.evaluation.error_gallery import ImageOf, WrongAnswer, facts
from monkeylib.plots.images import Card, draw_cards


def draw_errors(wrong_answers: Sequence[WrongAnswer], image_of: ImageOf, columns: int = 4) -> Figure:
    """Draw wrong answers side by side; where the place of an answer in the image is known, it is boxed."""
    cards = []
    for wrong in wrong_answers:
        prediction = wrong.prediction
        title = f"{wrong.metric} {wrong.score:.2f}"
        lines = tuple(f"{term}: {text}" for term, text in facts(prediction).items())
        box = prediction.meta.get("evidence")
        cards.append(Card(image_of(prediction), title, lines, None if box is None else tuple(box)))
    return draw_cards(cards, columns)
