"""Progress of long work: a bar for each of its tasks, with the speed and the time left.

Whatever takes long (the caption pipeline, downloading and converting released checkpoints) opens one
`Progress`, adds its tasks, and counts what they have finished:

    with Progress(unit="images") as progress:
        progress.add_task("captions", total=len(images))
        for image in images:
            ...
            progress.advance("captions")
"""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich import progress as bars
from rich.console import Console
from rich.text import Text

# What reports progress calls these with a number of finished items and whether their results were cached. The
# first one takes the name of the task before them.
ProgressCallback = Callable[[str, int, bool], None]
CountCallback = Callable[[int, bool], None]


class Progress:
    """Bars on standard error while the block is entered, one for each task.

    Args:
        unit: what the tasks count, in the plural.
        enabled: whether to draw anything. Pass `sys.stderr.isatty()` to keep bars out of log files.
        console: where to draw, by default standard error.
    """

    def __init__(self, unit: str = "items", enabled: bool = True, console: Console | None = None) -> None:
        self._bars = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            _SpeedColumn(unit),
            bars.TimeRemainingColumn(),
            console=console or Console(stderr=True),
            disable=not enabled,
        )
        self._task_ids: dict[str, bars.TaskID] = {}
        self._computed: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def add_task(self, name: str, total: int) -> None:
        """Add a bar for a task of `total` items."""
        self._task_ids[name] = self._bars.add_task(name, total=total, computed=0)
        self._computed[name] = 0

    def advance(self, name: str, count: int = 1, cached: bool = False) -> None:
        """Count finished items of a task. Cached ones cost no time, so the speed leaves them out."""

        # Counted separately, since the bar advances for cached items too.
        if not cached:
            self._computed[name] += count

        self._bars.update(self._task_ids[name], advance=count, computed=self._computed[name])


class _SpeedColumn(bars.ProgressColumn):
    """Items per second, without those whose results were cached."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: bars.Task) -> Text:
        """Return the speed, or nothing before the first item."""
        computed = task.fields["computed"]

        if not computed or not task.elapsed:
            return Text("")
        return Text(f"{computed / task.elapsed:.2f} {self.unit}/s", style="dim")
