"""Evaluation as a run: checked before the model is loaded, recorded, and harmless to what is there."""

import os
import shutil
import signal
import time
from dataclasses import replace

import pytest

from monkeylib import signals
from monkeylib.evaluation import benchmarks, hf_models, job
from monkeylib.evaluation.distributed import DistributedContext
from monkeylib.evaluation.examples import read_predictions
from monkeylib.evaluation.job import EvaluationJob, run_job
from monkeylib.evaluation.predict import TooManyFailures
from monkeylib.runs import RunFolder, read_manifest
from tests.support import benchmark_files


@pytest.fixture(scope="module")
def checkpoint(monkey, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    monkey.model.save_pretrained(folder)
    monkey.processor.save_pretrained(folder)
    return folder


@pytest.fixture()
def loaded(monkey, monkeypatch):
    """Return the list of models that were loaded; loading takes no time."""
    models = []

    def load(name, grid="", **options):
        models.append(name)
        return monkey.with_grid(grid) if grid else monkey

    monkeypatch.setattr(hf_models, "load_image_text_model", load)
    return models


@pytest.fixture()
def data(tmp_path):
    """A folder of downloads: ChartQA with three questions about two images."""
    benchmark_files.download(tmp_path / "data", "chartqa")
    return tmp_path / "data"


def benchmark(name, data=None, **options):
    """Return a benchmark of short answers: the tiny model never ends one."""
    return replace(benchmarks.get(name, data=data, **options), max_new_tokens=2)


@pytest.fixture()
def chartqa(checkpoint, data, tmp_path, loaded):
    """A job on ChartQA."""
    return EvaluationJob(
        str(checkpoint), "tiny", [benchmark("chartqa", data)], tmp_path / "out", batch_size=2
    )


def read_rows(folder):
    return {row.id: row for row in read_predictions(folder / "chartqa.jsonl")}


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_record_says_what_the_predictions_were_made_with(chartqa, checkpoint):
    result = run_job(replace(chartqa, gallery=2))
    manifest = read_manifest(chartqa.folder)
    notes = manifest.notes

    assert result.error is None and len(result.ids["chartqa"]) == 3
    assert manifest.kind == "evaluation" and manifest.finished
    assert {"python", "monkeylib", "torch", "transformers"} <= manifest.code.keys() and manifest.created
    assert (notes["model"], notes["model_path"]) == ("tiny", str(checkpoint))
    assert notes["weights"] == manifest.fingerprint["model"]["weights"]
    assert (notes["dtype"], notes["device"], notes["limit"]) == ("float32", "cpu", None)

    record = notes["benchmarks"]["chartqa"]
    rows = read_rows(chartqa.folder).values()
    assert record["prompt"] == chartqa.benchmarks[0].prompt
    assert record["prompt_text"] == [next(iter(rows)).template] and "{question}" in record["prompt_text"][0]
    assert (record["questions"], record["generated"]) == (3, 3)
    assert record["tokens"] == sum(row.tokens for row in rows) == notes["tokens"] > 0
    assert record["seconds"] > 0 and notes["questions_per_second"] > 0
    assert {"chartqa.jsonl", "errors/chartqa.html", "scores.csv"} <= set(manifest.files)


def test_second_call_generates_nothing_and_says_so(chartqa, capsys, loaded):
    run_job(chartqa)
    before = (chartqa.folder / "chartqa.jsonl").read_bytes()
    seconds = read_manifest(chartqa.folder).notes["seconds"]
    capsys.readouterr()
    run_job(chartqa)

    assert "nothing was generated" in capsys.readouterr().err
    assert (chartqa.folder / "chartqa.jsonl").read_bytes() == before
    assert read_manifest(chartqa.folder).notes["seconds"] == seconds


# --- checked before the model is loaded


def test_interruption_tells_that_the_answers_are_kept(chartqa, loaded, monkeypatch):
    monkeypatch.setattr(job, "predict", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(signals.Interrupted, match=f"by SIGTERM: {signals.GOES_ON}$"), signals.end_at_once():
        run_job(chartqa)


def break_image(job, data):
    (data / "chartqa/test/png/2.png").unlink()


def remove_questions(job, data):
    (data / "chartqa/test/test_human.json").unlink()


def remove_answers(job, data):
    file = data / "chartqa/test/test_human.json"
    file.write_text(file.read_text().replace('"label"', '"hidden"'))


def make_foreign(job, data):
    job.folder.mkdir()
    (job.folder / "notes.txt").write_text("mine")


def make_file(job, data):
    job.folder.write_text("mine")


PROBLEMS = {
    break_image: "there is no file for 1 of the 2 images of chartqa, such as .*2.png",
    remove_questions: "chartqa needs .*test_human.json",
    remove_answers: "chartqa is not laid out .*label",
    make_foreign: "holds files that no run of monkeylib wrote, such as notes.txt",
    make_file: "out is a file",
}


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.__name__)
def test_problem_is_reported_before_the_model_is_loaded(chartqa, data, loaded, problem):
    problem(chartqa, data)
    before = contents(data.parent)

    with pytest.raises((ValueError, OSError), match=PROBLEMS[problem]):
        run_job(chartqa)
    assert loaded == [] and contents(data.parent) == before


def test_field_that_no_question_has_is_reported_before_the_model_is_loaded(chartqa, loaded):
    with pytest.raises(ValueError, match="no question has a field 'famly': choose one of family"):
        run_job(replace(chartqa, by="famly"))
    assert loaded == [] and not chartqa.folder.exists()
    assert run_job(replace(chartqa, by="family")).ids


def test_missing_model_is_reported_before_files_are_read(chartqa):
    with pytest.raises(FileNotFoundError, match="no checkpoint at gone"):
        run_job(replace(chartqa, model="gone"))
    assert not chartqa.folder.exists()


def test_all_problems_are_reported_together_or_left_out(chartqa, data, loaded, capsys):
    missing = [benchmark(name, data) for name in ("textvqa", "gqa")]
    both = replace(chartqa, benchmarks=[*missing, *chartqa.benchmarks])

    with pytest.raises(FileNotFoundError, match="textvqa needs .*; gqa needs "):
        run_job(both)
    assert loaded == []

    # As for a call without names: what can be evaluated is.
    assert list(run_job(replace(both, skip_unusable=True)).ids) == ["chartqa"]
    errors = capsys.readouterr().err
    assert "textvqa is left out: textvqa needs" in errors and "gqa is left out" in errors

    with pytest.raises(FileNotFoundError, match="textvqa needs"):
        run_job(replace(both, benchmarks=missing, skip_unusable=True, folder=data.parent / "other"))


def test_folder_in_use_is_refused_in_one_sentence(chartqa, loaded):
    fingerprint = job._fingerprint(chartqa)
    with (
        RunFolder.open(chartqa.folder, "evaluation", fingerprint),
        pytest.raises(BlockingIOError, match="in use by process"),
    ):
        run_job(chartqa)
    assert loaded == []
    assert run_job(chartqa).ids


# --- what is in the folder


def test_another_model_or_prompt_is_named_and_fresh_replaces_only_what_was_written(
    chartqa, checkpoint, data, tmp_path, loaded
):
    run_job(chartqa)
    notes = chartqa.folder / "notes.txt"
    notes.write_text("mine")
    before = contents(chartqa.folder)

    other_model = shutil.copytree(checkpoint, tmp_path / "other")
    (other_model / "generation_config.json").write_text("{}")
    released = benchmark("chartqa", data, prompt="released")
    changed_jobs = {
        "model.weights": replace(chartqa, model=str(other_model)),
        "prompt of each benchmark -> released": replace(chartqa, benchmarks=[released], prompt="released"),
    }
    del loaded[:]
    for field, changed in changed_jobs.items():
        with pytest.raises(ValueError, match=f"{field}.*--fresh, or name another folder"):
            run_job(changed)
        assert contents(chartqa.folder) == before and loaded == []

    # The same weights at another path are the same model.
    assert run_job(replace(chartqa, model=str(shutil.copytree(checkpoint, tmp_path / "moved")))).ids

    run_job(replace(changed_jobs["prompt of each benchmark -> released"], fresh=True))
    assert {row.prompt for row in read_rows(chartqa.folder).values()} == {released.prompt}
    assert notes.read_text() == "mine"


def test_answers_of_another_grid_are_another_run(chartqa):
    run_job(chartqa)
    before = read_rows(chartqa.folder)
    with pytest.raises(ValueError, match="grid"):
        run_job(replace(chartqa, grid="1x2"))

    run_job(replace(chartqa, grid="1x2", fresh=True))
    after = read_rows(chartqa.folder)
    assert after.keys() == before.keys()
    assert {row.model for row in after.values()}.isdisjoint(row.model for row in before.values())


@pytest.mark.parametrize(
    "grid, message", [("3", "ROWSxCOLUMNS"), ("3x3", "made for the grid 2x2"), ("auto:5", "not for 5 tiles")]
)
def test_grid_that_the_model_does_not_take_is_refused(chartqa, grid, message):
    with pytest.raises(ValueError, match=message):
        run_job(replace(chartqa, grid=grid))
    assert not (chartqa.folder / "chartqa.jsonl").exists()


def test_fresh_job_whose_model_cannot_be_loaded_removes_nothing(chartqa, monkeypatch):
    run_job(chartqa)
    before = contents(chartqa.folder)

    def fail(name, grid="", **options):
        raise ValueError("damaged weights")

    monkeypatch.setattr(hf_models, "load_image_text_model", fail)
    with pytest.raises(ValueError, match="damaged weights"):
        run_job(replace(chartqa, fresh=True))
    assert contents(chartqa.folder) == before


def test_leftovers_of_kills_go_with_the_next_call(chartqa):
    run_job(chartqa)
    # Parts of another number of processes, and somebody else's file with the name of one.
    with RunFolder.open(chartqa.folder, "evaluation", read_manifest(chartqa.folder).fingerprint) as run:
        run.start()
        run.own("chartqa.jsonl.part3")

    leftovers = [
        ".chartqa.0123456789ab.jsonl",
        ".scores.0123456789ab.csv",
        "errors/.chartqa.0123456789ab.html",
    ]
    foreign = [".mine.0123456789ab.jsonl", ".chartqa.jsonl", "errors/mine.html", "chartqa.jsonl.part7"]
    (chartqa.folder / "errors").mkdir()
    for name in (*leftovers, *foreign):
        (chartqa.folder / name).write_text("half")

    # What they had written when they were killed.
    lines = (chartqa.folder / "chartqa.jsonl").read_bytes().splitlines(keepends=True)
    (chartqa.folder / "chartqa.jsonl").write_bytes(lines[0])
    (chartqa.folder / "chartqa.jsonl.part3").write_bytes(lines[1] + lines[2][:20])
    run_job(replace(chartqa, gallery=1))
    run_job(replace(chartqa, gallery=1))

    names = {path.relative_to(chartqa.folder).as_posix() for path in chartqa.folder.rglob("*")}
    assert names.isdisjoint({*leftovers, "chartqa.jsonl.part3"}) and names >= set(foreign)
    assert (chartqa.folder / "chartqa.jsonl").read_bytes() == b"".join(lines)


def test_limit_retains_the_predictions_beyond_it(chartqa, capsys):
    run_job(chartqa)
    before = (chartqa.folder / "chartqa.jsonl").read_bytes()
    result = run_job(replace(chartqa, limit=2))

    assert len(result.ids["chartqa"]) == 2
    assert "2 of 3 predictions are scored; the others" in capsys.readouterr().err
    assert (chartqa.folder / "chartqa.jsonl").read_bytes() == before
    assert read_manifest(chartqa.folder).notes["limit"] == 2


def test_image_that_is_drawn_anew_is_answered_anew(chartqa, data, capsys):
    run_job(chartqa)
    file = data / "chartqa/test/png/2.png"
    benchmark_files.lay_out(data / "chartqa", {}, {f"test/png/{name}.png" for name in "12345"})
    before = {id: row.image_digest for id, row in read_rows(chartqa.folder).items()}
    shutil.copy(file.with_name("5.png"), file)
    run_job(chartqa)

    assert "2 of 3 questions have been answered again" in capsys.readouterr().err
    changed = {id for id, row in read_rows(chartqa.folder).items() if row.image_digest != before[id]}
    assert changed == {"test_augmented-0", "test_augmented-1"}


def test_digests_of_images_are_remembered(chartqa, data, monkeypatch, tmp_path):
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path / "outputs"))
    for image in (data / "chartqa").rglob("*.png"):
        assert image.stat().st_mtime <= time.time()
    monkeypatch.setattr("monkeylib.digests._SETTLED_NS", 0)  # as if the images were older than two seconds
    run_job(chartqa)

    monkeypatch.setattr("monkeylib.digests.file_digest", None)
    assert run_job(chartqa).ids, "no file is read again"


