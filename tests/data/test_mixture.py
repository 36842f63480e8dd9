"""Mixtures: exact counts, deterministic order, random access."""

import gc
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeylib.data import json_rows
from monkeylib.data import mixture as mixtures
from monkeylib.data.dataset_cards import training_cards
from monkeylib.data.schema import DatasetEntry, MixtureFile
from monkeylib.data.synthetic import sample_files
from monkeylib.prompts import PROMPTS, PromptTemplate
from tests.support import record_files as files


@pytest.fixture()
def make(tmp_path):
    """Write a mixture of datasets with `sizes` records and load it: `make([3, 5], [{"count": 2}, {}])`.

    All records show one image, or the one that `images(dataset, record)` returns.
    """
    (tmp_path / "a.png").write_bytes(files.png())

    def make_mixture(sizes, options, images=lambda number, row: "a", **fields):
        sets = []
        for number, (size, option) in enumerate(zip(sizes, options, strict=True)):
            rows = [
                files.example(answer=f"{number}-{row}", image=f"{images(number, row)}.png")
                for row in range(size)
            ]
            files.write_lines(tmp_path / f"{number}.jsonl", rows)
            sets.append({"name": f"set{number}", "format": "evaluation", "path": f"{number}.jsonl"} | option)

        (tmp_path / "mix.yaml").write_text(yaml.safe_dump({"sets": sets} | fields))
        return mixtures.load_mixture(tmp_path / "mix.yaml")

    return make_mixture


def answers(mixture, positions):
    """Answers tell records apart: "1-7" is record 7 of dataset 1."""
    return [mixture[position].turns[0][1] for position in positions]


def test_epoch_holds_each_record_once_in_a_new_order(make):
    mixture = make([3, 40], [{}, {"count": 40}])
    epochs = [answers(mixture, range(43 * epoch, 43 * (epoch + 1))) for epoch in range(3)]

    assert len(mixture) == 43
    assert all(len(set(epoch)) == 43 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_records_of_a_dataset_come_equally_often_whatever_its_count(data):
    sizes = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=3))
    counts = [data.draw(st.integers(1, 30)) for _ in sizes]
    mixture = _without_files(sizes, counts, data.draw(st.integers(0, 5)))
    epochs = data.draw(st.integers(1, 4))
    drawn = Counter(mixture.locate(position) for position in range(epochs * len(mixture)))

    for number, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        times = [drawn[number, row] for row in range(size)]
        assert sum(times) == epochs * count
        assert max(times) - min(times) <= 1

    for epoch in range(epochs):
        positions = range(epoch * len(mixture), (epoch + 1) * len(mixture))
        draws = Counter(mixture.locate(position)[0] for position in positions)
        assert [draws[number] for number in range(len(sizes))] == counts


def _without_files(sizes, counts, seed):
    """A mixture that locates records but has none, since writing files would take most of the time."""
    mixture = object.__new__(mixtures.Mixture)
    mixture.seed = seed
    mixture.counts = counts
    mixture.sets = [type("Rows", (list,), {"name": f"set{n}"})(range(size)) for n, size in enumerate(sizes)]
    mixture._lengths = sizes
    mixture._ends = [sum(counts[: n + 1]) for n in range(len(counts))]
    return mixture


