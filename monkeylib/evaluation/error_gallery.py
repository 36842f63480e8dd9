"""Error gallery: the answers of a model with the worst scores, as a list and as an HTML page."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from rapidfuzz.distance import Levenshtein

from monkeylib import html_pages, resources
from monkeylib.evaluation import results
from monkeylib.evaluation.benchmarks import Benchmark
from monkeylib.evaluation.examples import Example, Prediction, read_predictions
from monkeylib.evaluation.metrics import registry
from monkeylib.images import ImageError, open_image

ImageOf = Callable[[Prediction], Image.Image]

_PERFECT = 1.0
_MAX_SIDE = 480  # pixels of an image on the page
_MAX_ANSWERS = 4  # accepted answers that are listed
_CAPTION_METRICS = {"cider_d"}

_STYLE = """\
.monkey-page .gallery { display: grid; gap: 1.5em; }
.monkey-page .gallery { grid-template-columns: repeat(auto-fill, minmax(280px, 1fr)); }
.monkey-page figure { margin: 0; border: 1px solid #c9d1d9; border-radius: 6px; overflow: hidden; }
.monkey-page figure img { width: 100%; display: block; background: #f4f6f8; }
.monkey-page dl { margin: 0; padding: .8em; display: grid; grid-template-columns: auto 1fr; gap: .2em .8em; }
.monkey-page dt { color: #6a737d; }
.monkey-page dd { margin: 0; white-space: pre-wrap; }
"""

_TEMPLATE = """\
<div class="gallery">
{% for card in cards %}
<figure>
{% if card.image %}
<img src="{{ card.image }}" alt="">
{% endif %}
<dl>
{% for term, text in card.facts.items() %}
<dt>{{ term }}</dt><dd>{{ text }}</dd>
{% endfor %}
</dl>
</figure>
{% else %}
<p>No errors.</p>
{% endfor %}
</div>
"""


@dataclass(frozen=True)
class WrongAnswer:
    """A prediction that isn't perfect, with its score."""

    prediction: Prediction
    metric: str
    score: float


def worst_answers(
    predictions: results.Predictions, metric: str, count: int, *, per_image: int = 1
) -> list[WrongAnswer]:
    """Return the answers with the worst scores, the worst first.

    Among equal scores, those come first that are least similar to an accepted answer, letter by letter.
    Perfect answers (1, or 0 where lower is better) are left out, and so are failures.

    Args:
        predictions: a predictions file, or what `read_predictions` returns.
        metric: a name of `metrics.registry.METRICS`.
        count: maximum number of answers.
        per_image: maximum number of answers about the same image.

    Raises:
        ValueError: there are no predictions, or there is no such metric.
    """
    rows = read_predictions(predictions) if isinstance(predictions, Path | str) else predictions
    scores = results.scores_by_id(rows, metric)

    # From here on, a lower number is a worse answer, whatever the metric.
    if registry.get(metric).higher_is_better:
        quality, perfect = scores, _PERFECT
    else:
        quality, perfect = {id: -score for id, score in scores.items()}, 0.0

    wrong = [row for row in rows if quality[row.id] < perfect and not row.error]
    wrong.sort(key=lambda row: (quality[row.id], _similarity(row), row.id))

    # Some images would otherwise fill the gallery with the same confusion.
    answers: list[WrongAnswer] = []
    answers_of_image: dict[str, int] = {}
    for row in wrong:
        answers_of_image[row.image] = answers_of_image.get(row.image, 0) + 1
        if answers_of_image[row.image] <= per_image:
            answers.append(WrongAnswer(row, metric, scores[row.id]))

    return answers[:count]


def _similarity(row: Prediction) -> float:
    """Return the normalised Levenshtein similarity to the nearest accepted answer, 0 to 1."""
    prediction = row.prediction.strip().lower()
    return max(
        Levenshtein.normalized_similarity(prediction, answer.strip().lower()) for answer in row.answers
    )


def image_lookup(examples: Sequence[Example]) -> ImageOf:
    """Return a function from a prediction to the image of its example, of a document the page of the answer.

    The function raises `KeyError` for a prediction of another example.
    """
    by_id = {example.id: example for example in examples}

    def image_of(prediction: Prediction) -> Image.Image:
        example = by_id[prediction.id]
        if example.is_document and prediction.page is not None:
            return open_image(example.pages[prediction.page - 1])
        return open_image(example.rendered_image)

    return image_of


def describe_prediction(prediction: Prediction) -> dict[str, str]:
    """Return the texts below an image: question, accepted answers and prediction."""
    # Ten people often give the same answer.
    answers = list(dict.fromkeys(prediction.answers))
    accepted = " | ".join(answers[:_MAX_ANSWERS])
    if len(answers) > _MAX_ANSWERS:
        accepted += f" and {len(answers) - _MAX_ANSWERS} more"

    texts = {
        "question": prediction.question or prediction.prompt,
        "true": accepted,
        "answered": prediction.prediction or "(nothing)",
    }

    # A model can write half of a surrogate pair, which neither a font nor a file can hold.
    return {term: text.encode("utf-8", "replace").decode() for term, text in texts.items()}


def describe_wrong_answer(wrong: WrongAnswer) -> dict[str, str]:
    """Return the texts below the image of a wrong answer: of its prediction, how wrong it is, its score."""
    return describe_prediction(wrong.prediction) | {
        "error": describe_error(wrong),
        "score": describe_score(wrong),
    }


def describe_error(wrong: WrongAnswer) -> str:
    """Return how far an answer is from the nearest accepted one, in words: "3 of 5 characters wrong".

    A caption, which no accepted one is to be repeated by letter, has its score instead.
    """
    if wrong.metric in _CAPTION_METRICS:
        return describe_score(wrong)

    given = wrong.prediction.prediction.strip().lower()
    accepted = [answer.strip().lower() for answer in wrong.prediction.answers]
    nearest = max(accepted, key=lambda answer: Levenshtein.normalized_similarity(given, answer))
    length = max(len(given), len(nearest))
    edits = Levenshtein.distance(given, nearest)
    if edits == length:
        return "nothing right"
    return f"{edits} of {length} characters wrong"


def describe_score(wrong: WrongAnswer) -> str:
    """Return the score of an answer with the name of its metric and its maximum: "ANLS: 0 of 1"."""
    metric = registry.get(wrong.metric)
    return f"{metric.title}: {wrong.score:.2g} of {metric.maximum:g}"


def write_page(wrong_answers: Sequence[WrongAnswer], image_of: ImageOf, path: str | Path, title: str) -> Path:
    """Write an HTML page with the answers and their images, 480 pixels at most, embedded as JPEG."""
    path = resources.to_path(path)
    cards = []
    for wrong in wrong_answers:
        prediction = wrong.prediction
        facts = describe_wrong_answer(wrong) | {"id": prediction.id}
        if prediction.page is not None:
            facts["page"] = str(prediction.page)

        # Encoded at once, so that one image at a time is in memory.
        try:
            image = html_pages.data_uri(image_of(prediction), max_side=_MAX_SIDE)
        except ImageError as error:  # it was readable when the model saw it
            image = ""
            facts["image"] = str(error)
        cards.append({"image": image, "facts": facts})

    body = html_pages.render(_TEMPLATE, cards=cards)
    return html_pages.Page(title, body, _STYLE).write(path)


def page_name(benchmark: Benchmark) -> str:
    """Return the name of a benchmark's page in a folder of predictions."""
    return f"errors/{benchmark.name}.html"


def require_page(path: Path) -> None:
    """Check that a file is missing or a page of this library, which may be replaced.

    Raises:
        FileExistsError: it is something else.
    """
    if not os.path.lexists(path):
        return
    is_page = path.is_file() and not path.is_symlink() and b"monkey-page" in path.read_bytes()
    if not is_page:
        raise FileExistsError(
            f"{resources.display_path(path)} isn't an error gallery of monkeylib and won't be replaced: "
            "move it away"
        )


def write_gallery(
    benchmark: Benchmark,
    predictions: Sequence[Prediction],
    examples: Sequence[Example],
    path: str | Path,
    count: int,
) -> Path:
    """Write the page of the worst answers to a benchmark.

    Args:
        benchmark: the benchmark.
        predictions: predictions for some or all of the examples.
        examples: the examples, with their images.
        path: the page.
        count: maximum number of answers.
    """
    path = resources.to_path(path)
    wrong_answers = worst_answers(predictions, benchmark.metrics[0], count)

    title = f"{benchmark.title}: the worst {len(wrong_answers)} answers"

    write_page(wrong_answers, image_lookup(examples), path, title)
    print(f"error gallery: {resources.display_path(path)}")
    return path
