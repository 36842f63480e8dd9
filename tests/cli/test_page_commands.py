"""Code blocks of the README and the guides: all are run, but for marked ones, whose commands are parsed.

The blocks of a page run one after the other in a folder of their own (`page_folders`). Servers that a block
starts answer the blocks behind it; a training without steps or epochs takes one; a chat has one question.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
import webbrowser
from pathlib import Path

import pytest
import typer

from monkeylib import tables
from monkeylib.cli import app
from monkeylib.serving import http
from tests.support import chat_server, page_folders, pages, ray_stand_in, serving, slurm_stand_in

# What a page's blocks write or print, as a text of standard output or a file.
OUTPUTS = {
    "README.md": ["49.35", "my-run/model/model.safetensors"],
    "cluster/README.md": ["train --profile paper-896", "caption path/to/images --experts paper"],
    "docs/answers.md": ["49.35", '"text": "49.35"', "sunrise 47"],
    "docs/benchmarks.md": ["predictions.json"],
    "docs/demo-and-server.md": ["nano-monkey is at http", "nano-monkey answers at http", "1.75"],
    "docs/evaluation.md": ["scores/scores.csv"],
    "docs/images.md": ["49.35", "any-grid/model/model.safetensors"],
    "docs/installation.md": ["torch"],
    "docs/own-captions.md": [
        "captions/report.html",
        "small/exports/llava/mixture.yaml",
        "paper/records.jsonl",
    ],
    "docs/own-data.md": [  # the table becomes records, a model and an adapter for each tile
        "train: a table, questions and answers",
        "<receipt.png: 80 tokens> how much is the juice? answer: «1.86<|endoftext|>»",
        "shop.parquet: 2 records",
        "shop-run/model/model.safetensors",
        "shop-scores/scores.csv",
        "shop-scores/test.jsonl",
        "shop-adapters/tile-3/adapter_model.safetensors",
        "shop-model/model.safetensors",
    ],
    "docs/raising.md": [
        "raised/tile-3/adapter_model.safetensors",
        "runs/raised/model/monkey.json",
        "trained/monkey.json",
        "captions/records.jsonl",
    ],
    "docs/raising-costs.md": ["tokens"],
    "docs/weights.md": [
        "path/to/new/config.json",
        "path/to/back/qwen.tiktoken",
        "adapters/tile-3/adapter_model.safetensors",
    ],
}
RUN_ELSEWHERE = {"docs/transformers.md"}  # tests/integrations/test_guide.py

# What a block may need that no test on this machine has; `make` targets that install are run by CI itself.
REASONS = (
    "downloads weights",
    "installs",
    "needs a checkout of transformers",
    "needs a GPU",
    "needs GPUs",
    "needs Colab",
    "needs lmms-eval",
    "needs ray[data]",  # run by tests/captions/test_ray_datasets.py, `make test-ray`
    "runs the series",
    "takes hours",
)

BLOCKS = {page: pages.blocks(page) for page in pages.GUIDES}
RUN = {
    page: [block for block in blocks if block.language in ("bash", "python") and not block.reason]
    for page, blocks in BLOCKS.items()
}
# What the README and a guide have in common is run in the guide.
IN_GUIDES = {block.text for page, blocks in RUN.items() if page != "README.md" for block in blocks}
RUN["README.md"] = [block for block in RUN["README.md"] if block.text not in IN_GUIDES]


class Runner:
    """Runs the blocks of a page.

    Attributes:
        output: what they have printed, a text each.
        names: of the Python blocks.
        addresses: of the servers that run, by the address that the page gives them.
    """

    def __init__(self, call, capsys, monkeypatch, folder: Path, servers: contextlib.ExitStack) -> None:
        self.call, self.capsys, self.monkeypatch, self.folder = call, capsys, monkeypatch, folder
        self.servers = servers
        self.output, self.names, self.addresses = [], {}, {}
        monkeypatch.setattr(http, "run", self._start)
        monkeypatch.setattr(webbrowser, "open", lambda address: None)

    def run(self, block: pages.Block) -> None:
        """Run a block; a command that fails is an error."""
        where = f"{block.page}, line {block.line}"
        if block.language == "python":
            text = self._with_addresses(block.text)
            exec(compile(text, where, "exec"), self.names)
            self.output.append(self.capsys.readouterr().out)
            return
        if "curl" in block.text:
            self._run_shell(block.text)
            return
        for words in block.commands:
            self._run_command(words, where)

    def _run_shell(self, text: str) -> None:
        """Run a block that asks a server by curl, which not every machine has."""
        if shutil.which("curl"):
            script = ["bash", "-euo", "pipefail", "-c", self._with_addresses(text)]
            self.output.append(subprocess.run(script, capture_output=True, text=True, check=True).stdout)

    def _run_command(self, words: list[str], where: str) -> None:
        settings, words = split_settings(words)
        if words[:1] == ["export"]:
            for name, value in split_settings(words[1:])[0].items():
                self.monkeypatch.setenv(name, self._with_addresses(value))
            return

        if "sbatch" in words[:1]:
            line = " ".join([*(f"{name}={value}" for name, value in settings.items()), shlex.join(words)])
            for arguments in slurm_stand_in.submit(line, self.folder):
                parse(arguments)
                self.output.append(" ".join(arguments))
            return

        arguments = pages.monkeylib_arguments(words)
        assert arguments is not None, f"{where}: mark the block, since only monkeylib is run: {words}"
        if arguments[0] == "train" and not {"--steps", "--epochs"} & set(arguments):
            arguments += ["--steps", "1", "--batch-size", "2", "--set", "evaluation.counts={}"]
        if arguments[0] in ("serve", "demo"):
            arguments = [*without_option(arguments, "--port"), "--port", "0"]

        with self.monkeypatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdin", io.StringIO("what is the total?\n"))
            code, output, errors = self.call(*arguments)
        # Of the doctor, an exit code says what this machine lacks.
        assert code == 0 or arguments == ["doctor"], (where, words, errors)
        self.output.append(output)

    def _start(self, application, host, port, on_start) -> None:
        """Serve until the page has been run; its page or list of models is fetched."""
        address = self.servers.enter_context(serving.running(lambda: application))
        self.addresses["http://127.0.0.1:8000"] = address
        with urllib.request.urlopen(f"{address}/v1/models", timeout=60) as response:
            assert response.status == 200
        on_start(address)

    def _with_addresses(self, text: str) -> str:
        for written, address in self.addresses.items():
            text = text.replace(written, address)
        return text


def split_settings(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return the variables that stand in front of a command, and the rest of its words."""
    number = 0
    while number < len(words) and re.fullmatch(r"\w+=.*", words[number]):
        number += 1
    return dict(word.split("=", 1) for word in words[:number]), words[number:]


