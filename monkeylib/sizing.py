"""Size of a model by component: parameters, visual tokens, and floating-point operations of one image.

All counts are arithmetic on a configuration, so that the paper's model is sized as quickly as a tiny one.
Only the parameters of a ViT of transformers are counted in the ViT itself. `count_in_model` finds the same
numbers in a model, which may lie on the meta device, where tensors have shapes and no values.
"""

import torch
from transformers import AutoModel, PreTrainedConfig, Qwen2Config

from monkeylib.model import MonkeyConfig, MonkeyForConditionalGeneration, MonkeyVisionConfig
from monkeylib.model.config import MonkeyProjectorConfig, mlp_width
from monkeylib.model.hf_vision import layout_of
from monkeylib.model.tile_lora import tile_loras
from monkeylib.tiling import Grid

# Values in the state dict of the released code's model, and what the paper says. The paper's LoRA is not that
# of the released code, whose four tile positions have 51.1 million.
RELEASED_PARAMETERS = {
    "ViT": 1_842_770_688,
    "LoRA": 51_118_656,
    "resampler": 92_839_936,
    "language model": 7_721_324_544,
}
PAPER_PARAMETERS = {"ViT": "1.9 B", "LoRA": "117 M", "resampler": "90 M", "language model": "7.7 B"}


# --- parameters


def count_parameters(config: MonkeyConfig) -> dict[str, int]:
    """Count the parameters of each component, as `count_in_model` finds them in the model.

    Raises:
        ValueError: a language model of another kind than Qwen2 or Llama without biases.
    """
    trained, fixed = _resampler_parameters(config)
    return {
        "ViT": _vit_parameters(config.vision_config),
        "LoRA": config.lora_count * _lora_parameters(config),
        "resampler": trained + fixed,
        "language model": _language_model_parameters(config.text_config),
    }


def count_trained_parameters(config: MonkeyConfig) -> dict[str, int]:
    """Count the parameters that fine-tuning trains, see the model's `freeze_for_finetuning`.

    The released fine-tuning also trains the resampler's fixed positions, by accident.
    """
    trained = count_parameters(config)
    trained["resampler"], _ = _resampler_parameters(config)
    if config.lora_mode != "full":
        trained["ViT"] = 0
    return trained


def count_in_model(model: MonkeyForConditionalGeneration) -> dict[str, int]:
    """Count the values in a model's state dict by component; tensors that share their memory count once.

    The resampler's fixed positions count: a buffer here, a parameter in the released code.
    """
    lora = sum(_count_values(module) for module in tile_loras(model))
    return {
        "ViT": _count_values(model.vision) - lora,
        "LoRA": lora,
        "resampler": _count_values(model.resampler),
        "language model": _count_values(model.language_model),
    }


def _count_values(module: torch.nn.Module) -> int:
    # `keep_vars` gives the parameters themselves, so that tied ones have the same id.
    tensors = {id(tensor): tensor for tensor in module.state_dict(keep_vars=True).values()}
    return sum(tensor.numel() for tensor in tensors.values())


def _linear(d_in: int, d_out: int) -> int:
    """Return the parameters of a linear layer with bias."""
    return (d_in + 1) * d_out


def _layer_norm(width: int) -> int:
    return 2 * width


def _vit_parameters(vision: PreTrainedConfig) -> int:
    if not isinstance(vision, MonkeyVisionConfig):
        with torch.device("meta"):
            return _count_values(AutoModel.from_config(vision))

    width = vision.width
    attention = _linear(width, 3 * width) + _linear(width, width)
    mlp = _linear(width, vision.mlp_width) + _linear(vision.mlp_width, width)
    # Two norms per block, one more (`ln_pre`) before the first.
    block = 2 * _layer_norm(width) + attention + mlp

    patch_embedding = 3 * vision.patch_size**2 * width
    positions = vision.position_grid**2 * width
    return patch_embedding + positions + _layer_norm(width) + vision.layers * block


