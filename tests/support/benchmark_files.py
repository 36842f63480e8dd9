"""The paper's 18 benchmarks in the layouts of their official downloads, made up small, for tests.

`DOWNLOADS` maps a benchmark to `(files, images, questions)`: what the files hold, which images lie beside
them, and their questions, as `{id: (image, question, answers)}`, answers as the reader gives them.
"""

import json

from PIL import Image

from tests.support import image_files, record_files


def _people(*answers):
    return [
        {"answer": answer, "answer_confidence": "yes", "answer_id": n} for n, answer in enumerate(answers, 1)
    ]


def _lone(question, answer, image, id):
    return {id: (image, question, (answer,))}


def _coco(prefix):
    rows = [
        {"question_id": 5, "image_id": 9, "question": "What colour is the bus?"},
        {"question_id": 6, "image_id": 9, "question": "How many wheels?"},
        {"question_id": 7, "image_id": 12, "question": "Is it raining?"},
    ]
    answers_by_id = {5: ["red"] * 7 + ["dark red"] * 3, 6: ["4"] * 6 + ["four"] * 4, 7: ["no"] * 10}
    annotations = [
        {"question_id": row["question_id"], "image_id": row["image_id"], "answer_type": "other"}
        | {
            "answers": _people(*answers_by_id[row["question_id"]]),
            "multiple_choice_answer": answers_by_id[row["question_id"]][0],
        }
        for row in rows
    ]
    names = {9: "val2014/COCO_val2014_000000000009.jpg", 12: "val2014/COCO_val2014_000000000012.jpg"}
    return (
        {
            f"{prefix}OpenEnded_mscoco_val2014_questions.json": {"questions": rows},
            f"{prefix}mscoco_val2014_annotations.json": {"annotations": annotations},
        },
        set(names.values()),
        {
            str(row["question_id"]): (
                names[row["image_id"]],
                row["question"],
                tuple(answers_by_id[row["question_id"]]),
            )
            for row in rows
        },
    )


def _due(annotations, template):
    rows = [
        {"name": f"{name}.pdf", "language": "en", "split": "test", "annotations": listed}
        for name, listed in annotations.items()
    ]
    questions = {}
    for name, listed in annotations.items():
        for number, annotation in enumerate(listed):
            values = tuple(value["value"] for value in annotation["values"] if "value" in value)
            if values:
                question = template.format(key=annotation["key"].replace("__", " ").replace("_", " "))
                questions[f"{name}-{number}"] = (f"pdf/{name}.pdf#1", question, values)

    return {"test/document.jsonl": rows}, {f"pdf/{name}.pdf" for name in annotations}, questions


def _mme():
    tasks = [
        "existence",
        "count",
        "position",
        "color",
        "posters",
        "celebrity",
        "scene",
        "landmark",
        "artwork",
    ]
    tasks += ["OCR", "commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"]
    files, images, questions = {}, set(), {}
    for task in tasks:
        has_subfolders = task in ("posters", "celebrity", "scene", "landmark", "artwork")
        texts, images_folder = ("questions_answers_YN/", "images/") if has_subfolders else ("", "")
        for name in ("0001", "0002"):
            pair = [f"Is there a {task} {name}? Please answer yes or no.", f"Is there no {task}? yes or no."]
            text = f"{pair[0]}\tYes\n{pair[1]}\tNo\n\n"
            files[f"{task}/{texts}{name}.txt"] = text
            image = f"{task}/{images_folder}{name}.{'png' if name == '0002' else 'jpg'}"
            images.add(image)
            for number, answer in enumerate(("Yes", "No")):
                questions[f"{task}/{name}/{number}"] = (image, pair[number], (answer,))

    return files, images, questions


def _ai2d_file(name, **questions):
    rows = {
        question.replace("_", " ") + "?": {
            "abcLabel": letters,
            "answerTexts": list(texts),
            "correctAnswer": right,
            "questionId": f"{name}-{question}",
        }
        for question, (letters, texts, right) in questions.items()
    }
    return {"imageName": name, "questions": rows}


