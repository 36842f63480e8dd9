"""`monkeylib evaluate` and `monkeylib score`."""

import csv
import json
import shutil
from dataclasses import replace

import pytest

from tests.support import benchmark_files, prediction_rows, record_files


@pytest.fixture()
def evaluated(call, checkpoint, tmp_path):
    """A folder of predictions, and what was said while it was made."""
    call_of = ("evaluate", "--benchmarks", "nano-general,nano-fine", "--model", checkpoint, "--limit", 3)
    code, output, errors = call(*call_of, "--out", tmp_path / "first")

    assert code == 0, errors

    return tmp_path / "first", output, call_of


def test_evaluate_writes_predictions_scores_and_galleries(call, evaluated, monkeypatch):
    folder, output, call_of = evaluated

    assert sorted(file.name for file in folder.iterdir()) == [
        "errors", "nano-fine.jsonl", "nano-general.jsonl", "run.json", "scores.csv",
    ]  # fmt: skip
    lines = (folder / "nano-general.jsonl").read_text().splitlines()

    assert len(lines) == 3 and json.loads(lines[0])["question"]
    assert (
        (folder / "scores.csv")
        .read_text()
        .startswith("model,split,group,metric,value,low,high,n,failed,missing,empty,cut\n")
    )
    assert "nano-base" in output and "nano-fine.html" in output
    assert (folder / "errors" / "nano-fine.html").read_text().count("<figure>") > 0

    from monkeylib.evaluation import prefix_sharing

    monkeypatch.setattr(prefix_sharing.PrefixSharingMonkey, "__call__", None)

    assert call(*call_of, "--out", folder)[0] == 0, "a second call asks nothing"


def test_scores_as_lines_of_json(call, evaluated):
    folder, _, call_of = evaluated
    code, output, _ = call(*call_of, "--out", folder, "--json")
    rows = [json.loads(line) for line in output.splitlines()]
    assert code == 0 and {row["split"] for row in rows} == {"nano-general", "nano-fine"}
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 and row["n"] == 3 for row in rows)

    assert call("score", folder, "--json")[:2] == (0, output)
    code, output, _ = call("score", folder / "nano-fine.jsonl", "--json")
    assert code == 0 and json.loads(output.splitlines()[0])["n"] == 3


def test_data_type_of_the_weights_belongs_to_the_run(call, evaluated):
    folder, _, call_of = evaluated
    half = (*call_of, "--out", folder, "--dtype", "float16", "--device", "cpu")
    code, _, errors = call(*half)
    assert code == 2 and "dtype" in errors

    code, _, errors = call(*half, "--fresh")
    assert code == 0, errors
    run = json.loads((folder / "run.json").read_text())
    assert run["fingerprint"]["dtype"] == "float16" and '"dtype": "float16"' in json.dumps(run["notes"])


