"""Qwen-7B as the released code runs it: Qwen2 of transformers, with dynamic NTK and log-n for long prompts.

Up to the length that it was trained with, Qwen-7B is Qwen2 with as many key and value heads as query heads.
Beyond it, and only outside of training, the released code changes two things:

    dynamic NTK   rotary frequencies  w_i = (base * alpha ** (d / (d - 2))) ** (-2 i / d)
                  with  alpha = 2 ** ceil(log2(length / trained_length) + 1) - 1  for prompts of `length`
    log-n         query at position p  *=  log(p + 1) / log(trained_length),  at least 1

where `d` is the width of a head. The released code keeps the `alpha` of the last long prompt in the model, so
that a long evaluation changes the next training step. Here `alpha` belongs to the cache of its prompt, and
what follows from it is an argument of the layers: neither another pass nor another thread that uses the model
sees it, and the forward pass can be compiled.
"""

import math
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen2Model
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.qwen2 import modeling_qwen2 as qwen2
from transformers.utils.generic import can_return_tuple


class QwenConfig(Qwen2Config):
    """Fields of Qwen2, and those of long prompts.

    Fields:
        trained_length: tokens up to which nothing differs from Qwen2 (`seq_length` in the released code).
        dynamic_ntk: stretch the rotary positions of longer prompts (`use_dynamic_ntk`).
        log_n: scale the queries at later positions (`use_logn_attn`).
    """

    model_type = "monkey_qwen"

    trained_length: int = 2048
    dynamic_ntk: bool = True
    log_n: bool = True


class QwenForCausalLM(Qwen2ForCausalLM):
    """Qwen-7B; its weights have the names of Qwen2."""

    config_class = QwenConfig

    def __init__(self, config: QwenConfig) -> None:
        # Qwen2ForCausalLM would build a Qwen2Model first.
        super(Qwen2ForCausalLM, self).__init__(config)
        self.model = QwenModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


class QwenModel(Qwen2Model):
    """Decoder of Qwen2 with both extensions."""

    config_class = QwenConfig

    def __init__(self, config: QwenConfig) -> None:
        super().__init__(config)
        # Replace what Qwen2Model has built; the names of the weights stay.
        for number, layer in enumerate(self.layers):
            layer.self_attn = QwenAttention(config, number)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast | tuple:
        """Run the decoder as Qwen2 does, with the `alpha` of the prompt that began the cache.

        The keys in the cache were rotated with that `alpha`.
        """
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        new_tokens = inputs_embeds.shape[1]
        cached_tokens = past_key_values.get_seq_length() if past_key_values is not None else 0
        if position_ids is None:
            positions = torch.arange(new_tokens, device=inputs_embeds.device)
            position_ids = (positions + cached_tokens)[None]

        # Up to the trained length, None leaves Qwen2 as it is. Padding counts, too, and changes nothing where
        # it alone goes beyond.
        continues, length = _prompt_length(new_tokens, cached_tokens, past_key_values)
        alpha = rotary = log_n = None
        is_long = length > self.config.trained_length
        if self.config.log_n and is_long and not self.training:
            # Here, once for all layers.
            log_n = log_n_factors(position_ids, self.config.trained_length)

        if self.config.dynamic_ntk and not self.training:
            if continues:
                alpha = getattr(past_key_values, "alpha", None)
            elif is_long:
                # A new prompt: its length is the last position plus 1, per row where rows are padded.
                alpha = ntk_alpha(position_ids.amax(-1) + 1, self.config.trained_length)

        if alpha is not None:
            rotary = stretched_rotary_embedding(self.config, position_ids, alpha, inputs_embeds)

        # Qwen2 hands unknown keywords down to the layers and their attention.
        output = super().forward(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            log_n=log_n,
            stretched_rotary=rotary,
            return_dict=True,
            **kwargs,
        )
        if output.past_key_values is not None:
            output.past_key_values.alpha = alpha
        return output


