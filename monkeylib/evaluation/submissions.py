"""Files for the test servers of datasets whose answers aren't published, and for MME's official script.

| form | for | content |
| --- | --- | --- |
| `question_id` | VQAv2, TextVQA on EvalAI | JSON list of `{"question_id": 1, "answer": "red"}` |
| `questionId` | DocVQA, InfographicVQA on RRC | JSON list of `{"questionId": 1, "answer": "red"}` |
| `image` | VizWiz on EvalAI | JSON list of `{"image": "VizWiz_test_00000000.jpg", "answer": "red"}` |
| `mme` | MME's script | a text for each task, a line each: image, question, answer, prediction, with tabs |

Questions without an answer, such as those about a broken image, have an empty one, since servers refuse files
in which a question is missing.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from monkeylib import resources
from monkeylib.data.layouts import MME_COGNITION, MME_PERCEPTION
from monkeylib.evaluation.benchmarks import Benchmark
from monkeylib.evaluation.examples import Example, Prediction
from monkeylib.progress import say

_MME_COLUMNS = 4


def needs_submission(benchmark: Benchmark, rows: Sequence[Prediction | Example]) -> bool:
    """Return whether answers go to somebody else for their score: to a server, or to MME's script."""
    form = _form(benchmark)
    return form == "mme" or (form is not None and bool(rows) and not any(row.answers for row in rows))


def file_names(benchmark: Benchmark) -> list[str]:
    """Return the names of a benchmark's files in a folder of predictions; none if it has no such form."""
    form = _form(benchmark)
    if form is None:
        return []
    if form == "mme":
        return [_mme_name(benchmark, task) for task in (*MME_PERCEPTION, *MME_COGNITION)]
    return [f"{benchmark.name}.submission.json"]


def write_submission(benchmark: Benchmark, rows: Sequence[Prediction], folder: str | Path) -> list[Path]:
    """Write the files of a benchmark into a folder.

    Args:
        benchmark: a benchmark with a form of submission.
        rows: predictions for its questions.
        folder: folder of the files; MME's lie in a folder of their own there.

    Raises:
        FileExistsError: a file is in the way that is no such file.
    """
    folder = resources.to_path(folder)
    if _form(benchmark) == "mme":
        return _write_mme(benchmark, rows, folder)

    (name,) = file_names(benchmark)
    field = _form(benchmark)
    require_submission(folder / name)
    entries = [{field: _server_id(row, field), "answer": row.prediction} for row in rows]

    with resources.atomic_write(folder / name) as temporary:
        # Half of a surrogate pair, which a model can write, is escaped.
        temporary.write_text(json.dumps(entries), encoding="utf-8")
    return [folder / name]


def report_submission(benchmark: Benchmark, rows: Sequence[Prediction], folder: str | Path) -> None:
    """Write the submission files of a benchmark and tell the user of them.

    Raises:
        FileExistsError: a file is in the way.
    """
    folder = resources.to_path(folder)
    files = write_submission(benchmark, rows, folder)
    name = resources.display_path(files[0] if len(files) == 1 else files[0].parent)
    say(f"{benchmark.name}: {len(rows)} answers for {benchmark.source} are in {name}")


def require_submission(path: Path) -> None:
    """Check that a file is missing or one that `write_submission` has written, which may be replaced.

    Raises:
        FileExistsError: it is something else.
    """
    if not os.path.lexists(path):
        return
    if path.is_file() and not path.is_symlink() and _is_submission(path):
        return
    raise FileExistsError(
        f"{resources.display_path(path)} isn't a submission file of monkeylib and won't be replaced: "
        "move it away"
    )


def _form(benchmark: Benchmark) -> str | None:
    """Return the name of the form that a benchmark's server takes. The released files have other ids."""
    is_released = benchmark.name.startswith("released-")
    return benchmark.card.test.submission if benchmark.card and not is_released else None


def _server_id(row: Prediction, field: str) -> Any:
    if field == "image":
        return _image_name(row)

    # Servers compare numbers, and ids are numbers in all of these datasets.
    return int(row.id) if row.id.isdecimal() else row.id


def _image_name(row: Prediction) -> str:
    return PurePosixPath(row.image).name


def _write_mme(benchmark: Benchmark, rows: Sequence[Prediction], folder: Path) -> list[Path]:
    """Write the texts of MME's tasks; a tab or a line break in an answer becomes a blank."""
    lines_of_task: dict[str, list[str]] = {}
    for row in rows:
        columns = [_image_name(row), row.question, row.answers[0], row.prediction]
        line = "\t".join(" ".join(column.split()) for column in columns)
        lines_of_task.setdefault(str(row.meta["task"]), []).append(line)

    paths = {task: folder / _mme_name(benchmark, task) for task in lines_of_task}
    for path in paths.values():
        require_submission(path)

    for task, lines in lines_of_task.items():
        with resources.atomic_write(paths[task]) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), "utf-8", errors="backslashreplace")
    return list(paths.values())


def _mme_name(benchmark: Benchmark, task: str) -> str:
    return f"{benchmark.name}.submission/{task}.txt"


def _is_submission(path: Path) -> bool:
    """Return whether a file looks as `write_submission` writes it."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".txt":
        return all(line.count("\t") == _MME_COLUMNS - 1 for line in text.splitlines())

    try:
        entries = json.loads(text)
    except ValueError:
        return False
    return isinstance(entries, list) and all(
        isinstance(entry, dict) and len(entry) == 2 and "answer" in entry for entry in entries
    )
