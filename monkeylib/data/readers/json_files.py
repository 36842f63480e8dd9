"""Training data in JSON: the released conversations and evaluation lines, and LLaVA's conversations.

Conversations of the released training data, a list in a .json file:

    {"conversations": [{"from": "user", "value": "<img>PATH</img> QUESTION Answer: "},
                       {"from": "assistant", "value": "ANSWER"}]}

Lines of the released evaluation data, in a .jsonl file. The answer is a text, or a list of texts that are all
correct, of which the most frequent one is trained on:

    {"image": "PATH", "question": "QUESTION", "answer": "ANSWER", "question_id": 0}

LLaVA's conversations, whose field `image` is a path or a list of them:

    {"id": 0, "image": "PATH", "conversations": [{"from": "human", "value": "<image>\\nQUESTION"},
                                                 {"from": "gpt", "value": "ANSWER"}]}

All three are read from both kinds of file.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from monkeylib.data.readers.base import DatasetRecords, RawRecord, find_files
from monkeylib.data.records import BadRecord, Record
from monkeylib.data.schema import DatasetEntry

_IMAGE_TAG = re.compile(r"<img>(.*?)</img>", re.DOTALL)
_LLAVA_PLACEHOLDER = "<image>"

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WHITESPACE = re.compile(r"[ \t\r\n]*")
_ID_FIELDS = ("id", "question_id")


# --- formats --------------------------------------------------------------------------------------


def read_conversations(entry: DatasetEntry, root: Path) -> DatasetRecords:
    """Read the released conversations, from one or more files."""
    return DatasetRecords(entry, root, JsonRecords(find_files(entry, root)), _parse_conversation)


def read_evaluation(entry: DatasetEntry, root: Path) -> DatasetRecords:
    """Read the released evaluation lines, from one or more files."""
    return DatasetRecords(entry, root, JsonRecords(find_files(entry, root)), _parse_evaluation)


def read_llava(entry: DatasetEntry, root: Path) -> DatasetRecords:
    """Read LLaVA's conversations, from one or more files."""
    return DatasetRecords(entry, root, JsonRecords(find_files(entry, root)), _parse_llava)


def _parse_conversation(raw: RawRecord) -> Record:
    """Parse a released conversation.

    Texts stay as they are, so the prompt begins with the blank after `</img>`. The tag `<img>` is markup at
    the front of the first prompt, an error in any other prompt, and text in an answer, as is `<imgpad>`
    everywhere. (The released code prints an error there and trains on nothing but the end of text.)
    """
    turns = _parse_turns(raw, roles=("user", "assistant"))

    # The tags at the front of the first prompt become images.
    first_prompt, first_answer = turns[0]
    names, first_prompt = _split_image_tags(first_prompt)
    turns = [(first_prompt, first_answer), *turns[1:]]

    # Prompts are every second turn, hence 2 * number in the messages.
    for number, (prompt, _) in enumerate(turns):
        if "<img>" in prompt:
            raise BadRecord(
                f"{raw.location}, field conversations[{2 * number}].value: every <img>path</img> must stand "
                f"at the front of the first prompt, got another <img> in {prompt[:60]!r}"
            )

    raw.text(first_prompt, "conversations[0].value after the images")

    images = raw.image_paths(names, "conversations[0].value") if names else []
    return raw.to_record(images, turns, raw.value.get("id"))


def _split_image_tags(text: str) -> tuple[list[str], str]:
    """Return the paths in the tags at the front of a prompt, and the rest of the prompt."""
    names = []
    position = 0
    while match := _IMAGE_TAG.match(text, position):
        names.append(match[1])
        position = match.end()

    return names, text[position:]


def _parse_evaluation(raw: RawRecord) -> Record:
    """Parse a released evaluation line, with its question in the dataset's prompt."""
    images = raw.image_paths(raw.field("image"), "image")
    prompt = raw.prompt(raw.field("question"), "question")
    answer = raw.answer(raw.field("answer"), "answer")
    return raw.to_record(images, [(prompt, answer)], raw.value.get("question_id"))


