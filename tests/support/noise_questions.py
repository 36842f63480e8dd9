"""Questions about images of noise, for tests of prediction."""

import numpy as np
from PIL import Image

from monkeylib.evaluation.examples import Example


def make_image(seed: int) -> Image.Image:
    """Return an image of 50 x 40 random pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8))


def make_examples(images: int = 5, questions: int = 3) -> list[Example]:
    """Return so many questions about each image; they differ in length, and images are drawn when read."""
    return [
        Example(
            id=f"{image}-{number}",
            image=lambda image=image: make_image(image),
            question="what is " + "x" * (7 * number + image) + "?",
            answers=("yes", "no"),
            image_id=f"image {image}",
            meta={"family": "general" if image % 2 else "document", "answer_box": (1.0, 2.0)},
        )
        for image in range(images)
        for number in range(questions)
    ]
