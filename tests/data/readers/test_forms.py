"""Each form of a record, as its makers publish it, becomes messages with images at their places."""

import json
from pathlib import Path

import pytest

from monkeylib.data.readers import describe, open_dataset
from monkeylib.data.records import BadRecord
from monkeylib.data.schema import DatasetEntry
from monkeylib.messages import ImagePart
from tests.support import record_files as files

IMAGE = "<image>"


@pytest.fixture(autouse=True)
def images(folder):
    """Images of several sizes, so that they are told apart: a.png is 6 x 4."""
    for number, name in enumerate(("sign.png", "receipt.png", "third.png"), 10):
        (folder / name).write_bytes(files.png(number, 5))
    return folder


def read_rows(folder, rows, format=None, **fields):
    """Return the records of rows, whose format is told if none is given."""
    files.write_list(folder / "rows.json", rows)
    entry = DatasetEntry(name="pets", path="rows.json", **({"format": format} if format else {}), **fields)
    return open_dataset(entry, folder)


def shown(record):
    """Return the roles and the contents of a record's messages, images by their names."""
    return [
        (
            message.role,
            [Path(part.source).name if isinstance(part, ImagePart) else part for part in message.parts],
        )
        for message in record.messages
    ]


def talk(*values, roles=("human", "gpt")):
    return [{"from": roles[number % 2], "value": value} for number, value in enumerate(values)]


# --- the released data and Qwen-VL


def test_images_of_qwen_vl_stay_where_their_tags_stand(folder):
    values = [
        "Picture 1: <img>sign.png</img>\nWhat does it say?",
        "please",
        "<img>receipt.png</img>\nAnd this? ",
        "a receipt",
    ]
    (record,) = read_rows(folder, [{"id": "a", "conversations": talk(*values, roles=("user", "assistant"))}])

    assert shown(record) == [
        ("user", ["Picture 1: ", "sign.png", "\nWhat does it say?"]),
        ("assistant", ["please"]),
        ("user", ["receipt.png", "\nAnd this? "]),
        ("assistant", ["a receipt"]),
    ]
    # The texts are the prompts.
    assert [answer for _, answer in record.prompts] == ["please", "a receipt"]
    assert record.turns[0][0] == "Picture 1: <image>\nWhat does it say?"
    assert [image.size for image in record.open_images()] == [(10, 5), (11, 5)]


@pytest.mark.parametrize(
    ("prompt", "paths", "text"),
    [
        ("<img>sign.png</img>What does an HTML <img> need?", ["sign.png"], "What does an HTML <img> need?"),
        ("Why is <img src='x'> open? <img>sign.png</img>", ["sign.png"], "Why is <img src='x'> open? "),
        ("Is <img> like <img>sign.png</img>?", ["sign.png"], "Is <img> like ?"),
        ("<img>a.png what?", [], "<img>a.png what?"),
        ("<imgpad> </img> what?", [], "<imgpad> </img> what?"),
    ],
)
def test_img_without_an_end_is_text(folder, prompt, paths, text):
    rows = [{"conversations": talk(prompt, "src", roles=("user", "assistant"))}]
    (record,) = read_rows(folder, rows, "conversations", min_images=0)
    assert [Path(image).name for image in record.images] == paths
    assert record.messages[0].text == text


# --- LLaVA and ShareGPT


def test_system_turn_and_top_level_system_open_the_conversation(folder):
    turns = talk("<image>\nWhat does it say?", "please")
    rows = [
        {"image": "sign.png", "conversations": [{"from": "system", "value": "Be brief."}, *turns]},
        {"image": "sign.png", "system": "Be brief.", "conversations": turns},
    ]
    for record in read_rows(folder, rows, "llava"):
        assert shown(record)[0] == ("system", ["Be brief."])
        # It stands in front of the image, and the question still has its prompt.
        assert record.layout_turns([7]) == [(["Be brief. ", 7, " What does it say? Answer: "], "please")]


def test_images_within_a_question_keep_their_places(folder):
    rows = [
        {
            "image": ["sign.png", "receipt.png"],
            "conversations": talk("Which is cheaper, <image> or <image>?", "the first"),
        }
    ]
    (record,) = read_rows(folder, rows, "llava", max_images=2)
    assert shown(record)[0] == ("user", ["Which is cheaper, ", "sign.png", " or ", "receipt.png", "?"])
    assert record.layout_turns([5, 6]) == [
        (["Which is cheaper, ", 5, "  or ", 6, " ? Answer: "], "the first"),
    ]


