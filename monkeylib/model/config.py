"""Configuration of a Monkey model: sizes of its components, and how images are split into tiles."""

import math
from typing import Any, Literal, get_args

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from monkeylib.errors import choose, refuse_misspelled, shorten
from monkeylib.model.limits import LARGEST, check_grids, check_size, check_sizes
from monkeylib.tiling import grid_positions

LoRAMode = Literal["per_tile", "shared", "none", "full"]
LoRAInput = Literal["residual", "normed"]
Views = Literal["tiles+global", "tiles", "global"]
Precision = Literal["32-true", "bf16-mixed", "bf16-true"]  # Lightning's names


_SIZES = ("tile_size", "attention_rank", "mlp_rank", "max_tiles")
_VISION_SIZES = ("tile_size", "patch_size", "width", "layers", "heads", "mlp_width", "position_grid")


class MonkeyVisionConfig(PreTrainedConfig):
    """Vision transformer; the defaults are ViT-bigG as in the released checkpoint (no class token).

    Fields:
        tile_size: side of a view in pixels. Views of another size are accepted; the position embedding is
            then interpolated.
        patch_size: side of a patch in pixels.
        width, layers, heads, mlp_width: sizes of the blocks.
        position_grid: the position embedding is stored for `position_grid x position_grid` patches.
        layer_norm_eps: of every layer norm in the ViT and the resampler.
    """

    model_type = "monkey_vision"
    base_config_key = "vision_config"

    # The names that transformers uses for the same sizes, so that code for any of its ViTs reads them too.
    attribute_map = {
        "hidden_size": "width",
        "num_hidden_layers": "layers",
        "num_attention_heads": "heads",
        "intermediate_size": "mlp_width",
        "layer_norm_epsilon": "layer_norm_eps",
    }

    tile_size: int = 448
    patch_size: int = 14
    width: int = 1664
    layers: int = 48
    heads: int = 16
    mlp_width: int = 8192
    position_grid: int = 16
    layer_norm_eps: float = 1e-6

    def __post_init__(self, **kwargs: Any) -> None:
        refuse_misspelled(f"{type(self).__name__} has no field", kwargs, type(self).__dataclass_fields__)
        super().__post_init__(**kwargs)
        for name in _VISION_SIZES:
            check_size(name, getattr(self, name), LARGEST[name])

        # Each head takes width / heads of the features.
        if self.width % self.heads:
            raise ValueError(f"the ViT's width {self.width} does not divide by its {self.heads} heads")

        # The patch embedding is a convolution whose stride is its kernel: a remainder would be cut off.
        if self.tile_size % self.patch_size:
            raise ValueError(
                f"tile_size {self.tile_size} is not a multiple of patch_size {self.patch_size}: "
                "change one of them"
            )


class MonkeyResamplerConfig(PreTrainedConfig):
    """Shared resampler. Its width is that of the language model.

    Fields:
        queries: learned queries, each of which becomes a visual token. They lie on a grid (`query_grid`).
        pooling: average the tokens of `pooling x pooling` neighbouring queries to one visual token; 1 for the
            paper's model, where every query is one.
        heads: attention heads; the released code has width // 128.
        kv_proj: project the ViT's features to the width of the language model. The released code leaves that
            out where both have the same width.
    """

    model_type = "monkey_resampler"
    base_config_key = "resampler_config"

    queries: int = 256
    pooling: int = 1
    heads: int = 32
    kv_proj: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        refuse_misspelled(f"{type(self).__name__} has no field", kwargs, type(self).__dataclass_fields__)
        super().__post_init__(**kwargs)
        for name in ("queries", "pooling", "heads"):
            check_size(name, getattr(self, name), LARGEST[name])

        rows, cols = self.query_grid
        if cols > 2 * rows:
            raise ValueError(
                f"{self.queries} queries make a grid of {rows}x{cols}: the resampler needs one that is at "
                f"most twice as wide as high, such as that of {math.isqrt(self.queries) ** 2}"
            )
        check_pooling(self.pooling, self.query_grid)

    @property
    def query_grid(self) -> tuple[int, int]:
        """Rows and columns of the queries, as square as their number allows: 256 are 16x16, 320 are 16x20."""
        # The largest divisor up to the root.
        rows = next(rows for rows in range(math.isqrt(self.queries), 0, -1) if self.queries % rows == 0)
        return rows, self.queries // rows


