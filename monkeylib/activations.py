"""What autograd keeps of a model's pieces for the backward pass, in bytes: pure arithmetic.

Each formula lists the tensors that PyTorch saves for the gradients that are needed: a frozen projection saves
nothing but its weight, one that trains saves its input, a norm and an attention always save theirs. Attention
is the library's fused one, which keeps queries, keys, values and context and no weights. What is smaller than
one value in a hundred of a block (statistics of norms, indices) is left out.
"""

from dataclasses import dataclass, replace

from transformers import PreTrainedConfig

from monkeylib import sizing
from monkeylib.model import MonkeyConfig, MonkeyVisionConfig
from monkeylib.model.config import MonkeyProjectorConfig, mlp_width
from monkeylib.model.hf_vision import layout_of
from monkeylib.model.vision import CPU_CHUNK_BYTES
from monkeylib.recipes import Recipe


@dataclass(frozen=True)
class Stage:
    """A piece of the model that runs forward as a whole and backward as a whole; everything in bytes.

    Fields:
        kept: what autograd keeps of it.
        checkpoint: what is kept of it instead under gradient checkpointing; None where that leaves it alone.
        weights: parameters in it (a number, not bytes).
        trained: those of them that train.
        passing: the widest gradients of activations on their way back through it.
    """

    kept: int
    checkpoint: int | None = None
    weights: int = 0
    trained: int = 0
    passing: int = 0


def stages(config: MonkeyConfig, recipe: Recipe) -> list[Stage]:
    """The model from the first block of the ViT to the loss, as far as gradients go through it."""
    return [*_vision(config, recipe), *_resampler(config, recipe), *_language(config, recipe)]


def tokens_of_row(config: MonkeyConfig, recipe: Recipe) -> int:
    """Visual tokens, their two marks and the text of a row."""
    return sizing.visual_tokens(config) + 2 + recipe.text_tokens