@pytest.mark.parametrize("text", ["<image>\nWhat?", "What?\n<image>", " <image> What? "])
def test_image_of_a_question_in_one_piece_comes_first(folder, text):
    (record,) = read_rows(folder, [{"image": "sign.png", "conversations": talk(text, "x")}], "llava")
    assert shown(record)[0] == ("user", ["sign.png", "What?"])
    assert record.layout_turns([5]) == [([5, " What? Answer: "], "x")]


def test_image_of_a_later_turn_stays_there(folder):
    values = ["<image>\nWhat is it?", "a sign", "<image>\nAnd this?", "a receipt", "<image> is text", "no"]
    rows = [{"image": ["sign.png", "receipt.png"], "conversations": talk(*values[:4])}]
    (record,) = read_rows(folder, rows)
    assert shown(record)[2] == ("user", ["receipt.png", "And this?"])
    assert record.turns[1][0] == "<image> And this? Answer: "


def test_image_without_a_placeholder_stands_in_front_and_is_noted(folder):
    rows = [{"image": "sign.png", "conversations": talk("What?", "x", "why?", "y")}]
    (record,) = read_rows(folder, rows, "llava")
    assert shown(record)[0] == ("user", ["sign.png", "What?"])
    assert record.note.startswith("no <image> says where its image belongs")


def test_sharegpt_begins_with_a_question_and_ends_with_an_answer(folder):
    begins_with_answer = [*talk("hi", roles=("gpt", "")), *talk("what?", "this", "more?")]
    with_image = talk("<image>what?", "that")
    rows = [
        {"id": "x_0", "conversations": begins_with_answer},
        {"id": "x_1", "conversations": with_image, "images": ["sign.png"], "system": "Be brief."},
    ]
    first, second = read_rows(folder, rows, "sharegpt")
    assert shown(first) == [("user", ["what?"]), ("assistant", ["this"])]
    assert shown(second)[1] == ("user", ["sign.png", "what?"])

    with pytest.raises(BadRecord, match="expected human .human and gpt take turns., got gpt"):
        read_rows(folder, rows, "llava", min_images=0)[0]


def test_roles_of_others_in_the_form_of_llava_are_read(folder):
    rows = [{"image": "sign.png", "conversations": talk("<image>What?", "x", roles=("user", "assistant"))}]
    (record,) = read_rows(folder, rows)
    assert shown(record)[0] == ("user", ["sign.png", "What?"])


# --- messages


def test_messages_with_placeholders_and_a_list_of_images(folder):
    rows = [
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "<image>What?"},
                {"role": "assistant", "content": "please"},
            ],
            "images": ["sign.png"],
        }
    ]
    (record,) = read_rows(folder, rows)
    assert shown(record) == [
        ("system", ["Be brief."]),
        ("user", ["sign.png", "What?"]),
        ("assistant", ["please"]),
    ]


OR, QUESTION_MARK = {"type": "text", "text": "or"}, {"type": "text", "text": "?"}
NEXT = {"type": "image"}
CONTENTS = {
    "images beside them": [NEXT, OR, NEXT, QUESTION_MARK],
    "paths": [
        {"type": "image", "image": "sign.png"},
        OR,
        {"type": "image", "path": "receipt.png"},
        QUESTION_MARK,
    ],
    "addresses of OpenAI": [
        {"type": "image_url", "image_url": {"url": "sign.png"}},
        OR,
        {"type": "input_image", "image_url": "receipt.png"},
        {"type": "input_text", "text": "?"},
    ],
    "parts of parquet, where every part has every field": [
        NEXT | {"text": None},
        OR,
        NEXT | {"text": None},
        QUESTION_MARK,
    ],
}


@pytest.mark.parametrize("what", CONTENTS)
def test_messages_of_parts_keep_the_places_of_their_images(folder, what):
    row = {
        "messages": [
            {"role": "user", "content": CONTENTS[what]},
            {"role": "assistant", "content": [{"type": "text", "text": "one"}]},
        ]
    }
    if "sign.png" not in json.dumps(row):
        row["images"] = ["sign.png", "receipt.png"]
    (record,) = read_rows(folder, [row])
    assert shown(record)[0] == ("user", ["sign.png", "or", "receipt.png", "?"])
    assert shown(record)[1] == ("assistant", ["one"])


