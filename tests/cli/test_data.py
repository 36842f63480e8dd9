"""`monkeylib data`."""

import json
import re
import shutil

from monkeylib import resources
from tests.support import record_files as files


def test_inspect_command_prints_a_table_and_draws_the_sheet(call, tmp_path):
    code, output, _ = call("data", "inspect", "samples", "--profile", "smoke")
    assert code == 0 and "samples: 27 records per epoch" in output
    assert "reading" in output and "validation" in output
    assert output.splitlines()[-1] == f"images: {resources.cache() / 'sheets' / 'samples.png'}"
    assert (tmp_path / "out" / "data" / "cache" / "sheets" / "samples.png").is_file()


def test_files_of_one_name_have_contact_sheets_of_their_own(call, tmp_path, image):
    sheets = set()
    for name in ("a/train.csv", "b/train.csv", "b/train.tsv"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        shutil.copy(image, file.parent / "x.png")
        separator = "\t" if file.suffix == ".tsv" else ","
        rows = (["image", "question", "answer"], ["x.png", "what?", "this"])
        file.write_text("".join(f"{separator.join(row)}\n" for row in rows))

        code, output, _ = call("data", "inspect", file, "--profile", "smoke")
        assert code == 0
        sheets.add(output.splitlines()[-1])

    assert len(sheets) == 3 and all(re.search(r"sheets/train-\w{8}\.png$", sheet) for sheet in sheets)


def test_convert_command_counts_skipped_records(call, tmp_path):
    rows = [{"imgname": "1.png", "query": "?", "label": label} for label in ("x", "")]
    (tmp_path / "train" / "png").mkdir(parents=True)
    (tmp_path / "train" / "png" / "1.png").write_bytes(files.png())
    files.write_list(tmp_path / "train" / "train_human.json", rows)
    files.write_list(tmp_path / "train" / "train_augmented.json", [])
    code, output, _ = call("data", "convert", "chartqa", tmp_path, "--out", tmp_path / "chartqa.json")

    assert code == 0 and "chartqa.json: 1 records, 1 left out (no answer); their images: " in output


def test_datasets_are_listed_and_user_errors_reported(call):
    code, output, _ = call("data", "datasets")
    assert code == 0 and "vqav2: https://visualqa.org/download.html (CC BY 4.0" in output
    code, _, errors = call("data", "inspect", "nowhere.csv")
    assert code == 2 and errors.startswith(
        "monkeylib: there is no file nowhere.csv: name a mixture's YAML file, "
    )

    code, _, errors = call("data", "convert", "imagenet", ".", "--out", "x.json")
    assert code == 2 and errors.startswith("monkeylib: there is no public dataset called 'imagenet'")


def test_inspect_command_lists_the_characters_that_the_tokenizer_loses(call, tmp_path, image):
    records = [
        {
            "id": "1",
            "image": image.name,
            "conversations": [
                {"from": "human", "value": "<image>\nWhat does it say?"},
                {"from": "gpt", "value": "Größe"},
            ],
        }
    ]
    (tmp_path / "r.json").write_text(json.dumps(records), encoding="utf-8")
    (tmp_path / "r.yaml").write_text("sets:\n  - {name: r, format: llava, path: r.json}\n")

    code, output, _ = call("data", "inspect", tmp_path / "r.yaml", "--profile", "smoke")
    assert code == 0
    assert "r: the tokenizer has no token for 'ö' (1), 'ß' (1): 1 of 2 prompts and answers lose" in output


def write_messages(folder, image, name="m.jsonl"):
    """Write three records of messages that name an image."""
    rows = [
        {
            "id": "7",
            "messages": [
                {"role": "user", "content": "<image>What does it say?"},
                {"role": "assistant", "content": answer},
            ],
            "images": [image.name],
        }
        for answer in ("please", "stop", "five")
    ]
    files.write_lines(folder / name, rows)
    return folder / name


def test_inspect_command_says_what_a_file_is_and_shows_rows_as_the_model_reads_them(call, tmp_path, image):
    path = write_messages(tmp_path, image)
    code, output, _ = call("data", "inspect", path, "--profile", "smoke")
    assert code == 0
    assert "m: JSON, messages of OpenAI or TRL" in output
    assert "m: 2 records have the id of another one; all of them are read" in output

    for answer in ("please", "stop", "five"):
        row = f"    <{image.name}: 80 tokens> what does it say? answer: «{answer}<|endoftext|>»"
        assert row in output.splitlines()
    assert "records as the model reads them, their labels between « and »" in output


def test_inspect_command_reads_texts_alone_and_counts_what_a_format_leaves_out(call, tmp_path, image):
    rows = [
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
    ]
    files.write_lines(tmp_path / "t.jsonl", rows)
    code, output, _ = call("data", "inspect", tmp_path / "t.jsonl", "--profile", "smoke")
    assert code == 0 and " hi answer: «hello<|endoftext|>»" in output and "images:" not in output

    records = [
        {"schema_version": 2, "name": image.name, "detailed_caption": "a sign", "status": status}
        for status in ("ok", "failed")
    ]
    files.write_lines(tmp_path / "records.jsonl", records)
    code, output, _ = call("data", "inspect", tmp_path / "records.jsonl", "--profile", "smoke")
    assert code == 0 and "records: records of `monkeylib caption`" not in output
    assert "records: JSON, records of `monkeylib caption`" in output
    assert "records: 1 left out: 1 with the status failed" in output


def test_inspect_command_notes_images_without_a_place(call, tmp_path, image):
    files.write_list(tmp_path / "r.json", [files.talk("what?", "x", image=image.name)])
    code, output, _ = call("data", "inspect", tmp_path / "r.json", "--profile", "smoke")
    assert code == 0
    assert "r: of 1 records, no <image> says where its image belongs: it stands in front" in output


def test_convert_command_writes_any_format_and_counts_bad_records(call, tmp_path, image):
    path = write_messages(tmp_path, image)
    for ending in (".json", ".tar", ".parquet"):
        code, output, _ = call("data", "convert", path, "--out", tmp_path / f"new{ending}")
        assert code == 0 and f"new{ending}: 3 records" in output
        assert (
            call("data", "convert", tmp_path / f"new{ending}", "--out", tmp_path / f"b{ending}.jsonl")[0] == 0
        )

    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{", *lines[1:]]) + "\n")
    code, _, errors = call("data", "convert", path, "--out", tmp_path / "again.json")
    assert code == 2 and "m.jsonl, line 2: expected an object of JSON" in errors
    assert not (tmp_path / "again.json").exists()

    code, output, _ = call("data", "convert", path, "--out", tmp_path / "again.json", "--skip-bad")
    assert code == 0 and "again.json: 3 records, 1 bad ones left out" in output

    code, _, errors = call("data", "convert", path, "--out", path)
    assert code == 2 and "exists already" in errors


def test_sheet_and_out_begin_at_home(call, tmp_path, image, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_messages(tmp_path, image)
    sheet = ["--sheet", "~/sheet.png", "--images", "~"]
    assert call("data", "inspect", "~/m.jsonl", "--profile", "smoke", *sheet)[0] == 0
    assert (tmp_path / "sheet.png").is_file()
    assert call("data", "convert", "~/m.jsonl", "--out", "~/m.json")[0] == 0
    assert (tmp_path / "m.json").is_file()


def test_cache_that_cannot_be_written_costs_the_contact_sheet_alone(call, tmp_path, monkeypatch):
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path / "out"))
    (tmp_path / "out" / "data").mkdir(parents=True)
    (tmp_path / "out" / "data" / "cache").write_text("a file where the folder should be")
    (tmp_path / "a.png").write_bytes(files.png())
    (tmp_path / "rows.csv").write_text("image,question,answer\na.png,what?,x\n")

    code, output, errors = call("data", "inspect", tmp_path / "rows.csv", "--profile", "smoke")
    assert code == 0 and "rows: a table, questions and answers" in output
    assert "no contact sheet" in errors and "can't be written to" in errors
