"""What is trained on, by kind."""

from monkeylib.experiments import training_mix
from monkeylib.profiles import load_profile
from monkeylib.training.synthetic_records import FIRST_UNSEEN_IMAGE, SyntheticRecords


def test_paper_mix_has_all_kinds_and_records():
    rows = training_mix.paper_mix()
    assert {row["kind"] for row in rows} == set(training_mix.KINDS)
    assert round(sum(row["records"] for row in rows) / 1e6, 2) == 1.44
    assert [row["dataset"] for row in rows if not row["unverified"]] == ["detailed-caption"]


def test_every_answer_is_of_one_kind():
    profile = load_profile("nano")
    rows = {row["kind"]: row["answers"] for row in training_mix.synthetic_mix(profile, images=40)}
    records = SyntheticRecords(profile, "train")
    turns = [turn for index in range(40) for turn in records[FIRST_UNSEEN_IMAGE + index].turns]
    assert list(rows) == list(training_mix.KINDS) and all(rows.values())
    assert sum(rows.values()) == len(turns)
    assert rows["captions"] == sum("caption in English" in prompt for prompt, _ in turns)
