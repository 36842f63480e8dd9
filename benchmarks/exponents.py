"""Exponents of growth: a cost that was measured at several sizes, as `cost ~ size^e`."""

from typing import Any

import numpy as np

Measured = list[tuple[float, float]]  # (size, seconds)


def exponent(measured: Measured) -> float:
    """Return e of `seconds ~ size^e`, fitted to the larger half of the sizes (three of them at least).

    >>> round(exponent([(1, 2.0), (2, 8.0), (4, 32.0)]), 3)
    2.0
    """
    larger = measured[min(len(measured) // 2, len(measured) - 3) :] if len(measured) > 3 else measured
    sizes, seconds = (np.log([pair[index] for pair in larger]) for index in (0, 1))
    return float(np.polyfit(sizes, seconds, 1)[0])


def growth_row(quantity: str, unit: str, work: str, measured: Measured) -> dict[str, Any]:
    """Return the row of a quantity: its range, what the ends cost, and the exponent."""
    (least_size, least_seconds), (most_size, most_seconds) = measured[0], measured[-1]
    return {
        "work": work,
        "grows with": quantity,
        "from": f"{least_size:g} {unit}",
        "to": f"{most_size:g} {unit}",
        "seconds at the least": float(f"{least_seconds:.3g}"),
        "seconds at the most": float(f"{most_seconds:.3g}"),
        "exponent": round(exponent(measured), 2),
        "measured": "; ".join(f"{size:g}: {seconds:.3g} s" for size, seconds in measured),
    }
