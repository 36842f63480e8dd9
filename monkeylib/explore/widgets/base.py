"""What all widgets have in common: a live form, and a figure for pages without a kernel."""

from __future__ import annotations

import base64
import html
import io
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from monkeylib.plots.style import STYLE


class Explorer(ABC):
    """Something to explore in a notebook.

    As the last expression of a cell it is a widget in JupyterLab, Colab and VS Code, and its figure where
    there is no kernel: on GitHub, on nbviewer, or without ipywidgets.
    """

    @cached_property
    def widget(self) -> Any:
        """The live form, of ipywidgets.

        Raises:
            ModuleNotFoundError: ipywidgets isn't installed.
        """
        try:
            import ipywidgets
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "the live form needs ipywidgets: install it with `pip install 'monkeylib[explore]'`, or draw "
                "the figure with `.figure()`"
            ) from error
        return self._build_widget(ipywidgets)

    @abstractmethod
    def _build_widget(self, ipywidgets: Any) -> Any:
        """Return the live form."""

    @abstractmethod
    def _draw(self) -> Figure:
        """Draw what the live form shows now."""

    def figure(self) -> Figure:
        """Return what the live form shows now as a figure."""
        with plt.rc_context(STYLE):
            fig = self._draw()
            plt.close(fig)  # or the notebook would show it once more
        return fig

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Return the widget and its figure: a page shows what it can."""
        bundle: dict[str, Any] = {
            "text/plain": repr(self),
            "image/png": base64.b64encode(figure_bytes(self.figure())).decode("ascii"),
        }
        try:
            live = self.widget._repr_mimebundle_()
        except ModuleNotFoundError:
            return bundle
        return {**live, **bundle}

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def png_bytes(image: Image.Image) -> bytes:
    """Return an image as the bytes of a PNG."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def figure_bytes(fig: Figure) -> bytes:
    """Return a figure as the bytes of a PNG."""
    file = io.BytesIO()
    with plt.rc_context(STYLE):
        fig.savefig(file, format="png", metadata={"Software": None}, dpi="figure")  # for a screen
    return file.getvalue()


def html_table(rows: Iterable[Iterable[object]]) -> str:
    """Return rows as an HTML table; every value is text."""
    cells = "".join(
        "<tr>"
        + "".join(f"<td style='padding:0 1em 0 0'>{html.escape(str(cell))}</td>" for cell in row)
        + "</tr>"
        for row in rows
    )
    return f"<table style='line-height:1.4'>{cells}</table>"