class MonkeyProjectorConfig(PreTrainedConfig):
    """LLaVA-1.5's projector in place of the resampler: two linear layers, one visual token per patch.

    Fields:
        hidden_act: name of the activation between them.
        pooling: average the tokens of `pooling x pooling` neighbouring patches to one visual token; 1 for
            LLaVA-1.5.
    """

    model_type = "monkey_projector"
    base_config_key = "resampler_config"

    hidden_act: str = "gelu"
    pooling: int = 1

    def __post_init__(self, **kwargs: Any) -> None:
        refuse_misspelled(f"{type(self).__name__} has no field", kwargs, type(self).__dataclass_fields__)
        super().__post_init__(**kwargs)
        check_size("pooling", self.pooling, LARGEST["pooling"])


def check_pooling(pooling: int, grid: tuple[int, int]) -> None:
    """Check that a grid of tokens divides into squares of `pooling x pooling`.

    Raises:
        ValueError: it does not.
    """
    rows, cols = grid
    if rows % pooling or cols % pooling:
        raise ValueError(
            f"a grid of {rows}x{cols} visual tokens does not divide into squares of {pooling}x{pooling}, "
            "which are averaged: set pooling to a number that divides both sides"
        )


# So that a saved configuration finds its class by `model_type`.
for _config in (MonkeyVisionConfig, MonkeyResamplerConfig, MonkeyProjectorConfig):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)


