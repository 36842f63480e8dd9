"""Dense region captions by the released GRIT (the paper's), in a separate Python environment.

GRIT needs detectron2 and an old version of transformers, which conflict with this library. It therefore runs
in another process: the environment variables MONKEYLIB_GRIT_PYTHON and MONKEYLIB_GRIT name the
interpreter of an environment set up by GRIT's own instructions, and its checkout (the released code's copy of
it, or https://github.com/JialianW/GRiT); MONKEYLIB_GRIT_WEIGHTS names the weights if they lie elsewhere.
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
from monkeylib.captions.models import Expert
from monkeylib.captions.registry import register_expert
from monkeylib.digests import quick_file_digest

PYTHON, CHECKOUT, WEIGHTS = "MONKEYLIB_GRIT_PYTHON", "MONKEYLIB_GRIT", "MONKEYLIB_GRIT_WEIGHTS"
DEFAULT_WEIGHTS = "models/grit_b_densecap.pth"
CONFIDENCE = 0.5  # released code


@register_expert("grit", sets={"paper-grit": 2})
class GritRegions(Expert):
    """Regions with a phrase each, and GRIT's confidence."""

    name = "grit"
    licence = "MIT"
    setting_names = ("confidence",)
    gpu_share = 0.5

    def __init__(
        self,
        confidence: float = CONFIDENCE,
        device: str = "auto",
        start_timeout: float = 600.0,
        image_timeout: float = 120.0,
    ) -> None:
        """Create the expert; no process is started yet.

        Args:
            confidence: minimum confidence of a region.
            device: device of the other process: "cpu" or "cuda"; "auto" is the GPU if there is one.
            start_timeout: seconds that loading may take.
            image_timeout: seconds that each image may take.
        """
        self.confidence, self.device = confidence, device
        self.start_timeout, self.image_timeout = start_timeout, image_timeout
        if device == "cpu":
            self.gpu_share = 0.0
        self._process: _Process | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the process out: a copy starts its own."""
        return {**self.__dict__, "_process": None}

    @property
    def version(self) -> str:
        """The weights and the beginning of their digest."""
        weights = self._weights()
        # Weights that are replaced under the same name give another version.
        digest = quick_file_digest(weights)[:12] if weights and weights.is_file() else "missing"
        return f"grit_b_densecap@{digest}"

    def _weights(self) -> Path | None:
        """Return the path of the weights, or None if the environment names neither them nor a checkout."""
        weights = os.environ.get(WEIGHTS)
        if weights:
            return Path(weights).absolute()

        checkout = os.environ.get(CHECKOUT)
        return (Path(checkout) / DEFAULT_WEIGHTS).absolute() if checkout else None

    def check(self) -> None:
        """Check that interpreter, checkout and weights are there.

        Raises:
            FileNotFoundError: one of them isn't named, or doesn't exist.
        """
        self._command()

    def prepare(self) -> None:
        """Start the other process and wait until GRIT is loaded.

        Raises:
            FileNotFoundError: interpreter, checkout or weights aren't named, or don't exist.
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
        """Return the command line of the other process."""
        for variable, meaning in ((PYTHON, "interpreter"), (CHECKOUT, "checkout")):
            path = os.environ.get(variable)
            if not path:
                raise FileNotFoundError(
                    f"GRIT isn't set up: {variable} has to name the {meaning} of an environment with "
                    "detectron2 (or use the expert florence2, its stand-in)."
                )

            if not Path(path).exists():
                raise FileNotFoundError(f"GRIT's {meaning} {path} isn't there: correct {variable}.")

        weights = self._weights()
        if weights is None or not weights.is_file():
            raise FileNotFoundError(
                f"GRIT's weights {weights} aren't there: download them, or name them in {WEIGHTS}."
            )

        return [
            os.environ[PYTHON],
            str(Path(grit_runner.__file__)),
            "--checkout",
            str(Path(os.environ[CHECKOUT]).absolute()),
            "--weights",
            str(weights),
            "--confidence",
            str(self.confidence),
            "--device",
            self._resolve_device(),
        ]

    def _resolve_device(self) -> str:
        if self.device != "auto":
            return self.device

        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    def annotate(self, images: Sequence[Image.Image]) -> list[ExpertOutput]:
        """Return the regions of each image, in GRIT's order.

        Raises:
            RuntimeError: GRIT failed on an image, timed out, or died; the next call starts it again.
        """
        if not images:
            return []
        self.prepare()

        # The images go to the other process as files.
        with tempfile.TemporaryDirectory() as folder:
            paths = [str(Path(folder) / f"{index}.png") for index in range(len(images))]
            for image, path in zip(images, paths, strict=True):
                image.convert("RGB").save(path, compress_level=1)

            try:
                response = self._process.request({"images": paths}, self.image_timeout * len(images))
                results = response["images"]
                if len(results) != len(images):
                    raise RuntimeError(f"GRIT answered about {len(results)} of {len(images)} images.")
            except Exception:
                # Its state is unknown: the next call starts a new process.
                self.release()
                raise

        return [
            ExpertOutput(regions=tuple(self._regions(result, image.size)))
            for result, image in zip(results, images, strict=True)
        ]

    def _regions(self, result: dict[str, Any], size: tuple[int, int]) -> list[Region]:
        """Return the regions of one image's result, clipped to the image's width and height."""
        if "error" in result:
            raise RuntimeError(f"GRIT failed on an image: {result['error']}")

        regions = []
        for detection in result["objects"]:
            # GRIT's boxes may reach beyond the image.
            x0, y0, x1, y1 = (min(max(side, 0.0), size[i % 2]) for i, side in enumerate(detection["box"]))

            text = " ".join(detection["caption"].split())
            if text and x0 < x1 and y0 < y1:
                score = min(max(detection["score"], 0.0), 1.0)
                regions.append(Region(box=(x0, y0, x1, y1), text=text, score=score, expert=self.name))

        return regions


