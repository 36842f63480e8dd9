"""Images of a harness's requests."""

import pytest
import torch

from monkeylib import inference
from monkeylib.integrations import common


def test_repeated_image_is_encoded_once(monkey, make_image, monkeypatch):
    encoded = []
    features = monkey.model.get_image_features
    monkeypatch.setattr(
        monkey.model, "get_image_features", lambda *a, **k: encoded.append(1) or features(*a, **k)
    )
    questions = [("what?", [make_image(0)]), ("who?", [make_image(0)]), ("why?", [make_image(1)])]
    answers = common.generate_answers(monkey, questions, "vqa", 4)

    assert len(encoded) == 2
    alone = [monkey.answer(images[0], text, max_new_tokens=4) for text, images in questions]
    assert answers == [answer.text for answer in alone]

    # In other batches, with beams, and where continuations are weighed, too.
    assert common.generate_answers(monkey, questions, "vqa", 4) == answers
    common.generate_answers(monkey, questions, "vqa", 4, num_beams=2)
    common.compute_log_likelihood(monkey, "what?", [make_image(1)], "vqa", "yes")
    assert len(encoded) == 2


def test_raised_model_answers_and_weighs_continuations(raised_folder, make_image):
    raised = inference.load_model(raised_folder, "cpu")
    questions = [("what", [make_image(0)]), ("why", [make_image(0)])]
    answers = common.generate_answers(raised, questions, "plain", 2)
    assert answers == [raised.answer(images[0], text, max_new_tokens=2).text for text, images in questions]

    # The likelihood of a text is that of its tokens, one after the other.
    text, image = "what", make_image(0)
    logits = []
    for start in ("", "a"):
        inputs = raised.prepare([[image]], [text], "plain")
        if start:
            inputs = raised.append_ids(inputs, torch.tensor([raised.text_ids(start)]))
        with torch.no_grad():
            logits.append(raised.model(**inputs).logits[0, -1].log_softmax(dim=-1))
    ids = raised.text_ids("ab")
    expected = logits[0][ids[0]] + logits[1][ids[1]]
    likelihood, _ = common.compute_log_likelihood(raised, text, [image], "plain", "ab")
    assert likelihood == pytest.approx(expected.item(), rel=1e-4)
