"""How large a model is, part by part: parameters, visual tokens and operations of one image.

Pure arithmetic on a configuration, so that the paper's model is sized as quickly as a tiny one; only the
parameters of an encoder of transformers are counted in the encoder itself. `count` finds the same in a model,
which may lie on the meta device, where tensors have shapes and no values.
"""

import torch
from transformers import AutoModel, PreTrainedConfig, Qwen2Config

from monkeylib.model import MonkeyConfig, MonkeyForConditionalGeneration, MonkeyVisionConfig
from monkeylib.model.config import MonkeyProjectorConfig, mlp_width
from monkeylib.model.hf_vision import layout_of
from monkeylib.model.lora import tile_loras
from monkeylib.tiling import Grid

PARTS = ("ViT", "LoRA", "resampler", "language model")

# Values in the state dict of the released code's model, and what the paper says. The paper's adapters are not
# those of the released code, whose four have 51.1 million.
RELEASED = {
    "ViT": 1_842_770_688,
    "LoRA": 51_118_656,
    "resampler": 92_839_936,
    "language model": 7_721_324_544,
}
PAPER = {"ViT": "1.9 B", "LoRA": "117 M", "resampler": "90 M", "language model": "7.7 B"}


def count(model: MonkeyForConditionalGeneration) -> dict[str, int]:
    """Values in a model's state dict by part, tensors that share their memory once.

    The resampler's fixed positions count: a buffer here, a parameter in the release.
    """
    adapters = sum(_values(lora) for lora in tile_loras(model))
    return {
        "ViT": _values(model.vision) - adapters,
        "LoRA": adapters,
        "resampler": _values(model.resampler),
        "language model": _values(model.language_model),
    }


def _values(module: torch.nn.Module) -> int:
    tensors = {id(tensor): tensor for tensor in module.state_dict(keep_vars=True).values()}
    return sum(tensor.numel() for tensor in tensors.values())


def parameters(config: MonkeyConfig) -> dict[str, int]:
    """Parameters by part, as `count` finds them in the model.

    Raises:
        ValueError: a language model of another kind than Qwen2 or Llama without biases.
    """
    return {
        "ViT": _encoder(config.vision_config),
        "LoRA": config.lora_count * _adapter(config),
        "resampler": sum(_resampler(config)),
        "language model": _language_model(config.text_config),
    }


def trained(config: MonkeyConfig) -> dict[str, int]:
    """Those of the parameters that fine-tuning trains, see `freeze_for_finetuning` of the model.

    The release also trains the resampler's fixed positions, by accident.
    """
    frozen = {"resampler": _resampler(config)[1]}
    if config.lora_mode != "full":
        frozen["ViT"] = parameters(config)["ViT"]
    return {part: number - frozen.get(part, 0) for part, number in parameters(config).items()}


