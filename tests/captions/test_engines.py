"""The engine of one process: images are decoded once, and ahead of the models."""

import threading

import pytest
from PIL import Image

from monkeylib.captions import engines
from monkeylib.captions.engines import LocalEngine, divide_shard, finish_records, load_images, run_stage
from monkeylib.captions.input_images import InputImage
from monkeylib.captions.pipeline import Pipeline
from monkeylib.captions.record_files import plan_shards
from tests.support.caption_models import Colours, Halves


@pytest.fixture
def images():
    return [InputImage(Image.new("RGB", (16, 10), (200, 10 * number, 9)), str(number)) for number in range(5)]


def test_next_batch_is_decoded_while_a_model_runs(images, tmp_path, monkeypatch):
    loaded = threading.Event()
    load_samples = engines.load_samples

    def load(batch, *arguments, **options):
        if batch[0].name == "2":
            loaded.set()
        return load_samples(batch, *arguments, **options)

    class Waiting(Colours):
        def annotate(self, images):
            assert loaded.wait(60), "the second batch is not decoded before the first one has ended"
            return super().annotate(images)

    monkeypatch.setattr(engines, "load_samples", load)
    summary = Pipeline([Waiting()], batch_size=2).run(images, tmp_path, progress=False)
    assert (summary.described, summary.failed) == (5, 0)


@pytest.mark.parametrize("low_memory", [False, True])
def test_image_is_decoded_once_for_all_experts(low_memory, images, tmp_path, monkeypatch):
    opened = []
    read = InputImage.read
    monkeypatch.setattr(InputImage, "read", lambda self: opened.append(self.name) or read(self))
    captioner = Pipeline([Colours(), Halves()], batch_size=2)
    engine = LocalEngine(low_memory)
    captioner.run(images, tmp_path, engine=engine, progress=False)

    # With little memory, they are opened for their sizes, and again by each stage.
    times = 3 if low_memory else 1
    assert sorted(opened) == sorted(times * [image.name for image in images])


def test_tasks_of_a_shard_give_the_records_of_its_images_in_order(images, tmp_path):
    stages = Pipeline([Colours()]).stages(tmp_path)
    (shard,) = plan_shards(images, [])
    tasks = list(divide_shard(shard, 2))
    assert [len(task.images) for task in tasks] == [2, 2, 1]

    records = []
    for task in map(load_images, tasks):
        for stage in stages:
            task = run_stage(stage, task)
        assert [statistics.stage for statistics in task.statistics] == [stage.name for stage in stages]
        records += finish_records(task, stages)

    assert [record.name for record in records] == ["0", "1", "2", "3", "4"]
    assert [record.sha256 for record in records] == list(shard.sha256)
    assert {item.expert for item in records[0].provenance} == {"colours", "filter", "rules"}
