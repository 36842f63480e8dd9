"""Complete model: views -> vision backbone with per-tile LoRA -> resampler -> language model."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Unpack

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.utils.generic import ModelOutput, TransformersKwargs, can_return_tuple

from monkeylib.errors import refuse_misspelled
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.model.config import MonkeyConfig, MonkeyProjectorConfig, MonkeyVisionConfig, check_pooling
from monkeylib.model.hf_vision import HFVisionBackbone
from monkeylib.model.limits import MAX_TILES, check_grids, check_size
from monkeylib.model.loss import cross_entropy, cross_entropy_in_parts, has_plain_output
from monkeylib.model.resampler import PackedProjections, Projector, Resampler, sincos_position_embedding
from monkeylib.model.tile_lora import TileLoRA, check_grid, lora_index_of_image, tile_loras
from monkeylib.model.vision import VisionTransformer
from monkeylib.progress import hide_transformers_bars

# Arguments of `forward`, and those that it hands on to any language model.
_ARGUMENTS = (
    "input_ids",
    "attention_mask",
    "pixel_values",
    "grids",
    "labels",
    "past_key_values",
    "inputs_embeds",
    "return_logits",
)
_FORWARDED = {"use_cache", *TransformersKwargs.__annotations__}

TrainMode = Literal["frozen", "lora", "full"]


@dataclass
class LossOutput(ModelOutput):
    """What a forward pass with labels and without logits gives.

    Fields:
        loss: the cross-entropy.
        predictions: `[supervised positions]`, the most likely token in the place of each label.
    """

    loss: torch.Tensor | None = None
    predictions: torch.Tensor | None = None


class MonkeyForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """A language model that reads `(tiles + 1) * queries` visual tokens per image (paper section 3.1).

    Modules:
        vision: `VisionTransformer` or `HFVisionBackbone`, frozen in fine-tuning, with per-tile LoRA.
        resampler: `Resampler` or `Projector`, shared by all views.
        language_model: any causal language model of transformers.
    """

    # What transformers reads from a model class: how to save, load, generate and place it on devices.
    config_class = MonkeyConfig
    config: MonkeyConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    # Of the language model. `generate` compiles the forward pass that reads one token after the other.
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    # Modules with skip connections or hooks inside, which must lie on one device.
    _no_split_modules = ["VisionBlock", "HFVisionBackbone", "Resampler"]
    _skip_keys_device_placement = ["past_key_values"]

    def __init__(self, config: MonkeyConfig) -> None:
        super().__init__(config)
        if isinstance(config.vision_config, MonkeyVisionConfig):
            self.vision = VisionTransformer(config)
        else:
            self.vision = HFVisionBackbone(config)

        if isinstance(config.resampler_config, MonkeyProjectorConfig):
            self.resampler = Projector(config)
        else:
            self.resampler = Resampler(config)

        # Built by transformers, whose implementation runs unchanged.
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        grids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, Any] | None = None,
        num_items_in_batch: int | float | None = None,
        return_logits: bool = True,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast | LossOutput | tuple:
        """Compute logits and, with labels, the cross-entropy averaged over tokens.

        Args:
            input_ids: `[B, T]`, with `<imgpad>` in the places of visual tokens.
            attention_mask: `[B, T]`, 0 on padding.
            pixel_values, grids: as in `get_image_features`.
            labels: `[B, T]`, `IGNORE_INDEX` where there is nothing to learn; shifted here.
            inputs_embeds: `[B, T, width]` instead of `input_ids`: with the visual tokens in their places, or
                with the embedding of `<imgpad>` there and images beside.
            logits_to_keep: which positions get logits, as in transformers. By default all of them, or with
                labels only those that predict a label: `logits` is then `[supervised positions, vocabulary]`.
            mm_encoder_outputs: `{"image": output of get_image_features}`, which `generate` computes once.
            num_items_in_batch: divide the summed loss by this number, as in transformers, where these rows
                are only a part of a batch. They may then hold no label at all.
            return_logits: False, with labels, for a `LossOutput` alone. The memory of logits is then bounded
                (`model/loss.py`).

        Returns:
            An output of transformers; with `return_dict=False`, the tuple of its values.

        Raises:
            ValueError: images that do not fit the prompt, or are missing, labels without a supervised
                position, or no labels with `return_logits=False`.
            TypeError: an argument whose name is almost one of these.
        """
        # The language model would ignore them.
        if unknown := kwargs.keys() - _FORWARDED:
            refuse_misspelled("the model takes no argument", unknown, _ARGUMENTS)

        # Put the visual tokens in the places of `<imgpad>`. While `generate` decodes, there are none to put.
        image_features = (mm_encoder_outputs or {}).get("image")
        if image_features is None and pixel_values is not None:
            image_features = self.get_image_features(pixel_values, grids, return_dict=True)
        if image_features is not None:
            # pooler_output: [V, queries, width] -> inputs_embeds: [B, T, width]
            inputs_embeds = self.splice(input_ids, image_features.pooler_output, inputs_embeds)
            input_ids = None
        elif input_ids is not None and not _continues(input_ids, past_key_values):
            self._refuse_empty_places(input_ids)

        if not return_logits and (labels is None or logits_to_keep is not None):
            raise ValueError("return_logits=False needs labels and takes no logits_to_keep")

        targets = None
        if labels is not None:
            # Packed examples would see each other through a cache.
            kwargs.setdefault("use_cache", False)

            # Position t predicts the label of t + 1.
            targets = F.pad(labels, (0, 1), value=IGNORE_INDEX)[:, 1:]
            if logits_to_keep is None:
                logits_to_keep = targets != IGNORE_INDEX
                targets = targets[logits_to_keep]

        # What the language model reads.
        kwargs |= {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "inputs_embeds": inputs_embeds,
            "return_dict": True,
        }

        if not return_logits:
            return self._loss_alone(targets, logits_to_keep, num_items_in_batch, **kwargs)

        # logits: [B, T, vocabulary], or with labels [supervised positions, vocabulary]
        output = self.language_model(**kwargs, logits_to_keep=0 if logits_to_keep is None else logits_to_keep)
        if targets is not None:
            output.loss = cross_entropy(output.logits, targets, num_items_in_batch)
        return output

    def _loss_alone(
        self, targets: torch.Tensor, is_supervised: torch.Tensor, num_items: int | float | None, **inputs: Any
    ) -> LossOutput:
        """Return loss and predictions, without logits.

        Args:
            targets: `[N]`, the tokens to predict.
            is_supervised: `[B, T]`, true at the N positions that predict them.
            num_items: as in `forward`.
            inputs: of the language model.
        """
        if not has_plain_output(self.language_model):
            logits = self.language_model(**inputs, logits_to_keep=is_supervised).logits
            loss = cross_entropy(logits, targets, num_items)
            return LossOutput(loss=loss, predictions=logits.detach().argmax(-1))

        hidden = self.language_model.get_decoder()(**inputs).last_hidden_state  # [B, T, width]
        loss, predictions = cross_entropy_in_parts(
            hidden[is_supervised], self.get_output_embeddings(), targets, num_items
        )
        return LossOutput(loss=loss, predictions=predictions)

    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        grids: torch.Tensor | None = None,
        return_dict: bool = False,
        use_lora: bool = True,
    ) -> torch.Tensor | BaseModelOutputWithPooling:
        """Turn the views of a batch into visual tokens.

        Args:
            pixel_values: `[V, 3, side, side]`, the views of all images one after the other, tiles row by
                row and the global view last.
            grids: `[images, 2]` rows and columns of each image, (0, 0) for an image of one global view;
                None where every image is one.
            return_dict: return them as `.pooler_output`, as `generate` needs them.
            use_lora: False to send every view through the ViT without any LoRA, in any grid, to see what
                these change.

        Returns:
            `[V, queries, width of the language model]`.

        Raises:
            ValueError: a grid that the checkpoint was not trained on, or a number of views that does not
                fit the grids.
        """
        # The LoRA of each view, in the order of `pixel_values`: tiles row by row, then the global view.
        if grids is None:
            lora_index = lora_index_of_image(self.config, 0, 0, use_lora) * len(pixel_values)
        else:
            lora_index = self.lora_index(grids, use_lora)
        if grids is not None and len(lora_index) != len(pixel_values):
            raise ValueError(
                f"images of the grids {grids.tolist()} with views={self.config.views!r} have "
                f"{len(lora_index)} views, got {len(pixel_values)}: prepare them with the processor of this "
                "checkpoint"
            )

        # The resampler needs the patch grid to place its position embedding.
        height, width = pixel_values.shape[-2:]
        patch_size = self.config.vision_config.patch_size
        patch_grid = (height // patch_size, width // patch_size)

        # Chunk by chunk through ViT and resampler: without gradients, the features of one are gone before the
        # next is encoded. What is computed again in the backward pass shares nothing with other chunks.
        is_recomputed = self.training and self.resampler.gradient_checkpointing
        resample = partial(self.resampler, patch_grid=patch_grid, shared=None if is_recomputed else {})

        tokens = self.vision(pixel_values, lora_index, reduce=resample)  # [V, queries, width]
        return BaseModelOutputWithPooling(pooler_output=tokens) if return_dict else tokens

    def lora_index(self, grids: torch.Tensor, use_lora: bool = True) -> list[int]:
        """Return the LoRA of each view of a batch, `NO_LORA` for none; see `tile_lora.lora_index_of_image`.

        Args:
            grids: `[images, 2]` rows and columns of each image.
            use_lora: False for views that meet none, in any grid.

        Raises:
            ValueError: a grid that this checkpoint was not trained on.
        """
        index: list[int] = []
        for rows, cols in grids.tolist():
            index += lora_index_of_image(self.config, rows, cols, use_lora)
        return index

    def splice(
        self,
        input_ids: torch.Tensor | None,
        visual_tokens: torch.Tensor,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embed a prompt, with the visual tokens in the places of `<imgpad>`, in order.

        Args:
            input_ids: `[B, T]`.
            visual_tokens: `[V, queries, width]`.
            inputs_embeds: `[B, T, width]`, a prompt that is embedded already; the ids are not needed then.

        Returns:
            Embeddings `[B, T, width]`.

        Raises:
            ValueError: the number of places is not the number of visual tokens, or these have another width.
        """
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        is_place = self._find_places(input_ids, inputs_embeds)
        _check_places(is_place, visual_tokens, inputs_embeds)

        # Row by row, as the views come. [B, T, 1] is broadcast over the width.
        return inputs_embeds.masked_scatter(is_place[..., None], visual_tokens.to(inputs_embeds.dtype))

    def _find_places(self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor) -> torch.Tensor:
        """Return `[B, T]`, true at the places for visual tokens."""
        if input_ids is not None:
            return input_ids == self.config.image_token_id

        # Ids are exact, so their embeddings are, too.
        place = self.get_input_embeddings()(
            torch.tensor(self.config.image_token_id, device=inputs_embeds.device)
        )
        return (inputs_embeds == place.to(inputs_embeds.device)).all(dim=-1)

    def _refuse_empty_places(self, input_ids: torch.Tensor) -> None:
        """Check that a prompt without images has no places for visual tokens, which nothing would fill.

        Raises:
            ValueError: it has.
        """
        places = int((input_ids == self.config.image_token_id).sum())
        if places:
            raise ValueError(
                f"the prompt holds {places} places for visual tokens, but no images came with it: pass the "
                "pixel_values and grids of the same processor call, too"
            )

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the arguments of `forward` for the next step of `generate`.

        They hold the visual tokens until a cache has them. transformers leaves them out when the model
        assists another one, which gives it no first step.
        """
        inputs = super().prepare_inputs_for_generation(
            input_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        if "mm_encoder_outputs" in kwargs and not _continues(inputs["input_ids"], past_key_values):
            inputs["mm_encoder_outputs"] = kwargs["mm_encoder_outputs"]
        return inputs

    def freeze_for_finetuning(
        self,
        vision: TrainMode | None = None,
        resampler: TrainMode = "full",
        language_model: TrainMode = "full",
        resampler_output: bool = False,
    ) -> None:
        """Choose what trains; by default what the released fine-tuning trains.

        Args:
            vision: "lora" trains the LoRAs alone, "full" the ViT and the LoRAs. By default "full" where the
                LoRA mode says so, else "lora".
            resampler: mode of the resampler or projector. Its positions stay fixed; the released fine-tuning
                trains them by accident.
            language_model: "lora" changes nothing here, since peft freezes the weights when it adds LoRA.
            resampler_output: train the norm and the projection after the resampler too, as the paper's text
                reads. The released fine-tuning keeps them frozen.
        """
        if vision is None:
            vision = "full" if self.config.lora_mode == "full" else "lora"

        # The LoRAs are submodules of the ViT, so they come after it.
        self.vision.requires_grad_(vision == "full")
        for lora in tile_loras(self.vision):
            lora.requires_grad_(vision != "frozen")

        self.resampler.requires_grad_(resampler == "full")

        # The norm and the projection after the cross-attention, which the released fine-tuning keeps frozen.
        if isinstance(self.resampler, Resampler) and not resampler_output:
            self.resampler.ln_post.requires_grad_(False)
            self.resampler.proj.requires_grad_(False)

        # peft has frozen the weights beside its LoRA already.
        if language_model != "lora":
            self.language_model.requires_grad_(language_model == "full")

    @torch.no_grad()
    def use_grid(self, rows: int, cols: int, extra: Literal["copy", "fresh"] = "copy") -> None:
        """Accept images of `rows x cols` tiles beside the grids that the checkpoint was trained on.

        Tile i meets LoRA i. Where the new grid has more tiles than there are LoRAs, each additional one is
        copied from the tile of the first grid that covers the same part of the image, or starts fresh.

        Raises:
            ValueError: a grid without tiles or of too many, another `extra`, or a model of automatic grids
                with fewer tiles.
        """
        check_grids([[rows, cols]], "the grid")
        _check_extra(extra)
        if [rows, cols] in self.config.grids:
            return
        if self.config.max_tiles is not None:
            check_grid(self.config, rows, cols)
            return

        count_before = self.config.tile_lora_count
        self.config.grids = [*self.config.grids, [rows, cols]]
        first_rows, first_cols = self.config.grids[0]

        # For each additional tile, the tile of the first grid that covers its upper left corner.
        sources: list[int | None] = list(range(count_before))
        for tile in range(count_before, self.config.tile_lora_count):
            row, col = divmod(tile, cols)
            covering = (row * first_rows // rows) * first_cols + col * first_cols // cols
            sources.append(covering if extra == "copy" else None)

        if len(sources) > count_before:
            self._rearrange_tiles(sources, count_before)

    @torch.no_grad()
    def use_auto_grid(self, max_tiles: int, extra: Literal["copy", "fresh"] = "copy") -> None:
        """Accept images of all grids of at most `max_tiles` tiles, with a LoRA for each position in them.

        A position that has a LoRA keeps it. Another one gets a copy of that of the nearest position, or
        starts fresh. The model no longer numbers its LoRAs by the grids that it was made for.

        Raises:
            ValueError: no tiles, or another `extra`.
        """
        _check_extra(extra)
        check_size("max_tiles", max_tiles, MAX_TILES)
        positions_before, count_before = self.config.lora_positions, self.config.tile_lora_count
        self.config.max_tiles, self.config.grids = max_tiles, []

        sources: list[int | None] = []
        for row, col in self.config.lora_positions:
            distances = [
                abs(row - other_row) + abs(col - other_col) for other_row, other_col in positions_before
            ]
            nearest = min(range(len(distances)), key=distances.__getitem__, default=None)
            is_fresh = nearest is None or (extra == "fresh" and distances[nearest] > 0)
            sources.append(None if is_fresh else nearest)

        self._rearrange_tiles(sources, count_before)

    @torch.no_grad()
    def permute_tiles(self, order: Sequence[int]) -> None:
        """Let tile `i` meet the LoRA that tile `order[i]` has met: what a per-tile LoRA has learned of its
        position then serves another one. The global view keeps its own, if it has one.

        Args:
            order: each tile position once.

        Raises:
            ValueError: the order is no permutation of the tile positions, or no LoRA belongs to a position.
        """
        count = self.config.tile_lora_count
        if self.config.lora_mode != "per_tile":
            raise ValueError(
                f"a model of lora_mode {self.config.lora_mode!r} has no LoRA that belongs to a tile position"
            )
        if sorted(order) != list(range(count)):
            raise ValueError(
                f"the order of tiles is {list(order)}: expected each number from 0 to {count - 1} once"
            )
        self._rearrange_tiles(list(order), count)

    def _rearrange_tiles(self, sources: list[int | None], count_before: int) -> None:
        """Replace the LoRAs of tile positions as `TileLoRA.rearrange` does; that of the global view stays.

        Args:
            sources: number of the LoRA that each position gets, None for a fresh one.
            count_before: tile positions that had a LoRA so far.
        """
        if self.config.lora_mode != "per_tile":
            return
        if self.config.lora_on_global_view:
            sources = [*sources, count_before]
        for lora in tile_loras(self.vision):
            lora.rearrange(sources)

    def use_queries(self, queries: int) -> None:
        """Change the number of the resampler's queries, interpolated from those there are
        (`Resampler.resize_queries`).

        Raises:
            ValueError: another number than `MonkeyResamplerConfig` takes, or a model with a projector.
        """
        if not isinstance(self.resampler, Resampler):
            raise ValueError("a model with a projector has no queries: its visual tokens are its patches")
        self.resampler.resize_queries(queries)
        self.config.resampler_config.queries = queries

    def use_projector(self, config: MonkeyProjectorConfig, weights: Mapping[str, torch.Tensor]) -> None:
        """Put a projector in the resampler's place; the rest of the model stays as it is.

        Args:
            config: of the projector.
            weights: its state dict.

        Raises:
            ValueError: patches that cannot be averaged as the configuration says.
            RuntimeError: weights of another projector.
        """
        patches = self.config.tile_size // self.config.vision_config.patch_size
        check_pooling(config.pooling, (patches, patches))

        self.config.resampler_config = config
        projector = Projector(self.config).to(self.device, self.dtype)
        projector.load_state_dict(weights)
        self.resampler = projector

    def save_pretrained(self, *arguments: Any, **options: Any) -> None:
        """Write configuration and weights to a folder, as transformers does."""
        with hide_transformers_bars():
            super().save_pretrained(*arguments, **options)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *arguments: Any,
        output_loading_info: bool = False,
        **options: Any,
    ) -> Any:
        """Load a model as transformers does, and check that its weights came from the files and are finite.

        transformers finds the files (on a hub, of a revision, in a cache) and reads them in one go, so they
        can be checked afterwards only. `monkeylib.load_model` checks a folder before it takes memory, and
        refuses files that would run code or lie elsewhere.

        Args:
            pretrained_model_name_or_path: a folder, or a name on a hub; None for weights in memory, which
                are not checked.
            arguments, options: of transformers' `from_pretrained`.
            output_loading_info: return a report, too.

        Raises:
            ValueError: a weight is missing, unknown or not finite. LoRA may be missing as a whole, and is
                fresh then.
        """
        model, report = super().from_pretrained(
            pretrained_model_name_or_path, *arguments, output_loading_info=True, **options
        )
        if pretrained_model_name_or_path is not None:
            _check_loaded_weights(model, report, pretrained_model_name_or_path)
        return (model, report) if output_loading_info else model

    def get_input_embeddings(self) -> nn.Module:
        """Return the language model's token embeddings."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's token embeddings."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """Return the language model's output projection."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the language model's output projection."""
        self.language_model.set_output_embeddings(new_embeddings)

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """Return the vision backbone for "image", as other models of transformers do."""
        return self.vision if modality == "image" else super().get_encoder(modality)

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise a module of the vision backbone or resampler; the language model initialises itself."""
        if isinstance(module, TileLoRA):
            module.reset_parameters()
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear | nn.Conv2d | PackedProjections):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, VisionTransformer):
            nn.init.trunc_normal_(module.positions, std=0.02)
        elif isinstance(module, Resampler):
            nn.init.trunc_normal_(module.query, std=0.02)
            # transformers marks what it has loaded from a file.
            if not getattr(module.positions, "_is_hf_initialized", False):
                width = module.positions.shape[1]
                module.positions.copy_(sincos_position_embedding(width, *module.query_grid))


