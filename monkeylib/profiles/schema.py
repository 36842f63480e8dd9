"""Fields of a profile."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from monkeylib import resources
from monkeylib.errors import choose, first_problem
from monkeylib.model import limits
from monkeylib.model.config import LoRAMode, MonkeyResamplerConfig, Precision, Views
from monkeylib.model.monkey import TrainMode
from monkeylib.tiling import GlobalFrom, ResizeMode, check_overlap, check_pixels, covered_side

# Sizes, none of them so large that building the model would take the memory of any machine.
Layers = Annotated[int, Field(gt=0, le=limits.MAX_LAYERS)]
Width = Annotated[int, Field(gt=0, le=limits.MAX_WIDTH)]
MLPWidth = Annotated[int, Field(gt=0, le=limits.MAX_MLP_WIDTH)]
Rank = Annotated[int, Field(ge=0, le=limits.MAX_WIDTH)]
Heads = Annotated[int, Field(gt=0, le=limits.MAX_HEADS)]
TileSize = Annotated[int, Field(gt=0, le=limits.MAX_TILE_SIZE)]
Tiles = Annotated[int, Field(gt=0, le=limits.MAX_TILES)]
# Counts of steps, tokens, examples and processes.
Count = Annotated[int, Field(gt=0, le=10**9)]
Workers = Annotated[int, Field(gt=0, le=1_024)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
TokenId = Annotated[int, Field(ge=0, lt=limits.MAX_VOCABULARY)]


def _check_config(config: dict[str, Any]) -> dict[str, Any]:
    limits.check_sizes(config)
    return config


# Fields of a configuration of transformers, whose sizes are checked by their names.
HFConfig = Annotated[dict[str, Any], AfterValidator(_check_config)]


class ProfileSection(BaseModel):
    """Base class of a profile's sections: fixed once loaded, without unknown fields, its numbers finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with other values of some fields, which are not checked.

        Raises:
            ValueError: a field that there is none of, which pydantic would add.
        """
        for name in update or {}:
            choose("field", name, type(self).model_fields)
        return super().model_copy(update=update, deep=deep)


# --- the model


class VisionConfig(ProfileSection):
    """Sizes of the library's ViT.

    Fields:
        patch_size: side of a patch in pixels.
        width, layers, heads, mlp_width: sizes of the transformer blocks.
        position_grid: position embeddings are stored for `position_grid x position_grid` patches.
        pretrained: name of pretrained weights.
    """

    patch_size: Annotated[int, Field(gt=0, le=limits.MAX_PATCH_SIZE)]
    width: Width
    layers: Layers
    heads: Heads
    mlp_width: MLPWidth
    position_grid: Annotated[int, Field(gt=0, le=limits.MAX_POSITION_GRID)]
    pretrained: str | None = None


class HFVisionConfig(ProfileSection):
    """Vision backbone of transformers, in place of the library's ViT.

    Fields:
        model_type: type in transformers.
        config: fields of its configuration.
        pretrained: name of pretrained weights.
    """

    model_type: str
    config: HFConfig
    pretrained: str | None = None

    @property
    def layers(self) -> int:
        """Number of transformer blocks."""
        return self.config["num_hidden_layers"]

    @property
    def width(self) -> int:
        """Features of a patch."""
        return self.config["hidden_size"]


class ImageTokenIds(ProfileSection):
    """Ids of `<img>`, `</img>` and of the placeholder of a visual token; LLaVA-1.5 has only the last."""

    start: TokenId | None
    end: TokenId | None
    placeholder: TokenId


class LanguageModelConfig(ProfileSection):
    """Language model of transformers.

    Fields:
        model_type: type in transformers.
        config: fields of its configuration.
        image_token_ids: ids of the image's tokens.
        pretrained: name of pretrained weights, whose tokenizer is used too.
        tokenizer: folder with the tokenizer, of a model without pretrained weights.
        prompt_prefix: text that begins every prompt (`prompts.PromptLayout`).
    """

    model_type: str
    config: HFConfig
    image_token_ids: ImageTokenIds
    pretrained: str | None = None
    tokenizer: str | None = None
    prompt_prefix: str = ""


class TileLoRAConfig(ProfileSection):
    """LoRA beside the ViT's projections (paper section 3.1).

    Fields:
        mode: LoRA of each tile position, shared by all tiles, none, or the whole ViT trains.
        attention_rank, mlp_rank: ranks beside the attention's projections and beside the MLP; 0 for no LoRA
            there.
        dropout: dropout on the input of the LoRA.
        on_global_view: give the global view a LoRA too: its own, or the shared one. For the ablation: neither
            the paper nor the released code does so.
    """

    mode: LoRAMode
    attention_rank: Rank
    mlp_rank: Rank
    dropout: float = Field(ge=0, lt=1)
    on_global_view: bool = False


# --- training


class ComponentTraining(ProfileSection):
    """How a component of the model trains.

    Fields:
        train: frozen, LoRA or full.
        lr: learning rate, if not that of the run.
    """

    train: TrainMode
    lr: float | None = Field(default=None, gt=0)


class ResamplerTraining(ComponentTraining):
    """How the resampler trains; it has no LoRA."""

    train: Literal["frozen", "full"]


class TrainableComponents(ProfileSection):
    """How each component of the model trains.

    Fields:
        vision, resampler, language_model: the components.
        resampler_output: train the norm and the projection after the resampler with it.
    """

    vision: ComponentTraining
    resampler: ResamplerTraining
    language_model: ComponentTraining
    resampler_output: bool = False


class TrainingConfig(ProfileSection):
    """Settings of a fine-tuning run.

    Fields:
        steps: optimiser steps.
        batch_size: examples of an optimiser step over all devices.
        micro_batch_size: examples that go through the model at once on each device; by default all of a
            device's examples, or as many as its memory has room for. Gradients accumulate over
            `batch_size / (devices x micro_batch_size)` micro-batches.
        packing: put the examples of a micro-batch into one sequence instead of padding them.
        max_length: longest example in tokens.
        components: what trains. "released" trains the ViT's LoRA, the resampler without its last norm and
            projection, and the language model; "paper" also these two; or each component by itself.
        lr: learning rate of components without their own.
        lora_lr: learning rate of the ViT's LoRA where `components` is a name.
        warmup: share of the steps in which the learning rate rises linearly; `warmup_steps` counts them.
        weight_decay: of matrices.
        betas: of AdamW.
        gradient_clip: largest norm of the gradients.
        view_sides: sizes in pixels of a single view that changes during training.
        view_order: "progressive" takes the sizes in their order, for equally many steps each; "multiscale"
            draws one for each step.
        precision: Lightning's name.
        checkpointing: keep only the inputs of blocks, and compute the rest again in the backward pass.
        strategy: how devices share the work.
        language_model_rank: rank of the language model's LoRA.
        language_model_bits: bits of a quantised language model.
        keep: save all weights, or only those that train.
        save_every_steps: save a checkpoint every so many steps; by default six in a run.
        save_every_minutes: and so many minutes after the last checkpoint, if that is earlier.
        select: save the weights of the last step, or of the lowest validation loss ("best").
        workers: processes that prepare training data on each device.
        max_bad_share: largest share of bad records where they are skipped; a run with more stops.
        seed: of initial weights, data and dropout.
    """

    steps: Count
    batch_size: Count
    micro_batch_size: Count | None = None
    packing: bool = False
    max_length: Count
    components: Literal["released", "paper"] | TrainableComponents = "released"
    lr: float = Field(gt=0)
    lora_lr: float | None = Field(default=None, gt=0)
    warmup: float = Field(ge=0)
    weight_decay: float = Field(ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    gradient_clip: float = Field(default=1.0, gt=0)
    view_sides: tuple[TileSize, ...] = ()
    view_order: Literal["progressive", "multiscale"] = "progressive"
    precision: Precision = "32-true"
    checkpointing: bool = False
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    language_model_rank: Width = 32
    language_model_bits: Literal[4, 8] | None = None
    keep: Literal["all", "trained"] = "all"
    save_every_steps: Count | None = None
    save_every_minutes: float | None = Field(default=15, gt=0)
    select: Literal["last", "best"] = "last"
    workers: Workers = 1
    max_bad_share: float = Field(default=0.1, ge=0, le=1)
    seed: Seed

    @property
    def warmup_steps(self) -> int:
        """Steps of the warm-up."""
        return round(self.warmup * self.steps)

    @field_validator("warmup")
    @classmethod
    def _warmup_is_a_share(cls, share: float) -> float:
        # It used to be a number of steps.
        if share >= 1:
            raise ValueError(f"the warm-up is a share of the steps below 1, such as 0.05, got {share:g}")
        return share

    @model_validator(mode="after")
    def _quantized_weights_are_frozen(self) -> "TrainingConfig":
        if self.language_model_bits is None:
            return self

        # The named choices train the language model in full.
        by_name = isinstance(self.components, str)
        if by_name or self.components.language_model.train == "full" or self.keep == "all":
            raise ValueError(
                "a language model in 4 or 8 bits trains by LoRA and is saved without its frozen weights: "
                "set components.language_model.train to lora, and keep to trained"
            )

        return self


# --- evaluation


class EvaluationConfig(ProfileSection):
    """Questions of each split, and how answers are generated."""

    counts: dict[str, Count]
    max_new_tokens: Count
    batch_size: Count


class AblationConfig(ProfileSection):
    """Training of each variant in the ablations, and questions of each split.

    Fields:
        steps: optimiser steps.
        warmup: share of the steps that warm up; by default that of the training. Few steps need a larger one.
        micro_batch_size: examples that go through the model at once; by default as many as fit.
        counts: questions of each split, before the first step and after the last one.
        curve_steps: steps between them after which a variant is scored, too; those from the last one on, as a
            shorter profile has from the one that it extends, are left out.
        curve_counts: questions of each split then, the first ones of `counts`.
    """

    steps: Count
    warmup: float | None = Field(default=None, ge=0, lt=1)
    micro_batch_size: Count | None = None
    counts: dict[str, Count]
    curve_steps: tuple[Count, ...] = ()
    curve_counts: dict[str, Count] = Field(default_factory=dict)


class Profile(ProfileSection):
    """Preset of everything that depends on a model's size.

    Fields:
        name, description: what the profile is called, and what it is for.
        tile_size: side of a tile in pixels.
        rows, cols: tile grid of an image.
        grid: "fixed" gives every image this grid, as in the paper; "auto" gives each the grid of its own
            shape (`tiling.select_grid`).
        max_tiles: the most tiles of an automatic grid; by default as many as `rows` and `cols` make.
        tile_overlap: pixels that neighbouring tiles of a fixed grid share; none in the paper. A 3x3 grid of
            tiles of 96 pixels that share 48 covers 192 pixels, as a 2x2 grid without overlap does.
        views: tiles and global view, tiles alone, or the global view alone.
        global_from: the global view comes from the "resized" image, without antialiasing, as in the released
            code, or from the "original" one as in the paper (`processing.MonkeyImageProcessor`).
        resize_mode: what becomes of an image's aspect ratio (`tiling.resize`); the released code ignores it.
        exact: false prepares images in bytes, in about a third of the time: pixels differ a little from those
            of the released code (`image_processor.MonkeyImageProcessor`).
        queries: the resampler's queries, each a visual token of a view. Another number than the base model's
            is interpolated from its queries (`Resampler.resize_queries`).
        pooling: average the tokens of `pooling x pooling` neighbouring queries (or patches) to one visual
            token.
        fresh_queries: start from random queries in place of the base model's.
        resampler_heads: attention heads of the resampler. Without them a projector takes its place, and
            `queries` is the number of patches in a view.
        vision, language_model: the pretrained components.
        lora: LoRA of the ViT.
        training, evaluation, ablation: settings of the runs.
        base_checkpoint: folder of the base model, from which fine-tuning starts.
        projector: safetensors file of a projector that takes the place of the base model's resampler.
        image_width, image_height: size of synthetic images, if not that of the tile grid.
        labels: what synthetic images are trained with: questions and captions ("questions"), or captions at
            a level of detail or of the caption pipeline, to compare them (`data.synthetic.label_levels`).
        training_images: what synthetic images show where a run trains on questions about them: "usual" ones,
            or more with "several_signs", most of which have three (`training.synthetic_records.MIXES`). The
            grid of experiments is trained on usual ones, whatever the profile says.
        rendering: whether the quadrants of synthetic images are transformed, in training and evaluation
            (`data.synthetic.renderings`).
    """

    name: str
    description: str
    tile_size: TileSize
    rows: Tiles
    cols: Tiles
    grid: Literal["fixed", "auto"] = "fixed"
    max_tiles: Tiles | None = None
    tile_overlap: Annotated[int, Field(ge=0)] = 0
    views: Views
    global_from: GlobalFrom = "resized"
    resize_mode: ResizeMode = "stretch"
    exact: bool = True
    queries: Annotated[int, Field(gt=0, le=limits.MAX_QUERIES)]
    pooling: Annotated[int, Field(gt=0, le=limits.MAX_QUERIES)] = 1
    fresh_queries: bool = False
    resampler_heads: Heads | None
    vision: VisionConfig | HFVisionConfig
    language_model: LanguageModelConfig
    lora: TileLoRAConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    ablation: AblationConfig
    base_checkpoint: str | None = None
    projector: str | None = None
    image_width: TileSize | None = None
    image_height: TileSize | None = None
    labels: Literal["questions", "short", "global", "regions", "segments", "text", "pipeline"] = "questions"
    training_images: Literal["usual", "several_signs"] = "usual"
    rendering: Literal["ordinary", "fixed", "dealt"] = "ordinary"

    @model_validator(mode="after")
    def _image_fits(self) -> "Profile":
        limits.check_grids([[self.rows, self.cols]], "the profile's grid")
        check_pixels(self.rows, self.cols, self.tile_size)
        check_overlap(self.tile_overlap, self.tile_size)
        if self.tile_overlap and self.grid == "auto":
            raise ValueError(
                "tiles of automatic grids do not overlap: set grid to fixed, or tile_overlap to 0"
            )
        return self

    @model_validator(mode="after")
    def _automatic_grid_has_tiles(self) -> "Profile":
        if self.grid == "fixed" and self.max_tiles is not None:
            raise ValueError("max_tiles is for automatic grids: set grid to auto, or leave max_tiles out")
        if self.grid == "auto" and self.views == "global":
            raise ValueError("an image of views: global has no tiles: leave grid: auto out, or change views")
        if self.max_tiles is not None:
            check_pixels(1, self.max_tiles, self.tile_size)
        return self

    @model_validator(mode="after")
    def _queries_are_as_the_resampler_takes_them(self) -> "Profile":
        if self.resampler_heads is not None:
            MonkeyResamplerConfig(queries=self.queries, pooling=self.pooling)
        elif self.fresh_queries:
            raise ValueError("a projector has no queries: leave fresh_queries out")

        if self.projector is not None and (self.resampler_heads is not None or self.base_checkpoint is None):
            raise ValueError(
                "projector takes the place of a base model's resampler: set base_checkpoint too, and "
                "resampler_heads to null"
            )
        return self

    def with_training(self, **changes: Any) -> "Profile":
        """Return the profile with other training settings.

        Raises:
            ValueError: a setting that does not exist, or a value that it cannot have.
        """
        # `model_copy` alone would not validate the new values.
        try:
            training = TrainingConfig.model_validate({**self.training.model_dump(), **changes})
        except ValidationError as error:
            raise ValueError(f"training.{first_problem(error, schema=TrainingConfig)}") from None
        return self.model_copy(update={"training": training})

    def with_usual_images(self) -> "Profile":
        """Return the profile with the synthetic training images of all experiments that compare variants."""
        return self.model_copy(update={"training_images": "usual"})

    def with_seed(self, seed: int) -> "Profile":
        """Return the profile with another random seed for training."""
        return self.with_training(seed=seed)

    @property
    def runs(self) -> Path:
        """Folder of its checkpoints and predictions, with the seed of its training."""
        return resources.runs(self.name, self.training.seed)

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height in pixels of synthetic images: by default those of the tile grid.

        A variant that shows such images in fewer or other views states their size.
        """
        width = self.image_width or covered_side(self.cols, self.tile_size, self.tile_overlap)
        height = self.image_height or covered_side(self.rows, self.tile_size, self.tile_overlap)
        return width, height

    @property
    def auto_tiles(self) -> int | None:
        """The most tiles of an automatic grid; None where every image has the same grid."""
        # A variant of the profile may show the global view alone.
        if self.grid == "fixed" or self.views == "global":
            return None
        return self.max_tiles or self.rows * self.cols

    @property
    def tokens_per_view(self) -> int:
        """Visual tokens of a view."""
        return self.queries // self.pooling**2

    @property
    def visual_tokens(self) -> int:
        """Visual tokens of an image; the most where its grid follows its shape."""
        tiles = 0 if self.views == "global" else self.auto_tiles or self.rows * self.cols
        global_views = 0 if self.views == "tiles" else 1
        return (tiles + global_views) * self.tokens_per_view
