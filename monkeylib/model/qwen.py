"""Qwen-7B as the release runs it: the library's Qwen2, and beyond 2,048 tokens dynamic NTK and log-n.

Up to the length that it was trained with, Qwen-7B is Qwen2 with equally many key and value heads. Past it,
and only while it isn't training, the release stretches the rotary positions (dynamic NTK) and sharpens the
attention of late queries (log-n). It keeps the stretch of the last long prompt in the model, so that a long
evaluation changes the next training step; here it belongs to the cache of the prompt, and to the forward pass
that is under way: neither another pass nor another thread that asks the same model meets it.
"""

import math
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen2Model
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.qwen2 import modeling_qwen2 as library


class QwenConfig(Qwen2Config):
    """Qwen2's fields, and those of long prompts.

    Fields:
        trained_length: tokens up to which nothing differs from Qwen2 (the release's `seq_length`).
        dynamic_ntk: stretch the rotary positions of longer prompts (`use_dynamic_ntk`).
        log_n: scale a query at position p >= trained_length by log(p + 1) / log(trained_length)
            (`use_logn_attn`).
    """

    model_type = "monkey_qwen"

    trained_length: int = 2048
    dynamic_ntk: bool = True
    log_n: bool = True


def stretch(length: torch.Tensor, trained_length: int) -> torch.Tensor:
    """The factor on the rotary base for prompts of `length` tokens: 1 up to the trained length, 3 up to twice
    as many, 7 up to four times, ...
    """
    doublings = torch.ceil(torch.log2(length.float() / trained_length) + 1)
    return (2**doublings - 1).clamp(min=1)


# The stretch `[B]` of each row in the pass that is under way; None stretches nothing.
_STRETCH: ContextVar[torch.Tensor | None] = ContextVar("stretch", default=None)


class QwenRotaryEmbedding(library.Qwen2RotaryEmbedding):
    """Rotary positions whose base is stretched, row by row, by the stretch of the pass."""

    @torch.no_grad()
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines `[B, T, head_dim]` of the positions `[B, T]`."""
        alpha = _STRETCH.get()
        if alpha is None or bool((alpha == 1).all()):
            return super().forward(x, position_ids)
        width = 2 * len(self.inv_freq)
        base = self.config.rope_parameters["rope_theta"] * alpha.double() ** (width / (width - 2))
        exponents = torch.arange(0, width, 2, device=x.device).float() / width
        slower = 1 / base.float().to(x.device)[:, None] ** exponents
        angles = (position_ids[..., None].float() * slower[:, None]).repeat(1, 1, 2)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


class QwenAttention(library.Qwen2Attention):
    """Qwen2's attention, with log-n on the queries past the trained length."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`[B, T, width]` -> the same, and the weights where the implementation gives them."""
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        projections = (self.q_proj, self.k_proj, self.v_proj)
        query, key, value = (part(hidden_states).view(heads).transpose(1, 2) for part in projections)
        query, key = library.apply_rotary_pos_emb(query, key, *position_embeddings)
        if self.config.log_n and not self.training:
            query = query * self._log_n(kwargs["position_ids"]).to(query.dtype)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = library.ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, library.eager_attention_forward
        )
        dropout = self.attention_dropout if self.training else 0.0
        context, weights = attend(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o_proj(context.reshape(*heads[:-2], -1)), weights

    def _log_n(self, position_ids: torch.Tensor) -> torch.Tensor:
        """`[B, T]` -> the factors of the queries `[B, 1, T, 1]`."""
        factor = (position_ids + 1).float().log() / math.log(self.config.trained_length)
        return factor.clamp(min=1)[:, None, :, None]


class QwenModel(Qwen2Model):
    """Qwen2's decoder with both extensions."""

    config_class = QwenConfig

    def __init__(self, config: QwenConfig) -> None:
        super().__init__(config)
        self.rotary_emb = QwenRotaryEmbedding(config)
        for number, layer in enumerate(self.layers):
            layer.self_attn = QwenAttention(config, number)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """As Qwen2. The stretch is that of the prompt which began the cache: what is cached was turned by
        it."""
        seen = past_key_values.get_seq_length() if past_key_values is not None else 0
        if not self.config.dynamic_ntk or self.training:
            alpha = None
        elif seen:
            alpha = getattr(past_key_values, "alpha", None)
        else:
            tokens = input_ids if inputs_embeds is None else inputs_embeds
            own = torch.tensor([tokens.shape[1] - 1]) if position_ids is None else position_ids.amax(-1)
            alpha = stretch(own + 1, self.config.trained_length)
        entered = _STRETCH.set(alpha)
        try:
            output = super().forward(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                inputs_embeds=inputs_embeds,
                **kwargs,
            )
        finally:
            _STRETCH.reset(entered)
        if output.past_key_values is not None:
            output.past_key_values.alpha = alpha
        return output


class QwenForCausalLM(Qwen2ForCausalLM):
    """Qwen-7B; its weights have Qwen2's names."""

    config_class = QwenConfig

    def __init__(self, config: QwenConfig) -> None:
        super(Qwen2ForCausalLM, self).__init__(config)
        self.model = QwenModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


AutoConfig.register(QwenConfig.model_type, QwenConfig)
AutoModelForCausalLM.register(QwenConfig, QwenForCausalLM)
