"""Progress bars count items and show the speed of those that were computed."""

import io
import re

from rich.console import Console

from monkeylib.progress import Progress


def draw(enabled=True) -> str:
    """Draw two bars of eight images into a text, without the terminal's control codes."""
    console = Console(file=io.StringIO(), force_terminal=True, width=120)

    with Progress("images", enabled, console) as progress:
        progress.add_task("sam", 8)
        progress.add_task("compose", 8)
        progress.advance("sam", 2, cached=True)
        for _ in range(3):
            progress.advance("sam", 2)
        progress.advance("compose", cached=True)

    return re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", console.file.getvalue())


def last_line(drawing: str, start: str) -> str:
    return next(line for line in reversed(drawing.splitlines()) if line.startswith(start))


def test_each_task_has_a_bar_and_the_speed_leaves_cached_items_out():
    drawing = draw()
    sam, compose = last_line(drawing, "sam"), last_line(drawing, "compose")

    assert "8/8" in sam
    assert re.search(r"\d+\.\d\d images/s", sam)
    assert "1/8" in compose
    assert "images/s" not in compose, "cached results took no time"


def test_disabled_progress_draws_nothing():
    assert draw(enabled=False).strip() == ""
