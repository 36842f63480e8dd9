"""Captions as training data: what is selected, in every format, with a mixture and a data card."""

import io
import json
import os

import pytest
from PIL import Image

from monkeylib.captions import exports
from monkeylib.captions.annotations import CaptionCheck, Failure, Provenance
from monkeylib.captions.image_containers import StoredImage
from monkeylib.captions.input_images import InputImage, list_images
from monkeylib.captions.reviews import Review, read_reviews
from monkeylib.data.mixture import load_mixture
from monkeylib.data.records import BadRecord
from monkeylib.images import open_image
from monkeylib.profiles import build, load_profile
from monkeylib.prompts import SEPARATOR, build_prompt
from monkeylib.training.batches import ExampleEncoder
from tests.support.caption_records import record, region
from tests.support.record_files import write_tar

THRESHOLDS = Provenance(expert="filter", version="2", settings={"thresholds": {"region": 0.4, "ocr": 0.85}})
MODEL = Provenance(expert="seer", version="7", licence="MIT | GPL")
REASONS = {
    "with the status failed": 1,
    "with the status partial": 1,
    "without a caption": 1,
    "whose caption failed its checks": 1,
}


def _check(grounding=1.0, problems=()):
    return CaptionCheck(grounding=grounding, sentences=1, problems=problems)


@pytest.fixture()
def captioned(tmp_path):
    """Records of which two can be trained on, and their images: files, and one in memory."""
    failure = Failure(stage="seer", error="no", kind="raised")
    fields = {
        "cat.png": {"detailed_caption": "A cat.", "check": _check()},
        "döner #2.png": {"detailed_caption": 'Two "words" & <more>\nand a line.', "check": _check(0.5)},
        "silent.png": {},
        "wrong.png": {"detailed_caption": "A dog.", "check": _check(problems=("coordinates",))},
        "half.png": {"detailed_caption": "A house.", "failures": (failure,)},
    }
    records, images = [], []
    for number, (name, more) in enumerate(fields.items()):
        (tmp_path / "images").mkdir(exist_ok=True)
        pixels = Image.new("RGB", (20 + number, 10), (number, 0, 0))
        pixels.save(tmp_path / "images" / name)
        records.append(record(name=name, provenance=(MODEL, THRESHOLDS), **more))
        images.append(InputImage(tmp_path / "images" / name, name))

    # The second image that is exported has no file.
    images[1] = InputImage(Image.open(images[1].image), images[1].name)
    records.append(record(name="gone.png", sha256="", failures=(failure,)))
    images.append(InputImage(tmp_path / "images" / "gone.png", "gone.png"))
    return records, images


@pytest.mark.parametrize("format", exports.FORMATS)
def test_every_format_is_read_by_training_as_it_was_exported(captioned, tmp_path, format):
    records, images = captioned
    statistics = exports.export_captions(records, images, tmp_path / "out", format, shard_size=1)

    assert (statistics.records, statistics.exported, dict(statistics.left_out)) == (6, 2, REASONS)
    mixture = load_mixture(str(tmp_path / "out" / "mixture.yaml"))
    assert len(mixture) == 2
    read = {example.answers_text: example for example in map(_Read, mixture.datasets[0])}
    assert set(read) == {"A cat.", records[1].detailed_caption}
    assert [read[text].size for text in read] == [(20, 10), (21, 10)]
    # The prompt is the one that Monkey is trained with, and the image stands in front of it.
    assert {example.prompt for example in read.values()} == {
        build_prompt("detailed_caption", separator=SEPARATOR)
    }


class _Read:
    """A record as training takes it."""

    def __init__(self, record):
        (self.size,) = [image.size for image in record.open_images()]
        ((self.prompt, self.answers_text),) = record.turns