def _prompt_length(
    new_tokens: int, cached_tokens: int | torch.Tensor, past_key_values: Cache | None
) -> tuple[bool, int]:
    """Return whether tokens follow on others in a cache, and how many they are together.

    They are numbers, which no GPU has to be waited for. A static cache counts on the device: one token there
    follows on others, and the answer is at most as long as the cache.
    """
    if not isinstance(cached_tokens, torch.Tensor):
        return cached_tokens > 0, cached_tokens + new_tokens
    if new_tokens == 1 or bool(cached_tokens > 0):
        return True, max(layer.max_cache_len for layer in past_key_values.layers)
    return False, new_tokens


def log_n_factors(position_ids: torch.Tensor, trained_length: int) -> torch.Tensor:
    """Return the factors of the queries at positions `[B, T]`, as `[B, 1, T, 1]`."""
    factor = (position_ids + 1).float().log() / math.log(trained_length)
    return factor.clamp(min=1)[:, None, :, None]


def ntk_alpha(length: torch.Tensor, trained_length: int) -> torch.Tensor:
    """Return the factor on the rotary base for prompts of `length` tokens.

    >>> ntk_alpha(torch.tensor([2048, 2049, 4097]), trained_length=2048)
    tensor([1., 3., 7.])
    """
    doublings = torch.ceil(torch.log2(length.float() / trained_length) + 1)
    return (2**doublings - 1).clamp(min=1)


@torch.no_grad()
def stretched_rotary_embedding(
    config: QwenConfig, position_ids: torch.Tensor, alpha: torch.Tensor, like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rotary positions whose base is stretched, row by row.

    Args:
        config: of the model.
        position_ids: `[B, T]`.
        alpha: `[B]`.
        like: a tensor of the type and on the device of the result.

    Returns:
        Cosines and sines `[B, T, head_dim]`.
    """
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # The power in fp64, where the released code has a Python number.
    base = config.rope_parameters["rope_theta"] * alpha.double() ** (head_dim / (head_dim - 2))
    exponents = torch.arange(0, head_dim, 2, device=like.device).float() / head_dim
    frequencies = 1 / base.float().to(like.device)[:, None] ** exponents  # [B, head_dim / 2]

    # [B, T, 1] * [B, 1, head_dim / 2], then both halves alike: [B, T, head_dim]
    angles = (position_ids[..., None].float() * frequencies[:, None]).repeat(1, 1, 2)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


class QwenAttention(qwen2.Qwen2Attention):
    """Attention of Qwen2, with log-n on the queries."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        past_key_values: Cache | None = None,
        log_n: torch.Tensor | None = None,
        stretched_rotary: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`[B, T, width]` -> the same shape, and the weights where the implementation gives them.

        Args:
            log_n: factors of the queries, as of `log_n_factors`.
            stretched_rotary: rotary positions of a long prompt, instead of `position_embeddings`.
        """
        batch_and_length = hidden_states.shape[:-1]
        heads = (*batch_and_length, -1, self.head_dim)
        # [B, T, width] -> [B, heads, T, head_dim]
        query = self.q_proj(hidden_states).view(heads).transpose(1, 2)
        key = self.k_proj(hidden_states).view(heads).transpose(1, 2)
        value = self.v_proj(hidden_states).view(heads).transpose(1, 2)

        query, key = qwen2.apply_rotary_pos_emb(query, key, *(stretched_rotary or position_embeddings))
        if log_n is not None:
            # Only the queries are scaled, so that the cache holds plain keys.
            query = query * log_n.to(query.dtype)

        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)

        # The kernel that the configuration names (eager, SDPA or flash attention).
        attend = qwen2.ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, qwen2.eager_attention_forward
        )
        dropout = self.attention_dropout if self.training else 0.0
        # context: [B, T, heads, head_dim]
        context, weights = attend(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o_proj(context.reshape(*batch_and_length, -1)), weights


AutoConfig.register(QwenConfig.model_type, QwenConfig)
AutoModelForCausalLM.register(QwenConfig, QwenForCausalLM)
