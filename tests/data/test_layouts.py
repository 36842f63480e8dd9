"""A small copy of each official layout becomes readable records."""

import json

import numpy as np
import pytest
from PIL import Image

from monkeylib.data import layouts
from monkeylib.data.convert import convert_dataset
from monkeylib.data.dataset_cards import training_cards
from tests.support import record_files as files


def ten(*answers):
    """Answers as VQAv2, OKVQA and VizWiz list those of ten people."""
    return [{"answer": answer, "answer_confidence": "yes"} for answer in answers]


def due(*annotations):
    """Files and images of a dataset in the layout of DUE, with one document."""
    rows = [{"name": "doc.pdf", "language": "en", "annotations": list(annotations), "split": "train"}]
    return {"train/document.jsonl": rows}, {"png/doc/0.png"}


def coco_questions(prefix):
    """Files and images of VQAv2 (prefix "v2_") or OKVQA."""
    question = {"question_id": 5, "image_id": 9, "question": "What colour?"}
    annotation = {"question_id": 5, "image_id": 9, "answers": ten("red", "blue", "red")}
    if prefix:
        annotation["multiple_choice_answer"] = "red"  # only in VQAv2
    return (
        {
            f"{prefix}OpenEnded_mscoco_train2014_questions.json": {"questions": [question]},
            f"{prefix}mscoco_train2014_annotations.json": {"annotations": [annotation]},
        },
        {"train2014/COCO_train2014_000000000009.jpg"},
    )


def ai2d(letters):
    """The questions of one diagram of AI2D, about letters or about its texts."""
    choices = {
        "abcLabel": letters,
        "answerTexts": ["ear", "eye"],
        "correctAnswer": 1,
        "questionId": "0.png-0",
    }
    return {"imageName": "0.png", "questions": {"What is A?": choices}}


CARDS = training_cards()

