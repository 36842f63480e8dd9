"""Test images that differ from all training images in typeface, photograph, rotation or compression.

Facts, questions and answers follow the rules of the test split. An image has one of these changes, so that
scores can be told apart by it:

- `typeface`: text in one of three faces that matplotlib ships and training does not use: a bold serif
  (STIX), a sans serif and a typewriter face (Computer Modern), with capitals as high as before.
- `photograph`: a background that is neither in the training nor in the test split. Two of the three are those
  of the validation split: no image of the installed packages is left that shows no text.
- `rotation`: turned by two to five degrees to either side, and made smaller so that nothing leaves the image.
- `jpeg`: compressed with a JPEG quality of 20 to 40.

Images that are turned or compressed are those of the test split with the same number, and have its questions.
"""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
from PIL import Image

from monkeylib.boxes import Box, clip, enclosing_box
from monkeylib.data.synthetic.canvas import Style
from monkeylib.data.synthetic.samples import Sample, make_sample
from monkeylib.images import open_image

FACES = ("STIXGeneralBol.ttf", "cmss10.ttf", "cmtt10.ttf")
PHOTOS = ("grace_hopper.jpg", "clock_motion.png", "coins.png")
CHANGES = ("typeface", "photograph", "rotation", "jpeg")

# Changes that an image of a family can have: scenes have no text, documents no photograph.
CHANGES_OF = {
    "general": ("photograph", "rotation", "jpeg"),
    "scene_text": CHANGES,
    "document": ("typeface", "rotation", "jpeg"),
}

_STYLES = {"typeface": Style(fonts=FACES), "photograph": Style(photos={"test": PHOTOS})}
_DEGREES = (2.0, 5.0)
_QUALITIES = (20, 40)
_STREAM = 43  # number of the stream of random numbers for angles and qualities


def make_transfer_sample(seed: int, size: tuple[int, int] = (192, 192)) -> Sample:
    """Make number `seed` of the images that differ from training, the changes of its family in turn.

    Boxes of questions are those in the image; boxes of texts, signs and objects those before it was turned.
    """
    sample = make_sample(seed, "test", size)
    changes = CHANGES_OF[sample.family]
    change = changes[seed % len(changes)]
    rng = np.random.default_rng([_STREAM, seed])

    if change in _STYLES:
        sample = make_sample(seed, "test", size, style=_STYLES[change])
    elif change == "jpeg":
        quality = int(rng.integers(_QUALITIES[0], _QUALITIES[1] + 1))
        sample = replace(sample, image=_compress(sample.image, quality))
    else:
        degrees = float(rng.uniform(*_DEGREES) * rng.choice([-1, 1]))
        sample = rotate(sample, degrees)

    return replace(sample, change=change)


def _compress(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return open_image(buffer.getvalue())


def rotate(sample: Sample, degrees: float) -> Sample:
    """Return a sample turned counter-clockwise about its centre, smaller so that all of it stays inside.

    The corners that become free take the colours of the edges.
    """
    width, height = sample.image.size
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    # The turned image is `width * cos + height * |sin|` wide.
    scale = min(
        width / (width * cos + height * abs(sin)),
        height / (height * cos + width * abs(sin)),
    )

    # Its corners reach into a margin of repeated edge pixels.
    margin = math.ceil(0.2 * max(width, height))
    pixels = np.asarray(sample.image)
    padded = Image.fromarray(np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode="edge"))

    # Affine map from a pixel of the new image to one of the padded image, about the centres of both.
    x, y = width / 2, height / 2
    a, b = cos / scale, -sin / scale
    affine = (a, b, x + margin - a * x - b * y, -b, a, y + margin + b * x - a * y)
    image = padded.transform((width, height), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)

    def turn(box: Box) -> Box:
        """Return the box around a turned box."""
        corners = []
        for corner_x in (box[0], box[2]):
            for corner_y in (box[1], box[3]):
                dx, dy = scale * (corner_x - x), scale * (corner_y - y)
                turned = (x + cos * dx + sin * dy, y - sin * dx + cos * dy)
                corners.append((*turned, *turned))
        return clip(enclosing_box(*corners), (width, height))

    questions = tuple(
        replace(question, answer_box=turn(question.answer_box), height=question.height * scale)
        for question in sample.questions
    )
    return replace(sample, image=image, questions=questions)
