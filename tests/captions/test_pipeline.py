"""Runs of the pipeline: caching, resuming and failures."""

import json
import os
import signal

import numpy as np
import pytest
from PIL import Image

from monkeylib import signals
from monkeylib.captions import pipeline
from monkeylib.captions.annotations import ExpertOutput, Provenance, Region
from monkeylib.captions.composers import rules
from monkeylib.captions.engines import LocalEngine
from monkeylib.captions.experts import Expert
from monkeylib.captions.failures import StageFailed
from monkeylib.captions.input_images import find_images, list_images
from monkeylib.captions.record_files import read_records
from monkeylib.digests import bytes_digest
from monkeylib.runs import RunDiffers
from tests.support.image_containers import png, webdataset


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


def _summary(images, expert, out, *, max_failures=20, composer=None, **more):
    experts = expert if isinstance(expert, list) else [expert]
    inputs = [
        image if isinstance(image, pipeline.InputImage) else pipeline.InputImage(image, image.name)
        for image in images
    ]
    built = pipeline.Pipeline(experts, composer=composer, batch_size=2, max_failures=max_failures)
    return built.run(inputs, out, progress=False, **more)


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
    assert sum(second.batches) == 2

    # The same images in another order need no computation.
    third = Colours()
    _run(images[::-1], third, out)
    assert third.batches == []

    other = Colours({"threshold": 2})
    _run(images, other, out, fresh=True)
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
    files = [path for path in (out / "annotations").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".results", ".index"} and len(files) == 2 * 2