def _check_loaded_weights(
    model: MonkeyForConditionalGeneration, report: dict[str, Any], source: str | os.PathLike[str]
) -> None:
    """Check what transformers has loaded.

    Args:
        model: the model.
        report: of transformers, with `missing_keys` and `unexpected_keys`.
        source: where it comes from, for the message.

    Raises:
        ValueError: as `MonkeyForConditionalGeneration.from_pretrained`.
    """
    missing = set(report["missing_keys"])
    lora = {name for name in model.state_dict() if "_lora." in name}
    if lora <= missing:
        missing -= lora

    for names, problem in ((missing, "lack"), (set(report["unexpected_keys"]), "have an unknown")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(
                f"the weights of {source} {problem} {min(names)}{more}: fetch them again, or take weights "
                "and configuration of one checkpoint"
            )

    for name, weight in model.named_parameters():
        if weight.is_meta or not weight.is_floating_point() or not weight.numel():
            continue
        # No number spreads to both ends.
        if not torch.isfinite(torch.stack(torch.aminmax(weight.detach()))).all():
            raise ValueError(
                f"{name} of {source} holds values that are not finite (NaN or infinity): take the weights of "
                "an earlier step, or fetch them again"
            )


def build_on_meta(config: MonkeyConfig) -> MonkeyForConditionalGeneration:
    """Build a model on the meta device: every shape, no memory."""
    with torch.device("meta"):
        return MonkeyForConditionalGeneration(config).eval()


def _continues(input_ids: torch.Tensor | None, past_key_values: Any) -> bool:
    """Return whether ids follow on a prompt that a cache holds with its visual tokens."""
    if past_key_values is None or input_ids is None:
        return False
    # One token decodes, and no image has one visual token alone. The length of a static cache lies on the
    # device, where every step would wait for it, and a compiled one could not be.
    return input_ids.shape[1] == 1 or bool(past_key_values.get_seq_length() > 0)


def _check_places(is_place: torch.Tensor, visual_tokens: torch.Tensor, inputs_embeds: torch.Tensor) -> None:
    """Check that visual tokens fit a prompt.

    Args:
        is_place: `[B, T]`, true at the places for them.
        visual_tokens: `[V, queries, width]`.
        inputs_embeds: `[B, T, width]`.

    Raises:
        ValueError: their number is not that of the places, or they have another width.
    """
    # A wrong count would shift every visual token after it without a sound.
    views, queries, width = visual_tokens.shape
    places = int(is_place.sum())
    if places != views * queries:
        raise ValueError(
            f"the prompt holds {places} places for visual tokens, the images give {views} views x "
            f"{queries} queries = {views * queries}: build both with one processor call"
        )
    if width != inputs_embeds.shape[-1]:
        raise ValueError(
            f"the visual tokens are {width} wide, the embeddings of text {inputs_embeds.shape[-1]}: an "
            "assistant reads the visual tokens of the model that it assists, so pass its language_model "
            "alone where the widths differ"
        )


def _check_extra(extra: str) -> None:
    if extra not in ("copy", "fresh"):
        raise ValueError(f"extra LoRAs are made by 'copy' or 'fresh', got {extra!r}")
