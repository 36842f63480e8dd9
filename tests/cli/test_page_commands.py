"""Code blocks of the README and the guides: all are run, but for marked ones, whose commands are parsed.

The blocks of a page run one after the other in a folder of their own. It has the shipped models and samples
at their places, `shop`, two images with questions about them, and `photos`.
"""

import re
import shutil
from pathlib import Path

import pytest
import typer

from monkeylib import resources
from monkeylib.cli import app
from tests.support import pages

# What a page's blocks write or print, as a text of standard output or a file.
OUTPUTS = {
    "README.md": ["49.35", "shop-run/model/model.safetensors"],
    "docs/answers.md": ["49.35", '"text": "49.35"'],
    "docs/evaluation.md": ["scores/scores.csv"],
    "docs/images.md": ["49.35"],
    "docs/installation.md": ["torch"],
    "docs/own-captions.md": ["captions/report.html"],
    "docs/own-data.md": [  # the table becomes records, a model and an adapter for each tile
        "train: a table, questions and answers",
        "<receipt.png: 80 tokens> how much is the juice? answer: «1.86<|endoftext|>»",
        "shop.parquet: 2 records",
        "shop-run/model/model.safetensors",
        "shop-scores/scores.csv",
        "shop-scores/test.jsonl",
        "shop-adapters/tile-3/adapter_model.safetensors",
    ],
    "docs/weights.md": ["adapters/tile-3/adapter_model.safetensors"],
}
RUN_ELSEWHERE = {"docs/transformers.md"}  # tests/integrations/test_guide.py

BLOCKS = {page: pages.blocks(page) for page in pages.GUIDES}
RUN = {
    page: [block for block in blocks if block.language in ("bash", "python") and not block.reason]
    for page, blocks in BLOCKS.items()
}
# What the README and a guide have in common is run in the guide.
IN_GUIDES = {block.text for page, blocks in RUN.items() if page != "README.md" for block in blocks}
RUN["README.md"] = [block for block in RUN["README.md"] if block.text not in IN_GUIDES]


@pytest.fixture()
def folder(tmp_path, monkeypatch) -> Path:
    """Return the working folder of a page."""
    folder = tmp_path / "folder"
    (folder / "data").mkdir(parents=True)
    for name in ("models", "samples"):
        (folder / "data" / name).symlink_to(resources.REPOSITORY / "data" / name)

    for name in ("shop", "photos"):
        (folder / name).mkdir()
        for image in ("sign.png", "receipt.png", "form.png"):
            shutil.copy(resources.samples() / image, folder / name)
    header = "image,question,answer,shop\n"
    questions = "sign.png,what does the white sign say?,please,a\nreceipt.png,how much is the juice?,1.86,b\n"
    (folder / "shop" / "train.csv").write_text(header + questions)
    (folder / "shop" / "test.csv").write_text(f"{header}form.png,what is the name?,3,a\n")

    monkeypatch.chdir(folder)
    return folder


def test_pages_that_run_something_say_what_comes_of_it():
    assert {page for page, blocks in RUN.items() if blocks} - RUN_ELSEWHERE == OUTPUTS.keys()


@pytest.mark.parametrize("page", OUTPUTS)
def test_blocks_of_a_page_run(page, call, folder, capsys):
    printed, names = [], {}
    for block in RUN[page]:
        where = f"{page}, line {block.line}"
        if block.language == "python":
            exec(compile(block.text, where, "exec"), names)
            printed.append(capsys.readouterr().out)
            continue

        for words in block.commands:
            arguments = pages.monkeylib_arguments(words)
            assert arguments is not None, f"{where}: mark the block, since only monkeylib is run: {words}"
            code, output, errors = call(*arguments)
            # Of the doctor, an exit code says what this machine lacks.
            assert code == 0 or arguments == ["doctor"], (where, words, errors)
            printed.append(output)

    missing = [
        result
        for result in OUTPUTS[page]
        if not any(result in text for text in printed) and not (folder / result).exists()
    ]
    assert missing == [], printed


@pytest.mark.parametrize("page", pages.GUIDES)
def test_marked_commands_are_accepted_by_the_command_line(page):
    for block in BLOCKS[page]:
        if block.language not in ("bash", "ipython"):
            continue
        for words in block.commands:
            arguments = pages.monkeylib_arguments(words)
            if arguments is not None:
                parse(arguments)


def test_guide_to_the_command_line_lists_the_commands_in_their_order():
    rows = re.findall(r"^\| `(\w+)` \|", pages.read("docs/command-line.md"), re.MULTILINE)
    commands = typer.main.get_command(app.app).commands
    assert rows == [name for name in app.ORDER if name in commands] and set(rows) == set(commands)


def test_command_with_an_unknown_option_is_not_accepted():
    for arguments in (["answer", "a.png", "--no-such-option"], ["data", "convert", "x.csv"]):
        with pytest.raises(typer.BadParameter.__base__):
            parse(arguments)
    with pytest.raises(KeyError):
        parse(["nothing"])


def parse(arguments: list[str]) -> None:
    """Parse the arguments of a command, without running it.

    Raises:
        KeyError: there is no such command.
        UsageError: an argument that the command doesn't take, or one that it misses.
    """
    command = typer.main.get_command(app.app)
    while hasattr(command, "commands"):
        command = command.commands[arguments[0]]
        arguments = arguments[1:]
    command.make_context("monkeylib", list(arguments))
