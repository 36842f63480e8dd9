"""Error messages that many modules share."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


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


def first_problem(error: "ValidationError", top: str = "the whole") -> str:
    """Return the first problem that pydantic found, as "field.subfield: message".

    Args:
        error: what pydantic raised.
        top: what to call the validated object when the problem is not with one of its fields.
    """
    # The first one is enough: a user fixes one field at a time.
    problem = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"]) or top

    # What a validator raised carries pydantic's prefix.
    message = problem["msg"].removeprefix("Value error, ")

    return f"{field}: {message}"
