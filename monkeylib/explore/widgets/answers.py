"""One question to several models, or to one that sees the image in several ways, side by side."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from monkeylib.explore.answers import SideBySide, converse
from monkeylib.explore.drawing import enlarge
from monkeylib.explore.widgets.base import Explorer, png_bytes
from monkeylib.images import ImageInput, open_image
from monkeylib.model.answers import Answer
from monkeylib.monkey import Monkey
from monkeylib.plots.images import show_image, wrap_lines, write_below
from monkeylib.processing import GridInput


class AnswersExplorer(Explorer):
    """Answers of a base model and of Monkey's variants to the same question about one image.

    Attributes:
        question: the last question.
        answers: its answers by the title of who gives them.
    """

    def __init__(
        self,
        monkey: Monkey,
        image: ImageInput,
        question: str,
        base: Monkey | None = None,
        grid: GridInput | None = None,
        max_new_tokens: int = 48,
    ) -> None:
        self.image, self.question = open_image(image), question
        self.grid, self.max_new_tokens = grid, max_new_tokens
        self._models = SideBySide(monkey, base)

    @property
    def answers(self) -> dict[str, Answer]:
        """The answers to the last question, by title."""
        return self._models.answers

    def answer(
        self, question: str = "", on_part: Callable[[dict[str, str]], None] | None = None
    ) -> dict[str, Answer]:
        """Answer a question, by default the last one.

        Args:
            question: the question.
            on_part: is called with all answers so far, whenever one has grown.
        """
        self.question = question or self.question
        messages = converse([self.image], self.question)
        for texts in self._models.stream(messages, grid=self.grid, max_new_tokens=self.max_new_tokens):
            if on_part is not None:
                on_part(texts)
        return self.answers

    def _build_widget(self, ipywidgets: Any) -> Any:
        question = ipywidgets.Text(value=self.question, description="question", continuous_update=False)
        columns = {title: ipywidgets.HTML() for title in self._models.models}

        def show(texts: dict[str, str]) -> None:
            for title, text in texts.items():
                columns[title].value = (
                    f"<b>{html.escape(title)}</b><br>"
                    f"<span style='font-size:140%'>{html.escape(text or '…')}</span>"
                )

        def update(change: Any = None) -> None:
            self.answer(question.value, show)

        question.observe(update, "value")
        update()
        image = ipywidgets.Image(value=png_bytes(enlarge(self.image, 300)))
        return ipywidgets.HBox([image, ipywidgets.VBox([question, *columns.values()])])

    def _draw(self) -> Figure:
        answers = self.answers or self.answer()
        fig, ax = plt.subplots(figsize=(3.4, 3.4 + 0.3 * len(answers)))
        show_image(ax, self.image)
        ax.set_title(wrap_lines([self.question]))
        write_below(ax, "\n".join(f"{title}: {answer.text}" for title, answer in answers.items()))
        return fig
