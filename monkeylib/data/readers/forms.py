"""The forms in which datasets write a record, each parsed into a `Record`, wherever its fields come from.

A form is a set of fields; the file around it may be JSON, a table or shards. `conversations` are those of the
released training data and of Qwen-VL, whose texts are prompts already:

    {"conversations": [{"from": "user", "value": "Picture 1: <img>PATH</img>\\nQUESTION Answer: "},
                       {"from": "assistant", "value": "ANSWER"}]}

In all others, the user's texts are questions, which the dataset's prompt is put around. `llava`, LLaVA and
ShareGPT, with an `<image>` for each image:

    {"id": 0, "image": "PATH", "conversations": [{"from": "human", "value": "<image>\\nQUESTION"},
                                                 {"from": "gpt", "value": "ANSWER"}]}

`messages`, as OpenAI and TRL write them; images are named in a list beside them, or in the content:

    {"images": ["PATH"], "messages": [{"role": "user", "content": "<image>QUESTION"},
                                      {"role": "assistant", "content": [{"type": "text", "text": "ANSWER"}]}]}

`cauldron`, of the_cauldron and FineVision:

    {"images": [IMAGE], "texts": [{"user": "QUESTION", "assistant": "ANSWER"}]}

`evaluation`, of the released evaluation data and of any table with columns of these names (the dataset's
`columns` give others). The answer is a text, or a list of texts that are all correct, of which the most
frequent one is trained on:

    {"image": "PATH", "question": "QUESTION", "answer": "ANSWER", "question_id": 0}

`records`, written by `monkeylib caption`: those with status "ok" and a caption that passed its checks.

Numbers count as texts. A field that a form does not have is left alone, but for one that must hold the images
of a record that has no others: it is refused, so that nothing is trained on text alone by mistake.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from monkeylib.data.readers.base import RawRecord, split_list, takes_question
from monkeylib.data.records import BadRecord, Record
from monkeylib.data.schema import DatasetEntry
from monkeylib.image_sources import SUFFIXES
from monkeylib.messages import (
    IMAGE_PLACEHOLDER,
    IMAGE_TYPES,
    ROLES,
    TEXT_TYPES,
    ImagePart,
    ImageSource,
    Message,
    Part,
    image_field,
)

# Markup of the released data. An `<img>` that does not end is a word about HTML.
_IMAGE_TAG = re.compile(r"<img>((?:(?!<img>).)*?)</img>", re.DOTALL)

# How rows say that they have none; tables and downloads have the field in every row.
_NO_IMAGES = (None, "", [])
# Names of fields, in letters alone, whose texts are images; words in the names of fields that may hold paths.
_IMAGE_FIELDS = frozenset(
    "image images imagepath imagepaths imagefile imagefiles imagefilename imagefilenames imagefilepath "
    "imagename imagenames imageurl imageurls imageuri imagebytes img imgs imgpath imgpaths imgfile imgfiles "
    "imgname imgurl picture pictures picturepath photo photos photopath jpg jpeg png webp".split()
)
_PATH_FIELD = re.compile("image|img|picture|photo|screenshot|figure|scan|page|file|path", re.IGNORECASE)
_NO_PLACEHOLDER = "no <image> says where its image belongs: it stands in front of the first question"


def tell_form(value: Any) -> str | None:
    """Return the form of a record by its fields, None if they fit none."""
    if not isinstance(value, dict):
        return None

    turns = value.get("conversations")
    if isinstance(turns, list):
        first = turns[0] if turns and isinstance(turns[0], dict) else {}
        if "role" in first:
            return "messages"
        has_image_field = value.get("image") is not None or value.get("images") is not None
        is_released = first.get("from") in ("user", "assistant") and not has_image_field
        return "conversations" if is_released else "llava"

    if isinstance(value.get("messages"), list):
        return "messages"
    if isinstance(value.get("prompt"), list) and isinstance(value.get("completion"), list):
        return "messages"
    if _is_list_of(value.get("texts"), "user"):
        return "cauldron"
    if {"schema_version", "detailed_caption", "name"} <= value.keys():
        return "records"
    if value.keys() & {"answer", "answers"} and value.keys() & {"image", "images", "question"}:
        return "evaluation"
    return None


def parse(raw: RawRecord) -> Record:
    """Parse a record in the form of its dataset; where its fields are those of another form, in that one."""
    if not isinstance(raw.value, dict):
        raise raw.not_an_object()
    form = _form_of(raw)
    record = PARSERS[form](raw)

    if not record.images and (name := misnamed_image_field(raw.value, raw.entry, form)):
        raise BadRecord(f"{raw.location}: {misnamed_sentence(name, raw.entry, form)}")
    return record


def misnamed_image_field(value: Any, entry: DatasetEntry, form: str) -> str | None:
    """Return the field that holds a record's images under a name that its form does not read, if one does.

    It holds encoded images, or has the name of an image field in another spelling (`Image`, `image_path`,
    `img`), or that of a file, with a path in it that ends like an image's.

    Args:
        value: the record.
        entry: its dataset.
        form: its form.
    """
    if not isinstance(value, dict) or form == "records":
        return None

    columns = entry.columns
    own: set[str | None] = set() if form == "conversations" else {"image", "images"}
    if form == "evaluation":
        # A column that the mixture names may be empty, which says that there is no image.
        if "image" in columns.model_fields_set and columns.image in value:
            return None
        own = {columns.image, "images", columns.question, columns.answer, "answers", columns.id}

    fields = (name for name in value if isinstance(name, str) and name not in own)
    return next((name for name in fields if _holds_images(name, value[name])), None)


def _holds_images(name: str, content: Any) -> bool:
    """Return whether a field must hold images, by its name and content."""
    first = content[0] if isinstance(content, list) and content else content
    is_named = re.sub("[^a-z]", "", name.lower()) in _IMAGE_FIELDS

    if isinstance(first, str):
        # The list may be a text.
        is_path = PurePath(first.strip(" []\"'")).suffix.lower() in SUFFIXES
        is_image = is_named or first.startswith("data:image") or (is_path and _PATH_FIELD.search(name))
        return bool(first.strip() and is_image)
    if isinstance(first, dict):
        return bool(first.get("bytes")) or (is_named and bool(first.get("path") or first.get("url")))
    return callable(first) or (isinstance(first, bytes) and bool(first))


def misnamed_sentence(name: str, entry: DatasetEntry, form: str) -> str:
    """Return the end of a sentence about a field with images that its form does not read."""
    advice = {
        "conversations": "name the image in the text as <img>PATH</img>, or state `format: llava`",
        "evaluation": f"rename it to {entry.columns.image}, or name it in a mixture as "
        f"`columns: {{image: {name}}}`",
    }.get(form, "rename it to images")
    return f"the field {name} holds images that are not read: {advice}; only without it is this text alone"


def reason_left_out(value: Any) -> str:
    """Return why a record of the caption pipeline is not trained on; empty if it is."""
    if not isinstance(value, dict):
        return ""
    status = value.get("status", "ok")
    if status != "ok":
        return f"with the status {status}"

    caption = value.get("detailed_caption")
    if not isinstance(caption, str) or not caption.strip():
        return "without a caption"

    check = value.get("check")
    if isinstance(check, dict) and check.get("problems"):
        return "whose caption failed its checks"
    return ""


def _form_of(raw: RawRecord) -> str:
    form = _FORMS_OF_FORMATS.get(raw.entry.format or "", "evaluation")
    told = tell_form(raw.value)
    if told is None or told == form:
        return form

    # Conversations are released ones, or LLaVA's, as their dataset says.
    if {form, told} == {"conversations", "llava"}:
        return form
    # So are questions of columns that it names.
    columns = raw.entry.columns
    if form == "evaluation" and not _is_list_of(raw.value.get(columns.answer), "", default=True):
        return form
    return told


def _is_list_of(value: Any, field: str, default: bool = False) -> bool:
    """Return whether a value is a list of objects that have a field (any, if it has no name)."""
    if value is None:
        return default
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return False
    return not field or field in value[0]


# --- conversations --------------------------------------------------------------------------------


def _parse_conversation(raw: RawRecord) -> Record:
    """Parse a released conversation, or one of Qwen-VL.

    Texts stay as they are, so the prompt begins with the blank after `</img>`. Each `<img>PATH</img>` of a
    prompt is an image at its place. In an answer it is text, as is `<imgpad>` everywhere.
    """
    field = "conversations"
    names = ("user", "assistant")
    turns = list(_read_turns(raw, raw.field(field), field, names))
    _check_order(raw, "conversations[{}].from", [role for role, _ in turns], names)

    messages = []
    for number, (role, text) in enumerate(turns):
        place = f"{field}[{number}].value"
        text = raw.text(text, place)
        if role != "user":
            messages.append(Message(role, (text,)))
            continue

        # Between the texts stand the paths.
        parts: list[Part] = []
        for index, piece in enumerate(_IMAGE_TAG.split(text)):
            if index % 2:
                parts += [ImagePart(image) for image in raw.images(piece, place)]
            elif piece:
                parts.append(piece)

        # Checked again: what is left beside the images may be nothing.
        texts = [part for part in parts if isinstance(part, str)]
        raw.text("".join(texts), place if len(texts) == len(parts) else f"{place} after the images")
        messages.append(Message("user", tuple(parts)))

    return raw.to_record(messages, is_exact=True)


def _parse_chat(raw: RawRecord) -> Record:
    """Parse a conversation of LLaVA or ShareGPT.

    ShareGPT's may begin with an answer or end with a question; these are left out, as in FastChat's training.
    """
    field = "conversations"
    turns = list(_read_turns(raw, raw.field(field), field, ("human", "gpt")))

    if raw.entry.format in (None, "sharegpt"):
        while turns and turns[0][0] == "assistant":
            turns.pop(0)
        if turns and turns[-1][0] == "user":
            turns.pop()

    system = raw.value.get("system")
    if isinstance(system, str) and system.strip() and not (turns and turns[0][0] == "system"):
        turns.insert(0, ("system", system))

    _check_order(raw, "conversations[{}].from", [role for role, _ in turns], ("human", "gpt"))
    return _with_placeholders(raw, turns, field, "value")


def _parse_messages(raw: RawRecord) -> Record:
    """Parse messages of OpenAI and TRL."""
    field = "conversations" if "messages" not in raw.value and "conversations" in raw.value else "messages"
    if "messages" not in raw.value and "prompt" in raw.value and "completion" in raw.value:
        value = [*raw.field("prompt"), *raw.field("completion")]
    else:
        value = raw.field(field)

    names = ("user", "assistant")
    turns = list(_read_turns(raw, value, field, names, keys=("role", "content")))
    _check_order(raw, field + "[{}].role", [role for role, _ in turns], names)
    return _with_placeholders(raw, turns, field, "content")


def _parse_cauldron(raw: RawRecord) -> Record:
    """Parse questions and answers about images that stand in front of the first."""
    texts = raw.field("texts")
    if not isinstance(texts, list) or not texts:
        raise raw.error("texts", "a list of questions and answers", texts)
    images, _ = _first_images(raw, "images", "image")

    messages = []
    leading: list[Part] = [ImagePart(image) for image in images]
    for number, text in enumerate(texts):
        if not isinstance(text, dict) or not {"user", "assistant"} <= text.keys():
            raise raw.error(f"texts[{number}]", "an object with `user` and `assistant`", text)
        question = raw.text(text["user"], f"texts[{number}].user")
        messages.append(raw.question([*leading, question], f"texts[{number}].user"))
        messages.append(Message("assistant", (raw.text(text["assistant"], f"texts[{number}].assistant"),)))
        leading = []

    return raw.to_record(messages)


def _first_images(raw: RawRecord, *names: str) -> tuple[list[ImageSource], str]:
    """Return the images of the first of some fields that holds any, and that field; else the last one."""
    for name in names:
        value = raw.value.get(name)
        if value not in _NO_IMAGES and (images := raw.images(value, name)):
            return images, name
    return [], names[-1]


def _read_turns(
    raw: RawRecord,
    turns: Any,
    field: str,
    names: tuple[str, str],
    keys: tuple[str, str] = ("from", "value"),
) -> Iterator[tuple[Any, Any]]:
    """Yield the role and the content of each turn.

    Args:
        raw: the record.
        turns: the value of its field.
        field: the field.
        names: what the form calls a user and an assistant, for messages.
        keys: what it calls role and content.
    """
    if not isinstance(turns, list) or not turns:
        raise raw.error(field, "a list of turns", turns)

    for number, turn in enumerate(turns):
        place = f"{field}[{number}]"
        if not isinstance(turn, dict) or not set(keys) <= turn.keys():
            raise raw.error(place, f"an object with `{keys[0]}` and `{keys[1]}`", turn)
        if turn.get("weight") == 0:
            raise raw.error(f"{place}.weight", "an answer to train on: every answer carries labels", 0)

        name = turn[keys[0]]
        role = ROLES.get(name) if isinstance(name, str) else None
        if role is None:
            raise raw.error(
                f"{place}.{keys[0]}", f"{names[number % 2]} ({' and '.join(names)} take turns)", name
            )
        yield role, turn[keys[1]]


def _check_order(raw: RawRecord, place: str, roles: Sequence[str], names: tuple[str, str]) -> None:
    """Check that a user and an assistant take turns behind a system message, if there is one.

    Args:
        raw: the record.
        place: the place of a role, such as "conversations[{}].from".
        roles: the roles.
        names: what the form calls a user and an assistant.
    """
    name_of = {"user": names[0], "assistant": names[1]}
    start = 1 if roles[:1] == ["system"] else 0
    for number, role in enumerate(roles[start:], start):
        expected = names[(number - start) % 2]
        if name_of.get(role) != expected:
            raise raw.error(
                place.format(number),
                f"{expected} ({' and '.join(names)} take turns)",
                name_of.get(role, role),
            )

    if (len(roles) - start) % 2 or len(roles) == start:
        raise raw.error(place.partition("[")[0], "an answer after every prompt", f"{len(roles)} turns")


def _with_placeholders(raw: RawRecord, turns: Sequence[tuple[Any, Any]], field: str, key: str) -> Record:
    """Return the record of turns whose texts name the images of the field `image` or `images`."""
    images, image_field = _first_images(raw, "images", "image")

    # Placeholders in a list of parts are parts, those in a text `<image>`. In an answer it is text.
    contents: list[list[Part | None]] = []
    for number, (role, content) in enumerate(turns):
        place = f"{field}[{number}].{key}"
        contents.append(_read_content(raw, content, place, has_placeholders=role == "user"))

    places = sum(part is None for content in contents for part in content)
    own_images = sum(isinstance(part, ImagePart) for content in contents for part in content)

    note = ""
    if images and not places and not own_images:
        first = next(n for n, (role, _) in enumerate(turns) if role == "user")
        contents[first] = [*([None] * len(images)), *contents[first]]
        places = len(images)
        note = _NO_PLACEHOLDER
    if places != len(images):
        raise BadRecord(
            f"{raw.location}, field {field}: expected an {IMAGE_PLACEHOLDER} for "
            f"each of the {len(images)} images of the field {image_field}, got {places}"
        )

    # Images take the places in their order.
    rest = iter(images)
    messages = []
    for number, ((role, _), content) in enumerate(zip(turns, contents, strict=True)):
        place = f"{field}[{number}].{key}"
        parts = [ImagePart(next(rest)) if part is None else part for part in content]
        if role == "user":
            messages.append(raw.question(parts, place))
            continue

        if any(isinstance(part, ImagePart) for part in parts):
            raise raw.error(place, f"text in a message of {role}", "an image")
        messages.append(Message(role, (raw.text("".join(parts), place),)))

    answers = raw.value.get("answers")
    return raw.to_record(messages, note=note, answers=raw.answers(answers, "answers") if answers else ())


def _read_content(raw: RawRecord, content: Any, place: str, has_placeholders: bool) -> list[Part | None]:
    """Return the texts and images of a message's content; None stands for the next image of the record."""
    if not isinstance(content, list):
        text = raw.text(content, place)
        return _split_placeholders(text) if has_placeholders else [text]

    parts: list[Part | None] = []
    for number, part in enumerate(content):
        part_place = f"{place}[{number}]"
        if isinstance(part, str):
            parts.append(part)
            continue
        if not isinstance(part, dict):
            raise raw.error(part_place, "a part with a type", part)

        kind = part.get("type")
        if kind in TEXT_TYPES:
            parts.append(raw.text(part.get("text"), f"{part_place}.text"))
        elif kind in IMAGE_TYPES:
            parts.append(_image_of_part(raw, part, part_place))
        else:
            raise raw.error(f"{part_place}.type", "text or image", kind)

    return parts


