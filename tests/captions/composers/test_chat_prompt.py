"""The prompt of the chat composer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeylib.captions.annotations import Caption
from monkeylib.captions.composers import chat
from tests.support.caption_records import line, record, region, regions

TASK_ALONE = len(chat.chat_prompt(record()))  # characters of the prompt of an empty record


def test_chat_prompt_follows_the_order_of_the_paper():
    prompt = chat.chat_prompt(
        record(
            captions=[Caption(text="a street", expert="c")],
            original_caption="Main street.",
            regions=[region("a car", (10, 20, 30, 40)), region("a wheel", (10, 30, 20, 40), kind="segment")],
            lines=[line("STOP", (50, 50, 60, 60))],
        )
    )
    parts = [
        "You write captions", "a street. Main street.", "a car: [0.10, 0.20, 0.30, 0.40];", "Segments",
        "a wheel", "Texts in the picture", "STOP: [0.50, 0.50, 0.60, 0.60];", "fewer than six sentences",
    ]  # fmt: skip
    positions = [prompt.index(part) for part in parts]

    assert positions == sorted(positions)
    assert "Texts" not in chat.chat_prompt(record(regions=[region()]))


def test_long_chat_prompt_drops_the_least_certain_regions():
    regions = [region(f"thing number {i}", score=i / 100) for i in range(100)]
    prompt = chat.chat_prompt(record(regions=regions), maximum_characters=2000)

    assert len(prompt) <= 2000 and "thing number 99:" in prompt and "thing number 0:" not in prompt
    with pytest.raises(ValueError, match="allow more than 100"):
        chat.chat_prompt(record(regions=regions), maximum_characters=100)


@given(
    st.lists(regions, max_size=30),
    st.lists(st.sampled_from(["STOP", "a\nb", "9" * 300]), max_size=5),
    st.text("ab .\n", max_size=900),
    st.integers(0, 900),
)
def test_chat_prompt_is_never_too_long(regions, texts, original, room):
    lines = [line(text, confidence=0.9) for text in texts]
    full_record = record(regions=regions, lines=lines, original_caption=original)
    prompt = chat.chat_prompt(full_record, maximum_characters=TASK_ALONE + room)

    assert len(prompt) <= TASK_ALONE + room
    assert len(prompt.splitlines()) <= 6, "no text can begin a part of its own"
    assert prompt.splitlines()[0].startswith("You write captions")
    assert prompt.endswith("don't describe single letters.")


def test_long_chat_prompt_is_cut_where_it_matters_least():
    full_record = record(
        captions=[Caption(text="a street", expert="c")],
        original_caption="word " * 500,
        lines=[line("SURE", confidence=0.99), line("DOUBT" * 20, (10, 50, 60, 60), confidence=0.86)],
        regions=[region("a car", match=0.9), region("a rumour " * 20, match=0.5)],
    )
    prompt = chat.chat_prompt(full_record, maximum_characters=TASK_ALONE + 300)

    assert "a street." in prompt and "word word" in prompt and "SURE" in prompt and "a car" in prompt
    # The least certain text and region are dropped, the original caption is cut.
    assert "DOUBT" not in prompt and "rumour" not in prompt and prompt.count("word") < 30
