"""Experts that crash their process or hang. Other processes import them too."""

import os
import signal
import time
from pathlib import Path

from PIL import Image

from tests.support.caption_models import Colours


def images(home: Path) -> Path:
    """Create a folder of five images, the third of them black."""
    home.mkdir()
    for number in range(5):
        colour = (0, 0, 0) if number == 2 else (200, number, 0)
        Image.new("RGB", (12, 8), colour).save(home / f"{number}.png")
    return home


class Fatal(Colours):
    """Crashes its process at a black image."""

    name = "fatal"

    def _describe(self, pixels):
        if not pixels.any():
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._describe(pixels)


class Flaky(Colours):
    """Crashes its process the first time that it sees a black image, and succeeds the second time."""

    name = "flaky"

    def __init__(self, note: Path):
        super().__init__()
        self.note = note

    def _describe(self, pixels):
        if not pixels.any() and not self.note.exists():
            self.note.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        pixels = pixels + 1
        return super()._describe(pixels)


class Slow(Colours):
    """Hangs at a black image: it sleeps for an hour."""

    name = "slow"

    def _describe(self, pixels):
        if not pixels.any():
            time.sleep(3600)
        return super()._describe(pixels)


class Forgetful(Colours):
    """Cannot be loaded."""

    name = "forgetful"

    def prepare(self):
        raise FileNotFoundError("no weights")