def _docvqa(file, field, written_folder, folder):
    """DocVQA or InfographicVQA, whose records name images in one folder and whose images lie in another."""
    rows = [
        {"questionId": 1, field: "x_1.png", "question": "What is the date?", "answers": ["1/8/93", "1.8.93"]},
        {"questionId": 2, field: "x_2.png", "question": "Who wrote it?", "answers": ["J. Doe"]},
    ]
    images = {row["questionId"]: f"{folder}/{row[field]}" for row in rows}
    questions = {
        str(row["questionId"]): (images[row["questionId"]], row["question"], tuple(row["answers"]))
        for row in rows
    }
    for row in rows:
        row[field] = written_folder + row[field]
    return {file: {"dataset_name": "x", "data": rows}}, set(images.values()), questions


_CAPTIONS = {
    "7": ("a dog runs over the sand", "a brown dog on a beach"),
    "8": ("two men repair a red bicycle", "men work on a bike"),
    "9": ("a cat sleeps on the sofa", "a grey cat lies on a couch"),
}
_DEEPFORM = {
    "form": [
        {"key": "gross_amount", "values": [{"value": "4500.00", "value_variants": ["4500.00", "$4,500.00"]}]},
        {"key": "advertiser", "values": [{"value": "Smith for Senate"}]},
        {"key": "flights", "values": [{"children": [{"key": "from", "values": [{"value": "1"}]}]}]},
    ],
    "other": [{"key": "flight_from", "values": [{"value": "09/20/20", "value_variants": ["9/20/20"]}]}],
}
_KLC = {
    "report": [
        {"key": "charity_name", "values": [{"value": "Aid For All"}]},
        {"key": "address__post_town", "values": [{"value": "LEEDS"}]},
    ],
    "letter": [{"key": "report_date", "values": [{"value": "2015-03-31"}]}],
}
_WTQ = {
    "t-1": [
        {"key": "who came first?", "values": [{"value": "Ana María"}]},
        {"key": "which two cities won?", "values": [{"value": "Oslo"}, {"value": "Bergen"}]},
    ],
    "t-2": [{"key": "how many races were there?", "values": [{"value": "3.0"}]}],
}

