"""The bars: how many are done, how fast, and how long it takes still."""

import io
import re

from rich.console import Console

from monkeylib.progress import ProgressBars


def drawn(shown=True) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with ProgressBars(["sam", "compose"], 8, shown, console) as bars:
        bars.advance("sam", 2, True)
        for _ in range(3):
            bars.advance("sam", 2, False)
        bars.advance("compose", 1, True)
    return re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", console.file.getvalue())


def test_a_bar_for_each_stage_counts_images_and_times_those_that_were_asked():
    lines = [line for line in drawn().splitlines() if line.strip()]
    sam = next(line for line in reversed(lines) if line.startswith("sam"))
    compose = next(line for line in reversed(lines) if line.startswith("compose"))
    assert "8/8" in sam and re.search(r"\d+\.\d\d images/s", sam)
    assert "1/8" in compose and "images/s" not in compose, "what was kept took no time"


def test_nothing_is_drawn_where_nobody_looks():
    assert drawn(shown=False).strip() == ""
