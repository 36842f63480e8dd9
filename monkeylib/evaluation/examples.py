"""Examples of a benchmark, their images, and predictions for them on disk."""

import codecs
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from monkeylib.digests import MISSING, FileDigests, image_digest, image_file_digest, json_digest, text_digest
from monkeylib.images import ImageError, ImageInput, open_image
from monkeylib.model.answers import Answer
from monkeylib.progress import Progress


@dataclass(frozen=True)
class Example:
    """A question about an image, with the answers that count as correct.

    Attributes:
        id: unique within the benchmark.
        image: an image, or a function that renders it on demand.
        question: may be empty for prompts that take none.
        answers: accepted answers.
        prompt: a name from `prompts.PROMPTS`.
        image_id: the same for examples about the same image, which is encoded once for all of them; if
            empty, no other example shares the image.
        meta: family, text size and so on, stored with the prediction for scores by group.
        pages: all pages of a document of several, the first of which is `image`; see `evaluation.documents`.
    """

    id: str
    image: ImageInput | Callable[[], ImageInput]
    question: str
    answers: tuple[str, ...]
    prompt: str = "vqa"
    image_id: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    pages: tuple[ImageInput, ...] = ()

    @property
    def is_document(self) -> bool:
        """Whether the question is about several pages."""
        return len(self.pages) > 1

    @property
    def image_key(self) -> str:
        """Key of the example's image."""
        return self.image_id or self.id

    @property
    def rendered_image(self) -> ImageInput:
        """The image, rendered now if it comes from a function."""
        return self.image() if callable(self.image) else self.image


@dataclass(frozen=True)
class Prediction:
    """One line of a predictions file: an example without its image, and the answer of a model to it.

    Attributes:
        image: the example's `image_key`.
        prompt: name of the prompt.
        prediction: the model's answer; empty if there is none.
        model: the model's fingerprint or name.
        image_digest: digest of the image's content: of a file's bytes, of the pixels of an image in memory.
        template: text of the prompt, `{question}` in it standing for the question.
        tokens: number of generated tokens; None if unknown.
        is_cut: whether the answer reached the maximum length before its end.
        page: number of the page that the answer was read from, for a document of several; None otherwise.
        error: why there is no answer, such as "damaged image"; empty if there is one.
    """

    id: str
    image: str
    question: str
    answers: list[str]
    prompt: str
    prediction: str
    model: str
    meta: dict[str, Any]
    image_digest: str = ""
    template: str = ""
    tokens: int | None = None
    is_cut: bool = False
    error: str = ""
    page: int | None = None

    @classmethod
    def from_example(
        cls,
        example: Example,
        answer: str | Answer,
        model: str,
        *,
        image_digest: str = "",
        template: str = "",
        error: str = "",
    ) -> "Prediction":
        """Return the prediction for an example, equal to what is read back from disk."""
        return cls(
            id=example.id,
            image=example.image_key,
            question=example.question,
            answers=list(example.answers),
            prompt=example.prompt,
            prediction=answer.text if isinstance(answer, Answer) else answer,
            model=model,
            meta=json.loads(json.dumps(dict(example.meta))),  # tuples become lists, as on disk
            image_digest=image_digest,
            template=template,
            tokens=len(answer.token_ids) if isinstance(answer, Answer) else None,
            is_cut=isinstance(answer, Answer) and answer.ended_by == "length limit",
            error=error,
            page=getattr(answer, "page", None),
        )

    @property
    def is_empty(self) -> bool:
        """Whether the model answered with nothing but white space."""
        return not self.error and not self.prediction.strip()

    def answers_example(self, example: Example, image_digest: str, template: str) -> bool:
        """Return whether this is about the image, question and prompt of an example, whatever their names."""
        key = (self.image_digest, self.question, self.template)
        return key == (image_digest, example.question, template)

    def with_example(self, example: Example) -> "Prediction":
        """Return the same answer beside an example's present names, accepted answers and meta."""
        return replace(
            self,
            image=example.image_key,
            answers=list(example.answers),
            prompt=example.prompt,
            meta=json.loads(json.dumps(dict(example.meta))),
        )

    def to_line(self) -> bytes:
        """Return the prediction as a line of JSON."""
        # A model can write half of a surrogate pair, which UTF-8 cannot hold: it is escaped as in JSON.
        text = json.dumps(asdict(self), ensure_ascii=False) + "\n"
        return text.encode("utf-8", errors="backslashreplace")


def make_batches(examples: Sequence[Example], size: int) -> list[list[Example]]:
    """Batch examples of similar length, to pad little, and keep the questions of an image together."""
    # The questions of an image stay together, so that it is encoded once.
    by_image: dict[str, list[Example]] = {}
    for example in examples:
        by_image.setdefault(example.image_key, []).append(example)

    def question_length(example: Example) -> int:
        return len(example.question)

    # Images in the order of their longest question, since it decides the padding of a batch.
    groups = sorted(by_image.values(), key=lambda group: max(map(question_length, group)))
    ordered: list[Example] = []
    for group in groups:
        ordered += sorted(group, key=question_length)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


# --- images -----------------------------------------------------------------------------------------------


class OpenedImages(NamedTuple):
    """The images of a batch.

    Attributes:
        examples: those whose images could be opened, with them.
        errors: why the images of the others could not, by the ids of the examples.
        file_digests: digests of image files as they are now, by `Example.image_key`.
    """

    examples: list[Example]
    errors: dict[str, str]
    file_digests: dict[str, str]


