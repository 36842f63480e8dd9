"""The README says what is so: its tables, links, commands and notebooks."""

import re

import pytest
import typer

from monkeylib import resources, tables
from monkeylib.cli import main
from monkeylib.experiments.variants import TITLES
from monkeylib.reproduce import series

README = (resources.REPOSITORY / "README.md").read_text(encoding="utf-8")
CODE = "\n".join(re.findall(r"^```(?:bash|sh|console)?\n(.*?)^```", README, re.DOTALL | re.MULTILINE))
LINKS = re.findall(r"\]\(([^)#\s]+)", README) + re.findall(r"(?:src|href)=\"([^\"#]+)", README)


def test_the_tables_are_what_the_code_writes():
    def render(name):
        return tables.markdown(tables.presented(tables.read(name, resources.COMMITTED_PROFILE), TITLES))

    assert "<!-- table:" in README
    assert tables.fill(README, render) == README, "run `monkeylib reproduce --update-notebooks`"


@pytest.mark.parametrize("link", sorted({link for link in LINKS if "://" not in link}))
def test_links_lead_somewhere(link):
    assert (resources.REPOSITORY / link).exists()


def test_every_notebook_of_the_series_is_linked():
    linked = {f"notebooks/{chapter.name}.ipynb" for chapter in series.SERIES}
    assert linked <= set(LINKS)


def test_commands_exist():
    makefile = (resources.REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    called = re.findall(r"^\s*(?:\$ )?make ([a-z-]+)", CODE, re.MULTILINE)
    assert {"reproduce", "test"} <= set(called) <= targets
    commands = set(typer.main.get_command(main.app).commands)
    assert set(re.findall(r"\bmonkeylib ([a-z]+)", CODE)) <= commands
