"""How many seeds a claim needs: the difference that a grid could tell from 0, as its size changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from monkeylib.experiments import claims, verdicts
from monkeylib.explore.widgets.base import Explorer, html_table
from monkeylib.profiles import Profile

_SEEDS = range(2, 11)


class PowerExplorer(Explorer):
    """The detectable difference of a claim, for a number of seeds and a spread between them.

    Attributes:
        claim: the claim.
        seeds: number of seeds, as displayed.
        seed_spread: standard deviation of the difference from seed to seed, as displayed.
    """

    def __init__(
        self,
        profile: Profile,
        claim: str = "LoRA",
        seeds: int = 5,
        spreads: Sequence[float] = (0.01, 0.02, 0.05),
    ) -> None:
        self.claim = next(one for one in verdicts.CLAIMS if one.name == claim)
        self.image_error, self.num_images = claims.error_over_images(profile, claim)
        self.seeds, self.spreads = seeds, tuple(spreads)
        self.seed_spread = self.spreads[0]

    def effect(self, seeds: int, seed_spread: float) -> float:
        """Return the detectable difference, in nats per character."""
        return verdicts.planned_effect(seeds, seed_spread, self.image_error, self.num_images)

    def _build_widget(self, ipywidgets: Any) -> Any:
        seeds = ipywidgets.IntSlider(value=self.seeds, min=_SEEDS[0], max=_SEEDS[-1], description="seeds")
        spread = ipywidgets.FloatSlider(
            value=self.seed_spread, min=0, max=0.1, step=0.005, readout_format=".3f", description="spread"
        )
        facts = ipywidgets.HTML()

        def update(change: Any = None) -> None:
            self.seeds, self.seed_spread = seeds.value, spread.value
            facts.value = html_table(
                [
                    ("detectable", f"{self.effect(self.seeds, self.seed_spread):.3f} nats per character"),
                    ("of interest", f"{self.claim.smallest_effect:g}"),
                ]
            )

        for control in (seeds, spread):
            control.observe(update, "value")
        update()
        return ipywidgets.VBox([seeds, spread, facts])

    def _draw(self) -> Figure:
        from monkeylib.plots.experiments import draw_power

        effects = [
            {"seeds": seeds, "seed_spread": spread, "effect": self.effect(seeds, spread)}
            for spread in self.spreads
            for seeds in _SEEDS
        ]
        return draw_power(effects, self.claim.smallest_effect)
