"""Markdown pages of the repository: their links, anchors, code blocks and prose."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from monkeylib import resources

ROOT = resources.REPOSITORY

# Pages whose links are followed.
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("*/README.md"),
        *ROOT.glob("data/*/README.md"),
        *ROOT.glob("data/models/*/README.md"),
    )
)

# Pages whose code blocks are run, or marked.
GUIDES = [
    page
    for page in PAGES
    if page in ("README.md", "data/README.md", "cluster/README.md") or page.startswith("docs/")
]

_FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+?) -->\n)?^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_LINK = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\((?P<target>[^)\s]+)\)")
_HTML_LINK = re.compile(r"(?:src|href)=\"(?P<target>[^\"]+)\"")
_ASSIGNMENT = re.compile(r"\w+=.*")


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        page: the page's path in the repository.
        line: number of its first line.
        language: what stands behind the fence.
        text: the code.
        reason: why it is not run, as marked above it; empty for one that is run.
    """

    page: str
    line: int
    language: str
    text: str
    reason: str = ""

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a shell, or of a notebook's lines that begin with "!".

        Comments, and what follows a pipe or a redirection, are left out.
        """
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "ipython":
            lines = [line[1:] for line in lines if line.startswith("!")]

        commands = []
        for line in lines:
            words = shlex.split(line, comments=True)
            for operator in ("|", "<", ">", "&&"):
                if operator in words:
                    words = words[: words.index(operator)]
            if words:
                commands.append(words)
        return commands


def read(page: str) -> str:
    """Return the text of a page."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, text: str | None = None) -> list[Block]:
    """Return the fenced blocks of a page."""
    text = read(page) if text is None else text
    return [
        Block(
            page,
            text[: match.start("text")].count("\n") + 1,
            match["language"].strip(),
            match["text"],
            match["reason"] or "",
        )
        for match in _FENCE.finditer(text)
    ]


def prose(text: str) -> str:
    """Return a page without code, tables, headings, marked numbers and the targets of links."""
    text = _FENCE.sub("", text)
    text = re.sub(r"<!-- table:.*?<!-- /table -->", "", text, flags=re.DOTALL)
    text = re.sub(r"<!-- value:.*?<!-- /value -->", "", text, flags=re.DOTALL)
    text = re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return re.sub(r"`[^`\n]*`", "", text)


def links(page: str, text: str | None = None) -> list[str]:
    """Return the targets of a page's links and images, but for those of other hosts."""
    text = _FENCE.sub("", read(page) if text is None else text)
    text = re.sub(r"`[^`\n]*`", "", text)
    targets = [match["target"] for pattern in (_LINK, _HTML_LINK) for match in pattern.finditer(text)]
    return [target for target in targets if "://" not in target and not target.startswith("mailto:")]


def broken_link(page: str, target: str) -> str:
    """Return what is wrong with the target of a link, or nothing."""
    path, _, anchor = target.partition("#")
    file = (ROOT / page).parent / path if path else ROOT / page
    if not file.exists():
        return f"{page}: there is no {path}"
    if anchor and file.suffix == ".md" and anchor not in anchors(file.read_text(encoding="utf-8")):
        return f"{page}: {path or 'the page'} has no heading #{anchor}"
    return ""


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    text = _FENCE.sub("", text)
    return {anchor_of(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def anchor_of(heading: str) -> str:
    """Return the anchor of a heading: lower case, without punctuation, with hyphens for blanks."""
    words = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return words.replace(" ", "-")


def monkeylib_arguments(words: list[str]) -> list[str] | None:
    """Return the arguments of a call of monkeylib, also under a launcher; None for another command."""
    while words and _ASSIGNMENT.fullmatch(words[0]):
        words = words[1:]
    for number, word in enumerate(words):
        # The command itself, or the module of a launcher such as torchrun; not an argument of another.
        is_command = number == 0 and Path(word).name == "monkeylib"
        if is_command or (number > 0 and word == "monkeylib" and words[number - 1] == "-m"):
            return words[number + 1 :]
    return None