def _lora_shapes(config: MonkeyConfig) -> list[tuple[int, int]]:
    """Return rank, and inputs and outputs together, of each LoRA of a block."""
    width = config.vision_config.hidden_size
    if isinstance(config.vision_config, MonkeyVisionConfig):
        attention = [4 * width, 2 * width]  # one LoRA for query, key and value
    else:
        attention = [2 * width] * 4

    shapes = [(config.attention_rank, sides) for sides in attention]
    shapes.append((config.mlp_rank, 2 * width))
    # Where the rank is 0 there is no LoRA.
    return [(rank, sides) for rank, sides in shapes if rank]


def _lora_parameters(config: MonkeyConfig) -> int:
    """Return the parameters of one tile position's LoRA in all blocks, each with its scaling."""
    block = sum(rank * sides + 1 for rank, sides in _lora_shapes(config))
    return config.vision_config.num_hidden_layers * block


def _resampler_parameters(config: MonkeyConfig) -> tuple[int, int]:
    """Return the resampler's parameters that fine-tuning trains, and those that stay as they are."""
    d_in, width = config.vision_config.hidden_size, config.text_config.hidden_size
    if isinstance(config.resampler_config, MonkeyProjectorConfig):
        return _linear(d_in, width) + _linear(width, width), 0

    queries = config.resampler_config.queries * width
    kv_projection = d_in * width if config.resampler_config.kv_proj else 0
    attention = _linear(width, 3 * width) + _linear(width, width)
    # The norms of the queries and of the keys and values.
    trained = queries + kv_projection + 2 * _layer_norm(width) + attention

    # Fixed positions, and what comes after the attention, which fine-tuning freezes.
    positions = queries
    last_projection = width * width
    return trained, positions + _layer_norm(width) + last_projection


def _language_model_parameters(text: PreTrainedConfig) -> int:
    query_width, key_width = head_widths(text)
    width, mlp = text.hidden_size, text.intermediate_size

    # RMS norms have a weight alone.
    # Query and output, key and value; gate, up and down projection; two norms.
    layer = 2 * width * (query_width + key_width) + 3 * width * mlp + 2 * width
    if isinstance(text, Qwen2Config):
        layer += query_width + 2 * key_width  # biases of query, key and value

    token_embeddings = text.vocab_size * width
    if not text.tie_word_embeddings:
        token_embeddings *= 2
    return token_embeddings + text.num_hidden_layers * layer + width


def head_widths(text: PreTrainedConfig) -> tuple[int, int]:
    """Return the widths of all query heads and of all key heads together.

    Raises:
        ValueError: a language model of another kind than Qwen2 or Llama without biases.
    """
    is_plain_llama = text.model_type == "llama" and not (text.attention_bias or text.mlp_bias)
    if not isinstance(text, Qwen2Config) and not is_plain_llama:
        raise ValueError(
            f"the sizes of a language model of type {text.model_type!r} are not known: expected 'qwen2', or "
            "'llama' without biases; count a model on the meta device instead"
        )

    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return head_dim * text.num_attention_heads, head_dim * text.num_key_value_heads


# --- visual tokens


def default_grid(config: MonkeyConfig) -> Grid:
    """Return the grid that the model was trained on, 0x0 where it sees one global view.

    Of a model whose grids follow the shapes of images it is one of the most tiles.
    """
    if config.max_tiles is not None and config.views != "global":
        return Grid(1, config.max_tiles)
    if config.views == "global" or not config.grids:
        return Grid(0, 0)
    return Grid(*config.grids[0])


def count_views(config: MonkeyConfig, grid: Grid | None = None) -> tuple[int, int]:
    """Return how many tiles and how many global views (0 or 1) an image of this grid has."""
    tiles = (default_grid(config) if grid is None else grid).tiles
    has_global_view = config.views != "tiles" or not tiles
    return tiles, int(has_global_view)


def count_visual_tokens(config: MonkeyConfig, grid: Grid | None = None) -> int:
    """Return the visual tokens of an image: those of each of its views."""
    return sum(count_views(config, grid)) * config.queries


# --- memory and operations