def _parse_llava(raw: RawRecord) -> Record:
    """Parse a conversation of LLaVA, with each question in the dataset's prompt.

    Wherever `<image>` stands in the first question, its image comes first, as in LLaVA's own training. In an
    answer it is text.
    """
    turns = _parse_turns(raw, roles=("human", "gpt"))

    value = raw.value.get("image")
    images = [] if value is None else raw.image_paths(value, "image")

    # One placeholder for each image, all of them in the first question.
    placeholders = turns[0][0].count(_LLAVA_PLACEHOLDER)
    if placeholders != len(images):
        raise BadRecord(
            f"{raw.location}, field conversations[0].value: expected a {_LLAVA_PLACEHOLDER} for each of the "
            f"{len(images)} images of the field image, got {placeholders}"
        )

    for number, (question, _) in enumerate(turns[1:], 1):
        if _LLAVA_PLACEHOLDER in question:
            raise BadRecord(
                f"{raw.location}, field conversations[{2 * number}].value: every {_LLAVA_PLACEHOLDER} must "
                f"stand in the first question, got one in {question[:60]!r}"
            )

    # The placeholders are dropped, since images always precede the text.
    prompts = []
    for number, (question, answer) in enumerate(turns):
        question = question.replace(_LLAVA_PLACEHOLDER, "").strip()
        prompts.append((raw.prompt(question, f"conversations[{2 * number}].value"), answer))

    return raw.to_record(images, prompts, raw.value.get("id"))


def _parse_turns(raw: RawRecord, roles: tuple[str, str]) -> list[tuple[str, str]]:
    """Check that two roles take turns, and return the pairs of their texts.

    Only the first pair is returned if the dataset's `turns` is "first".
    """
    turns = raw.field("conversations")
    if not isinstance(turns, list) or not turns:
        raise raw.error("conversations", "a list of turns", turns)

    texts = []
    for number, turn in enumerate(turns):
        field = f"conversations[{number}]"
        role = roles[number % 2]
        if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
            raise raw.error(field, "an object with `from` and `value`", turn)
        if turn["from"] != role:
            raise raw.error(f"{field}.from", f"{role} ({' and '.join(roles)} take turns)", turn["from"])
        texts.append(raw.text(turn["value"], f"{field}.value"))

    # Texts alternate: prompt, answer, prompt, answer, ...
    if len(texts) % 2:
        raise raw.error("conversations", "an answer after every prompt", f"{len(texts)} turns")

    pairs = list(zip(texts[::2], texts[1::2], strict=True))
    return pairs if raw.entry.turns == "all" else pairs[:1]


# --- files ----------------------------------------------------------------------------------------


class _Span(NamedTuple):
    """Where a record lies in its file: its first byte, its length in bytes, and its line."""

    start: int
    length: int
    line: int


