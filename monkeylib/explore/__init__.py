"""Explore the model in a notebook; each function's result is a widget, and a figure without a kernel.

    from monkeylib import explore

    explore.show_tiles(monkey, "receipt.png")
    explore.compare_answers(monkey, "receipt.png", "how much is the juice?", base=base)
    explore.show_attention(monkey, "receipt.png", "how much is the juice?")
    explore.show_queries(monkey, "receipt.png")
    explore.show_loras(lora_effect.describe_loras(monkey.model.vision))
    explore.show_captions("coffee.jpg")
    explore.show_errors("data/runs/nano/monkey/predictions")
    explore.show_costs(profiles.build_config(profiles.load_profile("paper-896")))
    finetune.run(profile, folder, callbacks=[explore.watch_training()])

The modules beside `widgets` compute what widgets show, and what the pages of `monkeylib demo` show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monkeylib.explore.widgets.answers import AnswersExplorer
    from monkeylib.explore.widgets.attention import AttentionExplorer
    from monkeylib.explore.widgets.captions import CaptionsExplorer
    from monkeylib.explore.widgets.costs import CostsExplorer
    from monkeylib.explore.widgets.errors import ErrorsExplorer
    from monkeylib.explore.widgets.loras import LorasExplorer
    from monkeylib.explore.widgets.power import PowerExplorer
    from monkeylib.explore.widgets.queries import QueriesExplorer
    from monkeylib.explore.widgets.tiles import TilesExplorer
    from monkeylib.explore.widgets.training import LiveCurves

__all__ = [
    "compare_answers",
    "show_attention",
    "show_captions",
    "show_costs",
    "show_errors",
    "show_loras",
    "show_power",
    "show_queries",
    "show_tiles",
    "watch_training",
]


def show_tiles(*arguments: Any, **options: Any) -> TilesExplorer:
    """Move the grid of an image; arguments as of `widgets.tiles.TilesExplorer`."""
    from monkeylib.explore.widgets.tiles import TilesExplorer

    return TilesExplorer(*arguments, **options)


def compare_answers(*arguments: Any, **options: Any) -> AnswersExplorer:
    """Compare answers to one question; arguments as of `widgets.answers.AnswersExplorer`."""
    from monkeylib.explore.widgets.answers import AnswersExplorer

    return AnswersExplorer(*arguments, **options)


def show_attention(*arguments: Any, **options: Any) -> AttentionExplorer:
    """See what each token of an answer attends to; arguments as of `widgets.attention.AttentionExplorer`."""
    from monkeylib.explore.widgets.attention import AttentionExplorer

    return AttentionExplorer(*arguments, **options)


def show_queries(*arguments: Any, **options: Any) -> QueriesExplorer:
    """See where a query of the resampler looks; arguments as of `widgets.queries.QueriesExplorer`."""
    from monkeylib.explore.widgets.queries import QueriesExplorer

    return QueriesExplorer(*arguments, **options)


def show_loras(*arguments: Any, **options: Any) -> LorasExplorer:
    """See what the LoRAs of a block have become; arguments as of `widgets.loras.LorasExplorer`."""
    from monkeylib.explore.widgets.loras import LorasExplorer

    return LorasExplorer(*arguments, **options)


def show_captions(*arguments: Any, **options: Any) -> CaptionsExplorer:
    """Go through the stages of the caption pipeline; arguments as of `widgets.captions.CaptionsExplorer`."""
    from monkeylib.explore.widgets.captions import CaptionsExplorer

    return CaptionsExplorer(*arguments, **options)


def show_costs(*arguments: Any, **options: Any) -> CostsExplorer:
    """See what an image costs on other grids; arguments as of `widgets.costs.CostsExplorer`."""
    from monkeylib.explore.widgets.costs import CostsExplorer

    return CostsExplorer(*arguments, **options)


def show_errors(*arguments: Any, **options: Any) -> ErrorsExplorer:
    """Go through wrong answers; arguments as of `widgets.errors.ErrorsExplorer`."""
    from monkeylib.explore.widgets.errors import ErrorsExplorer

    return ErrorsExplorer(*arguments, **options)


def show_power(*arguments: Any, **options: Any) -> PowerExplorer:
    """See how many seeds a claim of the grid needs; arguments as of `widgets.power.PowerExplorer`."""
    from monkeylib.explore.widgets.power import PowerExplorer

    return PowerExplorer(*arguments, **options)


def watch_training(*arguments: Any, **options: Any) -> LiveCurves:
    """Draw a training run while it runs; arguments as of `widgets.training.LiveCurves`."""
    from monkeylib.explore.widgets.training import LiveCurves

    return LiveCurves(*arguments, **options)