def inference_bytes(
    config: MonkeyConfig, grid: Grid | None = None, text_tokens: int = 32, value_bytes: int = 2
) -> dict[str, int]:
    """Return the bytes that answering takes, without activations.

    Args:
        config: the model.
        grid: the image's grid; the one that the model was made for by default.
        text_tokens: length of the prompt and the answer without the image.
        value_bytes: of a weight and of a cached value: 2 for bfloat16, 4 for float32.

    Returns:
        `weights`; `cache`, the keys and values of one image and its text.
    """
    text = config.text_config
    tokens = count_visual_tokens(config, grid) + 2 + text_tokens  # `<img>` and `</img>` count too
    _, key_width = head_widths(text)
    return {
        "weights": value_bytes * sum(count_parameters(config).values()),
        "cache": value_bytes * 2 * text.num_hidden_layers * key_width * tokens,
    }


def count_flops(config: MonkeyConfig, grid: Grid | None = None, text_tokens: int = 32) -> dict[str, int]:
    """Count the floating-point operations of each component until image and prompt are read.

    A multiplication and its addition count as two: `2 m n k` for a product of `[m, k]` and `[k, n]`. Matrix
    products and convolutions count, norms, activations and softmax do not. Attention over `n` tokens of width
    `d` counts in full, `4 n^2 d`, although a causal mask needs only half of it.

    Args:
        config: the model.
        grid: the image's grid; by default the one that the model was trained on.
        text_tokens: length of the prompt without the image.
    """
    tiles, global_views = count_views(config, grid)
    views = tiles + global_views
    vision, width = config.vision_config, config.vision_config.hidden_size

    patches = (config.tile_size // vision.patch_size) ** 2
    tokens = patches
    if not isinstance(vision, MonkeyVisionConfig):
        tokens += layout_of(vision).class_tokens

    # Projections of query, key, value and output take 4 d^2 per token, the MLP 2 d * d_mlp.
    patch_embedding = 2 * patches * 3 * vision.patch_size**2 * width
    block = 2 * tokens * width * (4 * width + 2 * mlp_width(vision)) + 4 * tokens**2 * width
    view = patch_embedding + vision.num_hidden_layers * block

    # Per projection A and B, rank * (d_in + d_out) values.
    lora = 0
    if config.lora_count:
        block_lora = sum(rank * sides for rank, sides in _lora_shapes(config))
        lora = 2 * tokens * block_lora * vision.num_hidden_layers

    prompt_tokens = count_visual_tokens(config, grid) + 2 + text_tokens  # `<img>` and `</img>` count too
    return {
        "ViT": views * view,
        "LoRA": (views if config.lora_on_global_view else tiles) * lora,
        "resampler": _resampler_flops(config, patches, views),
        "language model": _language_model_flops(config.text_config, prompt_tokens),
    }


def _resampler_flops(config: MonkeyConfig, patches: int, views: int) -> int:
    """Count the operations of the resampler or the projector; the resampler projects its queries once."""
    d_in, width = config.vision_config.hidden_size, config.text_config.hidden_size
    if isinstance(config.resampler_config, MonkeyProjectorConfig):
        return views * 2 * patches * width * (d_in + width)

    queries = config.resampler_config.queries
    projected = d_in if config.resampler_config.kv_proj else 0
    keys_and_values = 2 * patches * width * (projected + 2 * width)
    attention = 4 * queries * patches * width
    output = 2 * 2 * queries * width**2  # the attention's projection, and the last one
    return views * (keys_and_values + attention + output) + 2 * queries * width**2


def _language_model_flops(text: PreTrainedConfig, tokens: int) -> int:
    """Count the operations of a language model that reads a prompt and predicts the next token."""
    query_width, key_width = head_widths(text)
    width, mlp = text.hidden_size, text.intermediate_size

    # Every weight is used once per token; only the last token predicts.
    weights = 2 * width * (query_width + key_width) + 3 * width * mlp
    layer = 2 * tokens * weights + 4 * tokens**2 * query_width
    next_token = 2 * width * text.vocab_size
    return text.num_hidden_layers * layer + next_token
