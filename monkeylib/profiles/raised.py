"""Fields of a run that trains a raised model of transformers (`raising`)."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from monkeylib.errors import first_problem
from monkeylib.profiles.schema import EvaluationConfig, ProfileSection, Rank, TileSize, TrainingConfig
from monkeylib.tiling import ResizeMode

# Adapters and connector of a 7B base take few steps, and no more than an example at once on one GPU.
_TRAINING = TrainingConfig(
    steps=1000,
    batch_size=16,
    micro_batch_size=1,
    max_length=4096,
    lr=1e-4,
    lora_lr=2e-4,
    warmup=0.05,
    weight_decay=0.05,
    precision="bf16-mixed",
    checkpointing=True,
    seed=0,
)


class RaisedProfile(ProfileSection):
    """What is raised, and how it trains.

    Fields:
        name, description: what the run is called, and what it is for.
        base: folder of the base, or its name on the hub.
        grid: tiles of an image, as `raising.raise_resolution` takes them: "2x2", "auto:6", or a list.
        rank, mode, dropout: of the adapters.
        tile_size: side of a tile, where the base reads images of any size.
        resize_mode: what becomes of an image's aspect ratio (`tiling.resize`).
        connector: whether what lies between vision tower and language model trains.
        language_model: whether the language model trains.
        bits: load the language model in 4 or 8 bits.
        training: settings of the run. `lora_lr` is the learning rate of the adapters, and `components` is
            said by the fields above.
        evaluation: how answers are sampled on the way.
    """

    name: str = "raised"
    description: str = "A base of transformers with per-tile LoRA."
    base: str
    grid: str | list[str] = "2x2"
    rank: Annotated[Rank, Field(gt=0)] = 16
    mode: Literal["per_tile", "shared", "none", "full"] = "per_tile"
    dropout: float = Field(default=0.05, ge=0, lt=1)
    tile_size: TileSize | None = None
    resize_mode: ResizeMode = "stretch"
    connector: Literal["full", "frozen"] = "full"
    language_model: Literal["full", "frozen"] = "frozen"
    bits: Literal[4, 8] | None = None
    training: TrainingConfig = _TRAINING
    evaluation: EvaluationConfig = EvaluationConfig(counts={}, max_new_tokens=64, batch_size=8)

    @model_validator(mode="after")
    def _training_fits(self) -> Self:
        training = self.training
        settings = {
            "training.components": training.components == "released",
            "training.packing": not training.packing,
            "training.view_sides": not training.view_sides,
            "training.strategy": training.strategy != "fsdp",
            "training.language_model_bits": training.language_model_bits is None,
        }
        for name, is_possible in settings.items():
            if not is_possible:
                raise ValueError(
                    f"{name} is not for a raised model: what trains is said by mode, connector and "
                    "language_model, and bits says how its language model is loaded"
                )
        if self.bits is not None and self.language_model == "full":
            raise ValueError("a language model in 4 or 8 bits does not train: set language_model to frozen")
        return self

    def with_training(self, **changes: Any) -> Self:
        """Return the profile with other training settings.

        Raises:
            ValueError: a setting that does not exist, or a value that it cannot have.
        """
        try:
            training = TrainingConfig.model_validate({**self.training.model_dump(), **changes})
        except ValidationError as error:
            raise ValueError(f"training.{first_problem(error, schema=TrainingConfig)}") from None
        return self.model_copy(update={"training": training})
