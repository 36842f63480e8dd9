"""monkeylib's ViT as a model of its own, which transformers can put into a LLaVA as its vision tower."""

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.output_capturing import capture_outputs

from monkeylib.model.config import MonkeyConfig, MonkeyVisionConfig
from monkeylib.model.vision import VisionBlock, VisionTransformer


class MonkeyVisionModel(PreTrainedModel):
    """The ViT without LoRA: `AutoModel` builds it from a `MonkeyVisionConfig`.

    Modules:
        encoder: `VisionTransformer`.
    """

    config_class = MonkeyVisionConfig
    config: MonkeyVisionConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["VisionBlock"]
    _can_record_outputs = {"hidden_states": VisionBlock}

    def __init__(self, config: MonkeyVisionConfig) -> None:
        super().__init__(config)
        self.encoder = VisionTransformer(MonkeyConfig(vision_config=config, lora_mode="none"))
        self.post_init()

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutput:
        """Encode views, all at once, so that adapters beside the layers meet every one of them.

        Args:
            pixel_values: `[V, 3, side, side]`, normalised.
            kwargs: `output_hidden_states` and others that transformers itself reads.

        Returns:
            `last_hidden_state` `[V, patches, width]`; there is no class token and no final norm. If asked
            for, `hidden_states` in front of the first block and behind each.
        """
        return BaseModelOutput(last_hidden_state=self.encoder.encode(pixel_values, lora_groups=None))
