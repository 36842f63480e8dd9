"""Benchmarks of one's own, from every form of file."""

import csv
import json
import os

import pytest
from PIL import Image

from monkeylib.data.readers.json_files import JsonRecords
from monkeylib.evaluation import own_benchmarks
from monkeylib.evaluation.metrics import registry
from monkeylib.evaluation.own_benchmarks import is_own_data, own_benchmark
from monkeylib.images import open_image
from tests.support import image_files, record_files

ROWS = [
    {"image": "a.png", "question": "how much is it?", "answer": "1.86", "id": "q1", "shop": "corner"},
    {"image": "sub/b.png", "question": "what is sold?", "answer": "tea", "id": "q2", "shop": "market"},
]


@pytest.fixture()
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/b.png"):
        (tmp_path / name).write_bytes(record_files.png())
    return tmp_path


def write_table(path, rows, separator):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)


def write(path, rows):
    """Write questions in the format that the ending names."""
    if path.suffix == ".json":
        record_files.write_list(path, rows)
    elif path.suffix == ".jsonl":
        record_files.write_lines(path, rows)
    elif path.suffix == ".parquet":
        record_files.write_parquet(path, **{field: [row[field] for row in rows] for field in rows[0]})
    else:
        write_table(path, rows, "\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "tsv", "parquet"])
def test_questions_are_read_with_their_fields_in_every_format(ending, folder):
    benchmark = own_benchmark(write(folder / f"mine.{ending}", ROWS))
    examples = benchmark.load(None)

    assert (benchmark.name, benchmark.prompt, benchmark.metrics) == ("mine", "vqa", ("anls", "exact_match"))
    assert [(e.id, e.question, e.answers, e.prompt) for e in examples] == [
        ("q1", "how much is it?", ("1.86",), "vqa"),
        ("q2", "what is sold?", ("tea",), "vqa"),
    ]
    assert [e.image_key for e in examples] == ["mine/a.png", "mine/sub/b.png"]
    assert [e.meta for e in examples] == [{"shop": "corner"}, {"shop": "market"}]
    assert all(open_image(e.rendered_image).size == (6, 4) for e in examples)
    assert [e.id for e in benchmark.load(1)] == ["q1"]


def test_limit_reads_the_first_questions_alone(folder, monkeypatch):
    rows = [{"id": f"q{n}", "image": "a.png", "question": "how?", "answer": "x"} for n in range(1000)]
    benchmark = own_benchmark(write(folder / "mine.jsonl", rows))
    read = set()
    get = JsonRecords.__getitem__
    monkeypatch.setattr(
        JsonRecords, "__getitem__", lambda self, number: read.add(number) or get(self, number)
    )

    assert [example.id for example in benchmark.load(3)] == ["q0", "q1", "q2"]
    assert max(read) < 50
    assert len(benchmark.load(None)) == 1000 and len(read) == 1000


def test_any_number_of_answers_counts(folder):
    rows = [ROWS[0] | {"answers": ["1.86", 2]}, ROWS[1] | {"answers": ["green tea"]}]
    for row in rows:
        del row["answer"]
    (first, second) = own_benchmark(write(folder / "mine.jsonl", rows)).load(None)
    assert (first.answers, second.answers) == (("1.86", "2"), ("green tea",))

    # As pandas writes a list into a table.
    write(folder / "mine.csv", [ROWS[0] | {"answer": "['1.86', 2]"}, ROWS[1] | {"answer": "[sic]"}])
    (first, second) = own_benchmark(folder / "mine.csv").load(None)
    assert (first.answers, second.answers) == (("1.86", "2"), ("[sic]",))


def test_conversations_are_asked_their_first_question(folder):
    rows = [record_files.talk("<image>\nwhat is it?", "a cat", "why?", "so", id="7")]
    (example,) = own_benchmark(write(folder / "mine.json", rows)).load(None)
    assert (example.question, example.answers, example.prompt) == ("what is it?", ("a cat",), "vqa")

    # Those of the released data are prompts already, with the blank behind the image.
    rows = [record_files.conversation(id="8")]
    (example,) = own_benchmark(write(folder / "released.json", rows)).load(None)
    assert (example.question, example.prompt) == (" what is it? Answer: ", "exact")


def test_validation_records_of_a_mixture_are_asked(folder):
    for name in ("train", "held_out"):
        write(folder / f"{name}.jsonl", ROWS)
    text = "sets:\n  - {name: train, path: train.jsonl}\n"
    (folder / "mix.yaml").write_text(text)
    with pytest.raises(ValueError, match="the mixture mix.yaml has no `validation`"):
        own_benchmark(folder / "mix.yaml").load(None)

    (folder / "mix.yaml").write_text(text + "validation:\n  sets: [{name: held, path: held_out.jsonl}]\n")
    benchmark = own_benchmark(folder / "mix.yaml")
    examples = benchmark.load(None)
    assert benchmark.name == "mix" and {e.id for e in examples} == {"held/q1", "held/q2"}
    assert {e.meta["dataset"] for e in examples} == {"held"}


def test_all_pages_of_a_document_are_read(folder):
    pages = [Image.new("RGB", (60, 40 + 10 * n), "white") for n in range(3)]
    (folder / "scan.pdf").write_bytes(image_files.pdf(pages))
    rows = [ROWS[0] | {"image": "scan.pdf"}, ROWS[1] | {"image": "scan.pdf#2"}]
    document, page = own_benchmark(write(folder / "mine.jsonl", rows)).load(None)

    assert document.is_document and [open_image(page).height for page in document.pages] == [40, 50, 60]
    assert not page.is_document and open_image(page.image).height == 50
    assert document.image_key != page.image_key


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
@pytest.mark.parametrize("answer", ["tea", "B"])
def test_question_with_choices_is_a_multiple_choice(ending, answer, folder):
    row = ROWS[0] | {"choices": ["milk", "tea"], "answer": answer}
    benchmark = own_benchmark(write(folder / f"mine.{ending}", [row]), ["multiple_choice"], "choice")
    (example,) = benchmark.load(None)
    assert (example.question, example.answers) == ("how much is it? A. milk B. tea", ("tea",))

    (metric,) = benchmark.metrics
    scores = registry.get(metric).scores(["B", "milk"], [example.answers] * 2, [example.meta] * 2)
    assert scores.tolist() == [1, 0]

    write(folder / f"mine.{ending}", [row | {"answer": "coffee"}])
    with pytest.raises(ValueError, match="field answer: expected one of the choices or its letter, got"):
        benchmark.load(None)


def test_number_and_text_are_one_id(folder):
    write(folder / "mine.jsonl", [ROWS[0] | {"id": 1}, ROWS[1] | {"id": "1"}])
    with pytest.raises(ValueError, match="line 2, field id: '1' is the id of another record, too"):
        own_benchmark(folder / "mine.jsonl").load(None)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"image": "gone.png"}, "there is no file for 1 of the 2 images of mine, such as .*gone.png"),
        ({"answer": ""}, "1 records of .*mine.jsonl cannot be used, such as .*line 2, field answer"),
        ({"question": None}, "1 records of .*field question"),
        ({"id": "q1"}, "1 records of .*field id: expected one that no other record has"),
        ({"image": ["a.png", "sub/b.png"]}, "expected 1 images, got 2"),
    ],
)
def test_unusable_question_is_refused_in_one_sentence(change, sentence, folder):
    write(folder / "mine.jsonl", [ROWS[0], ROWS[1] | change])
    with pytest.raises((ValueError, FileNotFoundError), match=sentence) as error:
        own_benchmark(folder / "mine.jsonl").load(None)
    assert "\n" not in str(error.value)


