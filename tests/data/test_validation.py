"""Validation split: grouped by image, large enough, and the same each time."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeylib.data.records import BadRecord, Record
from monkeylib.data.validation import SampledSplit, group_by_image, split_validation
from tests.support import record_files as files


class FakeRecords(list):
    """Records of a dataset, given by the names of their images."""

    name = "fake"

    def __getitem__(self, number):
        images = tuple(Path(f"images/./{name}") for name in super().__getitem__(number))
        return Record.from_turns(str(number), images, [("what?", "a cat")], self.name, "")


IMAGES = st.lists(st.lists(st.integers(0, 12), max_size=2), min_size=1, max_size=25)


@given(st.lists(IMAGES, min_size=1, max_size=3), st.floats(0.01, 0.6), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_images_are_in_one_split_only_and_each_dataset_has_its_share(images, share, seed):
    datasets = [FakeRecords(rows) for rows in images]
    try:
        validation = split_validation(datasets, share, seed)
    except ValueError as error:
        assert "leaves without any for training" in str(error)
        return

    images_by_split = [set(), set()]  # training, validation
    for rows, numbers in zip(images, validation, strict=True):
        assert len(set(numbers.tolist())) == len(numbers) >= max(1, round(share * len(rows)))
        assert len(numbers) < len(rows)
        for number, names in enumerate(rows):
            images_by_split[number in numbers].update(names)

    assert not images_by_split[0] & images_by_split[1]

    again = split_validation(datasets, share, seed)
    assert all((first == second).all() for first, second in zip(validation, again, strict=True))


def test_image_of_nearly_all_records_is_trained_on():
    for seed in range(9):
        # 97 of 100 records show image 0: it cannot be in a validation split of 2 %.
        (validation,) = split_validation([FakeRecords([[0]] * 97 + [[1], [2], []])], 0.02, seed)
        assert len(validation) == 2 and min(validation) >= 97


def test_images_in_tables_and_shards_are_identified_by_their_bytes(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path / "out"))
    images = [files.png(size, 3) for size in (3, 4, 3, 5)]
    text = b'{"question": "q?", "answer": "x"}'
    members = [
        (f"{n}.{end}", data)
        for n, image in enumerate(images)
        for end, data in (("png", image), ("json", text))
    ]
    files.write_tar(tmp_path / "s.tar", members)
    files.write_parquet(tmp_path / "t.parquet", image=images, question=["q?"] * 4, answer=["x"] * 4)
    datasets = [files.read_dataset(files.entry("webdataset", "s.tar"), tmp_path)]
    datasets += [files.read_dataset(files.entry("datasets", "t.parquet"), tmp_path)]

    # Images 0 and 2 have the same bytes, in the shard and in the table.
    groups = group_by_image(datasets)

    assert [dataset_groups.tolist() for dataset_groups in groups] == [[0, 1, 0, 3]] * 2


class CountedRecords(FakeRecords):
    """Counts the records that are read."""

    count = 0

    def __getitem__(self, number):
        self.count += 1
        return super().__getitem__(number)


def test_share_of_many_records_reads_no_others():
    datasets = [CountedRecords([[number] for number in range(1000)]) for _ in range(2)]
    datasets[1].name = "other"
    split = SampledSplit(datasets, 0.02, seed=3)
    assert [len(numbers) for numbers in split.numbers] == [20, 20]
    assert [records.count for records in datasets] == [20, 20]


@given(st.lists(IMAGES, min_size=1, max_size=3), st.floats(0.01, 0.6), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_sampled_share_keeps_images_in_one_split(images, share, seed):
    datasets = [FakeRecords(rows) for rows in images]
    try:
        split = SampledSplit(datasets, share, seed)
    except ValueError as error:
        assert "leaves without any for training" in str(error)
        return

    validated = {
        image
        for rows, numbers in zip(images, split.numbers, strict=True)
        for n in numbers.tolist()
        for image in rows[n]
    }
    for number, rows in enumerate(images):
        validation = set(split.numbers[number].tolist())
        assert len(validation) == max(1, round(share * len(rows)))
        training = split.training_records(number)
        assert len(training) == len(rows) - len(validation)

        drawn = []
        for position in range(len(training)):
            try:
                record = training[position]
            except BadRecord as error:
                assert "records in a row show images that are validated with" in str(error)
                continue
            drawn.append(int(record.id))
            assert not validated & set(rows[int(record.id)])

        # Every record that shows no validated image is drawn, and none of the validation records.
        expected = {n for n, row in enumerate(rows) if n not in validation and not validated & set(row)}
        assert set(drawn) == expected

    assert all(
        (first == second).all()
        for first, second in zip(split.numbers, SampledSplit(datasets, share, seed).numbers, strict=True)
    )