def test_position_gives_the_same_record_in_any_process(make):
    mixture = make([9, 6], [{"weight": 1.5}, {}])
    same_mixture = make([9, 6], [{"weight": 1.5}, {}])
    expected = answers(mixture, range(60))

    assert len(mixture) == round(1.5 * 9) + 6

    # Four processes that read every fourth position.
    shares = [answers(same_mixture, range(rank, 60, 4)) for rank in range(4)]
    assert [shares[position % 4][position // 4] for position in range(60)] == expected


def test_another_seed_gives_another_order(make):
    assert answers(make([40], [{}], seed=1), range(40)) != answers(make([40], [{}], seed=2), range(40))


def test_digest_changes_with_the_training_data_and_nothing_else(make):
    # The description is for readers only.
    first = make([4], [{}]).digest
    assert make([4], [{}], description="other words").digest == first

    changed = [
        make([5], [{}]),
        make([4], [{"weight": 2}]),
        make([4], [{"prompt": "vqa_no_blank"}]),
        make([4], [{}], seed=9),
        make([4], [{}], validation={"share": 0.5}, images=lambda _, row: row),
    ]

    assert len({mixture.digest for mixture in changed} | {first}) == 6


def test_digest_changes_with_the_separator_of_a_prompt(make, monkeypatch):
    digest = make([4], [{}]).digest
    template = PROMPTS["vqa"]

    monkeypatch.setitem(PROMPTS, "vqa", PromptTemplate(template.text))
    assert make([4], [{}]).digest == digest

    monkeypatch.setitem(PROMPTS, "vqa", PromptTemplate(template.text, takes_separator=False))
    assert make([4], [{}]).digest != digest


def test_digest_changes_with_the_validation_split(make):
    def split(images):
        mixture = make([4], [{}], validation={"share": 0.5}, images=images)
        return mixture.digest, sorted(answers(mixture.validation, range(len(mixture.validation))))

    # Only the images that records share differ.
    digest, validation = split(lambda _, row: "aabb"[row])
    other_digest, other_validation = split(lambda _, row: "abab"[row])

    assert validation in (["0-0", "0-1"], ["0-2", "0-3"])
    assert other_validation in (["0-0", "0-2"], ["0-1", "0-3"])
    assert digest != other_digest

    # The names of the images do not decide about the split.
    assert split(lambda _, row: "ccdd"[row])[1] == validation


def test_validation_share_is_never_trained_on(make):
    mixture = make([20, 10], [{}, {"weight": 2}], validation={"share": 0.2}, images=lambda n, row: (n, row))
    validation = answers(mixture.validation, range(len(mixture.validation)))

    # Several epochs, so that every training record comes at least once.
    training = answers(mixture, range(3 * len(mixture)))

    assert (len(validation), len(set(validation))) == (6, 6)
    assert not set(validation) & set(training)
    assert len(set(validation) | set(training)) == 30


def test_image_of_several_records_and_datasets_is_in_one_split_only(make):
    mixture = make([24, 9], [{}, {}], validation={"share": 0.25}, images=lambda _, row: row % 8)
    validation = {mixture.validation[number].images for number in range(len(mixture.validation))}
    training = {mixture[position].images for position in range(len(mixture))}

    assert len(validation) == 2 and not validation & training
    assert len(validation | training) == 8
    assert len(mixture.validation) + len(mixture) == 33


def test_validation_dataset_is_sampled_once(make, tmp_path):
    files.write_lines(tmp_path / "v.jsonl", [files.example(answer=f"v{n}") for n in range(8)])
    entry = {"name": "v", "format": "evaluation", "path": "v.jsonl", "count": 3}
    first, second = (
        answers(make([4], [{}], validation={"sets": [entry]}).validation, range(3)) for _ in range(2)
    )

    assert first == second and len(set(first)) == 3


ERRORS = {
    "count and weight": ({"count": 3, "weight": 2}, {}, "has a count and a weight"),
    "an unknown prompt": ({"prompt": "poem"}, {}, "no prompt called 'poem'"),
    "an unknown format": ({"format": "csv"}, {}, "sets.0.format: Input should be 'conversations'"),
    "an unknown field": (
        {"wieght": 2},
        {},
        r"mix.yaml, line \d+, sets.0.wieght: there is no such field; did you mean weight",
    ),
    "a weight of nothing": ({"weight": 0}, {}, "greater than 0"),
    "images the wrong way round": ({"min_images": 3}, {}, "the minimum must not exceed the maximum"),
    "a validation without rows": ({}, {"validation": {}}, "either a `share` between 0 and 1 or a list"),
    "a share of nearly all": ({}, {"validation": {"share": 0.9}}, "leaves without any for training"),
    "a root that is not set": ({}, {"root": "$NOT_SET_ANYWHERE"}, "set this environment variable"),
}


@pytest.mark.parametrize("what", ERRORS)
def test_error_in_a_mixture_raises(what, make):
    option, fields, sentence = ERRORS[what]
    with pytest.raises(ValueError, match=sentence):
        make([3], [option], **fields)


def test_repeated_name_and_missing_mixture_raise(make):
    with pytest.raises(ValueError, match="two datasets are called set1"):
        make([3, 3], [{"name": "set1"}, {}])
    with pytest.raises(FileNotFoundError, match="one of paper-1.44M, samples"):
        mixtures.load_mixture("nowhere")


def test_negative_position_raises(make):
    with pytest.raises(IndexError, match="positions begin at 0"):
        make([3], [{}])[-1]


def test_mixture_of_the_paper_has_its_datasets_and_total_and_marks_unverified_counts():
    file = mixtures.parse_mixture(mixtures.find_mixture("paper-1.44M"))
    assert {entry.name for entry in file.sets} == set(training_cards())
    assert sum(entry.count for entry in file.sets) == 1_441_000
    assert [(entry.name, entry.count) for entry in file.sets if not entry.unverified] == [
        ("detailed-caption", 213_000)
    ]


def test_sample_mixture_loads_and_has_correct_answers():
    mixture = mixtures.load_mixture("samples")
    true_turns = {
        (f" {question.question} Answer: ", question.answer)
        for name in sample_files.SYNTHETIC
        for question in sample_files.synthetic_sample(name).questions
    }
    records = [mixture[position] for position in range(len(mixture))]
    records += [mixture.validation[number] for number in range(len(mixture.validation))]
    for record in records:
        assert record.open_images()
        if record.images[0].suffix == ".png":
            assert set(record.turns) <= true_turns

    assert {record.dataset for record in records} == {"reading", "talking", "asking"}


def test_entry_may_name_a_public_dataset():
    entry = DatasetEntry.model_validate({"dataset": "chartqa", "count": 3})
    assert (entry.name, entry.format, entry.path) == ("chartqa", "conversations", "chartqa.json")
    assert (entry.images, entry.count) == ("chartqa/train/png", 3)
    assert DatasetEntry.model_validate({"dataset": "chartqa", "images": "png"}).images == "png"
    with pytest.raises(ValueError, match="no public dataset called 'mme': choose one of detailed-caption"):
        DatasetEntry.model_validate({"dataset": "mme"})


def test_file_of_records_is_a_mixture_of_one_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(files.png())
    for number in range(3):
        files.write_lines(tmp_path / f"{number}.jsonl", [files.example(answer=str(number))])

    for path in (tmp_path / "1.jsonl", "~/1.jsonl"):
        mixture = mixtures.load_mixture(path, tmp_path / "pictures")
        assert (mixture.name, answers(mixture, range(1))) == ("1", ["1"])
        assert mixture[0].open_images()

    # Braces and wildcards name several files.
    assert len(mixtures.load_mixture(tmp_path / "*.jsonl")) == 3
    assert len(mixtures.load_mixture(f"{tmp_path}/{{0..1}}.jsonl")) == 2
    with pytest.raises(
        FileNotFoundError, match="name a mixture's YAML file, a file of records, or a mixture of the library"
    ):
        mixtures.load_mixture(f"{tmp_path}/*.csv")


def test_format_may_be_left_out_and_paths_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.png").write_bytes(files.png())
    files.write_lines(tmp_path / "0.jsonl", [files.example(), files.talk("<image>what?", "x")])
    yaml_text = "root: /\nsets: [{name: a, path: ~/0.jsonl, images: ~}]\n"
    (tmp_path / "mix.yaml").write_text(yaml_text.replace("images: ~", 'images: "~"'))
    mixture = mixtures.load_mixture(tmp_path / "mix.yaml")
    assert sorted(answers(mixture, range(2))) == ["a cat", "x"]
    assert mixture[0].open_images()


def test_share_of_many_records_is_sampled(make, monkeypatch):
    def split():
        mixture = make([40], [{}], validation={"share": 0.2}, images=lambda _, row: row % 10)
        validation = {mixture.validation[number].images for number in range(len(mixture.validation))}
        training = {mixture[position].images for position in range(2 * len(mixture))}
        assert not validation & training
        return mixture, len(mixture.validation)

    grouped, _ = split()
    monkeypatch.setattr(mixtures, "MOST_GROUPED", 30)
    sampled, count = split()
    assert count == 8 and len(sampled) == 32
    assert sampled.digest != grouped.digest and sampled.digest == split()[0].digest


@pytest.mark.parametrize("kind", ["lines", "a list", "a shard", "CSV"])
def test_memory_does_not_grow_with_the_number_of_records(kind, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path / "out"))
    monkeypatch.setattr(mixtures, "MOST_GROUPED", 100)
    monkeypatch.setattr(json_rows, "_IN_MEMORY", 0)
    # Small files have to be read in several parts, too.
    monkeypatch.setattr(json_rows, "_CHUNK", 2**14)
    monkeypatch.setattr(json_rows, "_INDEX_ROWS", 2**8)

    def write(path, count):
        rows = [files.example(answer=str(number), image=f"{number}.png") for number in range(count)]
        if kind == "lines":
            files.write_lines(path, rows)
        elif kind == "a list":
            files.write_list(path, rows)
        elif kind == "CSV":
            lines = [f"{row['image']},{row['question']},{row['answer']}\n" for row in rows]
            path.write_text("".join(["image,question,answer\n", *lines]))
        else:
            files.write_tar(path, [(f"{number}.txt", b"x") for number in range(count)])

    def memory(count):
        """Return the bytes that a mixture of so many records holds, and the most while it opened."""
        path = tmp_path / f"{count}{'.csv' if kind == 'CSV' else ''}"
        write(path, count)
        entry = {"name": "a", "path": path.name, "min_images": 0}
        if kind == "a shard":
            entry |= {"format": "webdataset", "prompt": "caption"}
        mixture_file = MixtureFile.model_validate({"sets": [entry], "validation": {"share": 10 / count}})

        tracemalloc.start()
        try:
            mixture = mixtures.Mixture("m", mixture_file, tmp_path)
            assert mixture[0].turns and len(mixture) == count - 10
            gc.collect()  # what waits for it is not held
            return np.array(tracemalloc.get_traced_memory())
        finally:
            tracemalloc.stop()

    # What is loaded at the first use does not count.
    memory(200)
    held, peak = memory(6_000) - memory(2_000)
    # 4,000 records more, which would be at least 96,000 bytes of places.
    assert held < 24_000 and peak < 48_000, (held, peak)
