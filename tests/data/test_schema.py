"""The guide to your own data shows every option of a mixture, in examples that parse."""

import re

import yaml

from monkeylib import resources
from monkeylib.data.schema import Columns, DatasetEntry, MixtureFile, Validation

GUIDE = (resources.REPOSITORY / "docs" / "own-data.md").read_text(encoding="utf-8")
EXAMPLES = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)]


def test_examples_of_the_guide_are_mixtures():
    short, complete = (MixtureFile.model_validate(example) for example in EXAMPLES)
    assert [entry.name for entry in short.sets] == ["invoices", "textvqa"]
    assert complete.sets[2].paths == ["pages-dev.json"]
    assert complete.sets[3].separator == "\n"


def test_complete_example_shows_every_option():
    _, complete = EXAMPLES
    entries = complete["sets"] + complete["validation"]["sets"]

    assert complete.keys() == MixtureFile.model_fields.keys()
    assert {option for entry in entries for option in entry} == DatasetEntry.model_fields.keys()
    assert {name for entry in entries for name in entry.get("columns", {})} == Columns.model_fields.keys()

    # A validation is either a share or datasets, so it takes both examples.
    validation_options = {option for example in EXAMPLES for option in example["validation"]}
    assert validation_options == Validation.model_fields.keys()
