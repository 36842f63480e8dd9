"""LLaVA's JSON: `{"id", "image": "a.jpg" or a list, "conversations": [{"from": "human", "value":
"<image>\\nQUESTION"}, {"from": "gpt", "value": "ANSWER"}, ...]}`.

Each question stands in the set's prompt. Wherever `<image>` stands in the first question, its image comes
first, as LLaVA's own training has it.
"""

from pathlib import Path

from monkeylib.data.readers.base import Row, SetRecords, locate
from monkeylib.data.readers.conversations import conversation
from monkeylib.data.readers.json_files import JsonRows
from monkeylib.data.records import BadRecord, Record
from monkeylib.data.schema import DataSet

ROLES = ("human", "gpt")
PLACEHOLDER = "<image>"


def read(entry: DataSet, root: Path) -> SetRecords:
    """The records of one or more files."""
    return SetRecords(entry, root, JsonRows(locate(entry, root)), parse)


def parse(row: Row) -> Record:
    """A record; `<image>` is a placeholder in questions and text in answers."""
    turns = conversation(row, ROLES)
    turns = turns if row.entry.turns == "all" else turns[:1]
    given = row.value.get("image")
    images = [] if given is None else row.paths(given, "image")
    places = turns[0][0].count(PLACEHOLDER)
    if places != len(images):
        raise BadRecord(
            f"{row.place}, field conversations[0].value: expected a {PLACEHOLDER} for each of the "
            f"{len(images)} images of the field image, got {places}"
        )
    for number, (question, _) in enumerate(turns[1:], 1):
        if PLACEHOLDER in question:
            raise BadRecord(
                f"{row.place}, field conversations[{2 * number}].value: every {PLACEHOLDER} must stand in "
                f"the first question, got one in {question[:60]!r}"
            )
    asked = [(question.replace(PLACEHOLDER, "").strip(), answer) for question, answer in turns]
    prompts = [
        (row.prompt(question, f"conversations[{2 * number}].value"), answer)
        for number, (question, answer) in enumerate(asked)
    ]
    return row.record(images, prompts, row.value.get("id"))