def test_selection_by_grounding_confirmation_status_and_checks(captioned, tmp_path):
    records, images = captioned

    def exported(**selection):
        statistics = exports.export_captions(
            records, images, tmp_path / "out", "released", exports.Selection(**selection)
        )
        rows = json.loads((tmp_path / "out" / "detailed_caption.json").read_text())
        assert len(rows) == statistics.exported
        return [row["img_id"] for row in rows]

    assert exported(grounding=0.5) == ["cat.png", "döner #2.png"]
    assert exported(grounding=0.6) == ["cat.png"]
    assert exported(with_problems=True) == ["cat.png", "döner #2.png", "wrong.png"]
    assert exported(statuses=("ok", "partial")) == ["cat.png", "döner #2.png", "half.png"]

    # Two experts say cat; nobody confirms the others.
    records[0] = records[0].model_copy(
        update={"regions": (region("cat", expert="a"), region("a black cat", expert="b"))}
    )
    assert exported(confirmed=0.5) == ["cat.png"]
    with pytest.raises(ValueError, match="between 0 and 1, got 2"):
        exports.Selection(confirmed=2)
    with pytest.raises(ValueError, match="None of the 6 records can be exported: .*1 without a review"):
        exported(reviewed=True, grounding=1)


def test_reviews_reject_correct_and_accept_the_caption_that_they_are_about(captioned, tmp_path):
    records, images = captioned
    rows = [
        {"verdict": "reject", "name": "cat.png", "generated": "A cat."},
        {"verdict": "correct", "name": "cat.png", "generated": "A cat.", "caption": "A lion."},
        {"verdict": "accept", "name": "wrong.png", "generated": "A dog."},
        {"verdict": "accept", "name": "silent.png", "generated": ""},
        # Written about an earlier caption.
        {"verdict": "reject", "name": "döner #2.png", "generated": "Another one."},
    ]
    file = tmp_path / "reviews.jsonl"
    file.write_text("".join(json.dumps({**row, "sha256": "0" * 64}) + "\n" for row in rows))

    def exported(**selection):
        exports.export_captions(
            records,
            images,
            tmp_path / "out",
            "released",
            exports.Selection(**selection),
            reviews=read_reviews(file),
        )
        rows = json.loads((tmp_path / "out" / "detailed_caption.json").read_text())
        return {row["img_id"]: row["detailed_caption"] for row in rows}

    assert exported() == {
        "cat.png": "A lion.", "döner #2.png": records[1].detailed_caption, "wrong.png": "A dog.",
    }  # fmt: skip
    assert exported(reviewed=True) == {"cat.png": "A lion.", "wrong.png": "A dog."}
    assert read_reviews(file)["cat.png", "0" * 64] == Review("correct", "A cat.", "A lion.")


def test_exported_captions_are_encoded_as_a_batch_of_training(captioned, tmp_path):
    exports.export_captions(*captioned, tmp_path / "out", "webdataset")
    mixture = load_mixture(str(tmp_path / "out" / "mixture.yaml"))

    smoke = load_profile("smoke")
    encoder = ExampleEncoder(build.build_processor(smoke), smoke.training.max_length)
    examples = [encoder.encode(mixture[number]) for number in range(2)]
    batch = encoder.collate(examples, [encoder.encode_images(example) for example in examples])

    assert all(example.num_labels > 2 for example in examples)
    assert batch["input_ids"].shape == batch["labels"].shape and batch["pixel_values"].ndim >= 4


NO_REVIEWS = [
    b"[]",
    b"{}",
    b'{"name": "a", "sha256": "", "verdict": "maybe"}',
    b"no",
    b'{"name": "a", "sha256": "", "verdict": "correct", "generated": "b", "caption": null}',
    b'{"name": "a\xff", "sha256": "", "verdict": "accept", "generated": "b"}',
]


@pytest.mark.parametrize("line", NO_REVIEWS)
def test_line_that_is_no_review_is_named(tmp_path, line):
    (tmp_path / "reviews.jsonl").write_bytes(b"\n" + line + b"\n")
    with pytest.raises(ValueError, match="line 2 of .* is no review"):
        read_reviews(tmp_path / "reviews.jsonl")
    with pytest.raises(FileNotFoundError, match="save them from report.html"):
        read_reviews(tmp_path / "none.jsonl")


