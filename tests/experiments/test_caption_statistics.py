"""Statistics of the caption pipeline on a synthetic page."""

import pytest

from monkeylib.captions.annotations import DroppedAnnotation, OcrLine, Record
from monkeylib.data.synthetic import make_sample
from monkeylib.experiments import caption_statistics

SAMPLE = make_sample(3, "test", (192, 192), "document")


def line(text, box, expert="pp-ocr") -> OcrLine:
    x0, y0, x1, y1 = box
    quad = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    return OcrLine(quad=quad, text=text, confidence=0.9, expert=expert)


def record(lines=(), **more) -> Record:
    return Record(name="page.png", width=192, height=192, lines=tuple(lines), **more)


def read(*texts) -> list[OcrLine]:
    """Return the sample's texts as an expert finds them, the first ones read as `texts`."""
    true_texts = SAMPLE.texts
    strings = [*texts, *(text.string for text in true_texts[len(texts) :])]
    return [line(string, text.box) for string, text in zip(strings, true_texts, strict=True)]


def test_page_that_is_read_without_error():
    words = len(SAMPLE.transcript.split())
    assert caption_statistics.score_text_reading(record(reversed(read())), SAMPLE) == {
        "words": words,
        "read": words,
        "kept": words,
        "wrong": 0,
        "character error": 0,
    }


def test_misread_word_is_missed_and_wrong():
    title = SAMPLE.texts[0].string
    scores = caption_statistics.score_text_reading(record(read(title.replace(" ", "_"))), SAMPLE)

    # With its blanks replaced, the title is one word, and a wrong one.
    assert scores["kept"] == scores["read"] == scores["words"] - len(title.split())
    assert scores["wrong"] == 1
    assert scores["character error"] == pytest.approx(title.count(" ") / len(SAMPLE.transcript))


def test_dropped_text_counts_as_read_and_not_as_retained():
    first, *rest = read()
    dropped_line = DroppedAnnotation(text=first.text, box=first.box, expert="pp-ocr", reason="unsure")
    scores = caption_statistics.score_text_reading(record(rest, dropped=(dropped_line,)), SAMPLE)

    assert scores["read"] == scores["words"] == scores["kept"] + len(first.text.split())

    # Text that another expert dropped does not count as read by this one.
    other_expert = dropped_line.model_copy(update={"expert": "yolox-nano"})
    other_scores = caption_statistics.score_text_reading(record(rest, dropped=(other_expert,)), SAMPLE)
    assert other_scores["read"] == scores["kept"]


def test_word_that_is_read_twice_counts_once_if_it_occurs_once():
    doubled = [*read(), line(SAMPLE.texts[0].string, (0, 180, 50, 190))]
    scores = caption_statistics.score_text_reading(record(doubled), SAMPLE)

    assert scores["kept"] == scores["words"]
    assert scores["wrong"] == len(SAMPLE.texts[0].string.split())


def test_character_error_is_1_if_nothing_is_read():
    scores = caption_statistics.score_text_reading(record(), SAMPLE)
    assert scores["kept"] == scores["read"] == scores["wrong"] == 0 and scores["character error"] == 1