class JsonRecords:
    """Records in files ending in .jsonl (one object a line) or .json (one list of objects).

    The files are indexed once, and each record is read when it is needed; the index takes 24 bytes a record.
    A line that is not JSON is a bad record. A list must be valid as a whole, since nothing after a syntax
    error in it can be read.

    Raises:
        ValueError: a file is empty, has another ending, or is not JSON.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self._ids: dict[int, Any] = {}
        self._first_records = [0]  # number of the first record of each file, and of the end

        numbers = array("q")  # three a record: start, length, line
        for file in files:
            for span, value in _index(file):
                id = _id_of(value)
                if id is not None:
                    self._ids[len(numbers) // 3] = id
                numbers.extend(span)
            self._first_records.append(len(numbers) // 3)

        # [number of records, 3]
        if numbers:
            self._spans = np.frombuffer(numbers, dtype=np.int64).reshape(-1, 3)
        else:
            self._spans = np.zeros((0, 3), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, number: int) -> Any:
        span = _Span(*self._spans[number].tolist())
        with open(self._file(number), "rb") as file:
            file.seek(span.start)
            content = file.read(span.length)

        try:
            return json.loads(content.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise BadRecord(f"expected UTF-8, got the byte 0x{content[error.start]:02x}") from error
        except (ValueError, RecursionError) as error:
            raise BadRecord(f"expected an object of JSON, got {content.strip()[:60]!r} ({error})") from error

    def location(self, number: int) -> str:
        """Return the file, the number of the record in a list, and the line."""
        file = self._file(number)
        line = _Span(*self._spans[number].tolist()).line
        if file.suffix == ".jsonl":
            return f"{file.name}, line {line}"

        number_in_file = number - self._first_records[self.files.index(file)] + 1
        return f"{file.name}, record {number_in_file} (line {line})"

    def ids(self) -> Iterable[Any]:
        """Return the field `id` or `question_id` of each record, and release them: a second call has none."""
        ids, self._ids = self._ids, {}
        return (ids.get(number) for number in range(len(self)))

    def _file(self, number: int) -> Path:
        return self.files[int(np.searchsorted(self._first_records, number, side="right")) - 1]


def _id_of(value: Any) -> Any:
    if isinstance(value, dict):
        for field in _ID_FIELDS:
            if value.get(field) is not None:
                return value[field]
    return None


def _index(file: Path) -> Iterator[tuple[_Span, Any]]:
    """Yield the span and the value of each record of a file."""
    if file.suffix not in (".json", ".jsonl"):
        raise ValueError(f"{file} must end in .json (a list) or .jsonl (an object a line)")
    if not file.stat().st_size:
        raise ValueError(f"{file} is empty: expected records in JSON")
    return _index_lines(file) if file.suffix == ".jsonl" else _index_list(file)


def _index_lines(file: Path) -> Iterator[tuple[_Span, Any]]:
    start = 0
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            # Only the first line can begin with a byte order mark.
            skip = len(_BYTE_ORDER_MARK) if number == 1 and line.startswith(_BYTE_ORDER_MARK) else 0

            # Blank lines are no records.
            if line[skip:].strip():
                try:
                    value = json.loads(line[skip:])
                except (ValueError, RecursionError):  # the error is raised when the record is read
                    value = None
                yield _Span(start + skip, len(line) - skip, number), value

            start += len(line)


def _index_list(file: Path) -> Iterator[tuple[_Span, Any]]:
    content = file.read_bytes()
    skip = len(_BYTE_ORDER_MARK) if content.startswith(_BYTE_ORDER_MARK) else 0

    # surrogateescape keeps bytes that are not UTF-8, so that only the record that holds them is bad.
    text = content[skip:].decode("utf-8", errors="surrogateescape")

    position = _skip_whitespace(text, 0)
    if text[position : position + 1] != "[":
        raise ValueError(
            f"{file} must hold a list of records, it begins with {text[position : position + 20]!r}; "
            "records of a line each belong in a file that ends in .jsonl"
        )

    # Positions in `text` count characters; spans count bytes. `byte` and `line` belong to `counted`.
    byte, line, counted = skip, 1, 0
    decode = json.JSONDecoder().raw_decode
    try:
        position = _skip_whitespace(text, position + 1)
        while text[position : position + 1] != "]":
            # The decoder reads one value and returns where it ends.
            value, end = decode(text, position)

            # What lies between two records counts, too: commas, blanks and line breaks.
            byte += _byte_length(text[counted:position])
            line += text.count("\n", counted, position)
            length = _byte_length(text[position:end])
            yield _Span(byte, length, line), value

            byte += length
            line += text.count("\n", position, end)
            counted = end

            position = _skip_whitespace(text, end)
            if text[position : position + 1] not in (",", "]"):
                raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
            if text[position] == ",":
                position = _skip_whitespace(text, position + 1)

        # Nothing may follow the list.
        if text[position + 1 :].strip():
            raise json.JSONDecodeError("Extra data", text, position + 1)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON ({error}): write it anew") from error


def _skip_whitespace(text: str, position: int) -> int:
    return _WHITESPACE.match(text, position).end()


def _byte_length(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))
