"""The README is up to date: its tables, links, commands and notebooks."""

import re

import pytest
import typer

from monkeylib import resources
from monkeylib.cli import app
from monkeylib.reproduce import series
from monkeylib.reproduce.tables import render_page

README = (resources.REPOSITORY / "README.md").read_text(encoding="utf-8")
CODE = "\n".join(re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", README, re.DOTALL | re.MULTILINE))
LINKS = re.findall(r"\]\(([^)#\s]+)", README) + re.findall(r"(?:src|href)=\"([^\"#]+)", README)


def test_tables_are_those_of_the_committed_results():
    assert "<!-- table:" in README
    assert render_page(README, resources.COMMITTED_PROFILE) == README, (
        "run `monkeylib reproduce --update-notebooks`"
    )


@pytest.mark.parametrize("link", sorted({link for link in LINKS if "://" not in link}))
def test_local_links_exist(link):
    assert (resources.REPOSITORY / link).exists()


def test_every_notebook_of_the_series_is_linked():
    linked = {f"notebooks/{notebook.name}.ipynb" for notebook in series.SERIES}
    assert linked <= set(LINKS)


def test_make_targets_and_commands_exist():
    makefile = (resources.REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    called = re.findall(r"^\s*(?:\$ )?make ([a-z-]+)", CODE, re.MULTILINE)
    assert {"reproduce", "test"} <= set(called) <= targets

    commands = set(typer.main.get_command(app.app).commands)

    assert set(re.findall(r"\bmonkeylib ([a-z]+)", CODE)) <= commands