DOWNLOADS = {
    "flickr30k": (
        {
            "dataset_flickr30k.json": {
                "images": [
                    {"filename": f"{id}.jpg", "imgid": int(id), "split": split}
                    | {"sentences": [{"raw": caption, "tokens": caption.split()} for caption in captions]}
                    for id, captions in [*_CAPTIONS.items(), ("3", ("not of this split",))]
                    for split in [("train" if id == "3" else "test")]
                ]
            }
        },
        {f"flickr30k-images/{id}.jpg" for id in _CAPTIONS},
        {id: (f"flickr30k-images/{id}.jpg", "", captions) for id, captions in _CAPTIONS.items()},
    ),
    "textcaps": (
        {
            "TextCaps_0.1_val.json": {
                "data": [
                    {
                        "image_id": id,
                        "caption_id": n,
                        "caption_str": caption,
                        "reference_strs": list(captions),
                    }
                    for id, captions in _CAPTIONS.items()
                    for n, caption in enumerate(captions)
                ]
            }
        },
        {f"train_images/{id}.jpg" for id in _CAPTIONS},
        {id: (f"train_images/{id}.jpg", "", captions) for id, captions in _CAPTIONS.items()},
    ),
    "vqav2": _coco("v2_"),
    "okvqa": _coco(""),
    "gqa": (
        {
            "testdev_balanced_questions.json": {
                "07": {
                    "imageId": "n23",
                    "question": "Is it red?",
                    "answer": "yes",
                    "fullAnswer": "Yes, it is.",
                },
                "08": {"imageId": "n23", "question": "What is it?", "answer": "pizza box"},
                "09": {"imageId": "n24", "question": "Who is that?", "answer": "man"},
            }
        },
        {"images/n23.jpg", "images/n24.jpg"},
        _lone("Is it red?", "yes", "images/n23.jpg", "07")
        | _lone("What is it?", "pizza box", "images/n23.jpg", "08")
        | _lone("Who is that?", "man", "images/n24.jpg", "09"),
    ),
    "scienceqa": (
        {
            "problems.json": {
                "1": {
                    "question": "Which is a metal?",
                    "choices": ["salt", "gold"],
                    "answer": 1,
                    "image": "image.png",
                },
                "2": {"question": "Why?", "choices": ["a", "b"], "answer": 0, "image": None},
                "3": {
                    "question": "Which pulls?",
                    "choices": ["push", "magnet"],
                    "answer": 1,
                    "image": "image.png",
                },
                "4": {"question": "Of training", "choices": ["a", "b"], "answer": 1, "image": "image.png"},
            },
            "pid_splits.json": {"train": ["4"], "test": ["1", "2", "3"]},
        },
        {"images/test/1/image.png", "images/test/3/image.png"},
        _lone("Which is a metal? A. salt B. gold", "gold", "images/test/1/image.png", "1")
        | _lone("Which pulls? A. push B. magnet", "magnet", "images/test/3/image.png", "3"),
    ),
    "vizwiz": (
        {
            "Annotations/val.json": [
                {
                    "image": "V_0.jpg",
                    "question": "What is this?",
                    "answers": _people(*["can"] * 6, *["tin"] * 4),
                },
                {"image": "V_1.jpg", "question": "Which?", "answers": _people(*["unanswerable"] * 10)},
            ]
        },
        {"val/V_0.jpg", "val/V_1.jpg"},
        {
            "0": ("val/V_0.jpg", "What is this?", ("can",) * 6 + ("tin",) * 4),
            "1": ("val/V_1.jpg", "Which?", ("unanswerable",) * 10),
        },
    ),
    "mme": _mme(),
    "textvqa": (
        {
            "TextVQA_0.5.1_val.json": {
                "data": [
                    {"question_id": 1, "image_id": "f0", "question": "Brand?", "answers": ["nokia"] * 10},
                    {"question_id": 2, "image_id": "f1", "question": "Time?", "answers": ["10:10"] * 10},
                ]
            }
        },
        {"train_images/f0.jpg", "train_images/f1.jpg"},
        {
            "1": ("train_images/f0.jpg", "Brand?", ("nokia",) * 10),
            "2": ("train_images/f1.jpg", "Time?", ("10:10",) * 10),
        },
    ),
    "ai2d": (
        {
            "questions/0.png.json": _ai2d_file(
                "0.png",
                Which_is_the_ear=(True, ("C", "A"), 1),
                What_eats_grass=(False, ("the fox", "the hare", "the owl"), 1),
            ),
            "questions/1.png.json": _ai2d_file("1.png", Of_training=(False, ("x", "y"), 0)),
            "ai2d_test_ids.csv": "0\n77\n",
        },
        {"abc_images/0.png", "images/0.png", "images/1.png"},
        _lone("Which is the ear? A. C B. A", "A", "abc_images/0.png", "0.png-Which_is_the_ear")
        | _lone(
            "What eats grass? A. the fox B. the hare C. the owl",
            "the hare",
            "images/0.png",
            "0.png-What_eats_grass",
        ),
    ),
    "stvqa": (
        {
            "train_task_3.json": {
                "data": [
                    {
                        "question_id": 11,
                        "file_path": "coco-text/a.jpg",
                        "file_name": "a.jpg",
                        "dataset": "coco-text",
                    }
                    | {"question": "What is the street?", "answers": ["main st", "main street"]},
                    {"question_id": 12, "file_path": "icdar/b.png", "file_name": "b.png", "dataset": "icdar"}
                    | {"question": "What is sold?", "answers": ["coffee"]},
                ]
            }
        },
        {"train/coco-text/a.jpg", "train/icdar/b.png"},
        {
            "11": ("train/coco-text/a.jpg", "What is the street?", ("main st", "main street")),
            "12": ("train/icdar/b.png", "What is sold?", ("coffee",)),
        },
    ),
    "estvqa": (
        {
            "annotations/test.json": [
                {
                    "id": 0,
                    "image": "011364.jpg",
                    "annotation": [
                        {"question": "What is this store?", "answer": "pizzeria", "evidence": [[0, 0, 9, 9]]},
                        {"question": "What number?", "answer": "14"},
                    ],
                },
                {"id": 1, "image": "2.jpg", "annotation": [{"question": "这是什么店?", "answer": "药店"}]},
            ]
        },
        {"images/test/011364.jpg", "images/test/2.jpg"},
        _lone("What is this store?", "pizzeria", "images/test/011364.jpg", "0-0")
        | _lone("What number?", "14", "images/test/011364.jpg", "0-1")
        | _lone("这是什么店?", "药店", "images/test/2.jpg", "1-0"),
    ),
    "docvqa": _docvqa("test_v1.0.json", "image", "documents/", "spdocvqa_images"),
    "chartqa": (
        {
            "test/test_human.json": [{"imgname": "1.png", "query": "How many?", "label": "14"}],
            "test/test_augmented.json": [
                {"imgname": "2.png", "query": "Which year?", "label": "2015"},
                {"imgname": "2.png", "query": "Who leads?", "label": "Norway"},
            ],
        },
        {"test/png/1.png", "test/png/2.png"},
        _lone("How many?", "14", "test/png/1.png", "test_human-0")
        | _lone("Which year?", "2015", "test/png/2.png", "test_augmented-0")
        | _lone("Who leads?", "Norway", "test/png/2.png", "test_augmented-1"),
    ),
    "infovqa": _docvqa("infographicsVQA_test_v1.0.json", "image_local_name", "", "infographicsvqa_images"),
    "deepform": _due(_DEEPFORM, "What is the value for the {key}?"),
    "klc": _due(_KLC, "What is the value for the {key}?"),
    "wtq": _due(_WTQ, "{key}"),
}


