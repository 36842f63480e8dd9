"""The whole model: views -> ViT with adapters -> resampler -> language model."""

from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast

from monkeylib.model.config import MonkeyConfig, MonkeyProjectorConfig, MonkeyVisionConfig
from monkeylib.model.hf_vision import HFVisionBackbone
from monkeylib.model.lora import TileLoRA
from monkeylib.model.resampler import Projector, Resampler
from monkeylib.model.vision import VisionTransformer, sincos_position_embedding
from monkeylib.prompts import IGNORE_INDEX

TrainMode = Literal["frozen", "lora", "full"]


class MonkeyForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Monkey: a language model that reads `(tiles + 1) x queries` visual tokens per image."""

    config_class = MonkeyConfig
    config: MonkeyConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules = ["VisionBlock", "HFVisionBackbone", "Resampler"]
    _skip_keys_device_placement = ["past_key_values"]

    def __init__(self, config: MonkeyConfig) -> None:
        super().__init__(config)
        own = isinstance(config.vision_config, MonkeyVisionConfig)
        self.vision = VisionTransformer(config) if own else HFVisionBackbone(config)
        projected = isinstance(config.resampler_config, MonkeyProjectorConfig)
        self.resampler = Projector(config) if projected else Resampler(config)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Initial weights of our own modules; the language model initialises itself."""
        if isinstance(module, TileLoRA):
            module.reset_parameters()
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, VisionTransformer):
            nn.init.trunc_normal_(module.positions, std=0.02)
        elif isinstance(module, Resampler):
            nn.init.trunc_normal_(module.query, std=0.02)
            if not getattr(module.positions, "_is_hf_initialized", False):
                side = round(module.positions.shape[0] ** 0.5)
                module.positions.copy_(sincos_position_embedding(module.positions.shape[1], side))

    def get_input_embeddings(self) -> nn.Module:
        """The language model's token embeddings."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's token embeddings."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The language model's output projection."""
        return self.language_model.get_output_embeddings()

    # --- views
    # -------------------------------------------------------------------------------------------------

    def lora_index(self, grids: torch.Tensor) -> torch.Tensor:
        """The adapter of each view of a batch: `grids [images, 2]` -> `[V]` on the CPU, -1 for global views.

        Raises:
            ValueError: a grid that this checkpoint was not made for.
        """
        accepted = {tuple(grid) for grid in self.config.grids}
        index: list[int] = []
        for rows, cols in grids.tolist():
            if rows * cols and (rows, cols) not in accepted:
                known = (
                    ", ".join(f"{r}x{c}" for r, c in self.config.grids) or "none (one global view per image)"
                )
                raise ValueError(
                    f"this checkpoint was made for the grid {known} (rows x columns), got an image of "
                    f"{rows}x{cols} tiles: resize the image, or opt in with model.use_grid({rows}, {cols})"
                )
            shared = self.config.lora_mode == "shared"
            index += [0] * (rows * cols) if shared else range(rows * cols)
            if self.config.views != "tiles" or not rows * cols:
                index.append(-1)
        return torch.tensor(index, dtype=torch.long)

    def get_image_features(
        self, pixel_values: torch.Tensor, grids: torch.Tensor | None = None, return_dict: bool = False
    ) -> torch.Tensor | BaseModelOutputWithPooling:
        """Visual tokens of a batch of views.

        Args:
            pixel_values: `[V, 3, side, side]`, the views of all images one after the other, tiles row by
                row and the global view last.
            grids: `[images, 2]` rows and columns of each image, (0, 0) for an image of one global view;
                None when every image has only that.
            return_dict: return them as `.pooler_output`, as `generate` asks for.

        Returns:
            `[V, queries, width of the language model]`.

        Raises:
            ValueError: a grid that the checkpoint was not made for, or a number of views that does not
                fit the grids.
        """
        index = None if grids is None else self.lora_index(grids)
        if index is not None and len(index) != len(pixel_values):
            raise ValueError(
                f"images of the grids {grids.tolist()} with views={self.config.views!r} have {len(index)} "
                f"views, got {len(pixel_values)}: prepare them with the processor of this checkpoint"
            )
        patch = self.config.vision_config.patch_size
        patch_grid = (pixel_values.shape[-2] // patch, pixel_values.shape[-1] // patch)
        tokens = self.resampler(self.vision(pixel_values, index), patch_grid)
        return BaseModelOutputWithPooling(pooler_output=tokens) if return_dict else tokens

    def splice(self, input_ids: torch.Tensor, visual_tokens: torch.Tensor) -> torch.Tensor:
        """Embed `input_ids [B, T]`, with the visual tokens in the places of `<imgpad>`, in order.

        Raises:
            ValueError: the number of places is not the number of visual tokens.
        """
        embeds = self.get_input_embeddings()(input_ids)
        places = input_ids == self.config.image_token_id
        views, queries, width = visual_tokens.shape
        if (count := int(places.sum())) != views * queries:
            raise ValueError(
                f"the prompt holds {count} places for visual tokens, the images give {views} views x "
                f"{queries} queries = {views * queries}: build both with one processor call"
            )
        return embeds.masked_scatter(places[..., None], visual_tokens.to(embeds.dtype))

    # --- language
    # ----------------------------------------------------------------------------------------------

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
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits and, with labels, the token-mean cross-entropy.

        Args:
            input_ids: `[B, T]`, with `<imgpad>` in the visual tokens' places.
            attention_mask: `[B, T]`, 0 on padding.
            pixel_values, grids: as in `get_image_features`.
            labels: `[B, T]`, `IGNORE_INDEX` where nothing is to be learned; shifted here.
            logits_to_keep: which positions get logits, as in transformers. Left out, all of them, or with
                labels only those that predict a label: `logits` is then `[supervised positions, vocabulary]`.
            mm_encoder_outputs: `{"image": output of get_image_features}`, made once by `generate`.
            num_items_in_batch: divide the summed loss by this number, as in transformers, where these rows
                are only some of a batch. They may then hold no label at all.

        Raises:
            ValueError: images that do not fit the prompt, or labels without a supervised position.
        """
        if inputs_embeds is None:
            made = (mm_encoder_outputs or {}).get("image")
            if made is None and pixel_values is not None:
                made = self.get_image_features(pixel_values, grids, return_dict=True)
            if made is not None:
                input_ids, inputs_embeds = None, self.splice(input_ids, made.pooler_output)
        targets = None
        if labels is not None:
            kwargs.setdefault("use_cache", False)  # with a cache, packed rows would see each other
            targets = F.pad(labels, (0, 1), value=IGNORE_INDEX)[:, 1:]
            if logits_to_keep is None:
                logits_to_keep = targets != IGNORE_INDEX
                targets = targets[logits_to_keep]
        output = self.language_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            logits_to_keep=0 if logits_to_keep is None else logits_to_keep,
            **kwargs,
        )
        if targets is not None:
            output.loss = _token_mean(output.logits, targets, num_items_in_batch)
        return output

    # --- training and grids
    # ------------------------------------------------------------------------------------

    def freeze_for_finetuning(
        self,
        vision: TrainMode | None = None,
        resampler: TrainMode = "full",
        language_model: TrainMode = "full",
        resampler_output: bool = False,
    ) -> None:
        """Choose what trains; by default as the released fine-tuning does.

        Args:
            vision: "lora" trains the adapters alone, "full" the encoder and them; by default "full" where
                the adapter mode says so, else "lora".
            resampler: resampler or projector. Its positions stay fixed, which the release trains by accident.
            language_model: "lora" leaves it as it is: peft, which adds its LoRA, chooses.
            resampler_output: the norm and the projection after the resampler train too, as the paper's text
                reads. In the release they stay frozen.
        """
        vision = vision or ("full" if self.config.lora_mode == "full" else "lora")
        self.vision.requires_grad_(vision == "full")
        for module in self.vision.modules():
            if isinstance(module, TileLoRA):
                module.requires_grad_(vision != "frozen")
        self.resampler.requires_grad_(resampler == "full")
        if isinstance(self.resampler, Resampler) and not resampler_output:
            self.resampler.ln_post.requires_grad_(False)
            self.resampler.proj.requires_grad_(False)
        if language_model != "lora":
            self.language_model.requires_grad_(language_model == "full")

    @torch.no_grad()
    def use_grid(self, rows: int, cols: int, extra: Literal["copy", "fresh"] = "copy") -> None:
        """Accept images of `rows x cols` tiles beside the grids the checkpoint was made for.

        Adapter i stays adapter i. Where the new grid has more tiles than there are adapters, the extra ones
        are copied from the tile of the first grid that covers the same part of the image, or start fresh.

        Raises:
            ValueError: a grid without tiles, or an unknown way to make extra adapters.
        """
        if rows < 1 or cols < 1:
            raise ValueError(f"a grid has at least 1x1 tiles, got {rows}x{cols}")
        if extra not in ("copy", "fresh"):
            raise ValueError(f"extra adapters are made by 'copy' or 'fresh', got {extra!r}")
        if [rows, cols] in self.config.grids:
            return
        before = self.config.lora_count
        self.config.grids = [*self.config.grids, [rows, cols]]
        if self.config.lora_count == before:
            return
        old_rows, old_cols = self.config.grids[0]
        sources = [
            (i // cols * old_rows // rows) * old_cols + i % cols * old_cols // cols
            for i in range(before, self.config.lora_count)
        ]
        for module in self.vision.modules():
            if isinstance(module, TileLoRA):
                module.extend(sources, fresh=extra == "fresh")


def build_on_meta(config: MonkeyConfig) -> MonkeyForConditionalGeneration:
    """Build a model on the meta device: every shape, no memory."""
    with torch.device("meta"):
        return MonkeyForConditionalGeneration(config).eval()


def _token_mean(logits: torch.Tensor, targets: torch.Tensor, items: int | float | None) -> torch.Tensor:
    """Cross-entropy in fp32, averaged over all supervised tokens, or their sum divided by `items`."""
    logits, targets = logits.flatten(0, -2).float(), targets.flatten()
    if items is not None:
        return F.cross_entropy(logits, targets, reduction="sum") / items
    if not bool((targets != IGNORE_INDEX).any()):
        raise ValueError(
            "the labels hold no supervised token: check that answers were not cut off by truncation"
        )
    return F.cross_entropy(logits, targets)
