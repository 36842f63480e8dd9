"""Monkey behind the interface of lmms-eval."""

import importlib
import tomllib

import pytest
import torch

from monkeylib import resources
from monkeylib.integrations import common, lmms_eval_models


def instance(arguments, number):
    from lmms_eval.api.instance import Instance

    metadata = {"task": "ocr", "doc_id": number, "repeats": 1}
    return Instance(request_type="generate_until", arguments=arguments, idx=number, metadata=metadata)


def test_lmms_eval_gets_answers_in_the_order_of_its_requests(lmms, checkpoint, monkey, make_image):
    model = lmms.MonkeyForLmmsEval(pretrained=str(checkpoint), batch_size="3", device="cpu")
    # Images that repeat, texts of several lengths, no image, and two images.
    docs = [{"images": [make_image(n % 2)], "text": "what is " + "it" * (n % 4) + "?"} for n in range(7)]
    docs.append({"images": [], "text": "no image?"})
    docs.append({"images": [make_image(3), make_image(4)], "text": "which of two?"})
    model.task_dict = {"ocr": {"test": docs}}
    # Two kinds of settings, so that batches have to be split.
    settings = [{"max_new_tokens": 5, "temperature": 0, "do_sample": False, "until": ["\n\n"]}] * 6
    settings += [{"max_new_tokens": 3}] * 3
    requests = [
        instance((doc["text"], dict(options), lambda doc: doc["images"], n, "ocr", "test"), n)
        for n, (doc, options) in enumerate(zip(docs, settings, strict=True))
    ]
    cached = []
    model.cache_hook.add_partial = lambda kind, request, text: cached.append((kind, request[0], text))
    answers = model.generate_until(requests)

    for n in range(7):
        tokens = settings[n]["max_new_tokens"]
        expected = monkey.answer(docs[n]["images"][0], docs[n]["text"], max_new_tokens=tokens)
        assert answers[n] == expected.text.split("\n\n")[0]
    for n in (7, 8):
        inputs = monkey.prepare([docs[n]["images"]], [f"{docs[n]['text']} Answer: "])
        assert answers[n] == monkey.generate(inputs, 3)[0]
    assert sorted(text for _, text, _ in cached) == sorted(doc["text"] for doc in docs)
    assert (model.rank, model.world_size) == (0, 1)


def test_lmms_eval_settings_become_generation_options(lmms, checkpoint, make_image, monkeypatch):
    model = lmms.MonkeyForLmmsEval(pretrained=str(checkpoint), device="cpu")
    model.task_dict = {"ocr": {"test": [{}]}}
    calls = []
    monkeypatch.setattr(
        common,
        "generate_answers",
        lambda monkey, questions, prompt, length, **known: calls.append((length, known)) or ["a.b"],
    )

    for options in (
        {},
        {"temperature": 0, "num_beams": 1, "do_sample": False, "top_p": None},
        {"temperature": 0.7, "top_p": 0.9},
        {"num_beams": 3, "max_new_tokens": 9, "until": "."},
    ):
        request = instance(("what?", options, lambda doc: [make_image()], 0, "ocr", "test"), 0)
        (text,) = model.generate_until([request])
        assert text == ("a" if "until" in options else "a.b")
    assert calls == [
        (64, {}),
        (64, {}),
        (64, {"temperature": 0.7, "top_p": 0.9, "do_sample": True}),
        (9, {"num_beams": 3}),
    ]


def _likelihood_requests(monkey, image, targets):
    place = (lambda doc: [image], 0, "ocr", "test")
    return [instance(("what?", target, *place), n) for n, target in enumerate(targets)]


def test_lmms_eval_log_likelihoods_are_those_of_the_model(lmms, checkpoint, monkey, make_image):
    model = lmms.MonkeyForLmmsEval(pretrained=str(checkpoint), device="cpu")
    model.task_dict = {"ocr": {"test": [{}]}}
    image = make_image(1)
    prompt = monkey.prepare([image], ["what? Answer: "])
    greedy_token = monkey.model.generate(**prompt, max_new_tokens=1, do_sample=False)[0, -1]
    greedy_text = monkey.processor.tokenizer.decode(greedy_token)

    # A function of the document: a task of the type "loglikelihood". A text: a choice.
    other_text = "ba" if greedy_text == "a" else "ab"
    model.task_dict["ocr"]["test"][0]["answer"] = other_text
    targets = (lambda doc: doc["answer"], other_text, greedy_text)
    results = model.loglikelihood(_likelihood_requests(monkey, image, targets))
    (summed, is_greedy), (loss, same), (best_loss, always) = results

    ids = monkey.processor.layout.text_ids(other_text)
    prompt["input_ids"] = torch.cat([prompt["input_ids"], torch.tensor([ids])], 1)
    prompt["attention_mask"] = torch.ones_like(prompt["input_ids"])
    with torch.no_grad():
        logits = monkey.model(**prompt).logits[0, -len(ids) - 1 : -1].log_softmax(-1)

    assert summed == pytest.approx(float(logits[range(len(ids)), ids].sum()), abs=1e-4)
    assert loss == pytest.approx(-summed)
    assert not is_greedy and not same and always and best_loss < loss

    with pytest.raises(NotImplementedError, match="single questions"):
        model.generate_until_multi_round([])