def lay_out(folder, contents, images):
    """Write the files of a download, and the images, all different."""
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".jsonl"):
            record_files.write_lines(path, content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")

    for number, name in enumerate(sorted(images)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".pdf"):
            page = Image.new("RGB", (60 + number, 40), "white")
            (folder / name).write_bytes(image_files.pdf([page]))
        else:
            (folder / name).write_bytes(record_files.png(6 + number, 4))


def download(root, name):
    """The official download of a benchmark in its folder; returns its questions."""
    contents, images, questions = DOWNLOADS[name]
    lay_out(root / name, contents, images)
    return questions


RELEASED_ROWS = [
    {"image": "data/x/0.jpg", "question": "What is this store?", "answer": "pizzeria", "question_id": 0},
    {"image": "data/x/0.jpg", "question": "How many?", "answer": ["14", "fourteen"], "question_id": 1},
    {"image": "data/x/1.jpg", "question": "Who?", "answer": "J. Doe", "question_id": 2},
]


def released_download(root, source):
    """The release's files of a set: rows, images, and annotations if it has a file of them."""
    contents = {source.file: RELEASED_ROWS}
    if source.annotations:
        people = {0: ["pizzeria"] * 10, 1: ["14"] * 9 + ["12"], 2: ["j doe"] * 3 + ["J. Doe"] * 7}
        rows = [{"question_id": id, "answers": _people(*answers)} for id, answers in people.items()]
        contents[source.annotations] = {"annotations": rows}

    lay_out(root, contents, {"data/x/0.jpg", "data/x/1.jpg"})
