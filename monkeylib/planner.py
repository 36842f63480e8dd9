"""How much memory training needs, before it runs: pure arithmetic on a configuration and a recipe.

Counted is every tensor that PyTorch holds at the fullest moment of an optimiser step: weights, gradients,
AdamW's two moments, the batch's images, what autograd keeps (`activations`), the widest gradients of
activations, DDP's buckets and FSDP's gathered blocks. `measuring.step` counts the same in a real step, and
`measuring.process_growth` asks the kernel what the process takes for it. A training run counts its own second
step and writes it beside the plan (`training.memory`).

Not counted: the context of the device (0.5 to 1 GB on a GPU), what its allocator rounds up or
leaves unused, workspaces of kernels and of the communication library. Leave a tenth of a device for them.
"""

from dataclasses import dataclass

from monkeylib import sizing
from monkeylib.activations import Stage, lora_parameters, stages, tokens_of_row
from monkeylib.model import MonkeyConfig
from monkeylib.recipes import Recipe

# Bytes of a weight in 4 bits: half a byte, and a float32 scale for each 64 of them (NF4, as bitsandbytes).
BITS_BYTES = {4: 0.5 + 4 / 64, 8: 1.0}


@dataclass(frozen=True)
class Plan:
    """Bytes on each device.

    Fields:
        weights, gradients, optimiser: of the device's share of the model.
        activations: the most that images, autograd and passing gradients of activations take at once.
        communication: DDP's buckets, or what FSDP gathers beside the device's share.
        peak: at the fullest moment; in steps of one pass less than the sum, since gradients appear while
            activations go.
    """

    weights: int
    gradients: int
    optimiser: int
    activations: int
    communication: int
    peak: int


def plan(config: MonkeyConfig, recipe: Recipe) -> Plan:
    """The memory of a training step.

    Raises:
        ValueError: a language model whose sizes are not known, see `sizing.parameters`.
    """
    pieces, width = stages(config, recipe), recipe.widths
    share = recipe.devices if recipe.strategy == "fsdp" else 1
    trained = sum(piece.trained for piece in pieces)
    gradients = width.weight * trained // share
    weights = _weights(config, recipe) // share
    communication = {"single": 0, "ddp": gradients, "fsdp": _gathered(config, recipe, pieces)}[
        recipe.strategy
    ]
    states = weights + 2 * gradients + communication
    activations, busiest = _activations(config, recipe, pieces, gradients / max(1, trained))
    peak = states + (max(busiest, gradients) if recipe.passes == 1 else gradients + activations)
    return Plan(weights, gradients, 2 * gradients, activations, communication, peak)


def inference(
    config: MonkeyConfig, grid: sizing.Grid | None = None, text_tokens: int = 32, value_bytes: int = 2
) -> dict[str, int]:
    """Bytes that answering takes beside its activations.

    Args:
        config: the model.
        grid: the image's grid; the one that the model was made for if not given.
        text_tokens: length of the prompt and the answer beside the image.
        value_bytes: of a weight and of a cached value: 2 for bfloat16, 4 for float32.

    Returns:
        weights; cache: keys and values of one image and its text.
    """
    text, tokens = config.text_config, sizing.visual_tokens(config, grid) + 2 + text_tokens
    return {
        "weights": value_bytes * sum(sizing.parameters(config).values()),
        "cache": value_bytes * 2 * text.num_hidden_layers * sizing.head_widths(text)[1] * tokens,
    }


def _weights(config: MonkeyConfig, recipe: Recipe) -> int:
    """Bytes of all weights; of a quantised language model's, tables and LoRA stay as the others are."""
    parameters, width, text = sizing.parameters(config), recipe.widths.weight, config.text_config
    everything = width * (sum(parameters.values()) + lora_parameters(text, recipe))
    if recipe.language_model_bits is None:
        return everything
    tables = text.vocab_size * text.hidden_size * (1 if text.tie_word_embeddings else 2)
    saved = width - BITS_BYTES[recipe.language_model_bits]
    return everything - int(saved * (parameters["language model"] - tables))


def _gathered(config: MonkeyConfig, recipe: Recipe, pieces: list[Stage]) -> int:
    """What FSDP holds beside a device's share: everything outside of blocks and layers, the block in work and
    the next one, whole, and their gradients."""
    blocks = [piece for piece in pieces if piece.checkpoint is not None]
    outside = [piece for piece in pieces if piece.checkpoint is None]
    largest = max(piece.weights for piece in blocks)
    root = sum(piece.weights for piece in outside) + 2 * largest
    gradients = sum(piece.trained for piece in outside) + max(piece.trained for piece in blocks)
    return recipe.widths.product * (root + gradients)


def _activations(
    config: MonkeyConfig, recipe: Recipe, pieces: list[Stage], gradient_bytes: float
) -> tuple[int, int]:
    """The most that activations take, and the most that they and the gradients made so far take together."""
    views = recipe.rows * sum(sizing.view_counts(config))
    batch = 4 * views * 3 * config.tile_size**2 + 8 * 3 * recipe.rows * tokens_of_row(config, recipe)
    casts = 2 if recipe.precision == "bf16-mixed" and recipe.strategy != "fsdp" else 0
    again = [recipe.checkpointing and piece.checkpoint is not None for piece in pieces]
    kept = [
        piece.checkpoint if anew else piece.kept + casts * piece.weights
        for piece, anew in zip(pieces, again, strict=True)
    ]
    # Until the forward pass ends, autocast keeps its copies of the weights that train.
    cached = casts * sum(piece.trained for piece, anew in zip(pieces, again, strict=True) if anew)
    activations = together = batch + sum(kept) + cached
    gradients = 0.0
    for number in reversed(range(len(pieces))):
        piece = pieces[number]
        gradients += gradient_bytes * piece.trained
        here = batch + sum(kept[:number]) + piece.kept + casts * piece.weights + piece.passing
        activations, together = max(activations, here), max(together, here + int(gradients))
    return activations, together