def test_metric_that_cannot_score_the_questions_is_refused_before_they_are_asked(folder):
    write(folder / "mine.jsonl", ROWS)
    with pytest.raises(ValueError, match="mine cannot be scored by multiple_choice: .*'choices'"):
        own_benchmark(folder / "mine.jsonl", ["multiple_choice"]).load(None)
    with pytest.raises(ValueError, match="no metric called 'anlz': .*, exact .short for exact_match.$"):
        own_benchmark(folder / "mine.jsonl", ["anlz"])
    with pytest.raises(ValueError, match="no prompt called 'vqb'"):
        own_benchmark(folder / "mine.jsonl", prompt="vqb")
    assert own_benchmark(folder / "mine.jsonl", ["exact"]).metrics == ("exact_match",)


def test_captions_have_another_metric_and_the_defaults_are_stated(folder):
    rows = [{"image": "a.png", "answers": ["a red square", "a square"]}]
    benchmark = own_benchmark(write(folder / "mine.jsonl", rows), prompt="caption")
    (example,) = benchmark.load(None)

    assert benchmark.metrics == ("cider_d",) and example.question == "" and example.prompt == "caption"
    remark = "prompt is caption ('Generate the caption in English:') and the metrics are cider_d"
    assert remark in benchmark.remark


def test_names_do_not_collide_with_benchmarks(folder):
    assert own_benchmark(folder / "textvqa.jsonl").name == "own-textvqa"
    assert own_benchmark(folder / "my questions (2).jsonl").name == "my-questions-2-"


def test_folder_of_downloads_is_no_benchmark(folder):
    assert not is_own_data(folder) and not is_own_data(folder / "gone")
    (folder / "saved").mkdir()
    (folder / "saved/state.json").write_text(json.dumps({}))
    assert is_own_data(folder / "saved") and is_own_data(folder / "a.png")
    assert own_benchmarks.PROMPT == "vqa"


def test_pipe_is_not_waited_for(folder):
    os.mkfifo(folder / "mine.jsonl")
    assert is_own_data(folder / "mine.jsonl")
    with pytest.raises(FileNotFoundError, match="no file at .*mine.jsonl"):
        own_benchmark(folder / "mine.jsonl").load(None)


@pytest.mark.parametrize("image", ["https://shop.example/a.png", "file:///a.png"])
def test_images_at_addresses_are_refused_before_a_model_is_asked(image, folder):
    path = write(folder / "mine.json", [{"image": image, "question": "what?", "answer": "x"}])
    with pytest.raises(ValueError, match="is an address: download the image"):
        own_benchmark(path).load(None)


def test_an_empty_list_is_no_answer(folder):
    path = write(folder / "mine.csv", [{"image": "a.png", "question": "what?", "answers": "[]"}])
    with pytest.raises(ValueError, match=r"row 1.*\[\]|row 1.*empty list"):
        own_benchmark(path).load(None)


def test_boxes_are_one_answer(folder):
    path = write(
        folder / "mine.json", [{"image": "a.png", "question": "where?", "answer": "[10, 20, 30, 40]"}]
    )
    assert [example.answers for example in own_benchmark(path).load(None)] == [("[10, 20, 30, 40]",)]


def test_gaps_of_pandas_describe_no_question(folder):
    row = {"image": "a.png", "question": "what?", "answer": "x", "price": float("nan"), "shop": "corner"}
    (example,) = own_benchmark(write(folder / "mine.json", [row])).load(None)
    assert example.meta == {"shop": "corner"}
