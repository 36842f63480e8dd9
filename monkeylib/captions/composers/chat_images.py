"""Images in requests to a chat model."""

import base64
import io
from typing import Any

from PIL import Image

from monkeylib.digests import text_digest

_QUALITY = 90  # of JPEG
_PATCH = 14  # pixels: no known model makes more tokens of an image than one for each patch of this size


def image_part(image: Image.Image, longest_side: int) -> dict[str, Any]:
    """Return the part of a message that shows an image, as JPEG, scaled down to a longest side in pixels."""
    image = image.convert("RGB")
    image.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)

    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    data = base64.b64encode(file.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}


def image_tokens(longest_side: int) -> int:
    """Return the most tokens that an image of this longest side has."""
    return (-(-longest_side // _PATCH)) ** 2


def without_images(request: dict[str, Any]) -> dict[str, Any]:
    """Return a request with digests in place of its images, as files keep it."""
    messages = []
    for message in request["messages"]:
        content = message["content"]
        if not isinstance(content, str):
            content = [_digest_part(part) for part in content]
        messages.append({**message, "content": content})
    return {**request, "messages": messages}


def _digest_part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] != "image_url":
        return part
    return {"type": "image_url", "image_url": {"url": f"sha256:{text_digest(part['image_url']['url'])}"}}


def texts_of(message: dict[str, Any]) -> list[str]:
    """Return the texts of a message."""
    content = message["content"]
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content if part["type"] == "text"]
