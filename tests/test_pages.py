"""Pages of the repository: results, links, length, and code blocks that are run or marked."""

import ast
import re

import pytest
import yaml

from monkeylib import resources
from monkeylib.reproduce import series, tables
from tests.support import pages, stated_numbers

README = pages.read("README.md")
MAKEFILE = (resources.REPOSITORY / "Makefile").read_text(encoding="utf-8")
MOST_WORDS = 1_000  # of the README's sentences, headings and code, outside of tables

each_guide = pytest.mark.parametrize("page", pages.GUIDES)


@pytest.mark.parametrize("page", tables.PAGES)
def test_results_of_a_page_are_the_committed_ones(page):
    text = pages.read(page)
    assert "<!-- table:" in text
    assert tables.render_page(text, resources.COMMITTED_PROFILE) == text, (
        "run `monkeylib reproduce --publish`"
    )


@each_guide
def test_numbers_in_sentences_come_from_results(page):
    assert stated_numbers.unstated(page) == [], (
        "mark it as <!-- value:TABLE COLUMN FORMAT -->, or name its source in tests/support/stated_numbers.py"
    )


SOURCES = [(page, s) for page, sources in stated_numbers.SOURCES.items() for s in sources]
SOURCES += [("README.md", source) for source in stated_numbers.EVERYWHERE]


@pytest.mark.parametrize(("page", "source"), SOURCES, ids=[f"{page} {s.number}" for page, s in SOURCES])
def test_sources_give_the_numbers_of_pages(page, source):
    assert source.problem() == ""
    if source not in stated_numbers.EVERYWHERE:
        numbers = stated_numbers.NUMBER.findall(pages.prose(pages.read(page)))
        assert source.number in numbers, "the page no longer states it: remove its source"


def test_number_without_a_source_is_noticed():
    text = "It takes 7.5 points, 12 ms and 3 times as long, 40 % of <!-- value:x y d -->2.5<!-- /value -->.\n"
    assert stated_numbers.unstated("docs/limits.md", text) == ["7.5", "12 ms", "3 times", "40 %"]
    assert stated_numbers.Source("5.0 MB", compute=lambda: "4.9").problem() == "computed anew, it is 4.9"
    assert "does not state" in stated_numbers.Source("5.0", "Makefile", "5.0 apples").problem()
    assert stated_numbers.Source("5.0").problem() == "it has no source"


# Links


@pytest.mark.parametrize("page", pages.PAGES)
def test_links_lead_to_files_and_headings(page):
    broken = [sentence for target in pages.links(page) if (sentence := pages.broken_link(page, target))]
    assert broken == []


def test_link_to_a_missing_heading_is_found():
    text = "# A title, twice!\n\n[a](#a-title-twice) ![b](docs/gone.png) [c](https://example.org)\n"
    assert pages.links("README.md", text) == ["#a-title-twice", "docs/gone.png"]
    assert pages.anchors(text) == {"a-title-twice"}
    assert pages.broken_link("README.md", "docs/gone.png") == "README.md: there is no docs/gone.png"
    assert "no heading #nowhere" in pages.broken_link("README.md", "docs/metrics.md#nowhere")
    assert pages.broken_link("docs/metrics.md", "../README.md#results") == ""


def test_every_guide_is_linked_from_the_readme_or_from_another_guide():
    linked = {
        (resources.REPOSITORY / page).parent.joinpath(target.partition("#")[0]).resolve()
        for page in pages.PAGES
        for target in pages.links(page)
    }
    guides = {(resources.REPOSITORY / page).resolve() for page in pages.GUIDES if page.startswith("docs/")}
    assert guides - linked == set()


def test_every_notebook_of_the_series_is_linked():
    linked = set(pages.links("README.md"))
    assert {f"notebooks/{notebook.name}.ipynb" for notebook in series.SERIES} <= linked


# Length and order of the README


def test_readme_is_short():
    text = re.sub(r"^\|.*$", "", README, flags=re.MULTILINE)
    text = re.sub(r"<!-- /?value[^>]*-->", "", text)
    words = re.findall(r"[^\W_][\w'.-]*", re.sub(r"\]\([^)]*\)", "]", text))
    assert len(words) <= MOST_WORDS


def test_readme_shows_answers_before_it_explains():
    first_image = README.index("![")
    assert first_image < README.index("\n## ")
    headings = re.findall(r"^## (.+)$", README, re.MULTILINE)
    assert headings[:3] == ["Three commands", "Results", "What the paper claims"]


def test_readme_says_what_a_reader_gets_on_the_first_screen():
    first_screen = README.partition("\n![")[0]
    for word in ("models", "data", "notebooks", "commands", "one Python call"):
        assert f"* **{word}**" in first_screen


