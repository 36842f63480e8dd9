"""Every command has examples in its help, and every example is a call that the command line takes."""

import shlex

import pytest
import typer

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
