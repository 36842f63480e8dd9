"""An image that comes again is not encoded again."""

import pytest

from monkeylib.serving.encodings import EncodedImages


@pytest.fixture()
def watched(served_monkey, monkeypatch):
    """A Monkey that notes how many views its ViT encodes."""
    encoded = []
    encode = served_monkey.model.vision.forward

    def watched_encode(pixel_values, *arguments, **options):
        encoded.append(len(pixel_values))
        return encode(pixel_values, *arguments, **options)

    monkeypatch.setattr(served_monkey.model.vision, "forward", watched_encode)
    return served_monkey, encoded


def test_images_are_shared_by_conversations(watched, make_image):
    monkey, encoded = watched
    images = EncodedImages(monkey)
    first = images.session([make_image(1)])
    assert encoded == [5] and images.session([make_image(1)]) is first

    both = images.session([make_image(1), make_image(2)])
    assert encoded == [5, 5] and both is not first
    assert images.session([make_image(2), make_image(1)]) is not both and encoded == [5, 5]

    expected = monkey.answer([make_image(2), make_image(1)], "x", max_new_tokens=3)
    session = images.session([make_image(2), make_image(1)])
    assert session.answer("x", max_new_tokens=3).token_ids == expected.token_ids


def test_only_the_last_images_stay(watched, make_image):
    monkey, encoded = watched
    images = EncodedImages(monkey, max_images=1)
    for seed in (1, 2, 1):
        images.session([make_image(seed)])
    assert encoded == [5, 5, 5]

    with pytest.raises(ValueError, match="grid"):
        images.session([make_image(1)], (9, 9))
