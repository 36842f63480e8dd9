"""Runs of the pipeline: caching, resuming and failures."""

import numpy as np
import pytest
from PIL import Image

from monkeylib.captions import pipeline
from monkeylib.captions.annotations import ExpertOutput, Provenance, Region
from monkeylib.captions.composers import rules
from monkeylib.captions.experts import Expert
from monkeylib.captions.record_files import read_records


class Colours(Expert):
    """Names the brightest channel and notes the batch sizes; refuses images that begin with a black pixel."""

    name, version, licence = "colours", "1", "CC0-1.0"

    def __init__(self, settings=None, stop_after=None):
        self._settings, self.batches, self.stop_after = settings or {}, [], stop_after

    @property
    def settings(self):
        return self._settings

    def prepare(self):
        pass

    def annotate(self, images):
        self.batches.append(len(images))
        if self.stop_after is not None and len(self.batches) > self.stop_after:
            raise KeyboardInterrupt
        return [ExpertOutput(regions=(self._region(image),)) for image in images]

    def _region(self, image):
        if image.getpixel((0, 0)) == (0, 0, 0):
            raise RuntimeError("too dark")
        name = ("red", "green", "blue")[int(np.asarray(image).mean(axis=(0, 1)).argmax())]
        return Region(box=(0, 0, *image.size), text=name, score=0.9, expert=self.name)


class Unloadable(Colours):
    name = "unloadable"

    def prepare(self):
        self.batches.append(0)
        raise FileNotFoundError("no weights")


@pytest.fixture
def images(tmp_path):
    paths = []
    for number, colour in enumerate(
        [(200, 10, 10), (10, 200, 10), (10, 10, 200), (210, 10, 10), (9, 9, 210)]
    ):
        path = tmp_path / "images" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 10), colour).save(path)
        paths.append(path)

    return paths


def _run(images, expert, out, **more):
    experts = expert if isinstance(expert, list) else [expert]
    return pipeline.caption_images(images, experts, out, batch_size=2, progress=False, **more)


def test_every_image_gets_a_record_in_order(images, tmp_path):
    expert = Colours({"a": 1})
    records = _run(images, expert, tmp_path / "out")

    assert [record.name for record in records] == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    assert [record.regions[0].text for record in records] == ["red", "green", "blue", "red", "blue"]
    assert records[1].detailed_caption == "The picture shows a green filling most of the picture."
    assert (records[0].width, records[0].height) == (20, 10) and not records[0].failures
    assert records[0].provenance[0] == Provenance(
        expert="colours", version="1", settings={"a": 1}, licence="CC0-1.0"
    )
    assert [item.expert for item in records[0].provenance[1:]] == ["filter", "rules"]
    assert list(read_records(tmp_path / "out" / "records.jsonl")) == records
    assert expert.batches == [2, 2, 1]


def test_rerun_computes_only_what_is_missing(images, tmp_path):
    out = tmp_path / "out"
    first = _run(images[:3], Colours(), out)
    second = Colours()

    assert _run(images, second, out)[:3] == first
    assert second.batches == [2]

    # The same images in another order need no computation.
    third = Colours()
    _run(images[::-1], third, out)
    assert third.batches == []

    other = Colours({"threshold": 2})
    _run(images, other, out)
    assert sum(other.batches) == 5, "other settings have other results"


def test_interrupted_run_loses_at_most_one_batch(images, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        _run(images, Colours(stop_after=1), out)
    assert not (out / "records.jsonl").exists()

    resumed = Colours()
    records = _run(images, resumed, out)
    assert resumed.batches == [2, 1] and all(record.regions for record in records)
    assert records == _run(images, Colours(), tmp_path / "uninterrupted")

    # No temporary files remain.
    leftovers = [
        p.name for p in (out / "annotations").rglob("*") if p.is_file() and not p.name.endswith(".json")
    ]

    assert leftovers == []


def test_failing_image_spoils_no_other_and_is_tried_again(images, tmp_path):
    Image.new("RGB", (20, 10)).save(images[2])  # black: the expert refuses it
    out = tmp_path / "out"
    records = _run(images, Colours(), out)

    assert [len(record.regions) for record in records] == [1, 1, 0, 1, 1]

    (failure,) = records[2].failures
    assert (failure.stage, failure.error) == ("colours", "RuntimeError: too dark")

    again = Colours()
    assert _run(images, again, out)[2].failures == (failure,)
    assert again.batches == [1]


def test_expert_that_cannot_be_loaded_is_tried_once(images, tmp_path):
    broken = Unloadable()
    records = _run(images, [broken, Colours()], tmp_path / "out")

    assert broken.batches == [0]
    assert all(r.regions and r.failures[0].error == "FileNotFoundError: no weights" for r in records)


def test_unreadable_images_are_recorded(images, tmp_path):
    # A truncated file, and one that does not exist.
    images[0].write_bytes(images[0].read_bytes()[:40])
    records = _run([*images[:2], tmp_path / "missing.png"], Colours(), tmp_path / "out")

    assert [bool(record.failures) for record in records] == [True, False, True]
    assert records[0].failures[0].stage == "read" and records[0].sha256 == ""
    assert "missing.png" in records[2].failures[0].error


def test_image_that_comes_twice_is_annotated_once(images, tmp_path):
    # The same bytes under another name, and one file twice.
    copy = tmp_path / "copy.png"
    copy.write_bytes(images[0].read_bytes())
    expert = Colours()
    records = _run([images[0], copy, images[0]], expert, tmp_path / "out")

    assert expert.batches == [1] and [record.name for record in records] == ["0.png", "copy.png", "0.png"]
    assert len({record.sha256 for record in records}) == 1 and all(record.regions for record in records)


def test_images_in_memory_and_original_captions(tmp_path):
    sources = [
        pipeline.InputImage(Image.new("RGB", (4, 4), colour), name, "as the web says")
        for name, colour in (("a", "red"), ("b", "blue"))
    ]
    records = _run(sources, Colours(), tmp_path / "out")

    assert records[0].detailed_caption.startswith("As the web says. The picture shows a red")
    assert len({record.sha256 for record in records}) == 2


def test_failing_composer_loses_no_annotations(images, tmp_path):
    class Busy(rules.RuleComposer):
        def compose(self, record):
            raise TimeoutError("busy")

    records = _run(images, Colours(), tmp_path / "out", composer=Busy())

    assert all(r.regions and r.detailed_caption == "" for r in records)
    assert records[0].failures[0].stage == "compose" and "busy" in records[0].failures[0].error


def test_expert_with_too_few_outputs_is_recorded(images, tmp_path):
    class Silent(Colours):
        def annotate(self, images):
            return []

    records = _run(images[:1], Silent(), tmp_path / "out")
    assert "returned 0 results for 1 images" in records[0].failures[0].error


def test_no_images_raises(tmp_path):
    with pytest.raises(ValueError, match="nothing to caption"):
        _run([], Colours(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