def test_readme_states_what_notebook_a3_measured():
    rows = tables.read_table("own_documents", resources.COMMITTED_PROFILE)
    before, after = (sum(row[name] == row["label"] for row in rows) for name in ("before", "after"))
    text = " ".join(README.split())
    assert f"Of {len(rows)} receipts that were held out, the shipped model answers {before} exactly" in text
    assert f"the fine-tuned one {after}." in text


def test_per_tile_lora_is_one_link_away():
    assert "monkeylib/model/tile_lora.py" in README.partition("\n## ")[0]


# Other projects

PEERS = (
    "LLMs-from-scratch", "handson-ml3", "TransformerLens", "d2l", "uvadlc", "Qwen-VL cookbooks",
    "Hugging Face cookbooks", "nanoVLM", "moondream", "docling",
)  # fmt: skip


def test_each_project_has_a_row_that_says_where_this_one_stands():
    rows = [
        line.strip("| ").split(" | ") for line in pages.read("docs/peers.md").splitlines() if "| " in line
    ]
    for name in PEERS:
        (row,) = [row for row in rows if name in row[0] and len(row) == 4]
        assert re.search(r"\b(ahead|equal|behind)\b", row[3]), name


def test_page_on_other_projects_claims_no_more_than_the_repository_has():
    text = pages.read("docs/peers.md")
    # While notebooks name a placeholder, and nothing is on an index, the page says so.
    bootstrap = (resources.notebooks() / "00_start_here.ipynb").read_text(encoding="utf-8")
    assert ("OWNER/REPOSITORY" in bootstrap) == ("`OWNER/REPOSITORY`" in text)
    for name in ("Dockerfile", "docs/faq.md", "LOG.md"):
        assert (resources.REPOSITORY / name).is_file()
    exercises = [
        path.stem
        for path in resources.notebooks().glob("*.ipynb")
        if "## Exercises" not in path.read_text(encoding="utf-8")
    ]
    assert exercises == [], "the page promises exercises in each notebook"


def test_questions_and_answers_are_questions_with_answers():
    text = pages.read("docs/faq.md")
    questions = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert len(questions) >= 15 and all(question.endswith("?") for question in questions)
    for answer in re.split(r"^### .+$", text, flags=re.MULTILINE)[1:]:
        assert len(answer.split()) <= 100, "short, with a link to what is longer"
    assert text.count("](https://github.com/") >= 10, "what people really asked"


# Code blocks; tests/cli/test_page_commands.py runs them


@each_guide
def test_commands_stand_in_fenced_blocks(page):
    text = re.sub(r"^```.*?^```$", "", pages.read(page), flags=re.DOTALL | re.MULTILINE)
    assert re.findall(r"^    +(?:!?\S*monkeylib |make |\S*python |pip ).*$", text, re.MULTILINE) == []


@each_guide
def test_code_has_a_language_and_can_be_read(page):
    for block in pages.blocks(page):
        assert block.language in {"bash", "ipython", "python", "yaml", ""}, f"{page}, line {block.line}"
        if block.language == "python":
            ast.parse(block.text)
        elif block.language == "yaml":
            yaml.safe_load(block.text)
        elif block.language == "":
            assert not re.search(r"^\S*(monkeylib|make) ", block.text, re.MULTILINE), f"{page}, {block.line}"


@each_guide
def test_every_mark_belongs_to_a_block(page):
    marks = re.findall(r"^<!-- not run: .+ -->$", pages.read(page), re.MULTILINE)
    assert len(marks) == sum(bool(block.reason) for block in pages.blocks(page))


@each_guide
def test_targets_of_make_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    called = {
        words[1]
        for block in pages.blocks(page)
        if block.language == "bash"
        for words in block.commands
        if words[0] == "make"
    }
    assert called <= targets


def test_blocks_of_a_page():
    shell = "<!-- not run: needs a GPU -->\n```bash\nA=1 b/monkeylib train \\\n  --x  # why\n```\n"
    text = f"{shell}\n```python\n1\n```\n"
    first, second = pages.blocks("page.md", text)
    assert (first.reason, first.line, first.commands) == (
        "needs a GPU",
        3,
        [["A=1", "b/monkeylib", "train", "--x"]],
    )
    assert (second.reason, second.language, second.text) == ("", "python", "1\n")
    assert pages.monkeylib_arguments(first.commands[0]) == ["train", "--x"]
    assert pages.monkeylib_arguments(["torchrun", "-m", "monkeylib", "evaluate"]) == ["evaluate"]
    assert pages.monkeylib_arguments(["lmms_eval", "--model", "monkeylib"]) is None