def _linear(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


def _encoder(vision: PreTrainedConfig) -> int:
    """Our ViT is computed, one of transformers is built on the meta device and counted."""
    if not isinstance(vision, MonkeyVisionConfig):
        with torch.device("meta"):
            return _values(AutoModel.from_config(vision))
    width = vision.width
    block = 4 * width + _linear(width, 4 * width) + _linear(width, vision.mlp_width)
    block += _linear(vision.mlp_width, width)  # query, key, value and output have 4 x width outputs together
    patches = 3 * vision.patch_size**2 * width + vision.position_grid**2 * width
    return patches + 2 * width + vision.layers * block


def lora_shapes(config: MonkeyConfig) -> list[tuple[int, int]]:
    """(rank, inputs and outputs together) of each adapter of a block. Our ViT fuses query, key and value."""
    width = config.vision_config.hidden_size
    own = isinstance(config.vision_config, MonkeyVisionConfig)
    attention = [4 * width, 2 * width] if own else [2 * width] * 4
    return [*((config.attention_rank, sides) for sides in attention), (config.mlp_rank, 2 * width)]


def _adapter(config: MonkeyConfig) -> int:
    """One tile position's adapters in all blocks, each with its scale."""
    block = sum(rank * sides + 1 for rank, sides in lora_shapes(config))
    return config.vision_config.num_hidden_layers * block


def _resampler(config: MonkeyConfig) -> tuple[int, int]:
    """The resampler's parameters that fine-tuning trains, and those that it leaves as they are."""
    inputs, width = config.vision_config.hidden_size, config.text_config.hidden_size
    if isinstance(config.resampler_config, MonkeyProjectorConfig):
        return _linear(inputs, width) + _linear(width, width), 0
    queries = config.queries
    attention = _linear(width, 3 * width) + _linear(width, width)
    own = queries * width + inputs * width + 4 * width + attention
    return own, queries * width + 2 * width + width * width  # positions, last norm, last projection


def _language_model(text: PreTrainedConfig) -> int:
    heads, groups = head_widths(text)
    width, between = text.hidden_size, text.intermediate_size
    layer = 2 * width * (heads + groups) + 3 * width * between + 2 * width
    if isinstance(text, Qwen2Config):
        layer += heads + 2 * groups  # biases of query, key and value
    vocabulary = text.vocab_size * width * (1 if text.tie_word_embeddings else 2)
    return vocabulary + text.num_hidden_layers * layer + width


def head_widths(text: PreTrainedConfig) -> tuple[int, int]:
    """Widths of all query heads and of all key heads together."""
    plain_llama = text.model_type == "llama" and not (text.attention_bias or text.mlp_bias)
    if not isinstance(text, Qwen2Config) and not plain_llama:
        raise ValueError(
            f"the sizes of a language model of type {text.model_type!r} are not known: expected 'qwen2', or "
            "'llama' without biases; count a model on the meta device instead"
        )
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return head * text.num_attention_heads, head * text.num_key_value_heads


def grid_of_config(config: MonkeyConfig) -> Grid:
    """The grid that the model was made for, (0, 0) where it looks at one global view."""
    return Grid(0, 0) if config.views == "global" or not config.grids else Grid(*config.grids[0])


def view_counts(config: MonkeyConfig, grid: Grid | None = None) -> tuple[int, int]:
    """How many tiles and how many global views (0 or 1) an image of this grid has."""
    tiles = (grid_of_config(config) if grid is None else grid).tiles
    return tiles, int(config.views != "tiles" or not tiles)


def visual_tokens(config: MonkeyConfig, grid: Grid | None = None) -> int:
    """Visual tokens of an image: `queries` for each view."""
    return sum(view_counts(config, grid)) * config.queries


def inference_bytes(
    config: MonkeyConfig, grid: Grid | None = None, text_tokens: int = 32, value_bytes: int = 2
) -> dict[str, int]:
    """Return the bytes that answering takes beside its activations.

    Args:
        config: the model.
        grid: the image's grid; the one that the model was made for by default.
        text_tokens: length of the prompt and the answer beside the image.
        value_bytes: of a weight and of a cached value: 2 for bfloat16, 4 for float32.

    Returns:
        `weights`; `cache`, the keys and values of one image and its text.
    """
    text = config.text_config
    tokens = visual_tokens(config, grid) + 2 + text_tokens  # `<img>` and `</img>` count too
    _, key_width = head_widths(text)
    return {
        "weights": value_bytes * sum(parameters(config).values()),
        "cache": value_bytes * 2 * text.num_hidden_layers * key_width * tokens,
    }


def flops(config: MonkeyConfig, grid: Grid | None = None, text_tokens: int = 32) -> dict[str, int]:
    """Floating-point operations by part until the model has read one image and its prompt.

    A multiplication and its addition count as two. Matrix products and convolutions count, norms,
    activations and softmax don't. Attention counts in full, although a causal mask needs only half of it.

    Args:
        config: the model.
        grid: the image's grid; the one that the model was made for if not given.
        text_tokens: length of the prompt beside the image.
    """
    tiles, whole = view_counts(config, grid)
    vision, width = config.vision_config, config.vision_config.hidden_size
    patches = (config.tile_size // vision.patch_size) ** 2
    own = isinstance(vision, MonkeyVisionConfig)
    tokens = patches if own else patches + layout_of(vision).class_tokens
    block = 2 * tokens * width * (4 * width + 2 * mlp_width(vision)) + 4 * tokens**2 * width
    view = 2 * patches * 3 * vision.patch_size**2 * width + vision.num_hidden_layers * block
    adapted = sum(rank * sides for rank, sides in lora_shapes(config)) * vision.num_hidden_layers
    return {
        "ViT": (tiles + whole) * view,
        "LoRA": tiles * 2 * tokens * adapted if config.lora_count else 0,
        "resampler": _resampling(config, patches, tiles + whole),
        "language model": _reading(config.text_config, visual_tokens(config, grid) + 2 + text_tokens),
    }


def _resampling(config: MonkeyConfig, patches: int, views: int) -> int:
    """Operations of the resampler or the projector; the resampler projects its queries once."""
    width, out, queries = config.vision_config.hidden_size, config.text_config.hidden_size, config.queries
    if isinstance(config.resampler_config, MonkeyProjectorConfig):
        return views * 2 * patches * out * (width + out)
    view = 2 * patches * out * (width + 2 * out) + 4 * queries * patches * out + 4 * queries * out**2
    return views * view + 2 * queries * out**2


def _reading(text: PreTrainedConfig, tokens: int) -> int:
    """Operations of a language model that reads a prompt and predicts the next token."""
    heads, groups = head_widths(text)
    weights = 2 * text.hidden_size * (heads + groups) + 3 * text.hidden_size * text.intermediate_size
    layer = 2 * tokens * weights + 4 * tokens**2 * heads
    return text.num_hidden_layers * layer + 2 * text.hidden_size * text.vocab_size
