"""Many processes write the same file as one, however often they are killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from monkeylib.evaluation import distributed, predict
from monkeylib.evaluation.distributed import DistributedContext
from monkeylib.evaluation.examples import Example, make_batches, read_complete_lines, read_predictions
from monkeylib.inference import load_model
from monkeylib.runs import RunFolder
from tests.support import evaluation_processes, random_monkey


@pytest.fixture()
def setting(make_image, tmp_path):
    """Checkpoint and image that the processes read."""
    checkpoint = tmp_path / "model"
    monkey = random_monkey.make_monkey()
    monkey.model.save_pretrained(checkpoint)
    monkey.processor.save_pretrained(checkpoint)
    make_image().save(tmp_path / "image.png")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes, so that sums are the same to the last bit
    yield checkpoint, tmp_path / "image.png"
    torch.set_num_threads(threads)


def predict_uninterrupted(setting, path):
    """Return the file of one process without interruptions."""
    checkpoint, image = setting
    return predict.predict(
        load_model(checkpoint),
        evaluation_processes.make_examples(image),
        path,
        batch_size=evaluation_processes.BATCH_SIZE,
        max_new_tokens=evaluation_processes.MAX_NEW_TOKENS,
        progress=False,
    ).path


@pytest.mark.parametrize("count", [1, 2])
def test_run_killed_twice_ends_with_the_same_file(setting, tmp_path, count):
    expected = predict_uninterrupted(setting, tmp_path / "uninterrupted.jsonl").read_bytes()
    assert len({row.prediction for row in read_predictions(tmp_path / "uninterrupted.jsonl")}) > 5

    path = tmp_path / f"{count}" / "answers.jsonl"

    # Killed after 6 lines, resumed, and killed again after 13.
    for lines in (6, 13):
        evaluation_processes.kill_after(
            lines, path, evaluation_processes.start_processes(count, *setting, path, 0.3)
        )
        with (path if count == 1 else path.with_name(f"{path.name}.part1")).open("ab") as file:
            file.write(b'{"id": "torn')  # a write that was interrupted by a kill

    assert not path.exists() or len(read_complete_lines(path)[0]) < 24

    evaluation_processes.wait_for(evaluation_processes.start_processes(count, *setting, path, 0.0))
    assert path.read_bytes() == expected
    assert [file.name for file in path.parent.iterdir()] == [path.name], "no parts are left"


def test_run_resumes_with_another_number_of_processes(setting, tmp_path):
    expected = predict_uninterrupted(setting, tmp_path / "uninterrupted.jsonl").read_bytes()
    path = tmp_path / "mixed" / "answers.jsonl"
    evaluation_processes.kill_after(9, path, evaluation_processes.start_processes(2, *setting, path, 0.3))
    answered_examples = []
    checkpoint, image = setting
    shared = predict.PrefixSharingMonkey(load_model(checkpoint), evaluation_processes.MAX_NEW_TOKENS)
    name = shared.name

    # The same model under the same name, with a record of the examples that it answers.
    def count(batch):
        answered_examples.extend(batch)
        return shared(batch)

    predict.predict(
        count,
        evaluation_processes.make_examples(image),
        path,
        batch_size=evaluation_processes.BATCH_SIZE,
        progress=False,
        name=name,
    )

    assert path.read_bytes() == expected

    # Each of the two processes may lose a batch that was not on disk yet.
    assert 0 < len(answered_examples) <= 24 - 9 + 2 * evaluation_processes.BATCH_SIZE, (
        "answers on disk are not generated again"
    )


def test_torchrun_writes_the_files_of_one_process(setting, tmp_path):
    options = ["--model", setting[0], "--benchmarks", "nano-general,nano-caption", "--limit", "9"]
    options += ["--batch-size", "2"]

    for out, launcher in {
        "one": [],
        "two": ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"],
    }.items():
        call = [
            sys.executable,
            "-m",
            *launcher,
            "monkeylib",
            "evaluate",
            *options,
            "--out",
            tmp_path / out,
        ]
        process = subprocess.run(
            list(map(str, call)), env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
        )
        assert process.returncode == 0, process.stderr

    one, two = (
        {file.relative_to(tmp_path / out): file.read_bytes() for file in (tmp_path / out).rglob("*.*")}
        for out in ("one", "two")
    )

    # Only the record differs, in its times.
    records = [json.loads(files.pop(Path("run.json"))) for files in (one, two)]
    assert [record["notes"]["processes"] for record in records] == [1, 2]
    assert records[0]["notes"]["tokens"] == records[1]["notes"]["tokens"] > 0

    assert one == two
    assert {"nano-general.jsonl", "nano-caption.jsonl", "scores.csv"} <= {str(name) for name in one}
    assert process.stdout.count("exact_match") == 1, "one process prints the table"


def test_broken_images_are_the_same_failures_in_two_processes(tmp_path, make_image):
    examples = []
    for number in range(20):
        file = tmp_path / f"{number}.png"
        make_image(number).save(file)
        if number % 7 == 0:
            file.write_bytes(file.read_bytes()[:100])
        examples.append(Example(str(number), file, "q" * number, ("a",)))

    def predict_twice(context, path):
        """Predict, and again: settled failures are not repeated."""
        first = predict.predict(_ids, examples, path, batch_size=2, progress=False, context=context)
        again = predict.predict(_fail, examples, path, batch_size=2, progress=False, context=context)
        return first.failed, again.failed, again.generated

    assert predict_twice(DistributedContext(), tmp_path / "one.jsonl") == (3, 3, 0)
    results = evaluation_processes.fork(2, predict_twice, tmp_path / "two.jsonl")
    assert results == [(3, 3, 0)] * 2
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()


def _ids(examples):
    return [example.id for example in examples]


def _fail(examples):
    raise AssertionError(f"answered again: {_ids(examples)}")


def test_main_process_alone_holds_the_folder_and_reports_its_error(tmp_path):
    def open_folder(context, path):
        """Open a run folder as `evaluate` does, and return how that ended."""
        try:
            run = context.run_on_main(lambda: RunFolder.open(path, "evaluation", {}))
        except BlockingIOError as error:
            return str(error)
        except SystemExit as end:
            return end.code

        # Both are in the folder at the same time.
        context.barrier()
        if run is not None:
            run.close()
        return "opened"

    assert evaluation_processes.fork(2, open_folder, tmp_path / "free") == ["opened", "opened"]

    with RunFolder.open(tmp_path / "used", "evaluation", {}):
        main, other = evaluation_processes.fork(2, open_folder, tmp_path / "used")
    assert "in use by process" in main and other == 2


LIGHTNING = """
import os, sys
from lightning.fabric import Fabric
from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.predict import predict

