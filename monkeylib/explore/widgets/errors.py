"""The wrong answers of an evaluated model, one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from monkeylib.evaluation.error_gallery import WrongAnswer, describe_wrong_answer
from monkeylib.explore.drawing import enlarge
from monkeylib.explore.widgets.base import Explorer, html_table, png_bytes
from monkeylib.explore.wrong_answers import read_wrong_answers
from monkeylib.plots.examples import draw_errors

_FIGURE = 8  # answers of a figure


class ErrorsExplorer(Explorer):
    """The wrong answers of a folder of predictions, the worst first.

    Attributes:
        answers: as `read_wrong_answers` returns them.
        number: of the answer that is displayed.
    """

    def __init__(self, folder: Path | str, benchmark: str = "", count: int = 50) -> None:
        self.answers = read_wrong_answers(folder, benchmark, count)
        self.number = 0

    @property
    def answer(self) -> WrongAnswer | None:
        """The answer that is displayed; None where all are right."""
        return self.answers.answers[self.number] if self.answers.answers else None

    def _build_widget(self, ipywidgets: Any) -> Any:
        count = len(self.answers.answers)
        if not count:
            return ipywidgets.HTML(f"No errors on {self.answers.benchmark}.")

        number = ipywidgets.IntSlider(min=1, max=count, description=f"of {count}")
        image, facts = ipywidgets.Image(), ipywidgets.HTML()

        def update(change: Any = None) -> None:
            self.number = number.value - 1
            wrong = self.answer
            image.value = png_bytes(enlarge(self.answers.image_of(wrong.prediction), 360))
            facts.value = html_table(describe_wrong_answer(wrong).items())

        number.observe(update, "value")
        update()
        return ipywidgets.VBox([number, ipywidgets.HBox([image, facts])])

    def _draw(self) -> Figure:
        return draw_errors(self.answers.answers[:_FIGURE], self.answers.image_of)