def _image_of_part(raw: RawRecord, part: Mapping[str, Any], place: str) -> ImagePart | None:
    """Return the image that a part names, None if it is the next one of the record."""
    name = image_field(part)
    if name is None:
        return None
    images = raw.images(part[name], f"{place}.{name}")
    if len(images) != 1:
        raise raw.error(f"{place}.{name}", "one image", part[name])
    return ImagePart(images[0])


def _split_placeholders(text: str) -> list[Part | None]:
    parts: list[Part | None] = []
    for number, piece in enumerate(text.split(IMAGE_PLACEHOLDER)):
        if number:
            parts.append(None)
        if piece:
            parts.append(piece)
    return parts


# --- questions and captions -----------------------------------------------------------------------


def _parse_question(raw: RawRecord) -> Record:
    """Parse a question with its answers."""
    columns = raw.entry.columns

    # Captions need no question, so the field may be missing.
    question: list[Part] = []
    if takes_question(raw.entry.prompt):
        question = [raw.text(raw.field(columns.question), columns.question)]

    answers = raw.answers(*_answer_field(raw))
    message = raw.question([*_question_images(raw), *question], columns.question)
    answer = Message("assistant", (most_frequent(answers),))
    id = raw.value.get(columns.id) if columns.id else None
    return raw.to_record([message, answer], answers=answers, id=None if id is None else str(id))


