"""Statistics of the caption pipeline: accuracy of reading text."""

from collections import Counter

from monkeylib.captions.annotations import Record, reading_order
from monkeylib.captions.experts.ocr import PpOcr
from monkeylib.data.synthetic import Sample
from monkeylib.evaluation.metrics.text import character_error


def score_text_reading(record: Record, sample: Sample, expert: str = PpOcr.name) -> dict[str, int | float]:
    """Compare the text that an expert read in a synthetic image with its ground truth.

    Words are separated by blanks; one that occurs twice counts twice.

    Returns:
        - `words`: words in the image;
        - `read`: those of them that were read exactly;
        - `kept`: those of them that were read exactly and retained by the filter;
        - `wrong`: retained words that aren't in the image;
        - `character error`: edits per character between the retained text, in reading order, and the true
        text.
    """
    # The filter splits the lines that the expert read into retained and dropped ones.
    retained_text = " ".join(line.text for line in reading_order(record.lines))
    dropped_texts = [dropped.text for dropped in record.dropped if dropped.expert == expert]

    true_words = _count_words(sample.transcript)
    retained_words = _count_words(retained_text)
    read_words = _count_words(" ".join([retained_text, *dropped_texts]))

    # `&` of two counters takes the smaller count of each word.
    return {
        "words": true_words.total(),
        "read": (true_words & read_words).total(),
        "kept": (true_words & retained_words).total(),
        "wrong": (retained_words - true_words).total(),
        "character error": character_error(retained_text, sample.transcript),
    }


def _count_words(text: str) -> Counter[str]:
    return Counter(text.split())