def test_page_that_is_in_the_way_of_a_gallery_ends_the_job_before_the_first_question(chartqa):
    page = chartqa.folder / "errors/chartqa.html"
    run_job(chartqa)
    (chartqa.folder / "chartqa.jsonl").unlink()
    page.parent.mkdir(exist_ok=True)
    page.write_text("mine")

    with pytest.raises(FileExistsError, match="errors/chartqa.html is in the way"):
        run_job(replace(chartqa, gallery=2))
    assert page.read_text() == "mine" and not (chartqa.folder / "chartqa.jsonl").exists()


# --- failures


def test_broken_image_is_counted_and_the_others_are_answered(chartqa, data, capsys):
    (data / "chartqa/test/png/2.png").write_bytes(b"")
    result = run_job(replace(chartqa, gallery=5))
    record = read_manifest(chartqa.folder).notes["benchmarks"]["chartqa"]

    assert result.error is None and record["failed"] == 2 and record["questions"] == 3
    assert "2 of 3 questions could not be answered and count as wrong" in capsys.readouterr().err
    assert (chartqa.folder / "errors/chartqa.html").read_text().count("<figure>") <= 1, "no failures"

    # A rerun repeats them only if asked to, and then finds the image mended.
    benchmark_files.download(data, "chartqa")
    assert run_job(replace(chartqa, retry_failed=True)).error is None
    assert not any(row.error for row in read_rows(chartqa.folder).values())


