import pytest
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from monkeylib.errors import choose, first_problem, refuse_misspelled


def test_known_name_is_returned():
    assert choose("metric", "anls", ["vqa", "anls"]) == "anls"


def test_unknown_name_lists_the_choices():
    with pytest.raises(ValueError, match=r"^there is no metric called 'x': choose one of vqa, anls$"):
        choose("metric", "x", ["vqa", "anls"])

    with pytest.raises(ValueError, match="choose one of nano, or a YAML file$"):
        choose("profile", "x", ["nano"], otherwise="or a YAML file")


def test_name_that_is_almost_right_is_refused():
    refuse_misspelled("a box has no field", ["width", "colour"], ["width", "height"])
    with pytest.raises(TypeError, match=r"^a box has no field 'heigth': did you mean height\?$"):
        refuse_misspelled("a box has no field", ["width", "heigth"], ["width", "height"])


class Inner(BaseModel):
    size: int

    @field_validator("size")
    @classmethod
    def check(cls, size: int) -> int:
        if size < 0:
            raise ValueError(f"size must not be negative, got {size}")
        return size


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    parts: list[Inner]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parts": [{"size": -1}]}, "parts.0.size: size must not be negative, got -1"),
        ({"parts": [{"size": "a"}], "more": 1}, "parts.0.size: Input should be a valid integer"),
        ("text", "the page: Input should be a valid dictionary"),
    ],
)
def test_first_problem_names_the_field(fields, message):
    with pytest.raises(ValidationError) as raised:
        Outer.model_validate(fields)

    assert first_problem(raised.value, "the page").startswith(message)
