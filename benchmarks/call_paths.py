"""Following one piece of data: how many files a reader opens, and how often the folder changes.

Ways through the library are run, and every call of one of its functions is recorded (`sys.setprofile`,
`call` events of functions in the files of `monkeylib/`, in the main thread; comprehensions are no
functions):

* files: modules that are met;
* changes of folder: how often two calls, one after the other, lie in different folders. The files that lie
  directly in `monkeylib/` are one folder.

A way begins where the data is first touched and ends where its result is returned or on disk; `WAYS`
names both. What happens before and after is not part of it: checking the job, opening the folder of the
run, loading models, indexing a mixture, the checkpoint after a step, pages about the results. Nor is what
Lightning calls around a training step: callbacks, loggers and timers; a row of its own counts them. Each way
runs twice, on other data and in another folder the second time, and the second run counts: by then the
modules are imported and the models loaded. Progress bars are off, and an answer is one token long: each
further one repeats the same calls.

The experts of the captions are stand-ins of this script, which count no files, since each expert is a
file of its own; a row of its own counts the CPU set with all of its experts.

    python benchmarks/call_paths.py
    python benchmarks/call_paths.py --verbose captions
"""

import argparse
import contextlib
import io
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from PIL import Image

import monkeylib
from monkeylib import profiles
from monkeylib.captions.annotations import Caption, ExpertOutput, OcrLine, Region
from monkeylib.captions.models import Expert
from monkeylib.captions.pipeline import caption_images
from monkeylib.data.mixture import load_mixture
from monkeylib.digests import FileDigests
from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.predict import predict
from monkeylib.evaluation.prefix_sharing import PrefixSharingMonkey
from monkeylib.monkey import Monkey
from monkeylib.profiles import build
from monkeylib.training import finetune
from monkeylib.training.batches import TrainingData

LIBRARY = Path(monkeylib.__file__).parent

# Code without a name of its own: comprehensions belong to the function around them, and a module runs when it
# is imported.
_NOT_FUNCTIONS = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>", "<module>"}


@dataclass(frozen=True)
class Call:
    """A call of a function of the library.

    Attributes:
        file: its file, relative to the library.
        function: its qualified name.
        depth: number of functions of the library that it is called from.
    """

    file: str
    function: str
    depth: int

    @property
    def folder(self) -> str:
        """The folder of its file, "." for the files directly in the library."""
        return Path(self.file).parent.as_posix()


