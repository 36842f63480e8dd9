"""`--quiet` and `--verbose`, which every command takes."""

import typer

from monkeylib.cli import app
from tests.cli.test_examples import COMMANDS


def test_every_command_takes_both(call):
    for name, command in COMMANDS.items():
        names = {option for parameter in command.params for option in parameter.opts}
        assert {"-q", "--quiet", "-v", "--verbose"} <= names, name
    assert isinstance(typer.main.get_command(app.app), app._InOrder)


def test_quiet_leaves_results_and_errors(call, checkpoint, image):
    question = ("answer", image, "What?", "--model", checkpoint, "--max-new-tokens", 2)
    _, output, errors = call(*question)
    assert "was cut after 2 tokens" in errors

    assert call(*question, "-q") == (0, output, "")
    code, output, errors = call("answer", image, "What?", "--model", "gone", "--quiet")
    assert (code, output) == (2, "") and "no checkpoint at gone" in errors
    # It holds for one call.
    assert "was cut after 2 tokens" in call(*question)[2]


def test_verbose_says_which_model_runs_where(call, checkpoint, image):
    _, _, errors = call("answer", image, "What?", "--model", checkpoint, "--max-new-tokens", 2, "-v")
    assert "parameters in float32 on cpu" in errors and "answered in" in errors

    code, output, errors = call("models", "-v", "-q")
    assert (code, output) == (2, "") and "contradict each other" in errors


def test_options_may_stand_before_the_command(call):
    assert call("-v", "prompts")[0] == call("-q", "prompts")[0] == 0
    assert "contradict each other" in call("-q", "-v", "prompts")[2]
