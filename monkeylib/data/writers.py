"""Write records of any format as LLaVA's JSON, messages in JSON lines, WebDataset shards or parquet.

LLaVA's JSON and messages name their images relative to the folder of the file; images that have no file, such
as those of a table, are written into a folder beside it. Shards and parquet hold the images themselves.
Captions can also be written as the released caption pipeline does, which no file's ending stands for.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from monkeylib import resources
from monkeylib.data.records import BadRecord, Record
from monkeylib.errors import choose
from monkeylib.image_sources import SUFFIXES
from monkeylib.images import encode_image
from monkeylib.messages import IMAGE_PLACEHOLDER, ImagePart, ImageSource, Message, Part
from monkeylib.prompts import get_template

# The format that a file's ending stands for.
FORMATS = {"llava": ".json", "messages": ".jsonl", "webdataset": ".tar", "parquet": ".parquet"}

_VQA_END = "Answer:"  # of the prompt around a question in the released data
_PARQUET_BATCH = 200  # rows
_JPEG_SUFFIXES = {"JPEG": ".jpg", "JPEG2000": ".jp2"}


@dataclass
class WriteResult:
    """What was written.

    Attributes:
        num_records: number of records.
        num_with_prompt: records whose texts are complete prompts of another kind than `QUESTION Answer: `.
        left_out: number of records that were left out, by the reason.
        images: folder of the images that had no file, None if there are none.
    """

    num_records: int = 0
    num_with_prompt: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    images: Path | None = None


def format_of(path: Path) -> str:
    """Return the format that the ending of a new file stands for.

    Raises:
        ValueError: it stands for none.
    """
    for name, suffix in FORMATS.items():
        if path.suffix.lower() == suffix:
            return name
    endings = ", ".join(f"{suffix} ({name})" for name, suffix in FORMATS.items())
    raise ValueError(f"{resources.display_path(path)} stands for no format by its ending: expected {endings}")


def write_records(
    records: Iterable[Record],
    out: str | Path,
    format: str = "",
    advance: Callable[[], None] = lambda: None,
) -> WriteResult:
    """Write records to a new file.

    Texts of the user are written as the questions that they are, without the prompt around them. Records that
    the format cannot hold are left out and counted.

    Args:
        records: the records.
        out: the file.
        format: a key of `FORMATS`, or `released`; by default that of the file's ending.
        advance: called after each record.

    Raises:
        FileExistsError: there is something at `out`, or at the folder for its images.
        BadRecord: a record, or an image that has to be copied, cannot be read.
        ValueError: no such format, or no record is left.
    """
    out = resources.to_path(out)
    write = _WRITERS[choose("format", format, _WRITERS) if format else format_of(out)]
    resources.require_new(out)
    result = WriteResult()

    def prepared() -> Iterator[Record]:
        for record in records:
            question_record, has_prompt = _with_questions(record)
            result.num_with_prompt += has_prompt
            yield question_record
            advance()

    with ExitStack() as stack:
        # Everything gets its name at the end, the file last, or nothing does.
        temporary = stack.enter_context(resources.atomic_write(out))
        write(prepared(), temporary, out, result, stack)
        if not result.num_records:
            reasons = ", ".join(f"{count} {reason}" for reason, count in result.left_out.items())
            raise ValueError(f"there is no record to write{f' ({reasons})' if reasons else ''}")

    return result


# --- questions and images


def _with_questions(record: Record) -> tuple[Record, bool]:
    """Return a record whose user asks plain questions, and whether some of them are prompts nevertheless."""
    takes_question = record.prompt is None or get_template(record.prompt).takes_question
    if record.prompt is not None and takes_question:
        return record, False

    messages = []
    has_prompt = False
    for message in record.messages:
        if message.role == "user" and not takes_question:
            # A prompt for captions stands in place of a question.
            parts: tuple[Part, ...] = (*map(ImagePart, message.images), get_template(record.prompt).text)
            message, has_prompt = replace(message, parts=parts), True
        elif message.role == "user":
            message, is_question = _without_prompt(message)
            has_prompt = has_prompt or not is_question
        messages.append(message)

    return replace(record, messages=tuple(messages)), has_prompt


def _without_prompt(message: Message) -> tuple[Message, bool]:
    """Return a message without the prompt of the released data, and whether it had this one."""
    parts = list(message.parts)
    last = parts[-1]
    is_question = isinstance(last, str) and last.rstrip().endswith(_VQA_END)
    if is_question:
        parts[-1] = last.rstrip().removesuffix(_VQA_END)

    # The separator behind an image, or behind an earlier answer.
    texts = [number for number, part in enumerate(parts) if isinstance(part, str)]
    if texts:
        parts[texts[0]] = parts[texts[0]].lstrip() if len(texts) == 1 else parts[texts[0]]
        parts[texts[-1]] = parts[texts[-1]].rstrip()
    return replace(message, parts=tuple(part for part in parts if part != "")), is_question


def _image_bytes(source: ImageSource, record: Record) -> tuple[bytes, str]:
    """Return an image as it is encoded, and the ending of its format.

    Raises:
        BadRecord: it cannot be read, or is no image.
    """
    try:
        content, kind = encode_image(source() if callable(source) else source)
    except (OSError, ValueError) as error:
        raise BadRecord(f"{record.location}: its image cannot be read ({error})") from error

    suffix = _JPEG_SUFFIXES.get(kind, f".{kind.lower()}")
    if suffix not in SUFFIXES:
        raise BadRecord(f"{record.location}: its image is of the kind {kind}, which is not read")
    return content, suffix


class _ImageNames:
    """Names of images relative to a file; images without a file are written into a folder beside it."""

    def __init__(self, out: Path, result: WriteResult, stack: ExitStack) -> None:
        self._out, self._result, self._stack = out, result, stack
        self._folder: Path | None = None
        self._count = 0

    def name(self, source: ImageSource, record: Record) -> str:
        """Return the name of an image."""
        if isinstance(source, Path):
            return os.path.relpath(source.resolve(), self._out.parent.resolve())

        content, suffix = _image_bytes(source, record)
        if self._folder is None:
            self._result.images = self._out.with_name(f"{self._out.stem}-images")
            self._folder = self._stack.enter_context(resources.create_folder(self._result.images))

        name = f"{self._count:08d}{suffix}"
        self._count += 1
        (self._folder / name).write_bytes(content)
        return f"{self._result.images.name}/{name}"


# --- formats


def _write_llava(
    records: Iterable[Record], temporary: Path, out: Path, result: WriteResult, stack: ExitStack
) -> None:
    names = _ImageNames(out, result, stack)
    roles = {"system": "system", "user": "human", "assistant": "gpt"}

    with open(temporary, "w", encoding="utf-8") as file:
        file.write("[")
        for record in records:
            # A placeholder that is none could not be told from the others.
            if any(
                IMAGE_PLACEHOLDER in message.text for message in record.messages if message.role == "user"
            ):
                result.left_out[f"with {IMAGE_PLACEHOLDER} as a text"] += 1
                continue

            images = [names.name(image, record) for image in record.images]
            turns = [
                {"from": roles[message.role], "value": _llava_text(message)} for message in record.messages
            ]
            row = {"id": record.id, "conversations": turns} | _facts(record)
            if images:
                row["image"] = images[0] if len(images) == 1 else images

            file.write(",\n" if result.num_records else "")
            file.write(json.dumps(row, ensure_ascii=False))
            result.num_records += 1
        file.write("]\n")


def _llava_text(message: Message) -> str:
    """Return a message as one text, with a placeholder for each image."""
    parts = [part if isinstance(part, str) else IMAGE_PLACEHOLDER for part in message.parts]
    # Images in front of a text stand on lines of their own.
    is_leading = all(isinstance(part, ImagePart) for part in message.parts[:-1])
    return ("\n" if is_leading else "").join(parts)


def _write_released(
    records: Iterable[Record], temporary: Path, out: Path, result: WriteResult, stack: ExitStack
) -> None:
    """Write captions as the released pipeline does, and the file of each image, which it leaves out."""
    names = _ImageNames(out, result, stack)
    with open(temporary, "w", encoding="utf-8") as file:
        file.write("[")
        for record in records:
            if len(record.images) != 1 or len(record.turns) != 1:
                result.left_out["that are no captions of one image"] += 1
                continue

            row = {"img_id": record.id, "detailed_caption": record.turns[0][1]}
            row["image"] = names.name(record.images[0], record)
            file.write(",\n" if result.num_records else "")
            file.write(json.dumps(row, ensure_ascii=False))
            result.num_records += 1
        file.write("]\n")


def _write_messages(
    records: Iterable[Record], temporary: Path, out: Path, result: WriteResult, stack: ExitStack
) -> None:
    names = _ImageNames(out, result, stack)
    with open(temporary, "w", encoding="utf-8") as file:
        for record in records:
            row: dict[str, Any] = {"id": record.id, "messages": _messages(record)}
            if record.images:
                row["images"] = [names.name(image, record) for image in record.images]
            file.write(json.dumps(row | _facts(record), ensure_ascii=False) + "\n")
            result.num_records += 1


def _write_shard(
    records: Iterable[Record], temporary: Path, out: Path, result: WriteResult, stack: ExitStack
) -> None:
    with tarfile.open(temporary, "w") as archive:

        def add(name: str, content: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
            # Members are not looked up again: without this, tarfile would keep them all.
            archive.members = []

        for number, record in enumerate(records):
            row = {"id": record.id, "messages": _messages(record)} | _facts(record)
            add(f"{number:08d}.json", json.dumps(row, ensure_ascii=False).encode())
            for index, image in enumerate(record.images):
                content, suffix = _image_bytes(image, record)
                place = f".{index}" if len(record.images) > 1 else ""
                add(f"{number:08d}{place}{suffix}", content)
            result.num_records += 1


def _write_parquet(
    records: Iterable[Record], temporary: Path, out: Path, result: WriteResult, stack: ExitStack
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    text = pa.string()
    content = pa.list_(pa.struct({"type": text, "text": text}))
    # `datasets` shows the images as images.
    features = {"info": {"features": _PARQUET_FEATURES}}
    schema = pa.schema(
        {
            "id": text,
            "images": pa.list_(pa.struct({"bytes": pa.binary(), "path": text})),
            "messages": pa.list_(pa.struct({"role": text, "content": content})),
            "answers": pa.list_(text),
            "source": text,
            "licence": text,
        },
        metadata={"huggingface": json.dumps(features)},
    )

    with parquet.ParquetWriter(temporary, schema) as writer:
        rows: list[dict[str, Any]] = []
        for record in records:
            images = [_image_bytes(image, record)[0] for image in record.images]
            rows.append(
                {
                    "id": record.id,
                    "images": [{"bytes": content, "path": None} for content in images],
                    "messages": _messages(record),
                    "answers": list(record.answers),
                    "source": record.source,
                    "licence": record.licence,
                }
            )
            result.num_records += 1
            if len(rows) == _PARQUET_BATCH:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema))


def _messages(record: Record) -> list[dict[str, Any]]:
    """Return the messages as OpenAI and TRL write them; the images are listed beside them."""
    return [
        {
            "role": message.role,
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
                for part in message.parts
            ],
        }
        for message in record.messages
    ]


def _facts(record: Record) -> dict[str, Any]:
    """Return what else is known about a record."""
    facts: Mapping[str, Any] = {
        "answers": list(record.answers),
        "source": record.source,
        "licence": record.licence,
    }
    return {name: value for name, value in facts.items() if value}


_TEXT_FEATURE = {"dtype": "string", "_type": "Value"}
_CONTENT_FEATURE = {"_type": "List", "feature": {"type": _TEXT_FEATURE, "text": _TEXT_FEATURE}}
_PARQUET_FEATURES = {
    "id": _TEXT_FEATURE,
    "images": {"_type": "List", "feature": {"_type": "Image"}},
    "messages": {"_type": "List", "feature": {"role": _TEXT_FEATURE, "content": _CONTENT_FEATURE}},
    "answers": {"_type": "List", "feature": _TEXT_FEATURE},
    "source": _TEXT_FEATURE,
    "licence": _TEXT_FEATURE,
}
_WRITERS = {
    "llava": _write_llava,
    "messages": _write_messages,
    "webdataset": _write_shard,
    "parquet": _write_parquet,
    "released": _write_released,
}