# ((files of a download, its images), (image, prompt, answer) of the only record)
LAYOUTS = {
    "detailed-caption": (
        (
            {"detailed_caption.json": [{"img_id": "12", "detailed_caption": "A cat. It sits."}]},
            {"images/12.jpg"},
        ),
        ("12.jpg", "Generate the detailed caption in English:", "A cat. It sits."),
    ),
    "coco-caption": (
        (
            {
                "annotations/captions_train2014.json": {
                    "images": [{"id": 9, "file_name": "COCO_9.jpg"}],
                    "annotations": [{"image_id": 9, "id": 1, "caption": "A cat.\n"}],
                }
            },
            {"train2014/COCO_9.jpg"},
        ),
        ("COCO_9.jpg", "Generate the caption in English:", "A cat."),
    ),
    "textcaps": (
        (
            {"TextCaps_0.1_train.json": {"data": [{"image_id": "f0", "caption_str": "A sign."}]}},
            {"train_images/f0.jpg"},
        ),
        ("f0.jpg", "Generate the caption in English:", "A sign."),
    ),
    "vqav2": (coco_questions("v2_"), ("COCO_train2014_000000000009.jpg", "What colour? Answer: ", "red")),
    "okvqa": (coco_questions(""), ("COCO_train2014_000000000009.jpg", "What colour? Answer: ", "red")),
    "gqa": (
        (
            {
                "train_balanced_questions.json": {
                    "07": {"imageId": "23", "question": "Is it?", "answer": "yes"}
                }
            },
            {"images/23.jpg"},
        ),
        ("23.jpg", "Is it? Answer: ", "yes"),
    ),
    "scienceqa": (
        (
            {
                "problems.json": {
                    "1": {
                        "question": "Which?",
                        "choices": ["salt", "gold"],
                        "answer": 1,
                        "image": "image.png",
                    },
                    "2": {"question": "Why?", "choices": ["a", "b"], "answer": 0, "image": None},
                },
                "pid_splits.json": {"train": ["1", "2"], "test": []},
            },
            {"images/train/1/image.png"},
        ),
        ("1/image.png", "Which? A. salt B. gold Answer: ", "gold"),
    ),
    "vizwiz": (
        (
            {
                "Annotations/train.json": [
                    {"image": "V_0.jpg", "question": "What?", "answers": ten("can", "can", "tin")}
                ]
            },
            {"train/V_0.jpg"},
        ),
        ("V_0.jpg", "What? Answer: ", "can"),
    ),
    "textvqa": (
        (
            {
                "TextVQA_0.5.1_train.json": {
                    "data": [
                        {"question_id": 1, "image_id": "f0", "question": "Brand?", "answers": ["a", "b", "b"]}
                    ]
                }
            },
            {"train_images/f0.jpg"},
        ),
        ("f0.jpg", "Brand? Answer: ", "b"),
    ),
    "ocrvqa": (
        (
            {
                "dataset.json": {
                    "0001": {
                        "imageURL": "http://books.example/I/51.gif?x=1",
                        "questions": ["Who wrote it?"],
                        "answers": ["Jane"],
                        "split": 1,
                    },
                    "0002": {"imageURL": "x.jpg", "questions": ["Who?"], "answers": ["No one"], "split": 3},
                }
            },
            {"images/0001.gif", "images/0002.jpg"},
        ),
        ("0001.gif", "Who wrote it? Answer: ", "Jane"),
    ),
    "ai2d": (
        ({"questions/0.png.json": ai2d(True)}, {"abc_images/0.png", "images/0.png"}),
        ("abc_images/0.png", "What is A? A. ear B. eye Answer: ", "eye"),
    ),
    "docvqa": (
        (
            {
                "train_v1.0_withQT.json": {
                    "data": [
                        {
                            "questionId": 1,
                            "image": "documents/x_1.png",
                            "question": "Date?",
                            "answers": ["1/8", "1.8"],
                        }
                    ]
                }
            },
            {"spdocvqa_images/x_1.png"},
        ),
        ("spdocvqa_images/x_1.png", "Date? Answer: ", "1/8"),
    ),
    "chartqa": (
        (
            {
                "train/train_human.json": [{"imgname": "1.png", "query": "How many?", "label": "14"}],
                "train/train_augmented.json": [],
            },
            {"train/png/1.png"},
        ),
        ("1.png", "How many? Answer: ", "14"),
    ),
    "infovqa": (
        (
            {
                "infographicsVQA_train_v1.0.json": {
                    "data": [
                        {
                            "questionId": 1,
                            "image_local_name": "2.jpeg",
                            "question": "Who?",
                            "answers": ["they"],
                        }
                    ]
                }
            },
            {"infographicsvqa_images/2.jpeg"},
        ),
        ("infographicsvqa_images/2.jpeg", "Who? Answer: ", "they"),
    ),
    "deepform": (
        due({"key": "gross_amount", "values": [{"value": "$2", "value_variants": ["$2"]}]}),
        ("png/doc/0.png", "What is the value for the gross amount? Answer: ", "$2"),
    ),
    "klc": (
        due({"key": "charity_name", "values": [{"value": "Aid"}]}),
        ("png/doc/0.png", "What is the value for the charity name? Answer: ", "Aid"),
    ),
    "wtq": (
        due({"key": "who {won}?", "values": [{"value": "she"}]}),
        ("png/doc/0.png", "who {won}? Answer: ", "she"),
    ),
    "tablefact": (
        due({"key": "it rained", "values": [{"value": "1"}]}),
        ("png/doc/0.png", "it rained Answer: ", "1"),
    ),
    "visualmrc": (
        (
            {
                "data/train.jsonl": [
                    {
                        "id": 3,
                        "image_filename": "images/3.png",
                        "qa_data": [{"question": {"text": "Why?"}, "answer": {"text": "Because."}}],
                    }
                ]
            },
            {"images/3.png"},
        ),
        ("images/3.png", "Why? Answer: ", "Because."),
    ),
}


def test_every_training_dataset_has_a_layout_here():
    assert LAYOUTS.keys() == CARDS.keys()


@pytest.mark.parametrize("name", CARDS)
def test_official_download_becomes_records(name, tmp_path):
    (contents, images), (image, prompt, answer) = LAYOUTS[name]
    files.lay_out(tmp_path, contents, images)
    conversion = convert_dataset(CARDS[name], tmp_path, tmp_path / "out.json")

    assert (conversion.num_records, dict(conversion.left_out)) == (1, {})

    record = files.read_dataset(
        files.entry("conversations", "out.json", images=CARDS[name].train.images), tmp_path
    )[0]

    assert record.turns == ((f" {prompt}", answer),)
    assert record.images == (tmp_path / CARDS[name].train.images / image,)
    assert record.open_images()


