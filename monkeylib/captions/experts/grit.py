"""Dense region captions by the released GRIT (the paper's), in a Python of its own.

GRIT needs detectron2 and a transformers of its time, which no environment shares with this library. So it
runs as another process: the environment variables MONKEYLIB_GRIT_PYTHON and MONKEYLIB_GRIT name the
interpreter of an environment made by GRIT's own instructions and its checkout (the release's copy of it, or
https://github.com/JialianW/GRiT), MONKEYLIB_GRIT_WEIGHTS the weights if they lie elsewhere.
"""

import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from PIL import Image

from monkeylib.captions.annotations import ExpertOutput, Region
from monkeylib.captions.experts import grit_runner
from monkeylib.captions.experts.base import Expert
from monkeylib.digests import quick_file_digest

PYTHON, CHECKOUT, WEIGHTS = "MONKEYLIB_GRIT_PYTHON", "MONKEYLIB_GRIT", "MONKEYLIB_GRIT_WEIGHTS"
DEFAULT_WEIGHTS = "models/grit_b_densecap.pth"
CONFIDENCE = 0.5  # release


class GritRegions(Expert):
    """Regions with a phrase each and GRIT's confidence."""

    name = "grit"
    licence = "MIT"
    gpu_share = 0.5

    def __init__(
        self,
        confidence: float = CONFIDENCE,
        device: str = "auto",
        start_timeout: float = 600.0,
        image_timeout: float = 120.0,
    ) -> None:
        """Nothing is started yet.

        Args:
            confidence: the lowest that is reported.
            device: of the other process: "cpu", "cuda"; "auto" is the GPU if there is one.
            start_timeout: seconds that loading may take.
            image_timeout: seconds that each image may take.
        """
        self.confidence, self.device = confidence, device
        self.start_timeout, self.image_timeout = start_timeout, image_timeout
        if device == "cpu":
            self.gpu_share = 0.0
        self._process: _Process | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the process: another one is started where this goes."""
        return {**self.__dict__, "_process": None}

    @property
    def version(self) -> str:
        """The weights and the beginning of their fingerprint."""
        weights = self._weights()
        known = quick_file_digest(weights)[:12] if weights and weights.is_file() else "missing"
        return f"grit_b_densecap@{known}"

    @property
    def settings(self) -> dict[str, Any]:
        """The lowest confidence."""
        return {"confidence": self.confidence}

    def _weights(self) -> Path | None:
        if named := os.environ.get(WEIGHTS):
            return Path(named).absolute()
        checkout = os.environ.get(CHECKOUT)
        return (Path(checkout) / DEFAULT_WEIGHTS).absolute() if checkout else None

    def prepare(self) -> None:
        """Start the other process and wait until GRIT is loaded.

        Raises:
            FileNotFoundError: interpreter, checkout or weights aren't named, or aren't there.
            RuntimeError: GRIT couldn't be loaded; the message holds its error.
        """
        if self._process is None:
            self._process = _Process(self._command(), self.start_timeout)

    def release(self) -> None:
        """End the other process."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def _command(self) -> list[str]:
        for name, what in ((PYTHON, "interpreter"), (CHECKOUT, "checkout")):
            if not os.environ.get(name):
                raise FileNotFoundError(
                    f"GRIT isn't set up: {name} has to name the {what} of an environment with detectron2 "
                    "(or use the expert florence2, its stand-in)."
                )
            if not Path(os.environ[name]).exists():
                raise FileNotFoundError(f"GRIT's {what} {os.environ[name]} isn't there: correct {name}.")
        weights = self._weights()
        if weights is None or not weights.is_file():
            raise FileNotFoundError(
                f"GRIT's weights {weights} aren't there: download them, or name them in {WEIGHTS}."
            )
        options = {"checkout": Path(os.environ[CHECKOUT]).absolute(), "weights": weights,
                   "confidence": self.confidence, "device": self._place()}  # fmt: skip
        parts = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        return [os.environ[PYTHON], str(Path(grit_runner.__file__)), *parts]

    def _place(self) -> str:
        if self.device != "auto":
            return self.device
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    def annotate(self, images: Sequence[Image.Image]) -> list[ExpertOutput]:
        """The regions of each image, in GRIT's order.

        Raises:
            RuntimeError: GRIT failed on an image, didn't answer in time, or died; the next call starts anew.
        """
        if not images:
            return []
        self.prepare()
        with tempfile.TemporaryDirectory() as folder:
            paths = [str(Path(folder) / f"{index}.png") for index in range(len(images))]
            for image, path in zip(images, paths, strict=True):
                image.convert("RGB").save(path, compress_level=1)
            try:
                answer = self._process.ask({"images": paths}, self.image_timeout * len(images))
                found = answer["images"]
                if len(found) != len(images):
                    raise RuntimeError(f"GRIT answered about {len(found)} of {len(images)} images.")
            except Exception:
                self.release()
                raise
        return [
            ExpertOutput(regions=tuple(self._regions(item, image.size)))
            for item, image in zip(found, images, strict=True)
        ]

    def _regions(self, item: dict[str, Any], size: tuple[int, int]) -> list[Region]:
        if "error" in item:
            raise RuntimeError(f"GRIT failed on an image: {item['error']}")
        regions = []
        for thing in item["objects"]:
            x0, y0, x1, y1 = (min(max(side, 0.0), size[i % 2]) for i, side in enumerate(thing["box"]))
            text = " ".join(thing["caption"].split())
            if text and x0 < x1 and y0 < y1:
                score = min(max(thing["score"], 0.0), 1.0)
                regions.append(Region(box=(x0, y0, x1, y1), text=text, score=score, expert=self.name))
        return regions


class _Process:
    """The other process: a JSON line to it, a JSON line back."""

    def __init__(self, command: Sequence[str], timeout: float) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()
        self._running = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0
        )
        self._rest = b""
        self._end = weakref.finalize(self, _kill, self._running)
        try:
            first = self._line(timeout)
            if not first.get("ready"):
                raise RuntimeError(f"GRIT couldn't be loaded: {first.get('error', first)}")
        except Exception:
            self.close()
            raise

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """The answer to a request."""
        with contextlib.suppress(BrokenPipeError):  # it has died: reading says why
            self._running.stdin.write(json.dumps(request).encode() + b"\n")
        return self._line(timeout)

    def close(self) -> None:
        """End it: it ends by itself when its input does, and is killed if it doesn't."""
        self._running.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._running.wait(timeout=1.0)
        self._end()
        self._running.stdout.close()
        self._errors.close()

    def _line(self, timeout: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._running.stdout], [], [], left)[0]:
                raise RuntimeError(f"GRIT didn't answer within {timeout:g} seconds.")
            part = os.read(self._running.stdout.fileno(), 1 << 16)
            if not part:
                raise RuntimeError(f"GRIT's process ended with code {self._running.wait()}: {self._last()}")
            self._rest += part
        line, self._rest = self._rest.split(b"\n", 1)
        return json.loads(line)

    def _last(self) -> str:
        """The last line that it wrote to standard error."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def _kill(running: subprocess.Popen) -> None:
    if running.poll() is None:
        running.kill()
        running.wait()