def test_job_that_stops_at_too_many_failures_says_what_is_complete(chartqa, data):
    general = benchmark("nano-general")
    for image in (data / "chartqa").rglob("*.png"):
        image.write_bytes(b"")
    result = run_job(replace(chartqa, benchmarks=[general, *chartqa.benchmarks], limit=3))

    assert isinstance(result.error, TooManyFailures) and "none of the 3 questions" in str(result.error)
    assert list(result.ids) == ["nano-general"]
    assert not read_manifest(chartqa.folder).finished


def test_split_without_published_answers_is_answered_but_not_scored(chartqa, data, capsys):
    benchmark_files.download(data, "docvqa")
    file = data / "docvqa" / "test_v1.0.json"
    file.write_text(file.read_text().replace('"answers"', '"hidden"'))
    docvqa = benchmark("docvqa", data)
    result = run_job(replace(chartqa, benchmarks=[docvqa, *chartqa.benchmarks], gallery=2))

    assert list(result.ids) == ["docvqa", "chartqa"]
    assert "docvqa: the questions are answered, but not scored" in capsys.readouterr().err
    rows = read_predictions(chartqa.folder / "docvqa.jsonl")
    assert len(rows) == 2 and all(row.answers == [] and row.tokens for row in rows)
    assert not (chartqa.folder / "errors/docvqa.html").exists()


