"""Images of a harness's requests."""

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
