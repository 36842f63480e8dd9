"""The experts of the caption pipeline, by name. Importing this loads no model."""

from collections.abc import Callable, Sequence

from monkeylib.captions.experts.base import Expert
from monkeylib.captions.experts.ocr import PpOcr
from monkeylib.captions.experts.regions import YoloxRegions

EXPERTS: dict[str, Callable[[], Expert]] = {"pp-ocr": PpOcr, "yolox": YoloxRegions}
SETS: dict[str, tuple[str, ...]] = {"cpu": ("pp-ocr", "yolox")}

__all__ = ["EXPERTS", "SETS", "Expert", "PpOcr", "YoloxRegions", "load"]


def load(names: str | Sequence[str]) -> list[Expert]:
    """Experts by their names, or those of a set ("cpu").

    Raises:
        ValueError: there is no expert or set of that name.
    """
    if isinstance(names, str):
        names = SETS.get(names, (names,))
    unknown = [name for name in names if name not in EXPERTS]
    if unknown:
        raise ValueError(
            f"There is no expert {unknown[0]!r}: choose among {', '.join(EXPERTS)}, "
            f"or a set: {', '.join(SETS)}."
        )
    return [EXPERTS[name]() for name in names]
