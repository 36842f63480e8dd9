"""JSON and JSON lines of each format are read into the same record."""

import json

from tests.support import record_files as files


def test_released_conversations_keep_their_texts(folder):
    rows = [
        files.conversation(),
        files.conversation("<img>a.png</img> where? Answer: ", "an <img> and an <imgpad> are text", id=7),
    ]
    files.write_list(folder / "rows.json", rows)
    records = files.read(folder, "conversations", "rows.json")

    assert len(records) == 2
    assert records[0].turns == ((" what is it? Answer: ", "a cat"),)
    assert (records[0].id, records[0].dataset) == ("0", "pets")
    assert (records[1].id, records[1].turns[0][1]) == ("7", "an <img> and an <imgpad> are text")
    assert records[1].location.startswith("dataset pets: rows.json, record 2 (line ")

    (image,) = records[0].open_images()
    assert (image.size, image.mode) == ((6, 4), "RGB")


def test_first_turn_or_all_turns_are_read(folder):
    row = files.conversation()
    row["conversations"] += [{"from": "user", "value": " and now? "}, {"from": "assistant", "value": "a dog"}]
    files.write_list(folder / "rows.json", [row])

    assert len(files.read(folder, "conversations", "rows.json", turns="first")[0].turns) == 1
    assert files.read(folder, "conversations", "rows.json")[0].turns[1] == (" and now? ", "a dog")


def test_several_images_open_a_conversation_in_their_order(folder):
    (folder / "b.png").write_bytes(files.png(3, 3))
    files.write_list(folder / "rows.json", [files.conversation("<img>a.png</img><img>b.png</img> which?")])
    record = files.read(folder, "conversations", "rows.json", max_images=2)[0]

    assert [image.size for image in record.open_images()] == [(6, 4), (3, 3)]
    assert record.turns[0][0] == " which?"


def test_released_evaluation_lines_take_the_most_frequent_answer(folder):
    rows = [files.example(question_id=3), files.example(answer=["a dog", "a cat", "a cat"], question_id=4)]
    files.write_lines(folder / "rows.jsonl", rows)
    records = files.read(folder, "evaluation", "rows.jsonl", prompt="vqa_no_blank", separator="")

    assert records[1].turns == (("what is it? Answer:", "a cat"),)
    assert (records[1].id, records[1].location) == ("4", "dataset pets: rows.jsonl, line 2")


def test_llava_conversations_lose_their_placeholder_and_get_the_prompt(folder):
    rows = [
        files.talk("what is it?\n<image>", "a cat", "its <colour>?", "red <image>", id="x"),
        {"conversations": files.talk("how are you?", "well")["conversations"]},
    ]
    files.write_list(folder / "rows.json", rows)
    records = files.read(folder, "llava", "rows.json", min_images=0)

    assert records[0].turns == (
        (" what is it? Answer: ", "a cat"),
        (" its <colour>? Answer: ", "red <image>"),
    )
    assert len(records[0].open_images()) == 1
    assert records[1].images == ()


def test_byte_order_mark_and_blank_lines_are_skipped(folder):
    line = json.dumps(files.example("où?")).encode()
    (folder / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\n" + line)
    records = files.read(folder, "evaluation", "rows.jsonl")

    assert [record.location for record in records] == [f"dataset pets: rows.jsonl, line {n}" for n in (1, 3)]
    assert records[1].turns[0][0] == " où? Answer: "


def test_list_is_indexed_in_bytes_whatever_its_characters(folder):
    answers = ["é", "日本", "🐈", "plain"]
    text = json.dumps([files.conversation(answer=answer) for answer in answers], ensure_ascii=False)

    # A byte order mark and a blank before the list.
    (folder / "rows.json").write_text(f"\ufeff {text}", encoding="utf-8")

    assert [record.turns[0][1] for record in files.read(folder, "conversations", "rows.json")] == answers


def test_several_files_make_one_dataset(folder):
    # Records are numbered over all files, lines within each.
    for name, answers in (("a.jsonl", ["one", "two"]), ("b.jsonl", ["three"])):
        files.write_lines(folder / name, [files.example(answer=answer) for answer in answers])
    records = files.read(folder, "evaluation", ["a.jsonl", "b.jsonl"])

    assert [record.turns[0][1] for record in records] == ["one", "two", "three"]
    assert records[2].location == "dataset pets: b.jsonl, line 1"


def test_ids_may_repeat_where_the_entry_allows_it(folder):
    files.write_lines(folder / "rows.jsonl", [files.example(question_id=1)] * 2)
    assert files.read(folder, "evaluation", "rows.jsonl", unique_ids=False)[1].id == "1"