def _vision(config: MonkeyConfig, recipe: Recipe) -> list[Stage]:
    """The ViT's blocks, chunk by chunk. Views without LoRA need no gradient while the backbone is frozen."""
    tiles, whole = sizing.view_counts(config)
    if recipe.vision == "frozen" or (recipe.vision == "lora" and not config.lora_count):
        return []
    views = recipe.rows * (tiles + whole if recipe.vision == "full" else tiles)
    vision, parameters = config.vision_config, sizing.parameters(config)
    patches = (config.tile_size // vision.patch_size) ** 2
    own = isinstance(vision, MonkeyVisionConfig)
    tokens = patches if own else patches + layout_of(vision).class_tokens
    at_once = views
    if not recipe.on_gpu:
        at_once = max(1, CPU_CHUNK_BYTES // (4 * patches * mlp_width(vision)))
    chunks = -(-views // at_once)
    width, layers = recipe.widths, vision.num_hidden_layers
    per_token = _vision_block(config, recipe)
    backbone, adapters = parameters["ViT"] // layers, parameters["LoRA"] // layers
    block = Stage(
        kept=views * tokens * per_token // chunks,
        checkpoint=views * tokens * vision.hidden_size * width.stream // chunks,
        weights=backbone + adapters,
        trained=(backbone if recipe.vision == "full" else 0) + adapters,
        passing=views * tokens * 2 * mlp_width(vision) * width.product // chunks,
    )
    # Gradients of a weight are made once; further chunks add to them.
    return [block] * layers + [replace(block, trained=0)] * (layers * (chunks - 1))


def _vision_block(config: MonkeyConfig, recipe: Recipe) -> int:
    """Bytes that a block of the ViT keeps of a token."""
    vision, width = config.vision_config, recipe.widths
    values, inner = vision.hidden_size, mlp_width(vision)
    gates = 2 if getattr(vision, "hidden_act", "gelu") == "quick_gelu" else 1
    kept = 2 * values * width.stream + (4 * values + gates * inner) * width.product
    if recipe.vision == "full":
        kept += (2 * values + inner) * width.product  # what qkv, fc and proj read; out reads the context
    if config.lora_count:
        for rank, _ in sizing.lora_shapes(config):
            kept += rank * width.product + values * width.product
            kept += values * recipe.mask_bytes if config.lora_dropout else 0
    return kept


def _resampler(config: MonkeyConfig, recipe: Recipe) -> list[Stage]:
    """The resampler or projector, over all views."""
    trains, full = recipe.resampler == "full", sizing.parameters(config)["resampler"]
    if not trains and recipe.vision == "frozen":
        return []
    vision, out, width = config.vision_config, config.text_config.hidden_size, recipe.widths
    views = recipe.rows * sum(sizing.view_counts(config))
    patches, queries = (config.tile_size // vision.patch_size) ** 2, config.queries
    read = vision.hidden_size * width.product if trains else 0
    if isinstance(config.resampler_config, MonkeyProjectorConfig):
        kept = patches * (read + (2 if trains else 1) * out * width.product)
        return [Stage(views * kept, weights=full, trained=full if trains else 0)]
    norms = width.stream if recipe.on_gpu else width.product  # autocast on a GPU computes them in float32
    kept = patches * (read + out * (norms + (4 if trains else 2) * width.product))
    kept += queries * out * (norms + width.product * (2 if recipe.resampler_output else 1))
    trained = sizing.trained(config)["resampler"] if trains else 0
    if trains and recipe.resampler_output:
        trained += out * out + 2 * out
    return [Stage(views * kept, weights=full, trained=trained, passing=views * patches * out * 2 * norms)]


def _language(config: MonkeyConfig, recipe: Recipe) -> list[Stage]:
    """Token embeddings, the language model's layers, its last norm and the loss."""
    text, width = config.text_config, recipe.widths
    tokens = recipe.rows * tokens_of_row(config, recipe)
    full = recipe.language_model == "full"
    table = text.vocab_size * text.hidden_size
    tables = 1 if text.tie_word_embeddings else 2
    layer = (sizing.parameters(config)["language model"] - tables * table) // text.num_hidden_layers
    lora = lora_parameters(text, recipe) // text.num_hidden_layers
    stream = tokens * text.hidden_size * width.stream
    bits = recipe.language_model_bits
    unpacked = 2 * text.hidden_size * text.intermediate_size if bits else 0  # one weight, while it is used
    block = Stage(
        kept=tokens * _language_layer(config, recipe) + _masks(config, recipe),
        checkpoint=stream,
        weights=lora if bits else layer + lora,
        trained=layer if full else lora,
        passing=2 * tokens * text.intermediate_size * width.product + 2 * stream + unpacked,
    )
    learned = recipe.rows * recipe.answer_tokens * text.vocab_size
    head = Stage(
        # Logits, in float32 too if they aren't, and their log-softmax.
        kept=tokens * text.hidden_size * (4 + (width.stream if full else 0))
        + learned * (width.product + 4 + (4 if width.product != 4 else 0)),
        weights=table,
        trained=table if full else 0,
        passing=8 * learned,
    )
    embedding = Stage(
        kept=0,
        weights=table if tables == 2 else 0,
        trained=table if full and tables == 2 else 0,
        passing=2 * stream,
    )
    return [embedding, *[block] * text.num_hidden_layers, head]


def _language_layer(config: MonkeyConfig, recipe: Recipe) -> int:
    """Bytes that a layer of the language model keeps of a token."""
    text, width = config.text_config, recipe.widths
    heads, groups = sizing.head_widths(text)
    values, inner = text.hidden_size, text.intermediate_size
    repeated = heads if recipe.rows > 1 else groups  # a mask makes the library repeat shared keys and values
    kept = 2 * 4 * values  # the norms compute in float32
    kept += (2 * heads + 2 * repeated + 3 * inner) * width.product
    if recipe.language_model == "full":
        # Autocast makes a copy for each projection that reads the same values.
        readers = 5 if recipe.precision == "bf16-mixed" else 2
        kept += 2 * values * width.stream + (readers * values + inner) * width.product
    elif recipe.language_model == "lora":
        read = 5 * values + heads if config.lora_dropout else 2 * values
        kept += (read + len(_lora_shapes(text)) * recipe.language_model_rank) * width.product
        kept += read * recipe.mask_bytes if config.lora_dropout else 0
    return kept


def _masks(config: MonkeyConfig, recipe: Recipe) -> int:
    """Rows of different lengths are padded, and each layer's attention keeps their mask as numbers."""
    if recipe.rows == 1:
        return 0
    return recipe.rows * tokens_of_row(config, recipe) ** 2 * recipe.widths.product


def _lora_shapes(text: PreTrainedConfig) -> list[int]:
    """Inputs and outputs together of the projections that get LoRA: all but the MLP's last, as the release's
    recipe for small GPUs."""
    heads, groups = sizing.head_widths(text)
    values, inner = text.hidden_size, text.intermediate_size
    return [values + heads, values + groups, values + groups, heads + values, values + inner, values + inner]


def lora_parameters(text: PreTrainedConfig, recipe: Recipe) -> int:
    """Parameters of the language model's LoRA."""
    if recipe.language_model != "lora":
        return 0
    return text.num_hidden_layers * recipe.language_model_rank * sum(_lora_shapes(text))
