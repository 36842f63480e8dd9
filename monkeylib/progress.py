"""How far the pipeline is: for each stage a bar, images a second and the time left."""

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Speed(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        """Images a second, of those that the model was asked about."""
        asked, elapsed = task.fields["asked"], task.elapsed or 0
        return Text(f"{asked / elapsed:.2f} images/s" if asked and elapsed else "", style="dim")


class ProgressBars:
    """A bar for each stage on standard error, while this is entered.

    Args:
        stages: their names.
        total: images that each will see.
        shown: nothing is drawn if this is false.
        console: where to draw, by default standard error.
    """

    def __init__(
        self, stages: Sequence[str], total: int, shown: bool = True, console: Console | None = None
    ) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed())
        self._progress = Progress(
            *columns, TimeRemainingColumn(), console=console or Console(stderr=True), disable=not shown
        )
        self._asked = dict.fromkeys(stages, 0)
        self._tasks = {name: self._progress.add_task(name, total=total, asked=0) for name in stages}

    def __enter__(self) -> "ProgressBars":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def advance(self, stage: str, count: int, kept: bool) -> None:
        """Count images that a stage is done with; `kept` ones cost it nothing."""
        task = self._tasks[stage]
        self._asked[stage] += 0 if kept else count
        self._progress.update(task, advance=count, asked=self._asked[stage])
