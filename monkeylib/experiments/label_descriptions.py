"""Descriptions of synthetic training images by the caption pipeline, to train on (`labels: pipeline`).

    python -m monkeylib.experiments.label_descriptions

annotates the images of `data.synthetic.label_levels` with the set `cpu` and writes the records, with their
detailed captions, to `data/results/nano/label_records.jsonl`, which is committed. An image takes about a
second of a CPU, and a run that was interrupted goes on where it stopped.

As in the paper, the pipeline gets the short caption of each image. It knows nothing else of the ground truth.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from monkeylib import resources
from monkeylib.captions import pipeline
from monkeylib.captions.annotations import Record
from monkeylib.captions.experts import Expert, load_experts
from monkeylib.captions.record_files import read_records, write_records
from monkeylib.data.synthetic import Sample, label_levels
from monkeylib.profiles import load_profile
from monkeylib.tables import Row
from monkeylib.training.synthetic_records import FIRST_UNSEEN_IMAGE, SyntheticRecords


def label_samples(count: int = label_levels.NUM_IMAGES) -> list[Sample]:
    """Return the first training images of the runs that compare labels."""
    records = SyntheticRecords(load_profile("nano"), "train")
    return [records.sample(FIRST_UNSEEN_IMAGE + index) for index in range(count)]


def describe(samples: Sequence[Sample], experts: Sequence[Expert], out: Path) -> list[Record]:
    """Describe images by the caption pipeline, into the folder `out`.

    Returns:
        A record for each image, named after its number, without what no caption needs: masks, and the
        annotations that the filter dropped.
    """
    images = [
        pipeline.InputImage(sample.image, str(sample.seed), original_caption=sample.caption)
        for sample in samples
    ]
    pipeline.Pipeline(experts, batch_size=4).run(images, out)

    records = []
    for record in read_records(out / pipeline.RECORDS):
        regions = tuple(region.model_copy(update={"mask": None}) for region in record.regions)
        records.append(record.model_copy(update={"regions": regions, "dropped": ()}))
    return records


def measure_labels(samples: Sequence[Sample]) -> list[Row]:
    """Return how long each kind of labels is, and how much of an image's text it has.

    Args:
        samples: training images that the pipeline has described.

    Returns:
        Rows with `labels`, mean `characters` of a caption, and `text_recall`, the share of the words in the
        images that the captions have.
    """
    rows: list[Row] = []
    for labels in label_levels.LABELS:
        captions = [label_levels.label_turn(sample, labels)[1] for sample in samples]
        shared, total = 0, 0
        for sample, caption in zip(samples, captions, strict=True):
            words = _count_words(" ".join(text.string for text in sample.texts))
            shared += (words & _count_words(caption)).total()
            total += words.total()
        characters = sum(map(len, captions)) / len(captions)
        rows.append({"labels": labels, "characters": round(characters, 1), "text_recall": shared / total})
    return rows


def _count_words(text: str) -> Counter[str]:
    """Count words, without the punctuation around them."""
    return Counter(word for part in text.lower().split() if (word := part.strip('.,:;"')))


def main(arguments: Sequence[str] | None = None) -> None:
    """Describe the images and write the records."""
    parser = argparse.ArgumentParser(description="Describe synthetic training images by the set cpu.")
    parser.add_argument("--out", type=Path, default=label_levels.pipeline_file(), help="file of the records")
    options = parser.parse_args(arguments)

    records = describe(label_samples(), load_experts("cpu"), resources.cache() / "labels")
    write_records(records, options.out)
    print(f"wrote {resources.display_path(options.out)}")


if __name__ == "__main__":
    main()
