"""Working folders of the pages' code blocks: the files that a reader has, under the names of the page.

Weights that nobody may ship are tiny and random here, in the layout of the true ones.
"""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoTokenizer, LlavaConfig

from monkeylib import profiles, resources
from monkeylib.captions.experts import EXPERTS, MATCHERS
from monkeylib.experiments import own_documents, parity
from tests.support import benchmark_files, raised_models, released_files, tiny_hf_models
from tests.support.caption_models import ChecksumMatcher, Colours
from tests.support.prediction_rows import prediction, write_predictions

LLAVA = "llava-hf/llava-1.5-7b-hf"
QUESTION = "What does the sign say?"


def lay_out(folder: Path) -> None:
    """Lay out what every page has: shipped models and samples, `shop` with questions, and `photos`."""
    (folder / "data").mkdir(parents=True)
    for name in ("models", "samples"):
        (folder / "data" / name).symlink_to(resources.REPOSITORY / "data" / name)

    for name in ("shop", "photos"):
        (folder / name).mkdir()
        for image in ("sign.png", "receipt.png", "form.png"):
            shutil.copy(resources.samples() / image, folder / name)
    header = "image,question,answer,shop\n"
    questions = "sign.png,what does the white sign say?,please,a\nreceipt.png,how much is the juice?,1.86,b\n"
    (folder / "shop" / "train.csv").write_text(header + questions)
    (folder / "shop" / "test.csv").write_text(f"{header}form.png,what is the name?,3,a\n")


def released_monkey(folder: Path) -> None:
    """Write a tiny Monkey in the released layout, and an image."""
    released_files.write(
        folder / "path/to/Monkey", released_files.golden_settings(), parity.released_weights()
    )
    shutil.copy(resources.samples() / "receipt.png", folder / "image.png")


def readme(folder: Path) -> None:
    """Write what the README names: own documents, a LLaVA, and a Monkey in the released layout."""
    own_documents.write_folder(profiles.load_profile("nano"), folder / "documents")
    raised_models.save_base(folder / LLAVA)
    released_monkey(folder)


def questions(folder: Path) -> None:
    """Write questions, a line each."""
    (folder / "questions.txt").write_text("what is the total?\nwhat is the title?\n")


def benchmarks(folder: Path) -> None:
    """Write small downloads of benchmarks, models, and predictions of two runs."""
    released_monkey(folder)
    downloads = folder / "path/to/downloads"
    for name in ("textvqa", "docvqa", "vqav2", "gqa"):
        benchmark_files.download(downloads, name)
    # The validation split is in a file of its own.
    (downloads / "docvqa/test_v1.0.json").rename(downloads / "docvqa/val_v1.0_withQT.json")
    tokenizer = AutoTokenizer.from_pretrained(resources.models() / "nano-base")
    tiny_hf_models.qwen2_vl(tokenizer, folder / "Qwen/Qwen2-VL-2B-Instruct")
    for name in ("one", "other"):
        run = folder / "data/runs/evaluate" / name
        run.mkdir(parents=True)
        write_predictions(run / "nano-fine.jsonl", [prediction(n, correct=n > 1) for n in range(4)])
    other_predictions(folder)


def other_predictions(folder: Path) -> None:
    """Write predictions as other tools do, and questions of one's own."""
    answers = benchmark_files.download(folder / "path/to/downloads", "textvqa")
    rows = [{"question_id": name, "answer": accepted[0]} for name, (_, _, accepted) in answers.items()]
    (folder / "predictions.json").write_text(json.dumps(rows))
    for name in ("a", "b"):
        row = {"question_id": 1, "prediction": name, "answers": ["a"]}
        (folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "mine.csv").write_text((folder / "shop/train.csv").read_text())
    for image in (folder / "shop").glob("*.png"):
        shutil.copy(image, folder)


def predictions_of_nano(folder: Path) -> None:
    """Write predictions at the place of notebook 05's run, a raised model, and another one."""
    (folder / "FOLDER").symlink_to(resources.models() / "nano-monkey")
    run = folder / "data/runs/nano/monkey/predictions"
    run.mkdir(parents=True)
    write_predictions(run / "nano-fine.jsonl", [prediction(n, correct=n > 1) for n in range(4)])
    raised_models.save_raised(folder / "raised", raised_models.save_base(folder / LLAVA))


def scripts(folder: Path) -> None:
    """Lay out the scripts of clusters."""
    (folder / "cluster").symlink_to(resources.REPOSITORY / "cluster")


def mixture(folder: Path) -> None:
    """Write a mixture of one's own."""
    (folder / "mixture.yaml").write_text(
        "sets:\n  - {name: shop, format: evaluation, path: shop/train.csv}\n"
    )


def llava(folder: Path) -> None:
    """Write a tiny LLaVA in a folder of the true one's name, records, questions and a benchmark."""
    raised_models.save_base(folder / LLAVA)
    (folder / "BASE").symlink_to(folder / LLAVA)

    Image.open(resources.samples() / "sign.png").convert("RGB").save(folder / "photo.jpg")
    (folder / "IMAGES").mkdir()
    shutil.copy(folder / "photo.jpg", folder / "IMAGES")

    turns = [("user", f"<image>\n{QUESTION}"), ("assistant", "fresh bread")]
    messages = [{"role": role, "content": content} for role, content in turns]
    (folder / "my-records.json").write_text(json.dumps([{"messages": messages, "images": ["photo.jpg"]}]))
    row = {"image": "photo.jpg", "question": QUESTION, "answer": "fresh bread"}
    (folder / "my-questions.json").write_text(json.dumps([row]))
    benchmark_files.download(folder / "DOWNLOADS", "textvqa")


def configuration(folder: Path) -> None:
    """Write the configuration of LLaVA-1.5, whose sizes are transformers' defaults."""
    LlavaConfig().save_pretrained(folder / LLAVA)


# Page -> what it has beside the files of every page.
FILES: dict[str, Callable[[Path], None]] = {
    "README.md": readme,
    "cluster/README.md": scripts,
    "docs/answers.md": questions,
    "docs/benchmarks.md": other_predictions,
    "docs/demo-and-server.md": predictions_of_nano,
    "docs/evaluation.md": benchmarks,
    "docs/own-data.md": mixture,
    "docs/raising.md": llava,
    "docs/raising-costs.md": configuration,
    "docs/weights.md": released_monkey,
}


def answer_as_a_vision_model(body: dict) -> dict[str, str] | str:
    """Return how a chat model describes an image, judges texts about it, or puts captions together."""
    content = body["messages"][0]["content"]
    prompt = content if isinstance(content, str) else content[0]["text"]
    if "yes or no" in prompt:
        numbers = re.findall(r"^(\d+)[.:]", prompt, re.MULTILINE)
        return {"content": "\n".join(f"{number}: yes" for number in numbers)}
    return "answer" if "Whole picture" in prompt else {"content": "A sign hangs above a receipt."}


class LightExpert(Colours):
    """A light expert under the name of another."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


def stand_in_for_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put light experts in the place of those whose weights have to be downloaded; pp-ocr's are installed."""
    for name, entry in EXPERTS.entries.items():
        if {"cpu", "paper"} & entry.sets.keys() and name != "pp-ocr":
            light = dataclasses.replace(entry, build=partial(LightExpert, name))
            monkeypatch.setitem(EXPERTS.entries, name, light)
    for name, entry in MATCHERS.entries.items():
        if "paper" in entry.sets:
            monkeypatch.setitem(MATCHERS.entries, name, dataclasses.replace(entry, build=ChecksumMatcher))
