"""What the caption pipeline made of images, in numbers."""

from collections import Counter
from collections.abc import Iterable, Sequence

from monkeylib.captions.annotations import Record
from monkeylib.captions.composers.rules import reading_order
from monkeylib.captions.experts.ocr import PpOcr
from monkeylib.data.synthetic import Sample
from monkeylib.evaluation.metrics.text import character_error


def counts(records: Sequence[Record], experts: Sequence[str]) -> list[dict[str, str | int]]:
    """What the filter kept and dropped of each expert's findings: a row per expert and image."""
    rows = []
    for expert in experts:
        for record in records:
            kept = sum(found.expert == expert for found in (*record.regions, *record.lines))
            dropped = sum(found.expert == expert for found in record.dropped)
            rows.append({"expert": expert, "image": record.name, "kept": kept, "dropped": dropped})
    return rows


def reading(record: Record, sample: Sample, expert: str = PpOcr.name) -> dict[str, int | float]:
    """How well the text that was read agrees with the text that is there.

    Returns:
        Words in the image ("words"); how many of them were read exactly ("read"), and still are behind
        the filter ("kept"); words behind the filter that aren't in the image ("wrong"); edits per character
        between the text behind the filter, in reading order, and the true text ("character error"). A word
        is what blanks separate; one that stands there twice counts twice.
    """
    kept_text = " ".join(line.text for line in reading_order(record.lines))
    dropped = [found.text for found in record.dropped if found.expert == expert]
    true, kept = _words([sample.transcript]), _words([kept_text])
    return {
        "words": true.total(),
        "read": (true & _words([kept_text, *dropped])).total(),
        "kept": (true & kept).total(),
        "wrong": (kept - true).total(),
        "character error": character_error(kept_text, sample.transcript),
    }


def _words(texts: Iterable[str]) -> Counter[str]:
    return Counter(word for text in texts for word in text.split())
