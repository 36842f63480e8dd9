"""What a profile holds."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from monkeylib.model.config import AdapterMode, Views


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
    """The language model: its class in transformers and its fields, or where pretrained weights come from."""

    model_type: str
    config: dict[str, Any]
    image_ids: ImageIds
    pretrained: str | None = None


class Adapters(Section):
    """Adapters beside the ViT's projections."""

    mode: AdapterMode
    attention_rank: PositiveInt
    mlp_rank: PositiveInt
    dropout: float = Field(ge=0, lt=1)


class Training(Section):
    """One fine-tuning run; `adapter_lr` is the adapters' own rate, `lr` everything else's.

    `batch_size` counts rows per optimiser step.
    """

    steps: PositiveInt
    batch_size: PositiveInt
    lr: float = Field(gt=0)
    adapter_lr: float | None = Field(default=None, gt=0)
    warmup: int = Field(ge=0)
    weight_decay: float = Field(ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    gradient_clip: float = Field(default=1.0, gt=0)
    max_length: PositiveInt
    seed: int


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
    """A size of the whole series. Pictures are `rows x cols` tiles of `tile_size` pixels.

    Without `resampler_heads` a projector stands in the resampler's place; `queries` is then the number of
    patches in a tile.
    """

    name: str
    description: str
    tile_size: PositiveInt
    rows: PositiveInt
    cols: PositiveInt
    views: Views
    queries: PositiveInt
    resampler_heads: PositiveInt | None
    vision: Vision | Encoder
    text: Text
    adapters: Adapters
    training: Training
    evaluation: Evaluation
    ablation: Ablation
    base_checkpoint: str | None = None
    image_width: PositiveInt | None = None
    image_height: PositiveInt | None = None

    def seeded(self, seed: int) -> "Profile":
        """The profile with another random seed for training."""
        return self.model_copy(update={"training": self.training.model_copy(update={"seed": seed})})

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height in pixels of the images made for training: the grid of tiles if not given.

        A variant that looks at such an image through fewer or other views says it explicitly.
        """
        return self.image_width or self.cols * self.tile_size, self.image_height or self.rows * self.tile_size

    @property
    def visual_tokens(self) -> int:
        """Visual tokens of one picture."""
        tiles = 0 if self.views == "global" else self.rows * self.cols
        return (tiles + (self.views != "tiles")) * self.queries
