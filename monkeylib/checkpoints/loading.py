"""Load a model or its processor from a folder of either layout, or from a dictionary of tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from monkeylib import resources
from monkeylib.checkpoints import released, saved
from monkeylib.model import MonkeyConfig, MonkeyForConditionalGeneration, build_on_meta
from monkeylib.processing import MonkeyProcessor
from monkeylib.tiling import Grid


def load_checkpoint(
    folder: str | Path, dtype: torch.dtype | None = None, **options: Any
) -> MonkeyForConditionalGeneration:
    """Load a model from a folder that `save_pretrained` wrote, or from one in the released layout.

    Args:
        folder: with `config.json` and weights.
        dtype: of the weights; as saved by default.
        options: of transformers' `from_pretrained`, such as `device_map`. A released folder takes none.

    Raises:
        FileNotFoundError, ValueError: as `saved.load_saved` or `released.load_released`, or an option that
            the released layout does not take.
    """
    if not released.is_released(folder):
        return saved.load_saved(folder, dtype, **options)

    if options:
        raise ValueError(
            f"{folder} is in the released layout, which is loaded without {', '.join(options)}: convert it "
            f"first with `monkeylib convert {resources.shell_path(folder)} NEW_FOLDER`"
        )

    return released.load_released(folder, dtype)


def check_checkpoint(folder: str | Path, grid: Grid | None = None) -> None:
    """Check a folder as strictly as loading its model and its processor does, but for the values of its
    weights, which are not read.

    Args:
        folder: in either layout.
        grid: of a folder in the released layout, by default its own.

    Raises:
        FileNotFoundError, ValueError: as `load_checkpoint` and `load_processor`.
    """
    if released.is_released(folder):
        released.open_released(folder, grid)
        released.load_released_processor(folder, grid)
    else:
        config = saved.open_saved(folder).config
        saved.load_saved_processor(folder, config)


def load_processor(folder: str | Path) -> MonkeyProcessor:
    """Load the processor of a folder that `save_pretrained` wrote, or of one in the released layout.

    Raises:
        FileNotFoundError, ValueError: as `saved.load_saved_processor`, which must agree with the folder's
            `config.json`, or as `released.load_released_processor`.
    """
    if released.is_released(folder):
        return released.load_released_processor(folder)
    return saved.load_saved_processor(folder, saved.read_config(Path(folder)))


def build_with_weights(
    config: MonkeyConfig, state: Mapping[str, torch.Tensor], fresh: tuple[str, ...]
) -> MonkeyForConditionalGeneration:
    """Build a model with the tensors of `state`, and initialise the rest.

    Args:
        config: of the model.
        state: tensors by name.
        fresh: prefixes of the names of tensors that `state` may lack, such as `("vision.lora.",)`.

    Raises:
        ValueError: another tensor is missing, one is too many, or one has another shape.
    """
    # Shapes from the meta device, which take no memory.
    expected = {name: list(tensor.shape) for name, tensor in build_on_meta(config).state_dict().items()}
    given = {name: list(tensor.shape) for name, tensor in state.items()}

    # Names that are too many count as well, hence the union with `given`.
    required = {name for name in expected if not name.startswith(fresh)}
    for name in sorted(required | given.keys()):
        if expected.get(name) != given.get(name):
            raise ValueError(
                f"the pretrained weights do not fit the configuration: {name} should have the shape "
                f"{expected.get(name)} and has {given.get(name)} (None: it is not there); check its sizes"
            )

    # With no path, transformers takes the tensors of `state_dict` and initialises what is missing.
    dtype = next(iter(state.values())).dtype
    return MonkeyForConditionalGeneration.from_pretrained(
        None, config=config, state_dict=dict(state), dtype=dtype
    )
