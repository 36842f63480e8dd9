"""Galleries of mistakes: image, question, accepted answers, prediction and score, as a figure or a page."""

import base64
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from monkeylib import resources
from monkeylib.evaluation.error_gallery import Mistake
from monkeylib.evaluation.examples import Example, Prediction
from monkeylib.plots.images import Card, draw_cards
from monkeylib.processing import open_image

PictureOf = Callable[[Prediction], Image.Image]

_SIDE = 480  # pixels of a page's images
_ANSWERS = 4  # accepted answers that are shown
_STYLE = """
body { font: 15px/1.4 sans-serif; margin: 2em; color: #22303c; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(280px, 1fr)); gap: 1.5em; }
figure { margin: 0; border: 1px solid #c9d1d9; border-radius: 6px; overflow: hidden; }
img { width: 100%; display: block; background: #f4f6f8; }
dl { margin: 0; padding: .8em; display: grid; grid-template-columns: auto 1fr; gap: .2em .8em; }
dt { color: #6a737d; } dd { margin: 0; overflow-wrap: anywhere; white-space: pre-wrap; }
"""


def images_of(examples: Sequence[Example]) -> PictureOf:
    """The image of each prediction, from the examples that were asked.

    Raises (where it is asked for an image):
        KeyError: a prediction of none of these examples.
    """
    by_id = {example.id: example for example in examples}

    def image(asked: Prediction) -> Image.Image:
        return open_image(by_id[asked.id].rendered_image)

    return image


def draw_mistakes(mistakes: Sequence[Mistake], image: PictureOf, columns: int = 4) -> Figure:
    """The mistakes side by side; where the evidence of an answer is known, it is boxed."""
    cards = []
    for mistake in mistakes:
        title = f"{mistake.metric} {mistake.score:.2f}"
        lines = tuple(f"{name}: {text}" for name, text in _facts(mistake.asked))
        box = mistake.asked.meta.get("evidence")
        cards.append(Card(image(mistake.asked), title, lines, None if box is None else tuple(box)))
    return draw_cards(cards, columns)


def write_page(mistakes: Sequence[Mistake], image: PictureOf, path: Path, title: str) -> Path:
    """Write an HTML page with everything in it, also its images (480 pixels at most, as JPEG)."""
    figures = [_figure(mistake, image(mistake.asked)) for mistake in mistakes]
    body = "".join(figures) or "<p>No mistakes.</p>"
    page = (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n<h1>{html.escape(title)}</h1>\n<main>\n{body}</main>\n</html>\n"
    )
    with resources.replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _facts(asked: Prediction) -> list[tuple[str, str]]:
    """What is said under an image."""
    answers = list(dict.fromkeys(asked.answers))
    more = f" and {len(answers) - _ANSWERS} more" if len(answers) > _ANSWERS else ""
    accepted = " | ".join(answers[:_ANSWERS]) + more
    question = asked.question or asked.prompt
    facts = {"question": question, "answers": accepted, "prediction": asked.prediction or "(nothing)"}
    return [(name, text.encode("utf-8", "replace").decode()) for name, text in facts.items()]


def _figure(mistake: Mistake, image: Image.Image) -> str:
    facts = [*_facts(mistake.asked), (mistake.metric, f"{mistake.score:.3f}"), ("id", mistake.asked.id)]
    small = image.convert("RGB")
    small.thumbnail((_SIDE, _SIDE))
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=85)
    source = f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"
    terms = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in facts)
    return f'<figure><img src="{source}" alt="">\n<dl>{terms}</dl></figure>\n'