def without_option(arguments: list[str], name: str) -> list[str]:
    """Return arguments without an option and its value."""
    if name not in arguments:
        return arguments
    place = arguments.index(name)
    return arguments[:place] + arguments[place + 2 :]


@pytest.fixture()
def folder(tmp_path, monkeypatch) -> Path:
    """Return a working folder with what every page has."""
    folder = tmp_path / "folder"
    page_folders.lay_out(folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture()
def runner(call, capsys, monkeypatch, folder):
    """Return a runner, whose servers end with the test."""
    with contextlib.ExitStack() as servers:
        yield Runner(call, capsys, monkeypatch, folder, servers)


def test_pages_that_run_something_say_what_comes_of_it():
    assert {page for page, blocks in RUN.items() if blocks} - RUN_ELSEWHERE == OUTPUTS.keys()


@pytest.mark.parametrize("page", OUTPUTS)
def test_blocks_of_a_page_run(page, runner, folder, monkeypatch):
    page_folders.FILES.get(page, lambda _: None)(folder)
    page_folders.stand_in_for_downloads(monkeypatch)
    monkeypatch.setenv("MONKEYLIB_DATA", str(folder / "path/to/downloads"))
    if page == "docs/own-captions.md":
        monkeypatch.setitem(sys.modules, "ray", ray_stand_in.module(cpus=2.0))
        endpoint = runner.servers.enter_context(chat_server.serving(monkeypatch))
        endpoint.otherwise = page_folders.answer_as_a_vision_model
        runner.addresses["http://localhost:8000"] = f"http://127.0.0.1:{endpoint.server_port}"

    for block in RUN[page]:
        runner.run(block)

    missing = [
        result
        for result in OUTPUTS[page]
        if not any(result in text for text in runner.output) and not (folder / result).exists()
    ]
    assert missing == [], runner.output
    if page == "README.md":
        # Own data in two commands: the fine-tuned model knows a question that the shipped one does not.
        (scores,) = Path(os.environ["MONKEYLIB_OUTPUTS"]).rglob("scores.csv")
        (row,) = [row for row in tables.read_csv(scores) if row["metric"] == "exact_match"]
        assert row["value"] >= 0.25 and row["n"] == 8


def test_every_block_of_code_is_run_or_says_what_it_needs():
    unexplained = [
        f"{block.page}, line {block.line}: {block.reason or 'no reason'}"
        for blocks in BLOCKS.values()
        for block in blocks
        if block.language in ("bash", "python", "ipython")
        and (block.reason or block.language == "ipython")
        and not block.reason.startswith(REASONS)
    ]
    assert unexplained == []


def test_most_blocks_are_run():
    code = [b for blocks in BLOCKS.values() for b in blocks if b.language in ("bash", "python", "ipython")]
    assert sum(bool(block.reason) for block in code) <= 0.25 * len(code)


def test_block_that_fails_is_an_error(runner):
    """What the tests above rest on."""
    for text in (
        ".venv/bin/monkeylib answer gone.png what",
        "frobnicate",
        "BASE=x sbatch cluster/gone.sbatch",
    ):
        with pytest.raises(Exception, match=r"gone|frobnicate|127"):
            runner.run(pages.Block("page.md", 1, "bash", f"{text}\n"))
    with pytest.raises(ZeroDivisionError):
        runner.run(pages.Block("page.md", 1, "python", "1 / 0\n"))


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