@dataclass
class Recorder:
    """Records the calls between the first call of one function and the end of another.

    Attributes:
        start: qualified name of the function whose first call is the first one to count, empty for all.
        end: qualified name of the function whose return ends the recording, empty for all.
        calls: the calls so far.
    """

    start: str = ""
    end: str = ""
    calls: list[Call] = field(default_factory=list)
    _stack: list[FrameType] = field(default_factory=list)
    _has_ended: bool = False

    def run(self, function: Callable[[], Any]) -> list[Call]:
        """Call a function and return the calls."""
        sys.setprofile(self._on_event)
        try:
            function()
        finally:
            sys.setprofile(None)
        return self.calls

    def _on_event(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(f"{LIBRARY}/"):
            return

        # A generator is called anew for each of its values.
        if event == "return":
            if self._stack and self._stack[-1] is frame:
                self._stack.pop()
            if self.end and self.calls and code.co_qualname == self.end:
                self._has_ended = True
            return

        if code.co_name not in _NOT_FUNCTIONS and not self._has_ended:
            has_started = bool(self.calls) or self.start in ("", code.co_qualname)
            if has_started:
                file = Path(code.co_filename).relative_to(LIBRARY).as_posix()
                self.calls.append(Call(file, code.co_qualname, len(self._stack)))
        self._stack.append(frame)


def count_files(calls: Sequence[Call]) -> int:
    """Return the number of files that the calls lie in."""
    return len({call.file for call in calls})


def count_changes(calls: Sequence[Call]) -> int:
    """Return how often two consecutive calls lie in different folders."""
    return sum(first.folder != second.folder for first, second in zip(calls, calls[1:], strict=False))


# --- ways


class StandIn(Expert):
    """Returns the same annotations for every image: a caption, two objects and a line of text."""

    version, licence = "1", "CC0-1.0"

    def __init__(self, name: str) -> None:
        self.name = name

    def prepare(self) -> None:
        """Load nothing."""

    def annotate(self, images: Sequence[Image.Image]) -> list[ExpertOutput]:
        """Return the annotations of each image."""
        outputs = []
        for image in images:
            half = image.width // 2
            corners = ((0, 0), (half, 0), (half, 9), (0, 9))
            outputs.append(
                ExpertOutput(
                    captions=(Caption(text=f"a {self.name} of noise", expert=self.name),),
                    regions=(
                        Region(box=(0, 0, half, 20), text="dog", score=0.9, expert=self.name),
                        Region(box=(half, 0, image.width, 30), text="cat", score=0.8, expert=self.name),
                    ),
                    lines=(OcrLine(quad=corners, text="noise", confidence=0.9, expert=self.name),),
                )
            )
        return outputs


def _images(folder: Path, count: int, seed: int) -> list[Path]:
    """Write images of noise into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    paths = []
    for number in range(count):
        paths.append(folder / f"{seed}-{number}.png")
        Image.fromarray(random.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(paths[-1])
    return paths


def _monkey() -> Monkey:
    """Return a small model with random weights."""
    torch.manual_seed(0)
    profile = profiles.load_profile("smoke")
    processor = build.build_processor(profile)
    return Monkey(build.build_model(profile, processor).eval(), processor)


def train_on_mixture(folder: Path) -> Callable[[int], Any]:
    """Return what trains on a mixture for a step."""
    profile = profiles.load_profile("smoke").with_training(steps=1, batch_size=2, micro_batch_size=2)
    # Without worker processes, which are not recorded; a profile has one at least.
    profile = profile.model_copy(update={"training": profile.training.model_copy(update={"workers": 0})})

    def train(seed: int) -> None:
        mixture = load_mixture("samples")
        data = TrainingData(mixture, None, "samples", num_records=2)
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            finetune.run(profile, folder / f"train-{seed}", progress=False, data=data)

    return train


def caption_two_images(folder: Path) -> Callable[[int], Any]:
    """Return what captions two images with stand-ins."""
    experts = [StandIn("tagger"), StandIn("detector"), StandIn("reader")]
    return lambda seed: caption_images(
        _images(folder / "images", 2, seed), experts, folder / f"captions-{seed}", progress=False
    )


def caption_two_images_on_cpu(folder: Path) -> Callable[[int], Any]:
    """Return what captions two images with the experts of the CPU set."""
    from monkeylib.captions.experts import load_experts

    experts = load_experts("cpu")
    return lambda seed: caption_images(
        _samples(seed), experts, folder / f"captions-on-cpu-{seed}", progress=False
    )


def _samples(seed: int) -> list[Path]:
    """Return two of the images that the repository ships."""
    names = ("receipt.png", "sign.png") if seed else ("coffee.jpg", "rocket.jpg")
    return [monkeylib.resources.samples() / name for name in names]


def predict_question(folder: Path) -> Callable[[int], Any]:
    """Return what predicts the answers to two questions, about an image each."""
    model, digests = PrefixSharingMonkey(_monkey(), max_new_tokens=1), FileDigests()

    def run(seed: int) -> None:
        examples = []
        for path in _images(folder / "images", 2, seed):
            examples.append(Example(path.stem, path, "what is this?", ("noise",)))
        path = folder / f"predictions-{seed}.jsonl"
        predict(model, examples, path, progress=False, file_digests=digests)

    return run


def answer_question(folder: Path) -> Callable[[int], Any]:
    """Return what answers a question about an image."""
    monkey = _monkey()
    return lambda seed: monkey.answer(
        _images(folder / "images", 1, seed)[0], "what is this?", max_new_tokens=1
    )


@dataclass(frozen=True)
class Way:
    """A way through the library.

    Attributes:
        title: where it begins and ends.
        prepare: loads what it needs and returns what runs it, on data that a number chooses.
        files, changes: the most that it may have; None for no limit.
        start, end: functions between which it is recorded, as in `Recorder`.
        beside: files that are no part of it.
    """

    title: str
    prepare: Callable[[Path], Callable[[int], Any]]
    files: int | None
    changes: int | None
    start: str = ""
    end: str = ""
    beside: tuple[str, ...] = ()


AROUND_A_STEP = tuple(
    f"training/{name}.py" for name in ("callbacks", "curves", "health", "progress", "signals")
)

WAYS = {
    "training": Way(
        "mixture → one training step",
        train_on_mixture,
        24,
        35,
        start="LengthBuckets.__getitem__",
        end="Health.on_train_batch_end",
        beside=AROUND_A_STEP,
    ),
    "training-with-callbacks": Way(
        "the same with callbacks, loggers and timers",
        train_on_mixture,
        None,
        None,
        start="LengthBuckets.__getitem__",
        end="Health.on_train_batch_end",
    ),
    "captions": Way(
        "two images → caption records",
        caption_two_images,
        15,
        35,
        start="LocalEngine.run",
        end="gather_shards",
    ),
    "captions-cpu": Way(
        "the same with the experts of the CPU set",
        caption_two_images_on_cpu,
        None,
        None,
        start="LocalEngine.run",
        end="gather_shards",
    ),
    "prediction": Way("question → prediction", predict_question, 19, 14),
    "answer": Way("image → answer", answer_question, 18, 6),
}


def follow(way: Way) -> list[Call]:
    """Run a way on two pieces of data, and return the calls of the second run."""
    # Lightning says which devices it uses, and more.
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = way.prepare(Path(folder))
            run(0)
            calls = Recorder(way.start, way.end).run(lambda: run(1))
            return [call for call in calls if call.file not in way.beside]
    finally:
        logging.disable(logging.NOTSET)


def _print_calls(calls: Sequence[Call]) -> None:
    """Print calls, one a line, marked where the folder changes; repeated ones once."""
    previous = None
    for call in calls:
        has_changed = previous is not None and previous.folder != call.folder
        is_repeated = previous is not None and (previous.file, previous.function) == (
            call.file,
            call.function,
        )
        if has_changed or not is_repeated:
            print(f"{'>' if has_changed else ' '} {'  ' * min(call.depth, 20)}{call.file} {call.function}")
        previous = call


def main() -> None:
    """Print the rows, or the calls of one way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ways", nargs="*", help=f"default: all of {', '.join(WAYS)}")
    parser.add_argument("--verbose", action="store_true", help="print the calls, one a line")
    arguments = parser.parse_args()

    print(f"{'way':45} files  changes of folder")
    for name in arguments.ways or WAYS:
        way = WAYS[name]
        calls = follow(way)

        if arguments.verbose:
            _print_calls(calls)

        limits = f"  (at most {way.files} and {way.changes})" if way.files else ""
        print(f"{way.title:45} {count_files(calls):5}  {count_changes(calls):5}{limits}")


if __name__ == "__main__":
    main()