def test_card_states_counts_thresholds_versions_and_licences(captioned, tmp_path):
    records, images = captioned
    exports.export_captions(records, images, tmp_path / "out", "webdataset", shard_size=1)
    card = (tmp_path / "out" / "README.md").read_text()

    assert "2 files, `captions-000000.tar` to `captions-000001.tar`" in card
    rows = {tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in card.splitlines()}
    assert {("images in the records", "6"), ("captions here", "2"), ("left out: without a caption", "1"),
            ("thresholds.region", "0.4"), ("seer", "7", "MIT \\| GPL"), ("status", "ok"),
            ("words with a source (grounded), on average", "75.0%")} <= rows  # fmt: skip


def test_export_replaces_an_earlier_one_and_nothing_of_others(captioned, tmp_path):
    records, images = captioned
    out = tmp_path / "out"
    exports.export_captions(records, images, out, "parquet", shard_size=1)
    exports.export_captions(records[:1], images[:1], out, "llava")

    names = {path.name for path in out.iterdir()} - {".monkeylib.lock"}
    assert names == {"captions.json", "mixture.yaml", "README.md", "run.json"}

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "captions.json").write_text("mine")
    with pytest.raises(FileExistsError, match="holds files that no run of monkeylib wrote"):
        exports.export_captions(records, images, tmp_path / "mine", "llava")
    assert (tmp_path / "mine" / "captions.json").read_text() == "mine"

    # Without anything to write, the earlier export stays.
    with pytest.raises(ValueError, match="None of the 1 records can be exported: 1 without a caption"):
        exports.export_captions(records[2:3], images[2:3], out, "llava")
    assert (out / "captions.json").exists()
    with pytest.raises(ValueError, match="format"):
        exports.export_captions(records, images, out, "csv")
    with pytest.raises(ValueError, match="stands where"):
        exports.export_captions(records[:2], images[1::-1], out, "llava")


def test_export_that_fails_leaves_the_earlier_one(captioned, tmp_path):
    records, images = captioned
    for format in exports.FORMATS:
        exports.export_captions(records, images, tmp_path / format, format)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def unreadable():
        raise ValueError("it was read once")

    for format in exports.FORMATS:
        stored = StoredImage(tmp_path, 0, "x", unreadable)
        broken = [images[0], InputImage(stored, images[1].name), *images[2:]]
        with pytest.raises((ValueError, BadRecord)):
            exports.export_captions(records, broken, tmp_path / format, format)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("format", exports.FORMATS)
def test_names_that_are_not_utf8_are_exported(tmp_path, format):
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (9, 9)).save(tmp_path / name)
    images = [*list_images([tmp_path])]
    records = [record(name=images[0].name, detailed_caption="A cat.", provenance=(MODEL, THRESHOLDS))]
    out = tmp_path / "out"
    exports.export_captions(records, images, out, format)
    (source,) = load_mixture(out / exports.MIXTURE)[0].images
    assert open_image(source() if callable(source) else source).size == (9, 9)


def test_images_of_a_tar_file_are_copied_as_they_are_encoded(tmp_path):
    photograph = io.BytesIO()
    Image.new("RGB", (30, 20), "teal").save(photograph, "JPEG")
    write_tar(tmp_path / "shard.tar", [("0.jpg", photograph.getvalue())])
    images = list_images([tmp_path / "shard.tar"])
    records = [record(name=image.name, detailed_caption="A colour.") for image in images]

    exports.export_captions(records, images, tmp_path / "out", "llava")
    (row,) = json.loads((tmp_path / "out" / "captions.json").read_text())
    assert row["image"].endswith(".jpg")
    assert (tmp_path / "out" / row["image"]).read_bytes() == photograph.getvalue()
    # They belong to the export, and go with it.
    exports.export_captions(records, images, tmp_path / "out", "parquet")
    assert not (tmp_path / "out" / row["image"]).exists()
