"""The sample images in data/samples, and the code that makes them.

    python -m monkeylib.data.synthetic.sample_files

They are synthetic images of the test split, which is never trained on, and photographs of the scikit-image
wheel.
"""

from pathlib import Path

from PIL import Image

from monkeylib import resources
from monkeylib.data.synthetic import Sample, make_sample
from monkeylib.data.synthetic.canvas import photo_file
from monkeylib.errors import choose
from monkeylib.images import open_image

# File -> number and family of the sample, at the size of the nano profile. Test sets use far lower numbers.
SYNTHETIC = {
    "receipt.png": (90003, "document"),
    "form.png": (90011, "document"),
    "sign.png": (90004, "scene_text"),
}
# File -> file of the wheel. Only photographs that synthetic data keeps for its test split.
PHOTOGRAPHS = {"coffee.jpg": "coffee.png", "rocket.jpg": "rocket.jpg"}
NAMES = (*SYNTHETIC, *PHOTOGRAPHS)


def synthetic_sample(name: str, size: tuple[int, int] = (192, 192)) -> Sample:
    """Return the sample behind a synthetic image, with its questions.

    Args:
        name: one of `SYNTHETIC`.
        size: width and height in pixels. Another size than that of the file gives another image of its kind.

    Raises:
        ValueError: unknown name.
    """
    number, family = SYNTHETIC[choose("synthetic sample", name, SYNTHETIC)]
    return make_sample(number, "test", size, family)


def make_image(name: str) -> Image.Image:
    """Return one of the images in RGB, before compression.

    Raises:
        ValueError: unknown name.
    """
    choose("sample image", name, NAMES)

    if name in PHOTOGRAPHS:
        return open_image(photo_file(PHOTOGRAPHS[name]))
    return synthetic_sample(name).image


def write_images(folder: Path | None = None) -> list[Path]:
    """Write every image into data/samples or `folder`: synthetic ones as PNG, photographs as JPEG."""
    folder = resources.samples() if folder is None else folder

    for name in NAMES:
        with resources.atomic_write(folder / name) as temporary:
            make_image(name).save(temporary, quality=90, optimize=True)  # PNG ignores the quality

    return [folder / name for name in NAMES]


if __name__ == "__main__":
    for path in write_images():
        print(resources.display_path(path))
