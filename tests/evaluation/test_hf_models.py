"""Image-text models of transformers predict like a Monkey."""

import json

import pytest

from monkeylib import inference
from monkeylib.evaluation import hf_models, predict
from monkeylib.evaluation.examples import Example, read_predictions
from tests.support import tiny_hf_models

MAKERS = {"llava": tiny_hf_models.llava, "qwen2_vl": tiny_hf_models.qwen2_vl}


@pytest.fixture(scope="module", params=MAKERS)
def folder(request, tokenizer, tmp_path_factory):
    return MAKERS[request.param](tokenizer, tmp_path_factory.mktemp(request.param))


@pytest.fixture()
def examples(make_image):
    return [
        Example(
            f"{n}", make_image(n % 3, 40 + 20 * (n % 3), 50), f"what is {'it' * n}?", ("a",), prompt=prompt
        )
        for n, prompt in enumerate(["vqa", "vqa", "choice", "caption", "plain", "vqa"])
    ]


def test_model_loads_from_its_folder_and_predicts(folder, examples, tmp_path):
    model = hf_models.load_image_text_model(folder, max_new_tokens=6, device="cpu")
    assert isinstance(model, hf_models.HFChatModel)

    path, *_ = predict.predict(model, examples, tmp_path / "p.jsonl", batch_size=4, progress=False)
    rows = read_predictions(path)
    assert {row.model for row in rows} == {model.name} and len(rows) == 6

    # Batches pad questions of different lengths.
    alone = {example.id: model([example])[0] for example in examples}
    assert {row.id: row.prediction for row in rows} == alone, "padding changes nothing"
    assert len(set(alone.values())) > 2, "a mix-up would show"

    calls = []
    reloaded_model = hf_models.load_image_text_model(folder, max_new_tokens=6, device="cpu")
    reloaded_model.model.generate = lambda *a, **k: calls.append(1)
    again = predict.predict(reloaded_model, examples, path, batch_size=4, progress=False)

    assert calls == [] and again[1:3] == (0, 6), "the same model from disk reuses its answers"
    assert model.with_max_new_tokens(7).name != model.name == model.with_max_new_tokens(6).name


def test_question_beyond_the_context_is_refused_with_its_numbers(folder, examples):
    model = hf_models.load_image_text_model(folder, max_new_tokens=6, device="cpu")
    prompt_tokens = model(examples[:1])[0].prompt_tokens
    model.model.config.get_text_config().max_position_embeddings = prompt_tokens + 5
    with pytest.raises(ValueError, match=f"has {prompt_tokens} tokens.* model takes {prompt_tokens + 5}"):
        model(examples[:1])


def test_image_reaches_the_model(folder, examples, make_image):
    model = hf_models.load_image_text_model(folder, max_new_tokens=8, device="cpu")
    same_question = [Example("a", make_image(seed, 60, 50), "what is it?", ("a",)) for seed in range(4)]
    assert len({model([example])[0] for example in same_question}) > 1


def test_chat_prompts_replace_those_of_monkey(folder):
    model = hf_models.load_image_text_model(folder, max_new_tokens=1, device="cpu")

    def text_of(prompt, question="how many {question}s?"):
        (message,) = model._messages(Example("a", None, question, ("a",), prompt=prompt))
        assert [part["type"] for part in message["content"]] == ["image", "text"]
        return message["content"][1]["text"]

    assert text_of("vqa").startswith("how many {question}s?\nAnswer the question using a single word")
    assert text_of("caption") == "Describe the image in one sentence."
    assert text_of("plain") == "how many {question}s?"
    assert "'unanswerable'" in text_of("vizwiz_lower") and "'Unanswerable'" in text_of("vizwiz")


def test_model_without_chat_template_raises(folder):
    model = hf_models.load_image_text_model(folder, device="cpu")
    model.processor.chat_template = None
    with pytest.raises(ValueError, match="no chat template.*chat_template.jinja"):
        hf_models.HFChatModel(model.model, model.processor)


def test_monkey_checkpoints_load_as_monkeys(monkey, tmp_path):
    monkey.model.save_pretrained(tmp_path / "m")
    monkey.processor.save_pretrained(tmp_path / "m")

    assert isinstance(hf_models.load_image_text_model(tmp_path / "m", device="cpu"), inference.Monkey)

    (tmp_path / "empty").mkdir()
    for name in ("gone", tmp_path / "empty"):
        with pytest.raises(FileNotFoundError, match="no checkpoint at"):
            hf_models.load_image_text_model(name)

    # A model of transformers, but not an image-text model.
    (tmp_path / "empty" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError):
        hf_models.load_image_text_model(tmp_path / "empty")