def test_interruption_tells_that_complete_shards_are_kept(images, tmp_path, monkeypatch):
    monkeypatch.setattr(Colours, "annotate", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(signals.Interrupted, match=f"by SIGTERM: {signals.GOES_ON}$"), signals.end_at_once():
        _run(images, Colours(), tmp_path / "out")


def test_failing_image_spoils_no_other_and_is_tried_again_on_request(images, tmp_path):
    Image.new("RGB", (20, 10)).save(images[2])  # black: the expert refuses it
    out = tmp_path / "out"
    records = _run(images, Colours(), out)

    assert [len(record.regions) for record in records] == [1, 1, 0, 1, 1]

    (failure,) = records[2].failures
    assert (failure.stage, failure.error) == ("colours", "RuntimeError: too dark")

    assert failure.kind == "raised"

    again = Colours()
    assert _run(images, again, out)[2].failures == (failure,)
    assert again.batches == []

    on_request = Colours()
    summary = _summary(images, on_request, out, retry_failed=True)
    assert (summary.failed, summary.pending) == (1, 0) and on_request.batches == [1]


def test_expert_that_cannot_be_loaded_ends_the_run(images, tmp_path):
    broken = Unloadable()
    with pytest.raises(StageFailed, match="stage unloadable can't be loaded: FileNotFoundError: no weights"):
        _run(images, [Colours(), broken], tmp_path / "out")

    # What came before is kept.
    colours = Colours()
    assert len(_run(images, colours, tmp_path / "out", fresh=True)) == 5
    assert colours.batches == [2, 1], "the run ended with its first batch, whose results are cached"


def test_expert_that_cannot_be_loaded_is_tried_once(images, tmp_path):
    broken = Unloadable()
    summary = _summary(images, [broken, Colours()], tmp_path / "out", max_failures=0)
    records = list(read_records(tmp_path / "out" / "records.jsonl"))

    assert broken.batches == [0] and summary.pending == 5
    assert all(r.regions and r.failures[0].error == "FileNotFoundError: no weights" for r in records)

    # The next run may do without it.
    assert _summary(images, Colours(), tmp_path / "out", fresh=True).failed == 0


def test_listed_images_are_run_as_those_in_memory(images, tmp_path):
    folder = images[0].parent
    for name, inputs in (("one", find_images([folder])), ("two", list_images([folder]))):
        summary = pipeline.Pipeline([Colours()], batch_size=2).run(
            inputs, tmp_path / name, shard_size=2, report=3, progress=False
        )
        assert (summary.described, summary.shards) == (5, 3)
    one, two = ((tmp_path / name / "records.jsonl").read_bytes() for name in ("one", "two"))
    assert one == two

    # Some of the images are new: they alone are run.
    Image.new("RGB", (20, 10), (9, 9, 99)).save(folder / "9.png")
    expert = Colours()
    run = pipeline.Pipeline([expert], batch_size=2)
    assert run.run(list_images([folder]), tmp_path / "two", shard_size=2, progress=False).already == 2
    assert expert.batches == [1]


def test_images_of_a_container_are_run_once(tmp_path):
    listing = list_images(
        [webdataset(tmp_path / "0.tar", {"a": "one", "b": "two", "c": "three"}, broken="b")]
    )
    run = pipeline.Pipeline([Colours()], batch_size=2)
    summary = run.run(listing, tmp_path / "out", shard_size=2, progress=False)
    assert (summary.described, summary.failed, summary.pending) == (2, 1, 0)

    records = list(read_records(tmp_path / "out" / "records.jsonl"))
    assert [(record.name, record.original_caption) for record in records] == [
        ("0/a", "one"), ("0/b", "two"), ("0/c", "three")
    ]  # fmt: skip
    assert records[1].failures[0].kind == "unsupported" and records[0].sha256 == bytes_digest(png(0))
    assert run.run(listing, tmp_path / "out", shard_size=2, progress=False).already == 2


def test_images_that_change_while_they_are_planned_end_the_run(images, tmp_path):
    class Late(LocalEngine):
        def run(self, *arguments):
            Image.new("RGB", (20, 10)).save(images[0].parent / "0a.png")
            yield from super().run(*arguments)

    listing, run = list_images([images[0].parent]), pipeline.Pipeline([Colours()])
    with pytest.raises(ValueError, match="images were changed while the run was planned: run it again"):
        run.run(listing, tmp_path / "out", engine=Late(), shard_size=2, progress=False)
    assert (
        run.run(list_images([images[0].parent]), tmp_path / "out", shard_size=2, progress=False).records == 6
    )


# --- failures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_stage_that_fails_on_everything_ends_the_run(tmp_path, batch_size):
    # Images of one colour that differ in size; black, which the expert refuses.
    black = [pipeline.InputImage(Image.new("RGB", (8, 8 + number)), str(number)) for number in range(60)]
    expert = Colours()
    with pytest.raises(
        StageFailed, match="stage colours failed on (20|6.) of (20|6.) images, .*too dark.*--max-failures 0"
    ):
        pipeline.Pipeline([expert], batch_size=batch_size).run(black, tmp_path / "out", progress=False)

    # Each failing batch is run again, image by image, until the twentieth failure.
    assert sum(expert.batches) <= 2 * max(20, batch_size) + batch_size
    assert not (tmp_path / "out" / "records.jsonl").exists()

    summary = pipeline.Pipeline([Colours()], max_failures=0).run(black, tmp_path / "out", progress=False)
    assert (summary.failed, summary.pending) == (60, 0)


def test_stage_that_succeeds_now_and_then_ends_nothing(tmp_path):
    mixed = []
    for number in range(40):
        colour = (0, 0, 0) if number % 4 else (200, number, 0)
        mixed.append(pipeline.InputImage(Image.new("RGB", (8, 8 + number), colour), str(number)))
    options = {"shard_size": 10, "progress": False}
    build = pipeline.Pipeline([Colours()], max_failures=5)

    assert build.run(mixed, tmp_path, **options).failed == 30

    # The cached ones count: trying only the failed ones again is no reason to end either.
    assert build.run(mixed, tmp_path, **options, retry_failed=True).failed == 30


def test_unreadable_image_is_a_settled_failure_of_a_kind(images, tmp_path):
    content = images[0].read_bytes()
    images[0].write_bytes(content[:45])
    images[1].write_bytes(b"")
    images[2].write_text("<html>not found</html>")
    sources = [*images, tmp_path / "missing.png"]
    out = tmp_path / "out"
    records = _run(sources, Colours(), out)

    assert [[failure.kind for failure in record.failures] for record in records] == [
        ["truncated"], ["empty"], ["unsupported"], [], [], ["missing"]
    ]  # fmt: skip

    # No shard stays open: the next run has nothing to do.
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    summary = _summary(sources, Colours(), out)
    assert (summary.failed, summary.pending, summary.already) == (4, 0, summary.shards)
    changed = [p.name for p in out.rglob("*") if p.is_file() and before.get(p) != p.stat().st_mtime_ns]
    assert set(changed) <= {"run.json"}

    # A file that was mended is another image.
    images[0].write_bytes(content)
    assert _summary(sources, Colours(), out).failed == 3


def test_outage_is_tried_again_by_the_next_run(images, tmp_path):
    class Busy(rules.RuleComposer):
        def compose(self, record):
            if record.regions[0].text == "red":
                raise ConnectionError("busy")
            return super().compose(record)

    out = tmp_path / "out"
    summary = _summary(images, Colours(), out, composer=Busy())
    assert (summary.described, summary.failed, summary.pending) == (3, 2, 2)
    assert not json.loads((out / "run.json").read_text())["finished"]

    summary = _summary(images, Colours(), out)
    assert (summary.described, summary.failed) == (5, 0)
    assert json.loads((out / "run.json").read_text())["finished"]


# --- the output folder ----------------------------------------------------------------------------------


def test_shards_hold_each_image_once(images, tmp_path):
    """`datasets` and pandas read the folder as it is."""
    dataset = pytest.importorskip("pyarrow.dataset")
    out = tmp_path / "out"

    def names():
        table = dataset.dataset(out / "shards", format="parquet", exclude_invalid_files=True).to_table()
        return sorted(table["name"].to_pylist())

    _summary(images[1:], Colours(), out, shard_size=2)
    # Somebody else's file beside them stays.
    (out / "shards" / "notes.txt").write_text("mine")

    _summary(images, Colours(), out, shard_size=2)
    assert names() == ["0.png", "1.png", "2.png", "3.png", "4.png"]

    _summary(images, Colours({"threshold": 2}), out, shard_size=2, fresh=True)
    assert names() == ["0.png", "1.png", "2.png", "3.png", "4.png"]

    _summary(images[:2], Colours(), out, shard_size=2, fresh=True)
    assert names() == ["0.png", "1.png"]
    assert len(list((out / "shards").iterdir())) == 2
    assert (out / "shards" / "notes.txt").read_text() == "mine"


def _contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_other_settings_are_refused_by_name(images, tmp_path):
    out = tmp_path / "out"
    _run(images, Colours({"threshold": 1}), out)
    before = _contents(out)

    with pytest.raises(RunDiffers, match=r"\(models.colours.settings.threshold 1 -> 2\): replace.*--fresh"):
        _run(images, Colours({"threshold": 2}), out)
    with pytest.raises(RunDiffers, match=r"models.colours.\* set -> not set"):
        _run(images, [], out)
    assert _contents(out) == before


def test_images_may_be_added_but_not_taken_away_or_changed(images, tmp_path):
    out = tmp_path / "out"
    _run(images[:4], Colours(), out)
    before = _contents(out)

    with pytest.raises(RunDiffers, match="captions of 3 images.*the first: 0.png is missing.*--fresh"):
        _run(images[3:], Colours(), out)
    content = images[1].read_bytes()
    images[1].write_bytes(images[2].read_bytes())
    with pytest.raises(RunDiffers, match="captions of 1 images.*1.png or its original caption has changed"):
        _run(images, Colours(), out)
    assert _contents(out) == before

    images[1].write_bytes(content)
    assert len(_run(images, Colours(), out)) == 5


def test_interrupted_run_keeps_its_shards_from_other_images(images, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        _summary(images, Colours(stop_after=1), out, shard_size=2)
    shards = _contents(out / "shards")

    assert shards and not (out / "records.jsonl").exists()
    with pytest.raises(RunDiffers, match="0.png is missing"):
        _summary(images[1:], Colours(), out, shard_size=2)
    assert _contents(out / "shards") == shards


def test_fresh_replaces_the_records_and_keeps_the_cache(images, tmp_path):
    out = tmp_path / "out"
    _run(images, Colours(), out)
    (out / "notes.txt").write_text("mine")
    again = Colours()

    assert [record.name for record in _run(images[3:], again, out, fresh=True)] == ["3.png", "4.png"]
    assert again.batches == [], "nothing is computed twice"
    assert (out / "notes.txt").read_text() == "mine"
    assert "annotations/*/*/<hex>.results" in json.loads((out / "run.json").read_text())["files"]


def test_first_line_and_what_has_changed_are_said(images, tmp_path, capsys):
    out = tmp_path / "out"
    pipeline.caption_images(images[:4], [Colours()], out)
    assert capsys.readouterr().err.splitlines()[0] == (
        f"caption on CPU: 4 images with colours, rules, in shards of 4000, into {out}"
    )

    pipeline.caption_images(images, [Colours()], out)
    assert "settings changed since the run was started: images.count 4 -> 5" in capsys.readouterr().err


def test_folder_of_somebody_else_is_refused_and_left_alone(images, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")

    with pytest.raises(FileExistsError, match="holds files that no run of monkeylib wrote.*thesis.txt"):
        _run(images, Colours(), out)
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_file_of_somebody_else_in_the_way_is_refused_and_left_alone(images, tmp_path):
    out = tmp_path / "out"
    _run(images, Colours(), out)
    manifest = json.loads((out / "run.json").read_text())
    manifest["files"].remove("report.html")
    (out / "run.json").write_text(json.dumps(manifest))
    (out / "report.html").write_text("mine")

    with pytest.raises(FileExistsError, match="report.html is in the way"):
        _run([*images, images[0]], Colours(), out)
    assert (out / "report.html").read_text() == "mine"


def test_folder_of_an_earlier_version_is_refused(images, tmp_path):
    out = tmp_path / "out"
    _run(images, Colours(), out)
    (out / "run.json").unlink()

    with pytest.raises(FileExistsError, match="captions of an earlier version of monkeylib.*move it away"):
        _run(images, Colours(), out)
    assert (out / "records.jsonl").exists()


def test_folder_in_use_is_refused(images, tmp_path):
    out = tmp_path / "out"
    errors = []

    class Meanwhile(Colours):
        def annotate(self, images):
            with pytest.raises(BlockingIOError) as error:
                _run(all_images, Colours(), out)
            errors.append(str(error.value))
            return super().annotate(images)

    all_images = list(images)
    records = _run(images[:2], Meanwhile(), out)

    assert len(records) == 2 and "is in use by process" in errors[0] and "\n" not in errors[0]


def test_leftovers_of_a_killed_run_are_removed(images, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        _run(images, Colours(stop_after=1), out)

    (result, *_) = (out / "annotations").rglob("*.results")
    temporary = "0123456789ab"
    leftovers = [
        out / f".records.{temporary}.jsonl",
        out / f".manifest.{temporary}.json",
        out / "shards" / f".000000-0123456789abcdef.{temporary}.parquet",
        result.with_name(f".{result.stem}.{temporary}.index"),
    ]
    for path in leftovers:
        path.write_text("half")

    _run(images, Colours(), out)
    assert [path for path in leftovers if path.exists()] == []
    assert not [path for path in out.rglob(".*") if path.is_file()]


def test_models_are_checked_before_the_first_image(images, tmp_path):
    class Keyless(rules.RuleComposer):
        def check(self):
            raise ValueError("there is no key: set OPENAI_API_KEY")

    expert, out = Colours(), tmp_path / "new" / "out"
    with pytest.raises(ValueError, match="stage rules cannot run, so nothing was begun: there is no key"):
        _run(images, expert, out, composer=Keyless())
    assert expert.batches == [] and not out.parent.exists()

    # A finished run needs no key.
    _run(images, Colours(), out)
    assert len(_run(images, expert, out, composer=Keyless())) == 5


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
        pipeline.InputImage(Image.new("RGB", (9, 9), colour), name, "as the web says")
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