class _Process:
    """The process that runs GRIT. Requests and responses are one line of JSON each; see `grit_runner`."""

    def __init__(self, command: Sequence[str], timeout: float) -> None:
        """Start the process and wait for at most `timeout` seconds until it is ready."""
        # A file, since a pipe that nobody reads would block the process when it is full.
        self._stderr: IO[bytes] = tempfile.TemporaryFile()
        self._popen = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, bufsize=0
        )
        self._buffer = b""  # bytes of an incomplete line
        self._kill = weakref.finalize(self, _kill, self._popen)

        try:
            greeting = self._read_line(timeout)
            if not greeting.get("ready"):
                raise RuntimeError(f"GRIT couldn't be loaded: {greeting.get('error', greeting)}")
        except Exception:
            self.close()
            raise

    def request(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Send a request and return the response; at most `timeout` seconds later."""
        with contextlib.suppress(BrokenPipeError):  # the process has died: reading says why
            self._popen.stdin.write(json.dumps(request).encode() + b"\n")
        return self._read_line(timeout)

    def close(self) -> None:
        """End the process: it ends by itself when its input does, and is killed if it doesn't."""
        self._popen.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout=1.0)

        self._kill()
        self._popen.stdout.close()
        self._stderr.close()

    def _read_line(self, timeout: float) -> dict[str, Any]:
        # The pipe may deliver a line in several parts.
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not select.select([self._popen.stdout], [], [], remaining)[0]:
                raise RuntimeError(f"GRIT didn't answer within {timeout:g} seconds.")

            data = os.read(self._popen.stdout.fileno(), 1 << 16)
            if not data:
                code = self._popen.wait()
                raise RuntimeError(f"GRIT's process ended with code {code}: {self._last_error()}")

            self._buffer += data

        # What follows the line belongs to the next response.
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line)

    def _last_error(self) -> str:
        """Return the last line that the process wrote to standard error."""
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it wrote no error"


def _kill(popen: subprocess.Popen) -> None:
    # Also run by the garbage collector and at exit, when the process may have ended long ago.
    if popen.poll() is None:
        popen.kill()
        popen.wait()