def test_folder_below_home_is_one_folder(call, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    call_of = ("evaluate", "--benchmarks", "nano-fine", "--model", checkpoint, "--limit", 2, "--gallery", 0)
    code, output, errors = call(*call_of, "--out=~/e")

    assert code == 0, errors
    names = sorted(file.name for file in (tmp_path / "home" / "e").iterdir())
    assert names == ["nano-fine.jsonl", "run.json", "scores.csv"]
    assert not (tmp_path / "~").exists()
    assert call("score", "~/e")[0] == 0


def test_fresh_replaces_predictions_of_another_model(call, evaluated):
    folder, _, call_of = evaluated
    file = folder / "nano-fine.jsonl"
    file.write_text(file.read_text().replace('"model": "', '"model": "other'))
    before = file.read_bytes()
    code, _, errors = call(*call_of, "--out", folder)

    assert code == 2 and "--fresh" in errors and file.read_bytes() == before
    assert call(*call_of, "--out", folder, "--fresh")[0] == 0 and b"other" not in file.read_bytes()


def test_score_compares_two_folders(call, evaluated, tmp_path):
    folder, output, _ = evaluated
    scores = (folder / "scores.csv").read_bytes()
    (folder / "scores.csv").unlink()
    code, again, errors = call("score", folder)

    assert (code, errors) == (0, "") and (folder / "scores.csv").read_bytes() == scores
    assert again in output, "the same table"

    other = tmp_path / "second"
    other.mkdir()
    for file in folder.glob("*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        (other / file.name).write_text(
            "".join(json.dumps(row | {"prediction": row["answers"][0]}) + "\n" for row in rows)
        )
    code, output, errors = call("score", other, folder)

    assert code == 0, errors
    assert "second - nano-base, paired" in output and "+" in output

    # A copy of a run is another column of the same model.
    shutil.copytree(folder, tmp_path / "copy")
    code, output, errors = call("score", tmp_path / "copy", folder, folder)
    assert code == 0, errors
    assert "nano-base (copy) - nano-base (first), paired" in output

    (other / "mine.jsonl").write_bytes((other / "nano-fine.jsonl").read_bytes())
    code, output, errors = call("score", other, "--metrics", "anls, exact_match")

    assert code == 0 and "mine" in output and output.count("100.0") >= 6, errors


def test_options_reach_the_job(call, monkeypatch, tmp_path):
    from monkeylib.evaluation import job

    jobs = []
    monkeypatch.setattr(job, "run_job", jobs.append)
    options = (
        "--limit",
        7,
        "--batch-size",
        3,
        "--gallery",
        0,
        "--max-failed",
        0.25,
        "--retry-failed",
        "--fresh",
        "--grid",
        "auto:4",
        "--device",
        "cuda:1",
        "--dtype",
        "bfloat16",
        "--bits",
        4,
        "--no-exact",
    )
    names = "nano-fine, nano-large,nano-fine"
    assert (
        call("evaluate", "--model", "some/model", "--benchmarks", names, "--out", tmp_path, *options)[0] == 0
    )
    assert call("evaluate", "--model", "some/model", "--data", tmp_path)[0] == 0

    first, default = jobs
    assert [benchmark.name for benchmark in first.benchmarks] == ["nano-fine", "nano-large"]
    assert (first.model, first.model_name, first.folder) == ("some/model", "some/model", tmp_path)
    assert (first.limit, first.batch_size, first.gallery, first.max_failed) == (7, 3, 0, 0.25)
    assert first.retry_failed and first.fresh and not first.skip_unusable
    assert (first.grid, default.grid) == ("auto:4", "")
    assert (first.device, first.dtype, first.bits, first.exact) == ("cuda:1", "bfloat16", 4, False)
    assert (default.device, default.dtype, default.bits, default.exact) == ("", None, None, None)

    # Without names, all that can be used are.
    assert len(default.benchmarks) == 4 and default.skip_unusable and default.limit is None
    assert (default.max_failed, default.retry_failed, default.fresh) == (0.1, False, False)
    assert default.folder.name == "some--model"

    assert call("evaluate", "--benchmarks", "nano-fine", "--max-failed", 2)[0] == 2


def test_error_of_a_job_follows_the_scores_of_what_is_complete(call, monkeypatch, tmp_path):
    from monkeylib.evaluation import job, predict, prediction_folders

    error = predict.TooManyFailures("none of the 3 questions")
    ids = {"nano-fine": ["fine-0-0"]}
    monkeypatch.setattr(job, "run_job", lambda _: job.EvaluationResult(ids, error))
    monkeypatch.setattr(prediction_folders, "has_scores", lambda folder: True)
    monkeypatch.setattr("monkeylib.cli.evaluate._report", lambda *_, by, ids, json: print("reported", ids))
    code, output, errors = call("evaluate", "--model", "some/model", "--out", tmp_path)

    assert (code, errors) == (2, "monkeylib: none of the 3 questions\n")
    assert output == f"reported {ids}\n"


# --- test splits, groups, downloads as they are today


@pytest.fixture()
def short_answers(monkeypatch):
    """The tiny model never ends an answer."""
    from monkeylib.evaluation import predict
    from monkeylib.evaluation.prefix_sharing import PrefixSharingMonkey

    monkeypatch.setattr(predict, "PrefixSharingMonkey", lambda monkey, _: PrefixSharingMonkey(monkey, 2))


@pytest.fixture()
def evaluate(call, checkpoint, short_answers, tmp_path):
    """Return a function that evaluates benchmarks on the downloads in a folder."""

    def run(*arguments):
        folders = ("--data", tmp_path / "data", "--out", tmp_path / "out")
        return call("evaluate", "--model", checkpoint, "--gallery", 0, *folders, *arguments)

    return run


def test_test_split_gets_a_submission_file_and_the_other_benchmarks_their_scores(call, evaluate, tmp_path):
    benchmark_files.download(tmp_path / "data", "docvqa")
    benchmark_files.download(tmp_path / "data", "chartqa")
    test_file = tmp_path / "data/docvqa/test_v1.0.json"
    shutil.copy(test_file, test_file.with_name("val_v1.0_withQT.json"))
    test_file.write_text(test_file.read_text().replace('"answers"', '"hidden"'))

    code, output, errors = evaluate("--benchmarks", "docvqa,docvqa-val,chartqa")
    assert code == 0, errors
    assert "docvqa-val" in output and "chartqa" in output
    assert "docvqa: 2 answers for https://rrc.cvc.uab.es" in errors

    submission = tmp_path / "out/docvqa.submission.json"
    entries = json.loads(submission.read_text())
    assert sorted(entry["questionId"] for entry in entries) == [1, 2]
    assert not (tmp_path / "out/docvqa-val.submission.json").exists()

    # `score` writes it again, also where there is nothing else.
    submission.unlink()
    for file in (tmp_path / "out").glob("[!d]*.jsonl"):
        file.unlink()
    (tmp_path / "out/docvqa-val.jsonl").unlink()
    code, output, errors = call("score", tmp_path / "out")
    assert code == 0 and "answers for" in errors and json.loads(submission.read_text()) == entries


def test_scores_of_groups_stand_in_the_table_and_in_the_file(call, evaluate, tmp_path):
    benchmark_files.download(tmp_path / "data", "chartqa")
    code, output, errors = evaluate("--benchmarks", "chartqa", "--by", "family")
    assert code == 0, errors
    assert "augmented" in output and "human" in output

    rows = list(csv.DictReader((tmp_path / "out/scores.csv").open()))
    assert [(row["group"], row["n"]) for row in rows if row["metric"] == "relaxed_accuracy"] == [
        ("all", "3"), ("augmented", "2"), ("human", "1"),
    ]  # fmt: skip

    code, output, errors = call("score", tmp_path / "out", "--by", "famly")
    assert code == 2 and "no question has a field 'famly': choose one of family" in errors


def test_estvqa_is_asked_on_its_test_split_and_scored_by_language(evaluate, tmp_path):
    folder = tmp_path / "data/estvqa"
    rows = [
        {
            "id": 0,
            "image": "0.jpg",
            "annotation": [{"question": "这家店的名字是什么?", "answer": "禾不銹鋼"}],
        },
        {"id": 1, "image": "0.jpg", "annotation": [{"question": "what is it?", "answer": "please"}]},
    ]
    files = {f"annotations/{split}.json": rows for split in ("test", "train")}
    benchmark_files.lay_out(folder, files, {"images/test/0.jpg", "images/train/0.jpg"})
    code, output, errors = evaluate("--benchmarks", "estvqa", "--by", "language")

    assert code == 0, errors
    assert "Chinese" in output and "English" in output and "estvqa_anls" in output
    lines = (tmp_path / "out/estvqa.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["id"] for line in lines) == ["0-0", "1-0"]


def test_scienceqa_gives_its_hint_unless_the_other_benchmark_is_named(evaluate, tmp_path):
    problem = {
        "question": "Which is farthest north?", "choices": ["Ohio", "Texas"], "answer": 0,
        "hint": "Look at the map.", "image": "image.png", "subject": "social science",
    }  # fmt: skip
    splits = {"train": [], "test": ["5"]}
    files = {"problems.json": {"5": problem}, "pid_splits.json": splits}
    benchmark_files.lay_out(tmp_path / "data/scienceqa", files, {"images/test/5/image.png"})
    code, output, errors = evaluate("--benchmarks", "scienceqa,scienceqa-without-hint", "--by", "subject")

    assert code == 0 and "social science" in output, errors
    questions = {
        name: json.loads((tmp_path / f"out/{name}.jsonl").read_text())["question"]
        for name in ("scienceqa", "scienceqa-without-hint")
    }
    assert questions == {
        "scienceqa": "Context: Look at the map.\nWhich is farthest north? A. Ohio B. Texas",
        "scienceqa-without-hint": "Which is farthest north? A. Ohio B. Texas",
    }


def test_files_are_looked_for_before_the_model(call, monkeypatch, tmp_path):
    monkeypatch.setattr("monkeylib.evaluation.hf_models.load_image_text_model", None)
    arguments = ("--model", "Qwen/Qwen2-VL-2B-Instruct", "--benchmarks", "textvqa", "--data", tmp_path)
    code, _, errors = call("evaluate", *arguments, "--out", tmp_path / "out")
    assert code == 2 and "textvqa needs" in errors and "Traceback" not in errors


# --- questions of one's own


def test_own_questions_are_evaluated_like_a_benchmark(call, checkpoint, short_answers, tmp_path):
    (tmp_path / "a.png").write_bytes(record_files.png())
    rows = [
        {"image": "a.png", "question": f"how much is number {n}?", "answer": "1.86", "shop": "abc"[n]}
        for n in range(3)
    ]
    with (tmp_path / "held_out.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)

    call_of = (
        "evaluate",
        "--model",
        checkpoint,
        "--data",
        tmp_path / "held_out.csv",
        "--out",
        tmp_path / "o",
    )
    code, output, errors = call(*call_of, "--limit", 2)
    assert code == 0, errors
    assert (
        "held_out: the prompt is vqa ('{question} Answer: ') and the metrics are anls, exact_match" in errors
    )
    assert (tmp_path / "o/errors/held_out.html").exists() and "exact_match" in output
    first = (tmp_path / "o/held_out.jsonl").read_bytes()

    # The third question alone is asked, and scored with the others.
    code, output, errors = call(*call_of, "--by", "shop")
    assert code == 0, errors
    assert set(first.splitlines()) < set((tmp_path / "o/held_out.jsonl").read_bytes().splitlines())
    table = list(csv.DictReader((tmp_path / "o/scores.csv").open()))
    assert {(row["group"], row["n"]) for row in table} == {("all", "3"), ("a", "1"), ("b", "1"), ("c", "1")}

    # Scored again by its own metrics, with a gallery of its images, and compared.
    shutil.copytree(tmp_path / "o", tmp_path / "p")
    code, output, errors = call("score", tmp_path / "o", tmp_path / "p")
    assert code == 0 and "paired" in output and "anls" in output, errors
    assert call("score", tmp_path / "o", "--gallery", 2)[0] == 2
    code, _, errors = call("score", tmp_path / "o", "--gallery", 2, "--data", tmp_path / "held_out.csv")
    assert code == 0, errors


def test_metrics_of_a_call_are_those_of_its_folder(call, evaluate, tmp_path):
    for name in ("chartqa", "vizwiz"):
        benchmark_files.download(tmp_path / "data", name)
    assert evaluate("--benchmarks", "vizwiz")[0] == 0
    code, output, errors = evaluate("--benchmarks", "chartqa", "--metrics", "exact,anls")
    assert code == 0, errors

    (tmp_path / "out/notes.jsonl").write_text("mine")  # and no predictions
    code, again, errors = call("score", tmp_path / "out")
    assert code == 0, errors
    for text in (output, again):
        assert "exact_match" in text and "vqa_accuracy" in text and "relaxed_accuracy" not in text


def test_file_of_questions_in_the_place_of_a_name_is_a_sentence(call, checkpoint, monkeypatch, tmp_path):
    (tmp_path / "mine.jsonl").write_text(json.dumps({"image": "a.png", "question": "q", "answer": "a"}))
    monkeypatch.chdir(tmp_path)
    for arguments, sentence in {
        ("--benchmarks", "mine.jsonl", "--data", "."): "pass it as --data mine.jsonl",
        ("--benchmarks", "chartqa", "--data", "mine.jsonl"): "leave --benchmarks chartqa out",
        ("--benchmarks", "chartqa", "--data", "gone"): "there is nothing at gone",
        ("--data", "mine.jsonl", "--metrics", "anlz"): "no metric called 'anlz'",
        ("--data", "mine.jsonl"): "there is no file for 1 of the 1 images of mine, such as",
    }.items():
        code, _, errors = call("evaluate", "--model", checkpoint, *arguments, "--out", "o")
        assert code == 2 and sentence in errors and "Traceback" not in errors
        assert not (tmp_path / "o").exists()


# --- runs beside each other


def test_folders_of_one_model_are_a_column_each(call, tmp_path):
    rows = [prediction_rows.prediction(n, correct=True) for n in range(3)]
    wrong = [prediction_rows.prediction(n, correct=False) for n in range(3)]
    for name, predictions in {"one": rows, "two": wrong}.items():
        prediction_rows.write_predictions(tmp_path / name / "nano-fine.jsonl", predictions)
        (tmp_path / name / "run.json").write_text('{"model": "m"}')  # as the first versions wrote it
    code, output, errors = call("score", tmp_path / "one", tmp_path / "two")

    assert code == 0 and errors.count("scored without it") == 2
    (line,) = [line for line in output.splitlines() if "exact_match" in line and "questions" not in line][:1]
    assert "100.0" in line and " 0.0 " in line
    assert "one - two, paired" in output and "+100.0" in output


def test_empty_answers_are_counted_and_said(call, tmp_path):
    rows = [replace(prediction_rows.prediction(n, correct=False), prediction=" ") for n in range(3)]
    prediction_rows.write_predictions(tmp_path / "nano-fine.jsonl", rows)
    code, output, _ = call("score", tmp_path)
    assert code == 0 and "empty" in output and "3 of 3 questions have an empty answer" in output


# --- predictions of any tool


def test_file_of_any_tool_is_scored_and_its_last_line_counts(call, monkeypatch, tmp_path):
    rows = [{"id": n, "prediction": "yes", "answer": answer, "shop": "a"} for n, answer in enumerate("yn")]
    rows = [rows[0] | {"answer": "yes"}, rows[1] | {"answer": "no"}]
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, output, errors = call(
        "score", tmp_path / "my.jsonl", "--by", "shop", "--out", tmp_path / "scores.csv"
    )

    assert code == 0, errors
    assert "the metrics are anls, exact_match; --metrics takes others" in errors
    table = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert {(row["group"], row["metric"], float(row["value"]), row["n"]) for row in table} == {
        (group, metric, 0.5, "2") for group in ("all", "a") for metric in ("anls", "exact_match")
    }

    # In a folder as well, by its name.
    monkeypatch.chdir(tmp_path)
    code, output, errors = call("score", ".", "--metrics", "exact")
    assert code == 0 and "50.0" in output and "│         2 │" in output, errors


def test_file_without_answers_is_scored_against_a_benchmark_and_compared(call, tmp_path):
    benchmark_files.download(tmp_path / "data", "textvqa")
    for name, answers in {"a.json": ("nokia", "10:10"), "b.json": ("nokia", "noon")}.items():
        entries = [{"question_id": n, "answer": answer} for n, answer in enumerate(answers, 1)]
        (tmp_path / name).write_text(json.dumps(entries))

    code, _, errors = call("score", tmp_path / "a.json")
    assert code == 2 and "a.json holds no accepted answers: name the benchmark" in errors

    arguments = ("--benchmark", "textvqa", "--data", tmp_path / "data")
    code, output, errors = call("score", tmp_path / "a.json", tmp_path / "b.json", *arguments)
    assert code == 0 and errors == ""
    assert "100.0" in output and "50.0" in output and "a.json - b.json, paired" in output

    # Against questions of one's own.
    (tmp_path / "image.png").write_bytes(record_files.png())
    question = {"image": "image.png", "question": "what brand?", "answer": "nokia", "id": 1}
    (tmp_path / "mine.json").write_text(json.dumps([question]))
    code, output, errors = call("score", tmp_path / "a.json", "--data", tmp_path / "mine.json")
    assert code == 0 and "mine" in output and "100.0" in output
    assert "1 predictions are for no question of mine and are left out, such as 2" in errors


def test_file_for_a_test_server_is_written_from_any_predictions(call, tmp_path):
    benchmark_files.download(tmp_path / "data", "docvqa")
    file = tmp_path / "data/docvqa/test_v1.0.json"
    file.write_text(file.read_text().replace('"answers"', '"hidden"'))
    (tmp_path / "p.jsonl").write_text(
        '{"questionId": 1, "response": "x"}\n{"questionId": 2, "response": "y"}'
    )

    arguments = ("--benchmark", "docvqa", "--data", tmp_path / "data")
    code, output, errors = call("score", tmp_path / "p.jsonl", *arguments)
    assert code == 0 and "2 answers for" in errors, errors
    entries = json.loads((tmp_path / "docvqa.submission.json").read_text())
    assert sorted(entries, key=str) == [{"questionId": 1, "answer": "x"}, {"questionId": 2, "answer": "y"}]


def test_files_and_folders_are_not_mixed(call, tmp_path):
    (tmp_path / "p.json").write_text('[{"id": 1, "prediction": "a", "answer": "a"}]')
    for arguments, sentence in {
        (tmp_path / "gone",): "there are no predictions at",
        (tmp_path / "p.json", tmp_path): "is a file, others are folders",
        (tmp_path / "p.json", "--gallery", 3): "--gallery is for folders",
        (tmp_path, "--benchmark", "textvqa"): "--benchmark and --out are for files",
    }.items():
        code, _, errors = call("score", *arguments)
        assert code == 2 and sentence in errors and "Traceback" not in errors


@pytest.mark.parametrize("data", ["missing.csv", "."])
def test_questions_that_are_not_there_are_not_passed_over(data, call, tmp_path):
    file = tmp_path / "p.jsonl"
    record_files.write_lines(file, [{"id": 1, "prediction": "x", "answers": ["x"]}])
    code, output, errors = call("score", file, "--data", tmp_path / data)
    assert code == 2 and "is no file of questions" in errors and not output


def test_answers_to_another_file_of_the_same_name_are_not_replaced(call, checkpoint, tmp_path):
    for shop in ("a", "b"):
        (tmp_path / shop).mkdir()
        (tmp_path / shop / "i.png").write_bytes(record_files.png())
        row = {"image": "i.png", "question": f"which is {shop}?", "answer": "x"}
        record_files.write_lines(tmp_path / shop / "test.jsonl", [row])

    def evaluate(file):
        return call("evaluate", "--model", checkpoint, "--data", file, "--out", tmp_path / "out")

    assert evaluate(tmp_path / "a/test.jsonl")[0] == 0
    answers = (tmp_path / "out/test.jsonl").read_bytes()
    code, _, errors = evaluate(tmp_path / "b/test.jsonl")
    assert code == 2 and "holds the answers to another file of this name" in errors
    assert (tmp_path / "out/test.jsonl").read_bytes() == answers

    # The file has moved.
    shutil.move(tmp_path / "a", tmp_path / "c")
    assert evaluate(tmp_path / "c/test.jsonl")[0] == 0
    assert (tmp_path / "out/test.jsonl").read_bytes() == answers


def test_questions_that_were_removed_from_the_file_are_not_scored(call, checkpoint, tmp_path):
    """Also questions without ids, which are numbered: the number of a removed one is another's then."""
    (tmp_path / "i.png").write_bytes(record_files.png())
    file, out = tmp_path / "mine.jsonl", tmp_path / "out"
    rows = [{"image": "i.png", "question": f"which is {n}?", "answer": "x"} for n in range(5)]
    record_files.write_lines(file, rows)
    assert call("evaluate", "--model", checkpoint, "--data", file, "--out", out)[0] == 0

    def scored_questions():
        with open(out / "scores.csv") as table:
            return {int(row["n"]) for row in csv.DictReader(table)}

    assert scored_questions() == {5}
    predictions = (out / "mine.jsonl").read_bytes()

    record_files.write_lines(file, rows[:3])
    code, _, errors = call("score", out)
    assert code == 0 and scored_questions() == {3}
    assert "mine: 2 of 5 predictions are left out, as" in errors and "has their questions no longer" in errors

    record_files.write_lines(file, [*rows[:1], *rows[2:]])
    assert call("score", out)[0] == 0 and scored_questions() == {1}

    record_files.write_lines(file, [{**rows[0], "question": "why?"}])
    code, output, errors = call("score", out)
    assert (code, output) == (2, "") and errors.count("\n") == 1
    assert "none of the 5 questions any more" in errors

    file.unlink()
    assert call("score", out)[0] == 0 and scored_questions() == {5}
    assert (out / "mine.jsonl").read_bytes() == predictions
