"""A picture brought to the size that is cut into tiles, by one of three treatments of its aspect ratio."""

from collections.abc import Sequence
from typing import Literal, get_args

from PIL import Image

Fit = Literal["stretch", "pad", "crop"]


def check(fit: str) -> None:
    """Raises:
    ValueError: there is no such way to fit a picture.
    """
    if fit not in get_args(Fit):
        raise ValueError(f"fit is one of 'stretch', 'pad' and 'crop', got {fit!r}")


def fitted(
    image: Image.Image, width: int, height: int, fit: Fit = "stretch", colour: Sequence[float] = (0, 0, 0)
) -> Image.Image:
    """The picture at `width x height` pixels, resized by Pillow's bicubic.

    Args:
        image: RGB.
        width, height: in pixels.
        fit: "stretch" ignores the aspect ratio (the released Monkey). "pad" first lays the picture in the
            middle of the smallest canvas of the new aspect ratio (LLaVA-1.5's own code, for a square one).
            "crop" keeps the aspect ratio and cuts off what is too long, at both ends (CLIP's own
            preprocessing, and LLaVA-1.5's in transformers unless it is told to pad).
        colour: of the canvas, each channel 0 to 1; LLaVA-1.5 takes the mean of CLIP's pixels.
    """
    if fit == "pad":
        image = _padded(image, width, height, colour)
    if fit != "crop":
        return image.resize((width, height), Image.Resampling.BICUBIC)
    before, above = image.size
    if before * height <= above * width:  # too high
        size = (width, int(width * above / before))
    else:
        size = (int(height * before / above), height)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    resized = image.resize(size, Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + width, top + height))


def _padded(image: Image.Image, width: int, height: int, colour: Sequence[float]) -> Image.Image:
    """The picture in the middle of a canvas whose sides are as `width` to `height`."""
    own_width, own_height = image.size
    size = (
        max(own_width, round(own_height * width / height)),
        max(own_height, round(own_width * height / width)),
    )
    canvas = Image.new("RGB", size, tuple(int(channel * 255) for channel in colour))
    canvas.paste(image, ((size[0] - own_width) // 2, (size[1] - own_height) // 2))
    return canvas
