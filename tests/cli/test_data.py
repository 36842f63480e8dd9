"""`monkeylib data`."""

import json

from monkeylib import resources
from tests.support import record_files as files


def test_inspect_command_prints_a_table_and_draws_the_sheet(call, tmp_path):
    code, output, _ = call("data", "inspect", "samples", "--profile", "smoke")
    assert code == 0 and "samples: 27 records per epoch" in output
    assert "reading" in output and "validation" in output
    assert output.splitlines()[-1] == f"images: {resources.cache() / 'sheets' / 'samples.png'}"
    assert (tmp_path / "out" / "data" / "cache" / "sheets" / "samples.png").is_file()


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
    assert call("data", "inspect", "nowhere")[0] == 2

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
