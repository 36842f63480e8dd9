"""Questions about documents of several pages."""

import json

import pytest
from PIL import Image

from monkeylib.evaluation import benchmarks
from monkeylib.evaluation.documents import answer_documents
from monkeylib.evaluation.error_gallery import image_lookup
from monkeylib.evaluation.examples import Example, read_predictions
from monkeylib.evaluation.predict import predict
from monkeylib.evaluation.prefix_sharing import PrefixSharingMonkey
from monkeylib.images import list_pages
from monkeylib.model.answers import Answer
from tests.support import image_files, record_files

WIDTHS = (40, 50, 60)  # of the pages


def answer_from(text, log_probability):
    return Answer(text, "end of text", (1, 2), (log_probability, 0.0), prompt_tokens=9, visual_tokens=4)


class Reader:
    """Answers with the width of a page; it is surest of the page whose width a question names."""

    def __init__(self):
        self.batches = []

    def __call__(self, examples):
        self.batches.append([(example.question, example.image.width) for example in examples])
        assert len({example.image_key for example in examples if example.image.width in WIDTHS}) <= 1
        return [
            answer_from(str(example.image.width), -abs(int(example.question) - example.image.width))
            for example in examples
        ]


@pytest.fixture()
def document(tmp_path):
    path = tmp_path / "scan.pdf"
    path.write_bytes(image_files.pdf([Image.new("RGB", (width, 30), "white") for width in WIDTHS]))
    return path


def make_examples(document, *questions):
    pages = tuple(list_pages(document))
    return [
        Example(f"q{question}", pages[0], question, ("50",), image_id="scan", pages=pages)
        for question in questions
    ]


def test_most_probable_answer_of_all_pages_counts(document):
    read = Reader()
    answers = answer_documents(read, make_examples(document, "50", "60", "45"))

    # Of two equally probable pages, the first.
    assert [(answer.text, answer.page) for answer in answers] == [("50", 2), ("60", 3), ("40", 1)]
    assert [len(batch) for batch in read.batches] == [3, 3, 3], "all questions about a page in one batch"
    assert answers[0].tokens == 2 and answers[0].log_probability == 0

    with pytest.raises(ValueError, match="needs answers with their log-probabilities.*got str"):
        answer_documents(lambda batch: ["a"] * len(batch), make_examples(document, "50"))


def test_predictions_name_the_page_and_belong_to_the_content_of_all_pages(document, tmp_path):
    single = tmp_path / "a.png"
    single.write_bytes(record_files.png(70, 30))
    examples = [*make_examples(document, "50", "60"), Example("single", single, "70", ("70",))]
    path = tmp_path / "p.jsonl"
    run = predict(Reader(), examples, path, progress=False)
    rows = {row.id: row for row in read_predictions(path)}

    assert run.failed == 0 and {id: (row.prediction, row.page) for id, row in rows.items()} == {
        "q50": ("50", 2), "q60": ("60", 3), "single": ("70", None),
    }  # fmt: skip
    assert image_lookup(examples)(rows["q60"]).width == 60
    assert predict(Reader(), examples, path, progress=False).generated == 0

    # Another last page is another document.
    document.write_bytes(image_files.pdf([Image.new("RGB", (width, 30)) for width in (40, 50, 65)]))
    again = predict(Reader(), examples, path, progress=False)
    assert again.changed == 2 and {row.prediction for row in read_predictions(path)} == {"50", "65", "70"}


def test_page_that_cannot_be_read_is_a_failure_of_its_questions(document, tmp_path):
    examples = make_examples(document, "50", "60")
    single = tmp_path / "a.png"
    single.write_bytes(record_files.png(70, 30))
    document.write_bytes(document.read_bytes()[:300])

    path = tmp_path / "p.jsonl"
    run = predict(Reader(), [*examples, Example("single", single, "70", ("70",))], path, progress=False)
    rows = {row.id: row for row in read_predictions(path)}
    assert run.failed == 2 and rows["single"].prediction == "70"
    assert rows["q50"].error == "image: truncated" and rows["q50"].page is None


def test_monkey_answers_as_if_each_page_were_asked_alone(monkey, document):
    examples = make_examples(document, "what is it?", "how many?")
    sharing = PrefixSharingMonkey(monkey, max_new_tokens=4)
    answers = answer_documents(sharing, examples)

    for example, answer in zip(examples, answers, strict=True):
        alone = [monkey.answer(page, example.question, max_new_tokens=4) for page in example.pages]
        assert answer.text in [candidate.text for candidate in alone]
        assert answer.log_probability == pytest.approx(max(c.log_probability for c in alone), abs=1e-4)


def test_due_downloads_hold_pdf_files_of_which_all_pages_are_asked(document, tmp_path):
    folder = tmp_path / "data/klc"
    (folder / "test").mkdir(parents=True)
    (folder / "pdf").mkdir()
    document.rename(folder / "pdf/doc0.pdf")
    annotation = {"key": "address__post_town", "values": [{"value": "50"}]}
    row = {"name": "doc0", "language": "en", "split": "test", "annotations": [annotation]}
    (folder / "test/document.jsonl").write_text(json.dumps(row))

    (example,) = benchmarks.get("klc", data=tmp_path / "data").load(None)
    assert example.question == "What is the value for the address post town?"
    assert len(example.pages) == 3 and example.image_key == "klc/pdf/doc0.pdf#1"

    # Pages that were drawn already take precedence, in the order of their numbers.
    for number in (0, 2, 10):
        image = folder / f"png/doc0/{number}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(record_files.png(6 + number, 4))
    (example,) = benchmarks.get("klc", data=tmp_path / "data").load(None)
    assert [page.name for page in example.pages] == ["0.png", "2.png", "10.png"]