def test_lmms_eval_gets_losses_of_choices_since_version_0_3(
    lmms, checkpoint, monkey, make_image, monkeypatch
):
    """The harness takes the smallest number since 0.3, and the largest before."""
    model = lmms.MonkeyForLmmsEval(pretrained=str(checkpoint), device="cpu")
    model.task_dict = {"ocr": {"test": [{}]}}
    requests = _likelihood_requests(monkey, make_image(1), ["ab", "a", "ba b"])

    numbers = {}
    for version in ("0.2.4", "0.3.0", "0.7.3", "1.0"):
        monkeypatch.setattr(lmms.metadata, "version", lambda name, version=version: version)
        numbers[version] = [number for number, _ in model.loglikelihood(requests)]

    assert all(number < 0 for number in numbers["0.2.4"])
    for version in ("0.3.0", "0.7.3", "1.0"):
        assert numbers[version] == [-number for number in numbers["0.2.4"]]


def test_lmms_eval_request_without_image_is_refused(lmms, checkpoint):
    model = lmms.MonkeyForLmmsEval(pretrained=str(checkpoint), device="cpu")
    with pytest.raises(ValueError, match="leave this metric out"):
        model.loglikelihood([instance(("", "a choice"), 0)])


def test_lmms_eval_batch_size_is_halved_when_the_memory_is_full(lmms, checkpoint, make_image, monkeypatch):
    model = lmms.MonkeyForLmmsEval(
        pretrained=str(checkpoint), batch_size="auto", max_batch_size="8", device="cpu"
    )
    model.task_dict = {"ocr": {"test": [{"number": number} for number in range(10)]}}
    sizes = []

    def answer(monkey, questions, *arguments, **options):
        sizes.append(len(questions))
        if len(questions) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")
        return [text for text, _ in questions]

    monkeypatch.setattr(common, "generate_answers", answer)
    place = (lambda doc: [make_image()], 0, "ocr", "test")
    requests = [instance((f"question {number}", {}, *place), number) for number in range(10)]

    assert model.generate_until(requests) == [f"question {number}" for number in range(10)]
    assert sizes == [8, 4, 2, 2, 2, 2, 2]

    # A batch size that was asked for isn't changed.
    model = lmms.MonkeyForLmmsEval(pretrained=str(checkpoint), batch_size=8, device="cpu")
    model.task_dict = {"ocr": {"test": [{}]}}
    with pytest.raises(RuntimeError, match="allocate memory"):
        model.generate_until(requests)


@pytest.mark.parametrize("batch_size", ["many", "0", "-1", "2.5", ""])
def test_lmms_eval_batch_size_that_is_no_number_is_refused(lmms, checkpoint, batch_size):
    with pytest.raises(ValueError, match='a positive number or "auto"'):
        lmms.MonkeyForLmmsEval(pretrained=str(checkpoint), batch_size=batch_size, device="cpu")


def test_lmms_eval_finds_the_model_by_its_entry_point(lmms):
    project = tomllib.loads((resources.REPOSITORY / "pyproject.toml").read_text())["project"]
    place = project["entry-points"]["lmms_eval.models"]["monkeylib"]
    module, name = place.split(":")
    assert getattr(importlib.import_module(module), name) is lmms_eval_models

    manifest = lmms_eval_models()

    assert manifest.model_id == "monkeylib"

    module, name = manifest.simple_class_path.rsplit(".", 1)

    assert module == lmms.__name__ and name == lmms.MonkeyForLmmsEval.__name__

    base = lmms.MonkeyForLmmsEval.__mro__[1]

    assert base.__abstractmethods__ == {"loglikelihood", "generate_until", "generate_until_multi_round"}


def test_lmms_eval_reads_a_raised_model_in_the_words_of_the_task(lmms, raised_folder, make_image):
    model = lmms.MonkeyForLmmsEval(pretrained=str(raised_folder), device="cpu", grid="1x2")
    assert model.prompt == "plain"
    model.task_dict = {"ocr": {"test": [{}]}}
    request = instance(("what", {"max_new_tokens": 2}, lambda doc: [make_image(1)], 0, "ocr", "test"), 0)
    expected = model.monkey.answer(make_image(1), "what", max_new_tokens=2, grid="1x2")
    assert model.generate_until([request]) == [expected.text]
