import pytest

from monkeylib.captions.annotations import DroppedAnnotation, OcrLine, Record, Region
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
    """The sample's texts as an expert would find them, the first ones read as `texts`."""
    true = SAMPLE.texts
    said = [*texts, *(text.string for text in true[len(texts) :])]
    return [line(word, text.box) for word, text in zip(said, true, strict=True)]


def test_a_page_read_without_error():
    words = len(SAMPLE.transcript.split())
    assert caption_statistics.reading(record(reversed(read())), SAMPLE) == {
        "words": words,
        "read": words,
        "kept": words,
        "wrong": 0,
        "character error": 0,
    }


def test_a_misread_word_is_lost_and_wrong():
    title = SAMPLE.texts[0].string
    scores = caption_statistics.reading(record(read(title.replace(" ", "_"))), SAMPLE)
    assert scores["kept"] == scores["read"] == scores["words"] - len(title.split())
    assert scores["wrong"] == 1
    assert scores["character error"] == pytest.approx(title.count(" ") / len(SAMPLE.transcript))


def test_what_the_filter_dropped_was_read_and_not_kept():
    first, *rest = read()
    gone = DroppedAnnotation(text=first.text, box=first.box, expert="pp-ocr", reason="unsure")
    scores = caption_statistics.reading(record(rest, dropped=(gone,)), SAMPLE)
    assert scores["read"] == scores["words"] == scores["kept"] + len(first.text.split())
    others = gone.model_copy(update={"expert": "yolox-nano"})
    assert caption_statistics.reading(record(rest, dropped=(others,)), SAMPLE)["read"] == scores["kept"]


def test_a_word_said_twice_is_found_once_where_it_stands_once():
    doubled = [*read(), line(SAMPLE.texts[0].string, (0, 180, 50, 190))]
    scores = caption_statistics.reading(record(doubled), SAMPLE)
    assert scores["kept"] == scores["words"]
    assert scores["wrong"] == len(SAMPLE.texts[0].string.split())


def test_nothing_read_is_all_error():
    scores = caption_statistics.reading(record(), SAMPLE)
    assert scores["kept"] == scores["read"] == scores["wrong"] == 0 and scores["character error"] == 1


def test_findings_are_counted_by_expert_and_image():
    cat = Region(box=(0, 0, 9, 9), text="cat", score=0.9, expert="yolox-nano")
    gone = DroppedAnnotation(text="O", box=(0, 0, 9, 9), expert="pp-ocr", reason="unsure")
    records = [
        record(read()[:2], regions=(cat,), dropped=(gone,)),
        record().model_copy(update={"name": "b.png"}),
    ]
    assert caption_statistics.counts(records, ["pp-ocr", "yolox-nano"]) == [
        {"expert": "pp-ocr", "image": "page.png", "kept": 2, "dropped": 1},
        {"expert": "pp-ocr", "image": "b.png", "kept": 0, "dropped": 0},
        {"expert": "yolox-nano", "image": "page.png", "kept": 1, "dropped": 0},
        {"expert": "yolox-nano", "image": "b.png", "kept": 0, "dropped": 0},
    ]
