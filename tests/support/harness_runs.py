"""Runs of lmms-eval and VLMEvalKit on questions about synthetic images: nothing is downloaded."""

import csv
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from monkeylib import resources
from monkeylib.evaluation import benchmarks

QUESTIONS = 8
CHOICES = 4

# What a task's own folder holds for lmms-eval: how documents become images, texts and choices.
TASK_FUNCTIONS = """
from PIL import Image

def images(doc):
    return [Image.open(doc["image"]).convert("RGB")]

def choices(doc):
    return doc["choices"]
"""


def needs(package: str) -> pytest.MarkDecorator:
    """Mark a test that is skipped where a harness isn't installed."""
    is_missing = not any(True for _ in metadata.distributions(name=package))
    return pytest.mark.skipif(is_missing, reason=f"{package} isn't installed: make test-harness")


def run(arguments: Iterable[object], folder: Path, **environment: str) -> str:
    """Run a module of this environment, offline, and return what it printed."""
    completed = subprocess.run(
        [sys.executable, "-m", "tests.support.torchvision_operators", *map(str, arguments)],
        cwd=resources.REPOSITORY,
        env=os.environ
        | {
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "HF_HOME": str(folder / "hf"),
            "LMUData": str(folder / "kit"),
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": str(resources.REPOSITORY),
        }
        | environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert completed.returncode == 0, completed.stdout[-3000:] + completed.stderr[-6000:]
    return completed.stdout + completed.stderr


def make_documents(folder: Path) -> list[dict[str, Any]]:
    """Return questions of nano-general with an image file, their answer, and choices that hold it."""
    examples = benchmarks.get("nano-general").load(40)
    answers = sorted({example.answers[0] for example in examples})

    documents = []
    for number, example in enumerate(examples[:QUESTIONS]):
        path = folder / f"{number}.png"
        example.image.save(path)

        answer = example.answers[0]
        others = [text for text in answers if text != answer]
        choices = [others[(3 * number + place) % len(others)] for place in range(CHOICES - 1)]
        choices.insert(number % CHOICES, answer)
        documents.append(
            {
                "image": str(path),
                "question": example.question,
                "answer": answer,
                "choices": choices,
                "correct": choices.index(answer),
            }
        )

    return documents


def write_tasks(folder: Path, data: Path, tasks: Mapping[str, Sequence[str]]) -> None:
    """Write tasks of lmms-eval about documents, for `--include_path`.

    Args:
        folder: of the tasks.
        data: a JSON file with a document in each line.
        tasks: the lines of each task's settings beside those that all have.
    """
    (folder / "utils.py").write_text(TASK_FUNCTIONS)
    common_lines = [
        "dataset_path: json",
        f"dataset_kwargs: {{data_files: {{test: {data}}}}}",
        "test_split: test",
        "doc_to_visual: !function utils.images",
        "doc_to_text: question",
    ]
    for name, lines in tasks.items():
        (folder / f"{name}.yaml").write_text("\n".join([f"task: {name}", *common_lines, *lines]) + "\n")


def write_table(path: Path, documents: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write a dataset of one's own for VLMEvalKit; `cells` of a document stand behind its question."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(columns)
        for number, document in enumerate(documents):
            writer.writerow([number, document["image"], document["question"], *document["cells"]])