def work(fabric, path):
    examples = [Example(str(i), None, "q" * (i % 5), ("a",)) for i in range(21)]
    predict(lambda batch: [f"{e.id} of {fabric.world_size}" for e in batch], examples, path, batch_size=2,
            progress=False)

if __name__ == "__main__":
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp_fork")
    fabric.launch(work, sys.argv[1])
"""


def test_processes_of_lightning_divide_the_examples(tmp_path):
    pytest.importorskip("lightning")
    (tmp_path / "script.py").write_text(LIGHTNING)
    path = tmp_path / "answers.jsonl"
    process = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), str(path)], capture_output=True, text=True, check=False
    )

    assert process.returncode == 0, process.stderr

    examples = [Example(str(i), None, "q" * (i % 5), ("a",)) for i in range(21)]
    rows = read_predictions(path)
    assert [row.id for row in rows] == [e.id for batch in make_batches(examples, 2) for e in batch]
    assert {row.prediction for row in rows} == {f"{i} of 2" for i in range(21)}


@pytest.mark.parametrize(("items", "count"), [(0, 2), (1, 3), (7, 2), (100, 3), (1000, 7)])
def test_shards_hold_every_item_once(items, count):
    parts = [DistributedContext(rank, count).shard(range(items)) for rank in range(count)]
    assert sorted(item for part in parts for item in part) == list(range(items))
    assert max(map(len, parts)) - min(map(len, parts)) <= 8

    # Runs of neighbours, where there are enough items.
    if items >= 100:
        neighbours = sum(other - one == 1 for one, other in zip(parts[0], parts[0][1:], strict=False))
        assert neighbours > 0.7 * len(parts[0]), "questions of an image mostly stay with one process"


def test_process_without_launcher_works_alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert distributed.join_processes() == DistributedContext(0, 1)

    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    assert distributed.join_processes().world_size == 1