def _answer_field(raw: RawRecord) -> tuple[Any, str]:
    """Return the answers of a question, and their field."""
    name = raw.entry.columns.answer
    answers = raw.value.get("answers")
    # Rows of a table have all of the columns.
    if raw.value.get(name) is None and answers is not None:
        if isinstance(answers, str):
            answers = list(split_list((answers,)))
        return answers, "answers"
    return raw.field(name), name


def _question_images(raw: RawRecord) -> list[ImagePart]:
    name = raw.entry.columns.image
    is_named = "image" in raw.entry.columns.model_fields_set and name in raw.value
    images, _ = _first_images(raw, name, *(() if is_named else ("images",)))

    # A dataset of texts needs no images; of others, the number is checked.
    is_list = [] in (raw.value.get(name), raw.value.get("images"))
    if not images and not is_list and raw.entry.image_limits[0]:
        raise raw.error(name, "an image", raw.field(name))
    return [ImagePart(image) for image in images]


def most_frequent(answers: Sequence[str]) -> str:
    """Return the most frequent answer; of several, the one that comes first."""
    return Counter(answers).most_common(1)[0][0]


def _parse_caption_record(raw: RawRecord) -> Record:
    """Parse a record of the caption pipeline: its image, by its name, and the composed caption."""
    images = raw.images(raw.field("name"), "name")
    caption = raw.text(raw.field("detailed_caption"), "detailed_caption")
    question = raw.question([ImagePart(image) for image in images], "name")
    return raw.to_record([question, Message("assistant", (caption,))], id=str(raw.value["name"]))


PARSERS: Mapping[str, Callable[[RawRecord], Record]] = {
    "conversations": _parse_conversation,
    "llava": _parse_chat,
    "messages": _parse_messages,
    "cauldron": _parse_cauldron,
    "evaluation": _parse_question,
    "records": _parse_caption_record,
}
# Formats that are not the name of a form.
_FORMS_OF_FORMATS = {form: form for form in PARSERS} | {"sharegpt": "llava"}
