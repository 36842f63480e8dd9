"""The images of data/samples, and the code that makes them: `python -m monkeylib.data.synthetic.sample_files`.

Images of the nano world's test split, which no training sees, and photographs of the scikit-image wheel.
"""

from pathlib import Path

import skimage
from PIL import Image

from monkeylib import resources
from monkeylib.data.synthetic import Sample, make_sample
from monkeylib.errors import choose

# File -> number and family of the sample, at the nano profile's size. The test splits use far lower numbers.
WORLDS = {
    "receipt.png": (90003, "document"),
    "form.png": (90011, "document"),
    "sign.png": (90004, "scene_text"),
}
# File -> file of the wheel. Only photographs that the nano world keeps for its test split.
PHOTOGRAPHS = {"coffee.jpg": "coffee.png", "rocket.jpg": "rocket.jpg"}


NAMES = (*WORLDS, *PHOTOGRAPHS)


def world(name: str, size: tuple[int, int] = (192, 192)) -> Sample:
    """The sample behind an image of the nano world, with its questions.

    Args:
        name: one of `WORLDS`.
        size: width and height in pixels; another one than that of the file gives another image of its kind.

    Raises:
        ValueError: the file is none of `WORLDS`.
    """
    number, family = WORLDS[choose("synthetic sample", name, WORLDS)]
    return make_sample(number, "test", size, family)


def image(name: str) -> Image.Image:
    """One of the images as it is made: RGB, before compression.

    Raises:
        ValueError: the file is none of `NAMES`.
    """
    if name not in PHOTOGRAPHS:
        return world(name).image
    return Image.open(Path(skimage.__file__).parent / "data" / PHOTOGRAPHS[name]).convert("RGB")


def write(folder: Path | None = None) -> list[Path]:
    """Write every image, those of the world as PNG, photographs as JPEG, into data/samples or `folder`."""
    folder = resources.samples() if folder is None else folder
    for name in NAMES:
        with resources.atomic_write(folder / name) as temporary:
            image(name).save(temporary, quality=90, optimize=True)  # PNG has no quality: it is lossless
    return [folder / name for name in NAMES]


if __name__ == "__main__":
    for path in write():
        print(resources.display_path(path))
