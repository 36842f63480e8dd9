"""The caption pipeline on one image: its stages, and its filter at thresholds that move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from monkeylib.captions.annotations import Record
from monkeylib.captions.filtering import Filter
from monkeylib.captions.models import Expert
from monkeylib.captions.report import draw_svg
from monkeylib.explore.caption_stages import (
    StageResult,
    available_experts,
    filter_again,
    filter_of,
    movable_thresholds,
    move_thresholds,
    run_stages,
)
from monkeylib.explore.widgets.base import Explorer, html_table
from monkeylib.images import ImageInput, open_image

_PIXELS = 480


class CaptionsExplorer(Explorer):
    """What each stage of the caption pipeline adds to an image, and what its filter drops.

    Attributes:
        results: the record after each stage.
        filters: the filter, as it is displayed.
    """

    def __init__(self, image: ImageInput, experts: Sequence[str | Expert] | None = None) -> None:
        self.image = open_image(image)
        experts = available_experts() if experts is None else experts
        self.filters: Filter = filter_of(experts)
        self.results: list[StageResult] = list(run_stages(self.image, experts, self.filters))

    @property
    def unfiltered(self) -> Record:
        """Everything that the experts have annotated."""
        return self.results[-2].record if len(self.results) > 1 else self.results[-1].record

    @property
    def thresholds(self) -> dict[str, float]:
        """The displayed thresholds that decide on what the experts have annotated."""
        return movable_thresholds(self.unfiltered, self.filters)

    def move(self, thresholds: Mapping[str, float]) -> CaptionsExplorer:
        """Move thresholds, named as in `self.thresholds`, and return the explorer.

        Raises:
            ValueError: there is no such threshold.
        """
        self.filters = move_thresholds(self.filters, thresholds)
        return self

    def filtered(self) -> Record:
        """Return the record at the displayed thresholds."""
        return filter_again(self.unfiltered, self.filters)

    def _build_widget(self, ipywidgets: Any) -> Any:
        names = [result.stage for result in self.results]
        stage = ipywidgets.ToggleButtons(options=names, value=names[-1], description="stage")
        sliders = {
            name: ipywidgets.FloatSlider(
                value=value,
                min=0,
                max=1,
                step=0.05,
                description=name.replace("_", " "),
                style={"description_width": "initial"},
            )
            for name, value in self.thresholds.items()
        }
        image, caption = ipywidgets.HTML(), ipywidgets.HTML()

        def update(change: Any = None) -> None:
            self.move({name: slider.value for name, slider in sliders.items()})
            is_last = stage.value == names[-1]
            record = self.filtered() if is_last else self.results[names.index(stage.value)].record
            image.value = f"<div style='width:{_PIXELS}px'>{draw_svg(record, self.image, _PIXELS)}</div>"
            caption.value = html_table(caption_rows(record))

        for control in (stage, *sliders.values()):
            control.observe(update, "value")
        update()
        return ipywidgets.VBox(
            [stage, ipywidgets.HBox([image, ipywidgets.VBox([*sliders.values(), caption])])]
        )

    def _draw(self) -> Figure:
        # With seaborn, which a page in the browser doesn't need.
        from monkeylib.plots.captions import draw_description_levels

        fig = draw_description_levels(self.image, self.unfiltered, self.filtered())
        thresholds = ", ".join(f"{name} {value:g}" for name, value in self.thresholds.items())
        fig.suptitle(f"thresholds: {thresholds}", fontsize=9)
        return fig


def caption_rows(record: Record) -> list[tuple[str, str]]:
    """Return what a record holds, as terms and texts; what it does not hold is left out."""
    rows = [
        ("captions", " | ".join(caption.text for caption in record.captions)),
        ("regions", str(len(record.regions))),
        ("lines of text", str(len(record.lines))),
        ("dropped", str(len(record.dropped))),
        ("failures", " | ".join(failure.error for failure in record.failures)),
        ("description", record.detailed_caption),
    ]
    return [(term, text) for term, text in rows if text]
