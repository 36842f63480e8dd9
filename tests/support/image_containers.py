"""Small containers of images, as downloaders and Hugging Face write them."""

import io
import json
import tarfile
from pathlib import Path

from PIL import Image


def png(number: int) -> bytes:
    """Return a PNG file of 9 x 9 pixels that no other number gives."""
    content = io.BytesIO()
    Image.new("RGB", (9, 9), (number % 256, number // 256, 99)).save(content, "PNG")
    return content.getvalue()


def webdataset(path: Path, captions: dict[str, str], broken: str = "") -> Path:
    """Write a tar file of a downloader: for each key an image, its caption, and facts about it."""
    with tarfile.open(path, "w") as archive:
        for number, (key, caption) in enumerate(captions.items()):
            facts = {"key": key, "caption": caption, "url": f"https://example.org/{key}.png"}
            members = {
                "png": b"no image" if key == broken else png(number),
                "txt": caption.encode(),
                "json": json.dumps(facts).encode(),
            }
            for suffix, content in members.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path