def open_images(
    examples: Sequence[Example],
    file_digests: FileDigests,
    prepare: Callable[[ImageInput], Any] = open_image,
) -> OpenedImages:
    """Open the images of a batch, each once, whatever number of its questions are about it.

    Args:
        examples: the examples of the batch.
        file_digests: digests of files from earlier calls.
        prepare: opens an image, and makes of it what the model takes in its place, such as its views.
    """
    # Functions that read no images take examples without one.
    by_key = {example.image_key: example for example in reversed(examples) if example.image is not None}
    # Documents may have many pages, which are opened one after the other (`documents`).
    images = {key: example.rendered_image for key, example in by_key.items() if not example.is_document}

    # Before the images are opened: if a file is replaced in between, the next run sees another digest.
    files = _image_files(by_key)
    digests = file_digests.image_digests([file for group in files.values() for file in group])

    opened_images: dict[str, Any] = {}
    errors_of_images: dict[str, str] = {}
    for key, image in images.items():
        try:
            opened_images[key] = prepare(image)
        except ImageError as error:
            errors_of_images[key] = f"image: {error.code}"
        except ValueError:
            # A grid that it cannot have: the model refuses it, in its own words, with each of its questions.
            opened_images[key] = image

    opened = []
    errors = {}
    for example in examples:
        if example.image_key in errors_of_images:
            errors[example.id] = errors_of_images[example.image_key]
        else:
            opened.append(replace(example, image=opened_images.get(example.image_key, example.image)))

    return OpenedImages(opened, errors, _digests_by_key(files, digests))


def _image_files(examples: Mapping[str, Example]) -> dict[str, list[Path]]:
    """Return the files of the images that are given by their names, by the keys of the examples.

    A document has a file for each of its pages, other images have one.
    """
    files = {}
    for key, example in examples.items():
        images = example.pages if example.is_document else (example.image,)
        if all(isinstance(image, str | Path) and not str(image).startswith("data:") for image in images):
            files[key] = [Path(image) for image in images]
    return files


def _digests_by_key(files: Mapping[str, Sequence[Path]], digests: Mapping[Path, str]) -> dict[str, str]:
    """Return the digests of images by their keys, empty for a file that can't be read."""
    digests_by_key = {}
    for key, files_of_image in files.items():
        own_digests = ["" if digests[file] == MISSING else digests[file] for file in files_of_image]
        digests_by_key[key] = own_digests[0] if len(own_digests) == 1 else json_digest(own_digests)
    return digests_by_key


def image_digests(
    examples: Sequence[Example], file_digests: FileDigests, progress: bool = False
) -> dict[str, str]:
    """Return the digest of each image by `Example.image_key`: of a file's bytes, or of the pixels of an image
    in memory. It is empty if there is no image, or if it can't be read.

    Args:
        examples: the examples.
        file_digests: digests from earlier calls; those of this one are saved, also if it is interrupted.
        progress: report progress on standard error.
    """
    # Images are large: each is read, or rendered, once.
    by_key = {example.image_key: example for example in reversed(examples)}
    files = _image_files(by_key)

    paths = [file for group in files.values() for file in group]

    with Progress("images", enabled=progress) as bars:
        bars.add_task("checksums", len(paths) + len(by_key.keys() - files.keys()))
        digests_of_files = file_digests.image_digests(paths, partial(bars.advance, "checksums"))

        rendered = {}
        for key in by_key.keys() - files.keys():
            rendered[key] = _rendered_digest(by_key[key])
            bars.advance("checksums")

    return rendered | _digests_by_key(files, digests_of_files)


def _rendered_digest(example: Example) -> str:
    """Return the digest of an image that isn't given as a file; empty without one, or if it can't be read."""
    if example.image is None:
        return ""

    image = example.rendered_image
    if isinstance(image, str) and image.startswith("data:"):
        return text_digest(image)

    try:
        # A function may return the name of a file, too.
        if isinstance(image, str | Path):
            return image_file_digest(Path(image))
        return image_digest(open_image(image))
    except (ValueError, OSError):  # recorded as a failure when the question's turn comes
        return ""


# --- predictions on disk ----------------------------------------------------------------------------------


def read_predictions(path: Path | str) -> list[Prediction]:
    """Read the predictions of a file, in its order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is no prediction.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There are no predictions at {path}: write them with evaluation.predict first."
        )

    lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines(keepends=True)
    return [_parse_line(line, number, path) for number, line in enumerate(lines, 1) if line.strip()]


def read_complete_lines(path: Path) -> tuple[list[Prediction], bool]:
    """Read the predictions of a file that a run goes on with.

    Returns:
        The predictions, and whether a last line without its end, as a kill leaves it, was left out.

    Raises:
        ValueError: a complete line is no prediction.
    """
    # As bytes: a kill may have cut a line inside a character.
    lines = path.read_bytes().splitlines(keepends=True)

    # Only the last line can be incomplete.
    is_torn = bool(lines) and not lines[-1].endswith(b"\n")
    if is_torn:
        del lines[-1]
    return [_parse_line(line, number, path) for number, line in enumerate(lines, 1)], is_torn


def _parse_line(line: bytes, number: int, path: Path) -> Prediction:
    try:
        prediction = Prediction(**json.loads(line))
        fields = {"id": str, "question": str, "prediction": str, "answers": list, "meta": dict}
        for name, kind in fields.items():
            if not isinstance(getattr(prediction, name), kind):
                raise TypeError(f"its {name} is {getattr(prediction, name)!r:.40}")
        return prediction
    except (ValueError, TypeError) as error:
        is_torn = not line.endswith(b"\n")
        remedy = (
            "the run was interrupted while it wrote this line; run `monkeylib evaluate` again to complete it"
            if is_torn
            else "delete the file and predict anew"
        )
        raise ValueError(f"Line {number} of {path} is no prediction ({error}): {remedy}.") from error
