"""Error messages that many modules share."""

import difflib
import time
from collections.abc import Callable, Iterable
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar, Union, get_args, get_origin

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

T = TypeVar("T")

# For which the other processes leave the main one to report an error.
_REPORT_SECONDS = 1.0


def choose(kind: str, name: str, choices: Iterable[str], *, otherwise: str = "") -> str:
    """Return `name` if it is one of the choices, else raise `unknown_name`.

    Raises:
        ValueError: no such name.
    """
    choices = list(choices)
    if name in choices:
        return name
    raise unknown_name(kind, name, choices, otherwise=otherwise)


def unknown_name(kind: str, name: str, choices: Iterable[str], *, otherwise: str = "") -> ValueError:
    """Return the error for a name that does not exist: "there is no prompt called 'x': choose one of a, b".

    Args:
        kind: what is being chosen, e.g. "prompt".
        name: the name that was looked up.
        choices: the names that exist, in the order in which to list them.
        otherwise: what else may be given, e.g. "or a YAML file".
    """
    listed = ", ".join(choices)
    if otherwise:
        listed = f"{listed}, {otherwise}"
    return ValueError(f"there is no {kind} called {name!r}: choose one of {listed}")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error is a lack of memory: Python's own, or torch's on a CPU or an accelerator."""
    if isinstance(error, MemoryError):
        return True

    # torch raises a subclass for accelerators and a plain RuntimeError for the CPU; it isn't imported here.
    is_of_accelerator = type(error).__name__ == "OutOfMemoryError"
    return is_of_accelerator or (
        isinstance(error, RuntimeError)
        and any(words in str(error) for words in ("can't allocate memory", "Cannot allocate memory"))
    )


def run_on_main(function: Callable[[], T], is_main: bool, broadcast: Callable[[bool], bool]) -> T | None:
    """Call a function in the main process of several, while the others wait; each has to call this.

    Args:
        function: what the main process does for all of them.
        is_main: whether this is the main process.
        broadcast: returns the main process's value in every process.

    Returns:
        What the function returns; None in the other processes.

    Raises:
        ValueError, OSError: from the function, in the main process.
        SystemExit: in the other processes, silently, if the function raised one of them.
    """
    result = None
    error: ValueError | OSError | None = None

    if is_main:
        try:
            result = function()
        except (ValueError, OSError) as raised:
            error = raised

    # The main process alone reports the error, once.
    has_failed = broadcast(error is not None)
    if error is not None:
        raise error
    if has_failed:
        leave_report_to_main()
    return result


def leave_report_to_main() -> NoReturn:
    """End a process whose error the main one reports.

    Raises:
        SystemExit: after a moment, since launchers end all processes when the first one has ended.
    """
    time.sleep(_REPORT_SECONDS)
    raise SystemExit(2)


def shorten(value: Any, length: int = 40) -> str:
    """Return a value for a message: a text in quotes and in ASCII, anything else as Python writes it.

    Of a long one, its beginning.
    """
    if isinstance(value, str):
        return ascii(value) if len(value) <= length else f"{ascii(value[:length])}…"
    return beginning(repr(value), length)


def beginning(text: str, length: int) -> str:
    """Return a text as it is, its beginning if it is longer than `length` characters."""
    return text if len(text) <= length else f"{text[:length]}…"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    lines = str(error).strip().splitlines()
    return beginning(lines[0].strip(), 200) if lines else type(error).__name__


def nearest(name: str, names: Iterable[str]) -> str:
    """Return "did you mean x?" for the name that is spelled most like `name`; empty without one."""
    matches = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"did you mean {matches[0]}?" if matches else ""


def refuse_misspelled(sentence: str, names: Iterable[str], existing: Iterable[str]) -> None:
    """Refuse names that are probably misspelled, where others have to be accepted.

    Args:
        sentence: what to say before the name, such as "MonkeyConfig has no field".
        names: the names that were given.
        existing: the names that exist.

    Raises:
        TypeError: a name is spelled almost like one of them.
    """
    existing = list(existing)
    for name in names:
        matches = difflib.get_close_matches(name, existing, n=1, cutoff=0.8)
        if matches and matches[0] != name:
            raise TypeError(f"{sentence} {name!r}: did you mean {matches[0]}?")


def first_problem(
    error: "ValidationError", top: str = "the whole", schema: "type[BaseModel] | None" = None
) -> str:
    """Return the first problem that pydantic found, as "field.subfield: message".

    Args:
        error: what pydantic raised.
        top: what to call the validated object when the problem is not with one of its fields.
        schema: the class that was validated; an unknown field is then answered with the nearest name.
    """
    problem = _select_problem(error, schema)
    location = problem_location(error, schema)
    field = ".".join(str(part) for part in location) or top

    # What a validator raised carries pydantic's prefix.
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        _, _, section = _follow(problem["loc"][:-1], schema)
        fields = _field_names(section)
        hint = nearest(str(location[-1]), fields) or (f"choose one of {', '.join(fields)}" if fields else "")
        message = f"there is no such field; {hint}" if hint else "there is no such field"

    return f"{field}: {message}"


def problem_location(
    error: "ValidationError", schema: "type[BaseModel] | None" = None
) -> tuple[str | int, ...]:
    """Return the field of the first problem, as the names and positions that lead to it."""
    location, _, _ = _follow(_select_problem(error, schema)["loc"], schema)
    return location


def _select_problem(error: "ValidationError", schema: "type[BaseModel] | None") -> Any:
    """Return the first problem; of a field that may be one of several kinds, in the kind that fits best."""
    problems = error.errors(include_url=False)
    first = _most_telling(problems)
    _, branches, _ = _follow(first["loc"], schema)
    if not branches:
        return first

    # pydantic lists the problems with each kind, also those which were never meant.
    start = branches[0]
    by_kind: dict[Any, list[Any]] = {}
    for problem in problems:
        location = problem["loc"]
        if location[:start] == first["loc"][:start] and len(location) > start:
            by_kind.setdefault(location[start], []).append(problem)

    return _most_telling(min(by_kind.values(), key=lambda problems: _misfit(problems, start + 1)))


def _most_telling(problems: list[Any]) -> Any:
    """Return the first problem, since a user fixes one field at a time; a misspelled name explains a missing
    one."""
    if problems[0]["type"] != "missing":
        return problems[0]
    return next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])


def _misfit(problems: list[Any], depth: int) -> tuple[int, int]:
    """Return how badly a kind fits: a value of another type altogether comes last, then the most problems.

    Args:
        problems: with this kind.
        depth: length of the location of a problem with the value as a whole, not with one of its fields.
    """
    other_type = ("model_type", "literal_error")
    is_other_type = any(
        problem["type"] in other_type and len(problem["loc"]) <= depth for problem in problems
    )
    return is_other_type, len(problems)


def _follow(location: tuple[str | int, ...], schema: Any) -> tuple[tuple[str | int, ...], list[int], Any]:
    """Follow a location through a schema.

    Returns:
        The location without the names of kinds that pydantic puts into it, where those stood, and the type
        that it leads to (None if that is not known).
    """
    fields: list[str | int] = []
    branches: list[int] = []
    kind = schema

    for number, part in enumerate(location):
        members = _members(kind)
        if len(members) > 1:
            # The field may be one of several kinds, and this is the name of one.
            branches.append(number)
            kind = next((member for member in members if getattr(member, "__name__", "") == part), None)
            continue

        fields.append(part)
        kind = _kind_of_part(members[0] if members else None, part)

    return tuple(fields), branches, kind


def _kind_of_part(kind: Any, part: str | int) -> Any:
    """Return the type of a field of a class, or of an item of a list."""
    if hasattr(kind, "model_fields"):
        names = {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
        return names.get(str(part))
    return next(iter(get_args(kind)), None)


def _members(kind: Any) -> list[Any]:
    """Return the types that a field may have, without None and without what only annotates them."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if kind is None:
        return []
    if get_origin(kind) in (Union, UnionType):
        return [member for member in get_args(kind) if member is not NoneType]
    return [kind]


def _field_names(kind: Any) -> list[str]:
    """Return the names of a section's fields; none of another type."""
    for member in _members(kind):
        if hasattr(member, "model_fields"):
            return [field.alias or name for name, field in member.model_fields.items()]
    return []
