"""Every benchmark, from its files through predictions to its score."""

import json
import re

import numpy as np
import pytest

from monkeylib import resources
from monkeylib.data import dataset_cards
from monkeylib.data.synthetic.renderings import QUADRANTS
from monkeylib.evaluation import benchmarks, results
from monkeylib.evaluation.examples import read_predictions
from monkeylib.evaluation.metrics import registry
from monkeylib.evaluation.predict import predict
from monkeylib.image_sources import split_page
from monkeylib.images import open_image
from tests.support import prediction_rows, record_files
from tests.support.benchmark_files import DOWNLOADS, RELEASED_ROWS, download, released_download

CARDS = dataset_cards.evaluation_cards()
RELEASED = [name for name in benchmarks.BENCHMARKS if name.startswith("released-")]
PAPER = """flickr30k textcaps vqav2 okvqa gqa scienceqa vizwiz mme textvqa ai2d stvqa estvqa
docvqa chartqa infovqa deepform klc wtq""".split()
BEST = {"cider_d": 10, "mme_perception": 20, "mme_cognition": 8}  # 1 for other metrics


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The folder of downloads."""
    monkeypatch.setenv("MONKEYLIB_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def correct_answer(example):
    """Return a correct answer: all of its values where an answer has several."""
    has_several_values = "variants" in example.meta
    return " | ".join(example.answers) if has_several_values else example.answers[0]


def run(examples, path, answer):
    """Write the predictions of a function from an example to an answer; every image must open."""

    def answer_batch(batch):
        assert all(open_image(example.image).size[0] > 5 for example in batch)
        return [answer(example) for example in batch]

    return predict(answer_batch, examples, path, progress=False).path


def scores(name, path):
    """Return the scores of a predictions file by metric."""
    rows = results.score_runs({("model", name): path})
    assert all(row.low <= row.value <= row.high for row in rows)
    return {row.metric: row.value for row in rows}


# --- the paper's 18 -------------------------------------------------------------------------------


def test_all_benchmarks_of_the_paper_exist():
    assert list(CARDS) == PAPER == list(DOWNLOADS)
    assert len(RELEASED) == 14
    assert {card.kind for card in CARDS.values()} == {"captions", "general", "scene text", "documents"}
    for name in PAPER:
        benchmark = benchmarks.get(name)
        assert {score.model for score in benchmark.reported} >= {"Monkey"}
        assert benchmark.licence and benchmark.source.startswith("https://")
        assert benchmark.prompt == CARDS[name].test.prompts.documented


@pytest.mark.parametrize("name", PAPER)
def test_official_files_give_every_question(name, data):
    questions = download(data, name)
    examples = benchmarks.get(name).load(None)

    assert {e.id: (e.image, e.question, e.answers) for e in examples} == {
        id: (data / name / image, question, answers) for id, (image, question, answers) in questions.items()
    }

    # Examples about an image share its key, those about different images do not.
    shared = {}
    for example in examples:
        assert shared.setdefault(example.image, example.image_key) == example.image_key
    assert len(set(shared.values())) == len(shared)


@pytest.mark.parametrize("name", PAPER)
def test_correct_answers_get_the_best_score_and_wrong_ones_0(name, data, tmp_path):
    download(data, name)
    benchmark = benchmarks.get(name)
    examples = benchmark.load(None)
    best = scores(name, run(examples, tmp_path / "correct.jsonl", correct_answer))
    official = benchmark.metrics[0]

    # A correct caption need not be the consensus of all references.
    assert best[official] == pytest.approx(BEST.get(official, 1), rel=0.7 if official == "cider_d" else 1e-9)

    # No answer contains "zzz".
    wrong = scores(name, run(examples, tmp_path / "wrong.jsonl", lambda example: "zzz"))
    assert all(wrong[metric] == pytest.approx(0, abs=1e-9) for metric in benchmark.metrics)

    difference = results.compare(tmp_path / "correct.jsonl", tmp_path / "wrong.jsonl", official)
    # A few questions are too few to exclude any difference.
    assert difference.value == pytest.approx(best[official]) and difference.low < difference.value


@pytest.mark.parametrize("name", PAPER)
def test_limit_takes_the_first_examples_of_a_fixed_order(name, data):
    questions = download(data, name)
    benchmark = benchmarks.get(name)

    # MME needs two questions about an image of each of its 14 tasks.
    least = 28 if name == "mme" else 1
    few, more = benchmark.load(least), benchmark.load(len(questions))

    assert len(few) == least and [e.id for e in more[:least]] == [e.id for e in few]
    assert sorted(e.id for e in more) == sorted(questions)


@pytest.mark.parametrize("name", PAPER)
def test_missing_download_raises_with_its_home(name, data):
    with pytest.raises(FileNotFoundError, match=f"{name} needs .*get it from https://.*MONKEYLIB_DATA"):
        benchmarks.get(name).load(3)
    assert name not in benchmarks.available()

    download(data, name)
    assert name in benchmarks.available()

    example = benchmarks.get(name).load(None)[0]
    file, _ = split_page(example.image)
    file.unlink()
    with pytest.raises(
        FileNotFoundError, match=f"no file for 1 of the .* images of {name}, such as .*{file.stem}"
    ):
        benchmarks.get(name).load(None)


def test_folder_and_prompt_can_be_given(tmp_path):
    download(tmp_path / "elsewhere", "vizwiz")
    for prompt, name in {"released": "vizwiz", "documented": "vizwiz_lower", "plain": "plain"}.items():
        examples = benchmarks.get("vizwiz", prompt=prompt, data=tmp_path / "elsewhere").load(None)
        assert {example.prompt for example in examples} == {name}

    with pytest.raises(ValueError, match="no prompt called 'vqb': choose one of documented, released, vqa"):
        benchmarks.get("vizwiz", prompt="vqb")
    with pytest.raises(ValueError, match="doesn't evaluate mme"):
        benchmarks.get("mme", prompt="released")
    with pytest.raises(ValueError, match="nano-fine is synthetic"):
        benchmarks.get("nano-fine", data=tmp_path)


def test_page_of_the_benchmarks_names_what_exists():
    page = (resources.REPOSITORY / "docs/benchmarks.md").read_text()
    endings = ("-val", "-test", "-test-dev", "-train", "-without-hint", "released-")
    variants = {name for name in benchmarks.BENCHMARKS if name not in PAPER and name.endswith(endings[:-1])}
    named = set(re.findall(r"`((?:released-)?[a-z0-9]+(?:-[a-z]+)*)`", page))

    assert variants <= named
    assert {name for name in named if name.endswith(endings[:-1])} == variants
    assert {name for name in named if name.startswith("released-")} <= benchmarks.BENCHMARKS.keys()


# --- single benchmarks ----------------------------------------------------------------------------


def test_mme_adds_accuracies_over_questions_and_images(data, tmp_path):
    download(data, "mme")
    examples = benchmarks.get("mme").load(None)
    always_yes = run(examples, tmp_path / "yes.jsonl", lambda example: "Yes, there is.")

    assert scores("mme", always_yes) == {"mme_perception": pytest.approx(10 * 0.5), "mme_cognition": 4 * 0.5}

    # Of two images of one task, one has both questions correct, the other one of them: 3/4 + 1/2.
    half = run(
        examples,
        tmp_path / "half.jsonl",
        lambda e: e.answers[0] if e.id.startswith("count/0001") or e.id == "count/0002/0" else "perhaps",
    )

    assert prediction_rows.score(half, "mme_perception").value == pytest.approx(0.75 + 0.5)

    metrics = ["mme_perception", "mme_cognition"]
    rows = results.score_runs({("m", "mme"): half}, {"mme": metrics}, by="task")
    values = {row.group: row.value for row in rows if row.metric == "mme_perception"}
    assert values["count"] == pytest.approx(1.25) and values["color"] == 0

    # A task counts in the sum that it belongs to.
    assert len(values) == 1 + 10 and "code_reasoning" not in values
    assert sum(row.metric == "mme_cognition" for row in rows) == 1 + 4


def test_mme_without_all_questions_raises(data, tmp_path):
    download(data, "mme")
    with pytest.raises(
        ValueError, match="limit of 27 questions leaves out some of 14 tasks.*ask 28 at least"
    ):
        benchmarks.get("mme").load(27)

    assert len(benchmarks.get("mme").load(29)) == 28

    examples = [e for e in benchmarks.get("mme").load(None) if e.meta["task"] != "color"]
    path = run(examples, tmp_path / "p.jsonl", lambda e: "yes")
    with pytest.raises(ValueError, match="sum over 10 tasks, and no question is of color"):
        prediction_rows.score(path, "mme_perception")

    without_one = [row for row in read_predictions(path) if row.id != "count/0001/0"]
    with pytest.raises(ValueError, match="both are needed: mme/count/0001.jpg has 1"):
        prediction_rows.score(without_one, "mme_cognition")

    # A line with another answer.
    (data / "mme" / "count" / "0001.txt").write_text("Is it?\tMaybe\n")
    with pytest.raises(ValueError, match="expected a question, a tab and Yes or No, got 'Is it"):
        benchmarks.get("mme").load(None)


def test_f1_is_computed_over_all_values_of_all_documents(data, tmp_path):
    download(data, "deepform")
    answers = {"form-0": "$4,500.00", "form-1": "smith for senate | Jones", "other-0": ""}
    path = run(benchmarks.get("deepform").load(None), tmp_path / "p.jsonl", lambda e: answers[e.id])
    precision, recall = 2 / 3, 2 / 3  # three values predicted, two of them correct; three expected
    f1 = 2 * precision * recall / (precision + recall)

    assert prediction_rows.score(path, "f1").value == pytest.approx(f1)

    # Not the mean over documents.
    by_question = results.scores_by_id(path, "f1")
    assert by_question == {"form-0": 1.0, "form-1": pytest.approx(2 / 3), "other-0": 0.0}
    assert np.mean(list(by_question.values())) != pytest.approx(f1)


def test_answer_of_several_values_needs_all_of_them(data, tmp_path):
    download(data, "wtq")
    answers = {"t-1-0": "ana maria", "t-1-1": "Bergen", "t-2-0": "3"}
    path = run(benchmarks.get("wtq").load(None), tmp_path / "p.jsonl", lambda e: answers[e.id])

    assert results.scores_by_id(path, "denotation_accuracy") == {"t-1-0": 1, "t-1-1": 0, "t-2-0": 1}
    assert results.scores_by_id(path, "released_containment")["t-1-1"] == 1


def test_choices_can_be_named_by_letter(data, tmp_path):
    download(data, "ai2d")
    letters = {"0.png-Which_is_the_ear": "A", "0.png-What_eats_grass": "B"}
    path = run(benchmarks.get("ai2d").load(None), tmp_path / "p.jsonl", lambda e: letters[e.id])

    assert results.scores_by_id(path, "multiple_choice") == dict.fromkeys(letters, 1)


def test_unpublished_answers_leave_examples_without_and_the_validation_split_has_them(data):
    download(data, "docvqa")
    file = data / "docvqa" / "test_v1.0.json"
    content = file.read_text()
    file.write_text(content.replace('"answers"', '"hidden"'))

    assert [example.answers for example in benchmarks.get("docvqa").load(None)] == [(), ()]

    # Answers to some of the questions only are no split without answers.
    file.write_text(content.replace('"answers"', '"hidden"', 1))
    with pytest.raises(ValueError, match="docvqa has no answer to 1 of its 2 questions.*incomplete"):
        benchmarks.get("docvqa").load(None)

    # The same file in place of the validation split.
    file.rename(file.with_name("val_v1.0_withQT.json"))
    with pytest.raises(ValueError, match="docvqa-val has no answer"):
        benchmarks.get("docvqa-val").load(None)

    download(data, "docvqa")
    file.replace(file.with_name("val_v1.0_withQT.json"))
    assert len(benchmarks.get("docvqa-val").load(None)) == 2
    assert benchmarks.get("docvqa-val").reported == () and benchmarks.get("infovqa-val").split == "validation"


@pytest.mark.parametrize(
    ("name", "old", "new", "sentence"),
    [
        ("textvqa", '"answers"', '"replies"', "textvqa is not laid out .*no field 'answers'"),
        ("gqa", '"pizza box"', "null", "answers is None, not a text"),
        (
            "scienceqa",
            '"answer": 1, "image": "image.png"}, "2"',
            '"answer": 2, "image": "image.png"}, "2"',
            "has 2 choices, and its answer is number 2",
        ),
        ("chartqa", '"imgname"', '"image"', "no field 'imgname'"),
    ],
)
def test_other_layout_raises(name, old, new, sentence, data):
    download(data, name)
    file = data / name / CARDS[name].test.files[0]
    if name == "chartqa":
        file = data / name / "test/test_human.json"
    content = file.read_text()

    assert old in content

    file.write_text(content.replace(old, new))
    with pytest.raises(ValueError, match=sentence):
        benchmarks.get(name).load(None)


# --- the files of the released evaluation ---------------------------------------------------------


@pytest.mark.parametrize("name", RELEASED)
def test_released_files_are_scored_as_by_the_released_code(name, data, tmp_path):
    benchmark = benchmarks.get(name)
    with pytest.raises(FileNotFoundError, match=f"{name} needs .*get it from https://github.com/Yuliang-Liu"):
        benchmark.load(None)

    released_download(data, benchmark.card.test.released)
    assert name in benchmarks.available()

    examples = benchmark.load(None)
    assert [e.question for e in examples] == [row["question"] for row in RELEASED_ROWS]
    assert {e.prompt for e in examples} == {benchmark.card.test.prompts.released}
    assert [e.image_key for e in examples] == [f"{benchmark.card.name}/data/x/{n}.jpg" for n in (0, 0, 1)]
    assert len(benchmark.load(2)) == 2 and benchmark.metrics == (benchmark.card.test.released.metric,)

    score = scores(name, run(examples, tmp_path / "p.jsonl", lambda e: e.answers[0]))[benchmark.metrics[0]]

    # A full stop in the answer, and an answer in capitals, are defects of the released code.
    expected = {"released_containment": 2 / 3, "released_gqa_accuracy": 2 / 3, "released_vqa_score": 2.9 / 3}

    assert score == pytest.approx(expected.get(benchmark.metrics[0], 1))


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"image": "data/x/0.jpg", "question": "What?", "question_id": 3}, "expected an answer, .*got None"),
        (
            {"image": "data/x/0.jpg", "question": " ", "answer": "a"},
            "a text in the field 'question', got ' '",
        ),
        ({"question": "What?", "answer": "a"}, "a text in the field 'image', got None"),
        (["data/x/0.jpg"], "expected an answer, .*got None"),
        (
            {"image": "data/x/9.jpg", "question": "What?", "answer": "a"},
            "no file for 1 of the 1 images of .*, such as",
        ),
    ],
)
def test_incomplete_released_line_raises(row, sentence, data):
    source = CARDS["estvqa"].test.released
    released_download(data, source)
    record_files.write_lines(data / source.file, [row])

    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        benchmarks.get("released-estvqa").load(None)


def test_repeated_released_ids_become_unique_and_missing_annotations_raise(data):
    source = CARDS["textvqa"].test.released
    released_download(data, source)
    record_files.write_lines(data / source.file, [RELEASED_ROWS[0], RELEASED_ROWS[0]])

    assert [e.id for e in benchmarks.get("released-textvqa").load(None)] == ["0-1", "0-2"]

    record_files.write_lines(data / source.file, [RELEASED_ROWS[0] | {"question_id": 8}])
    with pytest.raises(ValueError, match="line 1 of .*annotations have no question 8"):
        benchmarks.get("released-textvqa").load(None)


# --- synthetic data -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in benchmarks.BENCHMARKS if name.startswith("nano-")])
def test_synthetic_benchmark_loads_the_same_examples_each_time_and_scores_their_answers(name, tmp_path):
    benchmark = benchmarks.get(name)
    examples = benchmark.load(6)
    again = benchmark.load(4)

    assert [e.id for e in again] == [e.id for e in examples[:4]]
    assert np.array_equal(np.asarray(again[0].image), np.asarray(examples[0].image))

    # Meta is stored with each prediction.
    json.dumps([dict(e.meta) for e in examples])

    path = tmp_path / "p.jsonl"
    predict(lambda batch: [e.answers[0] for e in batch], examples, path, progress=False)
    rows = results.score_runs({("oracle", name): path})

    assert [row.metric for row in rows] == list(benchmark.metrics)

    best = 10 if benchmark.metrics == ("cider_d",) else 1
    assert all(row.value == pytest.approx(best, rel=0.3) for row in rows)


def test_text_splits_hold_only_text_of_their_size():
    for name in ("fine", "large"):
        metas = [e.meta for e in benchmarks.get(f"nano-{name}").load(8)]
        assert {meta["text_size"] for meta in metas} == {name}
        assert all(len(meta["answer_box"]) == 4 and meta["height"] > 0 for meta in metas)


def test_transformed_quadrants_are_benchmarks_of_their_own_that_name_the_transforms():
    ordinary, fixed, dealt = (
        benchmarks.get(name).load(12) for name in ("nano-large", "nano-fixed-large", "nano-dealt-large")
    )
    assert [(e.id, e.question, e.answers) for e in fixed] == [(e.id, e.question, e.answers) for e in dealt]

    keys = [{example.image_key for example in examples} for examples in (ordinary, fixed, dealt)]
    assert not keys[0] & keys[1] and not keys[1] & keys[2] and not keys[0] & keys[2]

    assert not any("transforms" in example.meta for example in ordinary)
    for example in fixed:
        transforms = example.meta["transforms"].split(" + ")
        assert set(transforms) <= set(QUADRANTS) and len(transforms) in (1, 2, 4)


def test_transfer_is_scored_by_the_change_of_an_image(tmp_path):
    examples = benchmarks.get("nano-transfer-large").load(12)
    changes = [example.meta["change"] for example in examples]
    assert len(set(changes)) > 1 and examples[0].image_key.startswith("nano-transfer-test-")

    # Right where the image was compressed, wrong elsewhere.
    path = tmp_path / "p.jsonl"
    predict(
        lambda batch: [e.answers[0] if e.meta["change"] == "jpeg" else "nothing" for e in batch],
        examples,
        path,
        progress=False,
    )
    rows = results.score_runs({("model", "nano-transfer-large"): path}, by="change")
    exact = {row.group: row.value for row in rows if row.metric == "exact_match" and row.group != "all"}
    assert exact == {change: float(change == "jpeg") for change in set(changes)}


def test_benchmarks_without_names_are_the_ordinary_test_sets(data):
    assert benchmarks.available() == ["nano-fine", "nano-large", "nano-general", "nano-caption"]


def test_unknown_benchmark_raises_with_the_list():
    with pytest.raises(ValueError, match="nano-fine, nano-large"):
        benchmarks.get("imagenet")


# --- metrics of the cards -------------------------------------------------------------------------


def test_metrics_of_the_released_code_are_scored_beside_the_official_ones():
    for card in CARDS.values():
        part = card.test
        assert not part.metrics[0].startswith("released_")
        if part.released:
            assert part.released.metric in part.metrics[1:]
        assert all(metric in registry.METRICS for metric in part.metrics)


def test_unknown_metric_of_a_card_raises():
    card = CARDS["textvqa"]
    part = card.test.model_copy(update={"metrics": ["accuracy"]})
    with pytest.raises(ValueError, match="benchmark textvqa: .*no metric called 'accuracy'"):
        benchmarks._official_benchmark(card.model_copy(update={"test": part}), "vqa")


# --- the paper's scores beside measured ones ------------------------------------------------------

REPORTED = {  # Monkey, Qwen-VL
    "flickr30k": (86.1, 85.8), "textcaps": (93.2, 65.1), "vqav2": (80.3, 79.5), "okvqa": (61.3, 58.6),
    "gqa": (60.7, 59.3), "scienceqa": (69.4, 67.1), "vizwiz": (61.2, 35.2), "mme": (1505.3, None),
    "textvqa": (67.6, 63.8), "ai2d": (57.9, 55.9), "stvqa": (67.7, 59.1), "estvqa": (82.6, 77.8),
    "docvqa": (66.5, 65.1), "chartqa": (65.1, 65.7), "infovqa": (36.1, 35.4), "deepform": (40.6, 4.1),
    "klc": (32.8, 15.9), "wtq": (25.3, 21.6),
}  # fmt: skip


def reported(name):
    return {score.model: score for score in benchmarks.get(name).reported}


def test_reported_scores_are_those_of_the_papers_tables_and_chart():
    for name, (monkey, qwen) in REPORTED.items():
        values = {model: score.value for model, score in reported(name).items()}
        assert values["Monkey"] == monkey
        assert values.get("Qwen-VL") == qwen

    documents = [name for name in PAPER if CARDS[name].kind == "documents"]
    sources = {score.source for name in documents for score in reported(name).values()}
    assert len(documents) == 6 and sources == {"chart", "derived"}


def test_derived_score_gives_the_average_gain_that_the_paper_claims_for_documents():
    names = [name for name in PAPER if CARDS[name].kind == "documents"]
    gains = [reported(name)["Monkey"].value - reported(name)["Qwen-VL"].value for name in names]
    assert np.mean(gains) == pytest.approx(9.77, abs=0.01)


def test_command_line_lists_homes_and_downloads(data):
    from typer.testing import CliRunner

    from monkeylib.cli import app

    download(data, "gqa")
    result = CliRunner().invoke(app.app, ["data", "benchmarks", "--data", str(data)])

    assert result.exit_code == 0
    assert "\ngqa: https://cs.stanford.edu/people/dorarad/gqa" in result.output
    assert "\ntextvqa (missing): https://textvqa.org/dataset (CC BY 4.0" in result.output
    infovqa = "reads infovqa/infographicsVQA_val_v1.0_withQT.json; images infographicsvqa_images or images"
    assert infovqa in result.output
    assert "\nreleased-klc (missing): https://github.com/Yuliang-Liu/Monkey" in result.output
    assert "unverified: the paper's pages, the licence" in result.output
