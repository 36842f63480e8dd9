"""Fields of a profile that are set on the command line."""

import pytest

from monkeylib import profiles
from monkeylib.profiles.overrides import override, parse_assignments

SMOKE = profiles.load_profile("smoke")


def set_fields(*assignments):
    return override(SMOKE, parse_assignments(assignments))


def test_fields_of_every_type_are_set():
    changed = set_fields(
        "training.lr=1e-4",
        "training.steps=7",
        "training.packing=true",
        "training.micro_batch_size=null",
        "training.betas=[0.8, 0.9]",
        "training.view_sides=[]",
        "lora.dropout=0.5",
        "rows=3",
        "description=a = b",
    )
    training = changed.training
    assert (training.lr, training.steps, training.packing) == (1e-4, 7, True)
    assert (training.micro_batch_size, training.betas, training.view_sides) == (None, (0.8, 0.9), ())
    assert (changed.lora.dropout, changed.rows, changed.description) == (0.5, 3, "a = b")

    # Everything else stays.
    assert override(changed, parse_assignments(["rows=2"])).training == training
    assert set_fields() is SMOKE


def test_part_of_what_a_named_choice_trains_is_set():
    assert isinstance(SMOKE.training.components, str)
    components = set_fields("training.components.language_model.train=lora").training.components
    assert (components.language_model.train, components.resampler.train) == ("lora", "full")


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("training.lr", "takes a field of the profile and its value, such as .*, got 'training.lr'"),
        ("=3", "takes a field of the profile and its value"),
        ("training.workers=[", "expected a number, a text, or a list in brackets"),
        ("lr=1", "a profile has no field lr: did you mean training.lr?"),
        ("training.step=1", "a profile has no field training.step: did you mean steps?"),
        ("training.learning_rate=1", "no field training.learning_rate: training has steps, batch_size, "),
        ("lora.rank=3", "no field lora.rank: did you mean mlp_rank?"),
        ("a.b.c=1", "a profile has no field a.b.c"),
        ("training.lr.x=3", "a profile has no field training.lr.x"),
        ("training.lr=abc", "training.lr: Input should be a valid number"),
        ("training.lr=.inf", "training.lr: Input should be a finite number"),
        ("training.lr=-1", "training.lr: Input should be greater than 0"),
        ("training.steps=null", "training.steps: Input should be a valid integer"),
        ("training.strategy=foo", "training.strategy: Input should be 'auto', 'ddp' or 'fsdp'"),
        ("training=5", "training: Input should be a valid dictionary"),
        ("training.language_model_bits=4", "trains by LoRA and is saved without its frozen weights"),
        ("name=../x", "the field name of a profile cannot be set"),
    ],
)
def test_wrong_assignment_is_one_sentence(assignment, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        set_fields(assignment)
    assert "\n" not in str(error.value)


def test_field_that_is_set_twice_raises():
    with pytest.raises(ValueError, match="gives rows twice"):
        parse_assignments(["rows=2", "rows=3"])
