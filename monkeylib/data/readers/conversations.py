"""The released training data, a JSON list of `{"conversations": [{"from": "user", "value":
"<img>PATH</img> QUESTION Answer: "}, {"from": "assistant", "value": "ANSWER"}]}`.

The release trains on turns 0 and 1 only, TextMonkey on all: the set's `turns`.
"""

import re
from pathlib import Path

from monkeylib.data.readers.base import Row, SetRecords, locate
from monkeylib.data.readers.json_files import JsonRows
from monkeylib.data.records import BadRecord, Record
from monkeylib.data.schema import DataSet

ROLES = ("user", "assistant")
_IMAGE = re.compile(r"<img>(.*?)</img>", re.DOTALL)


def read(entry: DataSet, root: Path) -> SetRecords:
    """The records of one or more files."""
    return SetRecords(entry, root, JsonRows(locate(entry, root)), parse)


def parse(row: Row) -> Record:
    """A record. Texts are kept as they are, so the prompt begins with the blank after `</img>`.

    `<img>` is markup in what the user says, and only there; in an answer it is text, as `<imgpad>` is
    anywhere. (The release stops at it, prints an error and trains on the end of text alone.)
    """
    turns = conversation(row, ROLES)
    (first, answer), *others = turns if row.entry.turns == "all" else turns[:1]
    names, prompt = _front(first)
    for number, said in enumerate((prompt, *(said for said, _ in others))):
        if "<img>" in said:
            raise BadRecord(
                f"{row.place}, field conversations[{2 * number}].value: every <img>path</img> must stand at "
                f"the front of the first prompt, got another <img> in {said[:60]!r}"
            )
    row.text(prompt, "conversations[0].value after the images")
    images = row.paths(names, "conversations[0].value") if names else []
    return row.record(images, [(prompt, answer), *others], row.value.get("id"))


def conversation(row: Row, roles: tuple[str, str]) -> list[tuple[str, str]]:
    """Pairs of what the two roles say in turn."""
    turns = row.field("conversations")
    if not isinstance(turns, list) or not turns:
        raise row.bad("conversations", "a list of turns", turns)
    texts = []
    for number, turn in enumerate(turns):
        field = f"conversations[{number}]"
        if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
            raise row.bad(field, "an object with `from` and `value`", turn)
        if turn["from"] != roles[number % 2]:
            raise row.bad(
                f"{field}.from", f"{roles[number % 2]} ({' and '.join(roles)} take turns)", turn["from"]
            )
        texts.append(row.text(turn["value"], f"{field}.value"))
    if len(texts) % 2:
        raise row.bad("conversations", "an answer after every prompt", f"{len(texts)} turns")
    return list(zip(texts[::2], texts[1::2], strict=True))


def _front(text: str) -> tuple[list[str], str]:
    """The paths at the front of a prompt, and the rest."""
    names, at = [], 0
    while match := _IMAGE.match(text, at):
        names.append(match[1])
        at = match.end()
    return names, text[at:]