class MonkeyConfig(PreTrainedConfig):
    """Complete Monkey model: vision backbone, resampler or projector, and language model.

    Fields:
        vision_config: of monkeylib's ViT, or of a ViT of transformers that `hf_vision.LAYOUTS` lists.
        resampler_config: of the resampler or the projector.
        text_config: of any causal language model.
        tile_size: side of a view in pixels; by default that of the vision configuration.
        image_token_id, image_start_id, image_end_id: ids of `<imgpad>`, `<img>` and `</img>`; LLaVA-1.5 has
            only the first.
        grids: the `[rows, cols]` grids that the checkpoint was trained on, tile i of each with LoRA i;
            `model.use_grid` adds another one.
        max_tiles: the most tiles of an image where each has the grid of its own shape (`tiling.select_grid`),
            in place of `grids`. Then there is a LoRA for each position (row, column) in such grids, and a
            tile meets that of its position whatever the grid. None for the paper's one grid.
        views: which views an image has: its tiles and the global view (the paper), tiles alone, or the
            global view alone.
        lora_mode: "per_tile" (a LoRA for each tile, as in the paper), "shared" (LoRA 0 for every tile),
            "none", or "full" (no LoRA; the ViT itself trains).
        attention_rank, mlp_rank: ranks of the LoRA beside the attention projections and beside the MLP (paper
            section 4: 16 and 32); 0 for no LoRA there.
        lora_on_global_view: give the global view a LoRA too: its own after those of the tiles ("per_tile"),
            or LoRA 0 as every tile ("shared"). Neither the paper nor the released code does so.
        lora_dropout: dropout on the input of the LoRA in training.
        mlp_lora_input: "residual", the residual stream before its norm, as in the released code; or "normed",
            what the MLP itself reads, which is the plain reading of the paper's LoRA "in the MLP" (section
            3.1).
    """

    model_type = "monkey"

    # Types of the three sections where a configuration does not name them.
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="monkey_vision"),
        "resampler_config": SubConfigSpec(config_class=AutoConfig, model_type="monkey_resampler"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen2"),
    }

    # Sections: a dictionary becomes the configuration of its `model_type`.
    vision_config: dict | PreTrainedConfig | None = None
    resampler_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None

    # Images. The default ids are those of the released vocabulary.
    tile_size: int | None = None
    image_token_id: int = 151859
    image_start_id: int | None = 151857
    image_end_id: int | None = 151858
    grids: list[list[int]] | None = None
    max_tiles: int | None = None
    views: Views = "tiles+global"

    lora_mode: LoRAMode = "per_tile"
    attention_rank: int = 16
    mlp_rank: int = 32
    lora_on_global_view: bool = False
    lora_dropout: float = 0.05
    mlp_lora_input: LoRAInput = "residual"
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        refuse_misspelled(f"{type(self).__name__} has no field", kwargs, type(self).__dataclass_fields__)
        super().__post_init__(**kwargs)

        check_sizes({name: getattr(self, name) for name in _SIZES})
        check_grids(self.grids or [])

        # Plain lists: a configuration is saved as JSON, which knows no tuples.
        self.grids = [[int(rows), int(cols)] for rows, cols in (self.grids or [])]

        choose("setting of views", self.views, get_args(Views))
        choose("lora_mode", self.lora_mode, get_args(LoRAMode))
        choose("mlp_lora_input", self.mlp_lora_input, get_args(LoRAInput))
        is_share = isinstance(self.lora_dropout, int | float) and 0 <= self.lora_dropout < 1
        if not is_share or isinstance(self.lora_dropout, bool):
            raise ValueError(
                f"lora_dropout is {shorten(self.lora_dropout)}: expected a number from 0, below 1"
            )
        self._check_lora()

        vision = self.vision_config
        if hasattr(vision, "vision_use_head"):
            vision.vision_use_head = False  # SigLIP's pooling head, which nothing reads

        # A ViT of transformers states the size that it was trained with as `image_size`.
        if self.tile_size is None:
            self.tile_size = getattr(vision, "tile_size", None) or vision.image_size
        if self.tile_size % vision.patch_size:
            raise ValueError(
                f"tile_size {self.tile_size} is not a multiple of the encoder's patch_size "
                f"{vision.patch_size}: change tile_size"
            )

        if isinstance(self.resampler_config, MonkeyProjectorConfig):
            patches = self.tile_size // vision.patch_size
            check_pooling(self.resampler_config.pooling, (patches, patches))

    def _check_lora(self) -> None:
        """Check that what the LoRA mode needs is there.

        Raises:
            ValueError: it is not.
        """
        if type(self.lora_on_global_view) is not bool:
            raise ValueError(
                f"lora_on_global_view is {shorten(self.lora_on_global_view)}: expected true or false"
            )
        if self.lora_on_global_view and self.views == "tiles":
            raise ValueError(
                "lora_on_global_view needs a global view, and views is 'tiles': leave it out, or set views "
                "to 'tiles+global'"
            )

        if self.lora_mode in ("per_tile", "shared") and not self.attention_rank and not self.mlp_rank:
            raise ValueError(
                f"lora_mode {self.lora_mode!r} with attention_rank 0 and mlp_rank 0 has no LoRA: set one of "
                "them, or lora_mode to 'none'"
            )

        has_tiles = self.grids or self.max_tiles is not None
        if self.lora_mode == "per_tile" and not has_tiles and not self.lora_on_global_view:
            raise ValueError(
                "lora_mode 'per_tile' needs the grid of tiles: pass grids=[[rows, cols]], e.g. [[2, 2]]"
            )

    @property
    def queries(self) -> int:
        """Visual tokens of a view: the resampler's queries, or one per patch after a projector; fewer where
        neighbouring tokens are averaged."""
        if isinstance(self.resampler_config, MonkeyProjectorConfig):
            # tile_size / patch_size patches down and across
            tokens = (self.tile_size // self.vision_config.patch_size) ** 2
        else:
            tokens = self.resampler_config.queries
        return tokens // self.resampler_config.pooling**2

    def to_dict(self) -> dict[str, Any]:
        """Return the fields; the file of a model like the paper's does not mention what only others have."""
        fields = super().to_dict()
        if self.max_tiles is None:
            fields.pop("max_tiles", None)
        if not self.lora_on_global_view:
            fields.pop("lora_on_global_view", None)
        return fields

    # Tiles and their LoRA

    @property
    def lora_count(self) -> int:
        """LoRAs beside each projection of the ViT: one per tile position, one for all tiles, or none."""
        if self.lora_mode == "per_tile":
            # That of the global view, if it has one, comes last.
            return self.tile_lora_count + int(self.lora_on_global_view)
        if self.lora_mode == "shared":
            return 1
        return 0

    @property
    def tile_lora_count(self) -> int:
        """Tile positions that a LoRA of mode "per_tile" belongs to."""
        # LoRA i serves tile i of every grid, so the largest grid decides.
        most_tiles = max((rows * cols for rows, cols in self.grids), default=0)
        return max(most_tiles, len(self.lora_positions))

    @property
    def lora_positions(self) -> list[tuple[int, int]]:
        """Positions `(row, col)` of the per-tile LoRAs: LoRA i is that of position i of this list.

        They are the tiles of the first grid row by row, or those of all grids of `max_tiles` tiles. LoRAs
        that `model.use_grid` has added have no position.
        """
        if self.max_tiles is not None:
            return grid_positions(self.max_tiles)
        if not self.grids:
            return []
        rows, cols = self.grids[0]
        return [(row, col) for row in range(rows) for col in range(cols)]


def mlp_width(vision: PreTrainedConfig) -> int:
    """Return the width of the MLP's inner layer, which DINOv2 states as a multiple of the ViT's."""
    if hasattr(vision, "mlp_ratio"):
        # Rounded down, as DINOv2 itself does.
        return int(vision.hidden_size * vision.mlp_ratio)
    return vision.intermediate_size
