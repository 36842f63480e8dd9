"""Both harnesses, as installed, put questions to a server of the chat API: `make test-harness`.

They do so by the commands of the server's guide, with tasks of synthetic images in place of public ones.
"""

import io
import json

import pandas
import pytest
from PIL import Image

from monkeylib import load_model, resources
from monkeylib.images import open_image
from tests.support import pages
from tests.support.harness_runs import CHOICES, make_documents, needs, run, write_table, write_tasks
from tests.support.serving import serving

GUIDE = "docs/demo-and-server.md"
GUIDE_ADDRESS = "http://127.0.0.1:8000"
MODEL = "nano-monkey"


@pytest.fixture(scope="module")
def monkey():
    return load_model(resources.models() / MODEL)


@pytest.fixture()
def server(monkey):
    """Serve the model; return the address, and a list that the requests come into."""
    requests = []
    with serving(monkey) as (address, engine):
        stream = engine.stream
        engine.name = MODEL
        engine.stream = lambda request: requests.append(request) or stream(request)
        yield address, requests


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    return make_documents(tmp_path_factory.mktemp("documents"))


def command_of_guide(program, address, option, *values):
    """Return the arguments of a program in the guide, but for the address and the values of an option."""
    (words,) = [
        words
        for block in pages.blocks(GUIDE)
        if block.language == "bash"
        for words in block.commands
        if program in words
    ]
    words = [word.replace(GUIDE_ADDRESS, address) for word in words[words.index(program) + 1 :]]
    place = words.index(option) + 1
    return [*words[:place], *values, *words[place + 1 :]]


@needs("lmms_eval")
def test_lmms_eval_gets_the_answers_of_the_model(server, documents, monkey, tmp_path):
    address, requests = server
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    settings = [
        "output_type: generate_until",
        "doc_to_target: answer",
        # Of its own, a task may request more than the server gives.
        "generation_kwargs: {max_new_tokens: 4096, temperature: 0}",
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]",
    ]
    write_tasks(tmp_path, data, {"nano_served": settings})

    command = command_of_guide("lmms-eval", address, "--tasks", "nano_served")
    out = tmp_path / "out"
    run(["lmms_eval", *command, "--include_path", tmp_path, "--log_samples", "--output_path", out], tmp_path)

    (samples,) = out.rglob("*samples_nano_served.jsonl")
    rows = sorted((json.loads(line) for line in samples.open()), key=lambda row: row["doc_id"])
    (length,) = {request.max_new_tokens for request in requests}
    expected = [
        monkey.answer(document["image"], document["question"], max_new_tokens=length).text
        for document in documents
    ]
    assert len(requests) == len(documents) and len(set(expected)) > 3
    assert [row["filtered_resps"] for row in rows] == expected


@needs("ms-vlmeval")
def test_vlmevalkit_gets_the_answers_of_the_model(server, documents, monkey, tmp_path):
    address, requests = server
    tables = tmp_path / "kit"
    tables.mkdir()
    columns, letters = ["index", "image_path", "question", "answer"], "ABCD"[:CHOICES]
    choices = [doc | {"cells": [letters[doc["correct"]], *doc["choices"]]} for doc in documents]
    write_table(tables / "NanoChoice.tsv", choices, [*columns, *letters])
    texts = [doc | {"cells": [doc["answer"]]} for doc in documents]
    write_table(tables / "NanoOpenEnded.tsv", texts, columns)

    names = ("NanoChoice", "NanoOpenEnded")
    command = command_of_guide("vlmeval.run", address, "--data", *names)
    out = tmp_path / "out"
    run(["vlmeval.run", *command, "--mode", "infer", "--work-dir", out], tmp_path, PRED_FORMAT="tsv")

    assert len(requests) == len(names) * len(documents)
    answered = {(pixels(request.images[0]), request.messages[-1].text): request for request in requests}
    for name in names:
        (table,) = out.rglob(f"{MODEL}_{name}.tsv")
        predictions = pandas.read_csv(table, sep="\t", keep_default_na=False).sort_values("index")[
            "prediction"
        ]
        for document, prediction in zip(documents, predictions.astype(str), strict=True):
            image = as_jpeg(document["image"])
            has_choices = name == "NanoChoice"
            (text,) = [
                text
                for sent, text in answered
                if sent == pixels(image)
                and document["question"] in text
                and has_choices == all(choice in text for choice in document["choices"])
            ]
            length = answered[pixels(image), text].max_new_tokens
            assert prediction == monkey.answer(image, text, max_new_tokens=length).text.strip()


def as_jpeg(path):
    """Return an image as the kit sends it: a JPEG of Pillow's quality."""
    file = io.BytesIO()
    Image.open(path).save(file, "JPEG")
    return file.getvalue()


def pixels(image):
    return open_image(image).tobytes()
