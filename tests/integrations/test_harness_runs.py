"""Both harnesses, as installed, with nano-base on tasks of their own kinds: `make test-harness`.

Nothing is downloaded: the tasks are made of synthetic images and questions.
"""

import json
import os

import pandas
import pytest

from monkeylib import resources
from monkeylib.inference import load_model
from monkeylib.integrations import common
from tests.support.harness_runs import CHOICES, make_documents, needs, run, write_table, write_tasks

CHECKPOINT = resources.REPOSITORY / "data" / "models" / "nano-base"


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    return make_documents(tmp_path_factory.mktemp("documents"))


@pytest.fixture(scope="module")
def monkey():
    return load_model(CHECKPOINT, "cpu")


@pytest.fixture(scope="module")
def lmms_eval_scores(documents, tmp_path_factory):
    """Run lmms-eval on a task that generates and on one of multiple choice.

    Its third type, "loglikelihood", isn't run: version 0.7.3 can't score it, for any model.
    """
    folder = tmp_path_factory.mktemp("lmms_eval")
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))

    tasks = {
        "nano_generate": [
            "output_type: generate_until",
            "doc_to_target: answer",
            "generation_kwargs: {max_new_tokens: 8, temperature: 0, do_sample: false}",
            "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]",
        ],
        "nano_choice": [
            "output_type: multiple_choice",
            "doc_to_target: correct",
            "doc_to_choice: !function utils.choices",
            'target_delimiter: ""',
            "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]",
        ],
    }
    write_tasks(folder, data, tasks)

    run(
        [
            "lmms_eval", "--model", "monkeylib",
            "--model_args", f"pretrained={CHECKPOINT},prompt=vqa,device=cpu",
            "--tasks", ",".join(tasks), "--include_path", folder,
            "--batch_size", "auto", "--max_batch_size", "4", "--log_samples", "--output_path", folder / "out",
        ],
        folder,
    )  # fmt: skip
    results = json.loads(next((folder / "out").rglob("*results.json")).read_text())["results"]
    return {
        name: {key.split(",")[0]: value for key, value in of_task.items()}
        for name, of_task in results.items()
    }


@needs("lmms_eval")
def test_lmms_eval_generates_the_answers_of_the_model(lmms_eval_scores, documents, monkey):
    answers = [
        monkey.answer(document["image"], document["question"], max_new_tokens=8) for document in documents
    ]
    correct = [
        str(answer).lower() == doc["answer"].lower() for answer, doc in zip(answers, documents, strict=True)
    ]
    assert any(correct)
    assert lmms_eval_scores["nano_generate"]["exact_match"] == pytest.approx(sum(correct) / len(correct))


@needs("lmms_eval")
def test_lmms_eval_takes_the_most_likely_choice(lmms_eval_scores, documents, monkey):
    correct, inverted = [], []
    for document in documents:
        likelihoods = [
            common.compute_log_likelihood(monkey, document["question"], [document["image"]], "vqa", choice)[0]
            for choice in document["choices"]
        ]
        correct.append(likelihoods.index(max(likelihoods)) == document["correct"])
        inverted.append(likelihoods.index(min(likelihoods)) == document["correct"])

    # The task tells the two apart.
    assert sum(correct) > sum(inverted)
    assert lmms_eval_scores["nano_choice"]["acc"] == pytest.approx(sum(correct) / len(correct))


KIT_SCRIPT = """
import json, sys
from pathlib import Path
from monkeylib.integrations import vlmevalkit

checkpoint, folder, *names = sys.argv[1:]
vlmevalkit.register(checkpoint, name="nano")

from vlmeval.config import supported_VLM
from vlmeval.dataset import build_dataset
from vlmeval.inference import infer_data_job

model = supported_VLM["nano"](device="cpu")
for name in names:
    dataset = build_dataset(name)
    work = Path(folder) / name
    work.mkdir()

    # What the kit asks: its own prompts around the questions.
    messages = [dataset.build_prompt(dataset.data.iloc[row]) for row in range(len(dataset.data))]
    texts = ["".join(part["value"] for part in parts if part["type"] == "text") for parts in messages]
    (work / "texts.json").write_text(json.dumps(texts))

    infer_data_job(model, work_dir=str(work), model_name="nano", dataset=dataset, verbose=False)
"""


@needs("ms-vlmeval")
def test_vlmevalkit_answers_its_datasets_with_the_model(documents, monkey, tmp_path):
    tables = tmp_path / "kit"
    tables.mkdir()
    columns = ["index", "image_path", "question", "answer"]

    # The kit tells the type of a dataset of one's own by its columns and its name.
    letters = "ABCD"[:CHOICES]
    choices = [doc | {"cells": [letters[doc["correct"]], *doc["choices"]]} for doc in documents]
    write_table(tables / "NanoChoice.tsv", choices, [*columns, *letters])
    texts = [doc | {"cells": [doc["answer"]]} for doc in documents]
    write_table(tables / "NanoOpenEnded.tsv", texts, columns)

    (tmp_path / "answer.py").write_text(KIT_SCRIPT)
    names = ("NanoChoice", "NanoOpenEnded")
    search_path = f"{resources.REPOSITORY}{os.pathsep}{tmp_path}"
    run(["answer", CHECKPOINT, tmp_path, *names], tmp_path, PYTHONPATH=search_path, PRED_FORMAT="tsv")

    for name, prompt, max_new_tokens in ((names[0], "choice", 10), (names[1], "vqa", 512)):
        table = pandas.read_csv(tmp_path / name / f"nano_{name}.tsv", sep="\t", keep_default_na=False)
        requests = json.loads((tmp_path / name / "texts.json").read_text())
        expected = [
            str(monkey.answer(doc["image"], text, prompt, max_new_tokens=max_new_tokens))
            for doc, text in zip(documents, requests, strict=True)
        ]
        assert table.sort_values("index")["prediction"].astype(str).tolist() == expected
