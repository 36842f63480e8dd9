"""Every command has examples in its help, and every example is a call that the command line takes."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from monkeylib import resources
from monkeylib.cli import app
from monkeylib.cli.examples import EXAMPLES


def commands(group, prefix=""):
    """Return all commands of a group, those of its groups included, by their names."""
    found = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= commands(command, f"{prefix}{name} ")
        else:
            found[f"{prefix}{name}"] = command
    return found


COMMANDS = commands(typer.main.get_command(app.app))


def test_every_command_has_examples_and_no_others_do():
    assert set(EXAMPLES) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_read_as_calls_of_their_command(name):
    for example in EXAMPLES[name]:
        program, *words = shlex.split(example)
        own_name = words[: len(name.split())]
        assert program == "monkeylib" and " ".join(own_name) == name

        # Raises an error for an option or an argument that the command does not take.
        context = COMMANDS[name].make_context(name, words[len(own_name) :])
        assert context.params


def test_help_shows_the_examples(call):
    for command in ("answer", "assets fetch"):
        code, output, _ = call(*command.split(), "--help")
        assert code == 0 and "Examples:" in output
        shown = " ".join(output.split())
        assert all(" ".join(example.split()) in shown for example in EXAMPLES[command])


# --- commands in messages


def texts(module: Path) -> Iterator[str]:
    """Yield the texts of a module, with an X in place of each value."""
    parts_of_others = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts_of_others |= {id(part) for part in node.values}
            yield "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts_of_others
        ):
            yield node.value


NAMED = sorted(
    {
        " ".join(command.split())
        for module in (resources.REPOSITORY / "monkeylib").rglob("*.py")
        for text in texts(module)
        for command in re.findall(r"`monkeylib ([^`]+)`", text)
    }
)


@pytest.mark.parametrize("named", NAMED)
def test_commands_in_messages_exist_with_their_options(named):
    words = named.split()
    if words[0] == "--debug":  # which stands before any command
        words = words[1:]
    name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in COMMANDS), None)
    groups = {command.split()[0] for command in COMMANDS if " " in command}
    others = {"--help", "COMMAND", *groups}
    assert name or (len(words) == 1 and words[0] in others), "there is no such command"

    if name:
        options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
        assert {word.partition("=")[0] for word in words if re.match("--?[a-z]", word)} <= options


def test_commands_are_named_in_messages():
    assert len(NAMED) > 20
