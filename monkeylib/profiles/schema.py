"""What a profile holds."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

from monkeylib.model.config import LoRAMode, Views
from monkeylib.model.monkey import TrainMode
from monkeylib.recipes import Precision
from monkeylib.tiling import ResizeMode

GlobalFrom = Literal["resized", "original"]


class Section(BaseModel):
    """A part of a profile: fixed once loaded, and without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Vision(Section):
    """Sizes of the vision transformer, and where pretrained weights come from."""

    patch_size: PositiveInt
    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    mlp_width: PositiveInt
    position_grid: PositiveInt
    pretrained: str | None = None


class Encoder(Section):
    """In place of our ViT one of transformers: its type, its fields, and where pretrained weights come
    from."""

    model_type: str
    config: dict[str, Any]
    pretrained: str | None = None

    @property
    def layers(self) -> int:
        """Blocks."""
        return self.config["num_hidden_layers"]

    @property
    def width(self) -> int:
        """Features per patch."""
        return self.config["hidden_size"]


class ImageIds(Section):
    """Ids of `<img>`, `</img>` and `<imgpad>`; LLaVA-1.5 has only the last."""

    start: int | None
    end: int | None
    place: int


class Text(Section):
    """The language model: its class in transformers and its fields, or where pretrained weights come from.

    `prompt_prefix`: what every prompt begins with (`processing.MonkeyProcessor`).
    """

    model_type: str
    config: dict[str, Any]
    image_ids: ImageIds
    pretrained: str | None = None
    prompt_prefix: str = ""


class LoRA(Section):
    """LoRA beside the ViT's projections."""

    mode: LoRAMode
    attention_rank: PositiveInt
    mlp_rank: PositiveInt
    dropout: float = Field(ge=0, lt=1)


class Part(Section):
    """Training mode of a component: frozen, LoRA or full."""

    train: TrainMode
    lr: float | None = Field(default=None, gt=0)


class Parts(Section):
    """What trains, each part with its own learning rate if it has one.

    `resampler_output`: the norm and the projection after the resampler train with it.
    """

    vision: Part
    resampler: Part
    language_model: Part
    resampler_output: bool = False

    @field_validator("resampler")
    @classmethod
    def _no_lora(cls, part: Part) -> Part:
        if part.train == "lora":
            raise ValueError("the resampler has no LoRA: choose frozen or full")
        return part


class Training(Section):
    """One fine-tuning run.

    Rows: `batch_size` rows make an optimiser step over all devices; `per_device` of them go through the model
    at once (all of a device's, if not given), so that a step takes `batch_size / (devices x per_device)`
    passes. `packed` puts the rows of a pass into one sequence instead of padding them. A row has at most
    `max_length` tokens.

    What trains: `parts` is "release" (adapters, resampler without its last norm and projection, language
    model), "paper" (the resampler whole), or each part in turn. `lr` is the rate of all parts without their
    own, `lora_lr` that of the encoder's adapters. `language_model_rank` is that of the language model's
    LoRA where it trains by LoRA, and `language_model_bits` quantises what then stays frozen.

    `view_sides` trains one view whose pixels change: from the first side to the last in equal stretches
    ("progressive"), or one of them drawn for each step ("multiscale").

    `keep`: the checkpoint holds all weights, or only the trained ones, of the last step or of the lowest
    validation loss (`select`).
    """

    steps: PositiveInt
    batch_size: PositiveInt
    per_device: PositiveInt | None = None
    packed: bool = False
    max_length: PositiveInt
    parts: Literal["release", "paper"] | Parts = "release"
    lr: float = Field(gt=0)
    lora_lr: float | None = Field(default=None, gt=0)
    warmup: int = Field(ge=0)
    weight_decay: float = Field(ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    gradient_clip: float = Field(default=1.0, gt=0)
    view_sides: tuple[PositiveInt, ...] = ()
    view_order: Literal["progressive", "multiscale"] = "progressive"
    precision: Precision = "32-true"
    checkpointing: bool = False
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    language_model_rank: PositiveInt = 32
    language_model_bits: Literal[4, 8] | None = None
    keep: Literal["all", "trained"] = "all"
    select: Literal["last", "best"] = "last"
    workers: PositiveInt = 1
    seed: int

    @model_validator(mode="after")
    def _quantised_weights_stay(self) -> "Training":
        if self.language_model_bits is None:
            return self
        if isinstance(self.parts, str) or self.parts.language_model.train == "full" or self.keep == "all":
            raise ValueError(
                "a language model in 4 or 8 bits trains by LoRA and is kept without its frozen weights: "
                "set parts.language_model.train to lora, and keep to trained"
            )
        return self


class Evaluation(Section):
    """How many questions of each split are asked, and how answers are made."""

    counts: dict[str, PositiveInt]
    max_new_tokens: PositiveInt
    batch_size: PositiveInt


class Ablation(Section):
    """Each variant of the ablations: its training steps, and the questions of each split."""

    steps: PositiveInt
    counts: dict[str, PositiveInt]


class Profile(Section):
    """A size of the whole series. Images are `rows x cols` tiles of `tile_size` pixels.

    `global_from`: the global view comes from the "resized" image, without antialiasing, as in the release,
    or from the "original" one as in the paper (`processing.MonkeyImageProcessor`).

    `resize_mode`: what is done about an image's aspect ratio (`tiling.resize`); the release ignores it.

    Without `resampler_heads` a projector stands in the resampler's place; `queries` is then the number of
    patches in a tile.
    """

    name: str
    description: str
    tile_size: PositiveInt
    rows: PositiveInt
    cols: PositiveInt
    views: Views
    global_from: GlobalFrom = "resized"
    resize_mode: ResizeMode = "stretch"
    queries: PositiveInt
    resampler_heads: PositiveInt | None
    vision: Vision | Encoder
    text: Text
    lora: LoRA
    training: Training
    evaluation: Evaluation
    ablation: Ablation
    base_checkpoint: str | None = None
    image_width: PositiveInt | None = None
    image_height: PositiveInt | None = None

    def retrained(self, **changes: Any) -> "Profile":
        """The profile with other fields of training.

        Raises:
            ValueError: a field or a value that training doesn't have.
        """
        training = Training.model_validate({**self.training.model_dump(), **changes})
        return self.model_copy(update={"training": training})

    def seeded(self, seed: int) -> "Profile":
        """The profile with another random seed for training."""
        return self.retrained(seed=seed)

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height in pixels of the images made for training: the grid of tiles if not given.

        A variant that looks at such an image through fewer or other views says it explicitly.
        """
        return self.image_width or self.cols * self.tile_size, self.image_height or self.rows * self.tile_size

    @property
    def visual_tokens(self) -> int:
        """Visual tokens of one image."""
        tiles = 0 if self.views == "global" else self.rows * self.cols
        return (tiles + (self.views != "tiles")) * self.queries