def test_data_uri_prompt_with_completion_and_conversations_with_roles(folder):
    import base64

    uri = "data:image/png;base64," + base64.b64encode(files.png(7, 7)).decode()
    question = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": "What?"}]
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": "x"}]
    rows = [{"messages": turns}, {"prompt": turns[:1], "completion": turns[1:]}, {"conversations": turns}]
    for record in read_rows(folder, rows):
        assert record.open_images()[0].size == (7, 7)
        assert record.turns == ((" What? Answer: ", "x"),)


def test_placeholder_in_a_part_is_text(folder):
    content = [{"type": "text", "text": "What is <image>?"}]
    rows = [{"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "a tag"}]}]
    (record,) = read_rows(folder, rows)
    assert record.questions == ("What is <image>?",) and not record.images


# --- the_cauldron and FineVision


def test_texts_of_the_cauldron_follow_their_images(folder):
    rows = [
        {
            "images": ["sign.png", "receipt.png"],
            "texts": [
                {"user": "Compare", "assistant": "differ", "source": "x"},
                {"user": "Why?", "assistant": "so"},
            ],
            "source": "cauldron",
        },
        {"images": [], "texts": [{"user": "fruit?", "assistant": "apple"}]},
    ]
    first, second = read_rows(folder, rows)
    assert shown(first)[0] == ("user", ["sign.png", "receipt.png", "Compare"])
    assert first.turns[1] == (" Why? Answer: ", "so") and first.source == "cauldron"
    assert shown(second) == [("user", ["fruit?"]), ("assistant", ["apple"])]


# --- questions


def test_numbers_are_texts(folder):
    rows = [
        files.example(answer=3, image="sign.png"),
        files.example(answer=[1.86, 2, "2"], question=7, image="sign.png"),
    ]
    first, second = read_rows(folder, rows)
    assert first.turns == ((" what is it? Answer: ", "3"),)
    assert second.answers == ("1.86", "2", "2") and second.turns == ((" 7 Answer: ", "2"),)

    record = read_rows(folder, [{"conversations": talk("How many?", 3), "id": 7}])[0]
    assert record.turns[0][1] == "3" and record.id == "7"


def test_evaluation_file_with_answers_is_read_like_training_data(folder):
    rows = [
        {
            "image": "sign.png",
            "question": "how much?",
            "answers": ["1.86", "1,86"],
            "question_id": 1,
            "licence": "CC0",
        }
    ]
    (record,) = read_rows(folder, rows)
    assert (record.questions, record.answers) == (("how much?",), ("1.86", "1,86"))
    assert (record.id, record.licence) == ("1", "CC0")


# --- records of the caption pipeline


def caption(name="sign.png", caption="A sign that says please.", status="ok", problems=(), **fields):
    return {
        "schema_version": 2,
        "name": name,
        "detailed_caption": caption,
        "check": {"grounding": 1.0, "sentences": 1, "unsupported": [], "problems": list(problems)},
        "status": status,
    } | fields


def test_caption_records_are_filtered_by_status_and_checks(folder):
    rows = [
        caption(),
        caption("receipt.png", status="partial"),
        caption("third.png", caption=""),
        caption("receipt.png", problems=["it is a refusal"]),
        caption("third.png", check=None),
    ]
    files.write_lines(folder / "records.jsonl", rows)
    for format in ({}, {"format": "records"}):
        records = open_dataset(DatasetEntry(name="described", path="records.jsonl", **format), folder)
        assert [record.id for record in records] == ["sign.png", "third.png"]
        assert records[0].turns == (
            (" Generate the detailed caption in English:", rows[0]["detailed_caption"]),
        )
        assert records[0].open_images()[0].size == (10, 5)
        assert records.describe_left_out() == (
            "3 left out: 1 with the status partial, 1 without a caption, 1 whose caption failed its checks"
        )

    files.write_lines(folder / "records.jsonl", rows[1:4])
    with pytest.raises(ValueError, match="holds no records .3 left out: 1 with the status partial"):
        open_dataset(DatasetEntry(name="described", path="records.jsonl"), folder)


# --- what a file is taken for

ROWS = {
    "JSON, conversations of the released data or of Qwen-VL": files.conversation("<img>a.png</img> what? "),
    "JSON, conversations of LLaVA or ShareGPT": files.talk("<image> what?", "x"),
    "JSON, messages of OpenAI or TRL": {
        "messages": [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "x"}]
    },
    "JSON, texts of the_cauldron or FineVision": {"images": [], "texts": [{"user": "q", "assistant": "a"}]},
    "JSON, questions and answers": files.example(),
    "JSON, records of `monkeylib caption`": caption(),
}


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("name", ["rows.json", "rows.txt"])
def test_form_is_told_by_the_fields(folder, kind, name):
    for write in (files.write_list, files.write_lines):
        write(folder / name, [ROWS[kind]] * 2)
        records = open_dataset(DatasetEntry(name="pets", path=name), folder)
        assert describe(records) == kind and records[1].turns


def test_stated_format_gives_way_where_the_fields_are_of_another(folder):
    for kind, row in ROWS.items():
        for format in ("llava", "evaluation"):
            records = read_rows(folder, [row], format, min_images=0, prompt="detailed_caption")
            assert records[0].turns
            if "conversations" not in kind:
                assert describe(records) == kind


def test_form_that_cannot_be_told_is_an_error_that_lists_the_fields(folder):
    with pytest.raises(
        ValueError, match="they have picture, words; name their fields image, question and answer, or state"
    ):
        read_rows(folder, [{"picture": "a.png", "words": "x"}])


def test_ids_may_repeat(folder):
    row = {"id": "000000033471", "image": "a.png", "conversations": talk("<image>\nWhat?", "steel")}
    assert [record.id for record in read_rows(folder, [row] * 3, "llava")] == ["000000033471"] * 3


def test_images_lie_in_the_root_or_beside_the_file(folder):
    (folder / "sub" / "pictures").mkdir(parents=True)
    (folder / "sub" / "pictures" / "own.png").write_bytes(files.png(9, 9))
    for name, size in (("pictures/own.png", (9, 9)), ("sign.png", (10, 5)), ("sub/pictures/own.png", (9, 9))):
        files.write_lines(folder / "sub" / "rows.jsonl", [files.example(image=name)])
        (record,) = open_dataset(DatasetEntry(name="pets", path="sub/rows.jsonl"), folder)
        assert record.open_images()[0].size == size


def test_images_of_a_turn_that_is_left_out_are_not_opened(folder):
    rows = [
        {
            "image": ["sign.png", "gone.png"],
            "conversations": talk("<image>What?", "x", "<image>And this?", "y"),
        }
    ]
    (record,) = read_rows(folder, rows)
    first = record.first_turns(1)
    assert len(first.images) == 1 and first.open_images() and first.turns == record.turns[:1]
    (record,) = read_rows(folder, rows, turns="first")
    assert record.open_images()


def test_rows_that_are_no_objects_are_bad_in_every_form(folder):
    formats = ("conversations", "llava", "sharegpt", "messages", "cauldron", "evaluation", "records")
    for format in formats:
        (record,) = (read_rows(folder, [5], format),)
        with pytest.raises(BadRecord, match="expected an object with fields, got int 5"):
            record[0]


def test_file_without_a_good_record_is_named(folder):
    (folder / "page.json").write_text("<!doctype html><title>404</title>")
    with pytest.raises(
        ValueError, match="no record of page.json can be read, such as page.json, line 1: expect"
    ):
        open_dataset(DatasetEntry(name="pets", path="page.json"), folder)

    (folder / "page.json").write_text("[null, null]")
    with pytest.raises(ValueError, match="such as page.json, record 1 .line 1.: expected an object with"):
        open_dataset(DatasetEntry(name="pets", path="page.json"), folder)


def test_compressed_file_is_named(folder):
    import gzip

    (folder / "rows.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}'))
    with pytest.raises(ValueError, match="rows.jsonl.gz is compressed: unpack it"):
        open_dataset(DatasetEntry(name="pets", path="rows.jsonl.gz"), folder)


def test_missing_file_of_any_format_is_not_looked_for_on_a_hub(folder):
    for format in ("datasets", "llava", None):
        for name in ("gone.json", "gone.jsonl", "gone.csv", "gone.parquet"):
            with pytest.raises(FileNotFoundError, match=f"the dataset pets has no file at .*{name}"):
                open_dataset(DatasetEntry(name="pets", path=name, format=format), folder)


def test_questions_without_images_and_captions_without_questions_are_told(folder):
    (record,) = read_rows(folder, [{"question": "what?", "answer": "x"}])
    assert record.turns == ((" what? Answer: ", "x"),) and not record.images
    (record,) = read_rows(folder, [{"image": "sign.png", "answer": "a sign"}])
    assert record.turns == ((" Generate the caption in English:", "a sign"),)


@pytest.mark.parametrize("value", [None, "", []])
def test_rows_without_an_image_say_so_in_several_ways(folder, value):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "x"}]
    rows = [
        {"image": value, "conversations": talk("hi", "hello")},
        {"images": value, "messages": turns},
        {"image": value, "question": "hi", "answer": "x"},
        {"images": value, "texts": [{"user": "hi", "assistant": "x"}]},
    ]
    for row in rows:
        (record,) = read_rows(folder, [row])
        assert not record.images and record.questions == ("hi",)


