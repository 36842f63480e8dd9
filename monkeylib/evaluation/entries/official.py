"""Examples from a set's official files, each layout read as in `monkeylib.data.public`."""

from collections.abc import Iterable
from pathlib import Path

from monkeylib.data.public.convert import with_choices
from monkeylib.data.public.rows import Asked, checked, require
from monkeylib.digests import text_digest
from monkeylib.evaluation.entries.layouts import LAYOUTS
from monkeylib.evaluation.entries.schema import Entry
from monkeylib.evaluation.examples import Example

FOLDER = "the folder of all downloads is set by MONKEYLIB_DATA"


def examples(entry: Entry, folder: Path, prompt: str, limit: int | None = None) -> list[Example]:
    """What a set asks, `limit` questions at most, always the same ones.

    Images come in an order by the hash of their name, so that the first few are as mixed as all; of a set
    in tasks, tasks take turns and no image is asked about in part.

    Args:
        entry: the benchmark.
        folder: of its official download.
        prompt: name of the prompt.
        limit: questions at most; None for all.

    Raises:
        FileNotFoundError: a file, or an image of a chosen question, isn't there.
        ValueError: another layout, an example without an answer, or a limit that leaves a task out.
    """
    where = f"{entry.where} ({FOLDER})"
    require(entry.name, folder, [*entry.files, *([entry.images] if entry.images else [])], where)
    read = LAYOUTS[entry.layout](folder, *entry.files, **entry.options)
    rows = list(checked(read, entry.name, entry.files, entry.where))
    unanswered = [row.id for row in rows if not row.answers]
    if entry.layout == "due":  # fields without a plain text aren't asked for
        rows = [row for row in rows if row.answers]
    elif unanswered:
        raise ValueError(
            f"{entry.name} has no answer to {len(unanswered)} of its {len(rows)} questions, such as "
            f"{unanswered[0]}: the answers of this split aren't published; choose another split, or the "
            f"release's file (released-{entry.name})."
        )
    if not rows:
        raise ValueError(f"{entry.name} has no questions in {folder}: get its files from {entry.where}")
    chosen = _chosen(rows, entry.stratum, limit)
    images(entry.name, [folder / entry.images / row.image for row in chosen], where)
    return [_example(entry, folder, prompt, row) for row in chosen]


def _example(entry: Entry, folder: Path, prompt: str, row: Asked) -> Example:
    return Example(
        id=row.id,
        image=folder / entry.images / row.image,
        question=with_choices(row.question, row.choices) if row.choices else row.question,
        answers=row.answers,
        prompt=prompt,
        image_id=f"{entry.name}/{row.image}",
        meta={key: value for key, value in row.meta.items() if key != "frequent" and value != ""},
    )


def images(name: str, files: Iterable[Path], home: str) -> None:
    """Raises `FileNotFoundError` that counts the images which aren't there."""
    files = set(files)
    missing = sorted(file for file in files if not file.is_file())
    if missing:
        raise FileNotFoundError(
            f"{name} lacks {len(missing)} of {len(files)} images, such as {missing[0]}: get them from {home}"
        )


def _chosen(rows: list[Asked], stratum: str | None, limit: int | None) -> list[Asked]:
    """The first `limit` rows, by image in an order by hash, the strata in turns."""
    groups: dict[str, list[Asked]] = {}
    for row in rows:
        groups.setdefault(row.image, []).append(row)
    order = sorted(groups.values(), key=lambda group: text_digest(group[0].image))
    if stratum is None:
        return [row for group in order for row in group][:limit]
    seen: dict[str, int] = {}
    turns = []
    for group in order:
        task = group[0].meta[stratum]
        seen[task] = seen.get(task, 0) + 1
        turns.append((seen[task], task, group))
    chosen: list[Asked] = []
    for turn, _, group in sorted(turns, key=lambda entry: entry[:2]):
        if limit is None or len(chosen) + len(group) <= limit:
            chosen += group
        elif turn == 1:
            least = sum(len(group) for turn, _, group in turns if turn == 1)
            raise ValueError(
                f"A limit of {limit} questions leaves out some of {len(seen)} tasks, whose scores are added: "
                f"ask {least} at least."
            )
        else:
            break
    return chosen