def test_file_whose_name_begins_like_a_part_is_left_alone(chartqa, loaded):
    run_job(chartqa)
    lines = (chartqa.folder / "chartqa.jsonl").read_bytes().splitlines(keepends=True)
    (chartqa.folder / "chartqa.jsonl").write_bytes(lines[0])

    # Copies of the user's: the answers in them are not the run's.
    names = [f"chartqa.jsonl.{ending}" for ending in ("partial", "part", "part1.bak", "part-1")]
    for name in names:
        (chartqa.folder / name).write_bytes(lines[1])
    generated = read_manifest(chartqa.folder).notes["benchmarks"]["chartqa"]["generated"]
    run_job(chartqa)

    manifest = read_manifest(chartqa.folder)
    assert all((chartqa.folder / name).read_bytes() == lines[1] for name in names)
    assert manifest.notes["benchmarks"]["chartqa"]["generated"] > generated, "asked again, not merged"
    assert (chartqa.folder / "chartqa.jsonl").read_bytes() == b"".join(lines)

    # Nor are they among the files that a new run removes.
    run_job(replace(chartqa, fresh=True))
    assert all((chartqa.folder / name).exists() for name in names)


def test_processes_own_their_parts_by_name(tmp_path):
    with RunFolder.open(tmp_path / "out", "evaluation", {}) as run:
        run.start()
        job._own_files(run, "chartqa", "", DistributedContext(0, 2))
        assert run.manifest.files == ["chartqa.jsonl", "chartqa.jsonl.part0", "chartqa.jsonl.part1"]


def test_weights_that_differ_in_the_middle_of_a_file_are_another_model(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(3 << 20))
    before = job._model_digest(str(tmp_path))

    # Fine-tuning may change no more than a layer in the middle.
    content = bytearray(3 << 20)
    content[3 << 19] = 1
    weights.write_bytes(content)
    assert job._model_digest(str(tmp_path)) != before


def test_first_line_says_what_is_done(chartqa, capsys):
    run_job(replace(chartqa, progress=True, limit=2))
    assert capsys.readouterr().err.splitlines()[0] == (
        "evaluate on 1 x CPU: tiny on chartqa, up to 2 questions each, in batches of 2, into "
        f"{chartqa.folder}"
    )