@pytest.mark.parametrize("value", ["sign.png", '["sign.png"]', ["sign.png"]])
@pytest.mark.parametrize("name", ["image", "images"])
def test_one_image_and_a_list_of_them_are_read_in_either_field(folder, name, value):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "x"}]
    rows = [
        {name: value, "conversations": talk("hi", "hello")},
        {name: value, "messages": turns},
        {name: value, "question": "hi", "answer": "x"},
        {name: value, "texts": [{"user": "hi", "assistant": "x"}]},
    ]
    for row in rows:
        # Downloads have the other field, too, and nothing in it.
        for others in ({}, {"image": None, "images": None}, {"image": "", "images": []}):
            (record,) = read_rows(folder, [others | row])
            assert [image.name for image in record.images] == ["sign.png"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Image", "sign.png"),
        ("IMAGES", ["sign.png", "third.png"]),
        ("image_path", "scans/0001"),
        ("img", "sign"),
        ("file_name", "sign.PNG"),
        ("image_id", '["sign.jpg", "third.jpg"]'),
        ("of any name", "data:image/png;base64,AAAA"),
        ("picture", {"bytes": None, "path": "sign.png"}),
    ],
)
def test_images_in_a_field_that_is_not_read_are_refused(folder, name, value):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "x"}]
    question = {"question": "hi", "answer": "x"}
    released = [{"from": "user", "value": "hi"}, {"from": "assistant", "value": "x"}]
    rows_and_advice = [
        ({"conversations": talk("hi", "hello")}, "rename it to images"),
        ({"conversations": released}, "name the image in the text as <img>PATH</img>"),
        ({"messages": turns}, "rename it to images"),
        (question, f"rename it to image, or name it in a mixture as `columns: {{image: {name}}}`"),
        ({"texts": [{"user": "hi", "assistant": "x"}]}, "rename it to images"),
    ]
    for row, advice in rows_and_advice:
        with pytest.raises(ValueError) as error:
            read_rows(folder, [row | {name: value}])
        assert f"the field {name} holds images that are not read: {advice}" in str(error.value)

    # One among others is a bad record.
    records = read_rows(folder, [question | {"image": "sign.png"}, question | {name: value}])
    with pytest.raises(BadRecord, match=rf"record 2 .*the field {name} holds images"):
        records[1]


@pytest.mark.parametrize(
    "fields",
    [
        {"file_name": "report.txt"},
        {"source": "sign.png"},
        {"image_path": ""},
        {"images": None, "photo": []},
        {"id": "sign.png"},
        {"image_id": 17},
    ],
)
def test_fields_without_images_leave_a_text_alone(folder, fields):
    (record,) = read_rows(folder, [{"question": "hi", "answer": "x"} | fields])
    assert not record.images


def test_column_of_images_that_a_dataset_names_may_be_empty(folder):
    rows = [{"q": "hi", "a": "x", "scan": None, "photo": "sign.png"}]
    columns = {"image": "scan", "question": "q", "answer": "a"}
    (record,) = read_rows(folder, rows, columns=columns)
    assert not record.images and record.questions == ("hi",)

    (record,) = read_rows(folder, rows, columns=columns | {"image": "photo"})
    assert [image.name for image in record.images] == ["sign.png"]
