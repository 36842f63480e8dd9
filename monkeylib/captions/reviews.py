"""Reviews of captions by people, as the page `report.html` saves them: one JSON object a line.

    {"name": "a.jpg", "sha256": "…", "verdict": "correct", "generated": "A lion.", "caption": "A cheetah."}

The verdict is `accept`, `correct` (with the caption that takes the place of the generated one) or `reject`.
Of several reviews of one image the last one counts. A review belongs to the caption that it was written
about: it no longer counts once the image has another one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from monkeylib.captions.annotations import Record

Verdict = Literal["accept", "correct", "reject"]


@dataclass(frozen=True)
class Review:
    """What a person decided about a caption.

    Attributes:
        verdict: see the module.
        generated: the caption that was reviewed.
        caption: the caption to use instead; only of the verdict `correct`.
    """

    verdict: Verdict
    generated: str
    caption: str = ""


Reviews = Mapping[tuple[str, str], Review]  # by name and SHA-256 of the image


def read_reviews(path: Path | str) -> dict[tuple[str, str], Review]:
    """Return the last review of each image in a JSONL file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is no review.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there are no reviews at {path}: save them from report.html first")

    reviews = {}
    # Bytes that are no UTF-8 make a line that is no JSON.
    with path.open(encoding="utf-8-sig", errors="backslashreplace") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                reviews[str(row["name"]), str(row["sha256"])] = _parse(row)
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"line {number} of {path} is no review ({error}): expected an object with name, sha256, "
                    "verdict (accept, correct or reject), generated, and a caption to correct it"
                ) from error

    return reviews


def _parse(row: Any) -> Review:
    # Tools for tables write null where there is none.
    verdict, caption = row["verdict"], str(row.get("caption") or "").strip()
    if verdict not in get_args(Verdict):
        raise ValueError(f"its verdict is {verdict!r}")
    if verdict == "correct" and not caption:
        raise ValueError("it corrects, but has no caption")
    return Review(verdict, str(row["generated"]), caption if verdict == "correct" else "")


def find_review(record: Record, reviews: Reviews) -> Review | None:
    """Return the review of a record's caption, None if there is none, or if it was about another caption."""
    review = reviews.get((record.name, record.sha256))
    if review is None or review.generated != record.detailed_caption:
        return None
    return review