@pytest.mark.parametrize(
    "content, sentence",
    [
        (
            {"data": [{"question_id": 1}]},
            "not laid out as the official download after 0 rows .no field 'image_id'",
        ),
        ({"rows": []}, "has no field 'data': expected the official layout"),
        (
            {"data": [{"question_id": 1, "image_id": "f0", "question": 5, "answers": ["x"]}]},
            "question is 5, not a text",
        ),
        (
            {"data": [{"question_id": 1, "image_id": "f0", "question": "?", "answers": ["x", None]}]},
            "answers is None, not a text",
        ),
    ],
)
def test_other_layout_raises(content, sentence, tmp_path):
    files.lay_out(tmp_path, {"TextVQA_0.5.1_train.json": content}, {"train_images/f0.jpg"})
    with pytest.raises(ValueError, match=sentence):
        convert_dataset(CARDS["textvqa"], tmp_path, tmp_path / "out.json")


def test_questions_about_test_diagrams_are_skipped(tmp_path):
    files.lay_out(tmp_path, {"questions/0.png.json": ai2d(False)}, {"images/0.png"})
    assert convert_dataset(CARDS["ai2d"], tmp_path, tmp_path / "out.json").num_records == 1

    # Listed as a test diagram, it has no training questions.
    (tmp_path / "ai2d_test_ids.csv").write_text("7\n0\n")
    with pytest.raises(ValueError, match="no row of ai2d can be used .it holds none."):
        convert_dataset(CARDS["ai2d"], tmp_path, tmp_path / "without.json")


def test_letters_are_drawn_into_diagrams_that_need_them(tmp_path):
    files.lay_out(tmp_path, {"questions/0.png.json": ai2d(True)}, set())
    (tmp_path / "images").mkdir()
    Image.new("RGB", (80, 60), "red").save(tmp_path / "images" / "0.png")
    text = {"rectangle": [[10, 20], [40, 50]], "replacementText": "A", "value": "ear"}
    files.write_list(tmp_path / "annotations.json", {"text": {"T0": text}})

    # Without its annotation, there is nothing to draw the letters from.
    with pytest.raises(ValueError, match="no row of ai2d can be used .1 with no image."):
        convert_dataset(CARDS["ai2d"], tmp_path, tmp_path / "out.json")

    # With the annotation, the image is drawn and the record written.
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations.json").rename(tmp_path / "annotations" / "0.png.json")
    assert convert_dataset(CARDS["ai2d"], tmp_path, tmp_path / "out.json").num_records == 1

    drawn = np.array(Image.open(tmp_path / "abc_images" / "0.png"))
    changed = (drawn != np.array([255, 0, 0])).any(-1)
    assert changed[20:51, 10:41].all() and changed.sum() == 31 * 31, "nothing but the text is covered"

    inside = drawn[20:51, 10:41].mean(-1)
    assert (inside > 250).mean() > 0.5 and 0.05 < (inside < 50).mean() < 0.5, "a letter on white"

    dark = np.argwhere(inside < 50)
    assert np.abs(dark.mean(0) - 15).max() < 5, "in the middle"


def test_tagged_files_of_wikitablequestions_add_canonical_forms(tmp_path):
    values = [
        {"key": "how long?", "values": [{"value": "17 years"}]},
        {"key": "which?", "values": [{"value": "a|b"}, {"value": "1,000"}]},
        {"key": "who?", "values": [{"value": "she"}]},
    ]
    (tmp_path / "document.jsonl").write_text(json.dumps({"name": "t", "annotations": values}) + "\n")

    records = list(layouts.due(tmp_path, "document.jsonl", "{key}", "tagged/data"))
    assert all("canonical" not in record.meta for record in records)

    (tmp_path / "tagged" / "data").mkdir(parents=True)
    tagged = tmp_path / "tagged" / "data" / "pristine-unseen-tables.tagged"
    tagged.write_text(
        "id\tutterance\tcontext\ttargetValue\ttargetCanon\ttargetCanonType\n"
        "nu-0\thow long?\tcsv/1.csv\t17 years\t17.0\tnumber\n"
        "nu-1\twhich?\tcsv/1.csv\ta\\pb|1,000\ta\\pb|1000.0\tnumber\n"
        "nu-2\twho?\tcsv/1.csv\the\the\tstring\n"
    )
    records = list(layouts.due(tmp_path, "document.jsonl", "{key}", "tagged/data"))
    assert [record.meta.get("canonical") for record in records] == [["17.0"], ["a|b", "1000.0"], None]

    tagged.write_text("id\tutterance\n")
    with pytest.raises(ValueError, match="tagged lacks the column targetValue: expected a tagged file"):
        list(layouts.due(tmp_path, "document.jsonl", "{key}", "tagged/data"))
