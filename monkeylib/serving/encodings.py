"""Images that were encoded lately: one that comes again, in any conversation, is not encoded again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from PIL import Image

from monkeylib.digests import image_digest
from monkeylib.images import open_image
from monkeylib.monkey import Monkey
from monkeylib.session import EncodedImage, Session, encode_images
from monkeylib.tiling import AutoGrid, Grid

# Of the released Monkey, an image in tiles has 10 MB of visual tokens.
MAX_IMAGES = 16


class EncodedImages:
    """Encoded images by the digest of their pixels and their grid, and the session of the last conversation.

    A conversation that goes on about the same images continues in the session, whose keys and values hold
    what was said before. Belongs to one thread at a time.
    """

    def __init__(self, monkey: Monkey, max_images: int = MAX_IMAGES, allow_address: bool = False) -> None:
        """Begin with none.

        Args:
            monkey: whose images they are.
            max_images: the most images; those that were not requested for the longest time go.
            allow_address: whether images are fetched from http and https addresses.
        """
        self.monkey, self.max_images, self.allow_address = monkey, max_images, allow_address
        self._encoded: OrderedDict[tuple[str, Grid], EncodedImage] = OrderedDict()
        self._keys: list[tuple[str, Grid]] = []
        self._session: Session | None = None

    def session(self, images: Sequence[Any], grid: Grid | AutoGrid | None = None) -> Session:
        """Return a session about images, which stand in this order in the conversation.

        Raises:
            ValueError: an image that cannot be read, or a grid that the model has no LoRA for.
        """
        opened = [open_image(image, allow_address=self.allow_address) for image in images]
        keys = [(image_digest(image), self.monkey.select_grid(image.size, grid)) for image in opened]
        if self._session is not None and keys == self._keys:
            return self._session

        # The keys and values of the last conversation go before those of this one come.
        self._session, self._keys = None, []
        encoded = [self._encode(key, image) for key, image in zip(keys, opened, strict=True)]
        self._session, self._keys = Session(self.monkey.model, self.monkey.processor, encoded), keys
        return self._session

    def _encode(self, key: tuple[str, Grid], image: Image.Image) -> EncodedImage:
        encoded = self._encoded.get(key)
        if encoded is None:
            (encoded,) = encode_images(self.monkey.model, self.monkey.processor, [image], key[1])
            self._encoded[key] = encoded

        self._encoded.move_to_end(key)
        while len(self._encoded) > self.max_images:
            self._encoded.popitem(last=False)
        return encoded
