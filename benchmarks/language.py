"""The language model's side: loss, questions that share an image, turns of a chat, and training steps."""

from collections.abc import Callable

import numpy as np
import torch
from pairing import Pair, Row, Settings, close, compare_memory, compare_time
from PIL import Image
from released import PADDED_LENGTH, encode_images, loss_of_all_logits
from torch.nn import functional as F
from transformers import AutoConfig, Qwen2Config
from transformers.cache_utils import DynamicCache
from visual import RELEASED

from monkeylib import sizing
from monkeylib.data.synthetic.tokenizer import build_tokenizer
from monkeylib.image_processor import MonkeyImageProcessor
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.model import (
    MonkeyConfig,
    MonkeyForConditionalGeneration,
    MonkeyResamplerConfig,
    MonkeyVisionConfig,
)
from monkeylib.model.loss import cross_entropy_in_parts
from monkeylib.monkey import Monkey
from monkeylib.processing import MonkeyProcessor
from monkeylib.prompts import IMAGE_TOKENS

VOCABULARY = 151_936  # Qwen-7B's


def build_monkey(quick: bool, tile_size: int = 448, queries: int = 256) -> Monkey:
    """Return a Monkey with random weights and the paper's 1,280 visual tokens, whose answers differ."""
    tokenizer = build_tokenizer()
    start, end, place = tokenizer.convert_tokens_to_ids(list(IMAGE_TOKENS))
    width = 256 if quick else 640
    config = MonkeyConfig(
        vision_config={
            "tile_size": tile_size,
            "width": 256 if quick else 512,
            "layers": 1 if quick else 2,
            "heads": 4 if quick else 8,
            "mlp_width": 1024 if quick else 2048,
            "position_grid": tile_size // 14,
        },
        resampler_config={"queries": queries, "heads": 4},
        text_config=Qwen2Config(
            vocab_size=len(tokenizer) if quick else VOCABULARY,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=width // 64,
            num_key_value_heads=width // 64,
            eos_token_id=tokenizer.eos_token_id,
        ),
        image_start_id=start,
        image_end_id=end,
        image_token_id=place,
        grids=[[2, 2]],
    )
    torch.manual_seed(0)
    model = MonkeyForConditionalGeneration(config).eval()
    # Weights of the usual size would give the same answer to everything.
    with torch.no_grad():
        for parameter in model.language_model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
        # The tokenizer has no text for the ids that it does not use.
        model.get_output_embeddings().weight[len(tokenizer) :] = 0

    return Monkey(model, MonkeyProcessor(MonkeyImageProcessor(tile_size, 2, 2), tokenizer, queries))


def make_questions(count: int) -> list[str]:
    """Return questions of different lengths."""
    details = ("", " on the right", " below the image of a cat")
    return [f"What stands in line {number} of the list{details[number % 3]}?" for number in range(count)]


def make_image() -> Image.Image:
    """Return an image of random pixels."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (896, 896, 3), dtype=np.uint8))


@torch.no_grad()
def answer_as_released(monkey: Monkey, image: Image.Image, question: str, max_new_tokens: int) -> str:
    """Answer as the released evaluation does: the image with each question, logits of all tokens."""
    inputs = monkey.prepare([image], [question], "vqa")
    model = monkey.model
    tokens = encode_images(model, inputs["pixel_values"], model.lora_index(inputs["grids"]))
    embeds = model.splice(inputs["input_ids"], tokens)

    cache, ids = DynamicCache(), []
    for _ in range(max_new_tokens):
        logits = model.language_model(inputs_embeds=embeds, past_key_values=cache, use_cache=True).logits
        ids.append(logits[:, -1].argmax(-1))
        if int(ids[-1]) == monkey.processor.tokenizer.eos_token_id:
            break
        embeds = model.get_input_embeddings()(ids[-1][:, None])
    return monkey.processor.tokenizer.decode(torch.cat(ids), skip_special_tokens=True).strip()


def sharing_pair(monkey: Monkey, count: int, max_new_tokens: int = 10) -> Pair:
    """Return both ways to answer questions about one image."""
    image, questions = make_image(), make_questions(count)

    def together() -> list[str]:
        pairs = [(image, question) for question in questions]
        return [answer.text for answer in monkey.answer_batch(pairs, max_new_tokens=max_new_tokens)]

    def alone() -> list[str]:
        return [answer_as_released(monkey, image, question, max_new_tokens) for question in questions]

    return Pair(together, alone, same_and_different)


def same_and_different(first: list[str], second: list[str]) -> bool:
    """Tell whether answers are the same both ways; if all were one, a mix-up wouldn't show.

    Raises:
        ValueError: all answers are the same.
    """
    if len(set(first)) == 1 and len(first) > 1:
        raise ValueError(f"all answers are {first[0]!r}: a mix-up wouldn't show")
    return first == second


def shared_questions(settings: Settings) -> list[Row]:
    """Return the rows of questions about one image, and of the second turn of a chat."""
    count = 8 if settings.is_quick else 16
    monkey = build_monkey(settings.is_quick)
    # Each round encodes its image anew.
    monkey.cached_images = 0
    # One round takes as long as several of other paths.
    fewer = Settings(min(settings.rounds, 2), settings.is_quick)
    pair = sharing_pair(monkey, count)
    size = f"{count} questions, {sizing.count_visual_tokens(monkey.model.config)} visual tokens"
    rows = [compare_time("answer_batch on one image", f"{RELEASED}, one by one", size, pair, fewer, 20)]

    image, (first, *following) = make_image(), make_questions(20)
    session = monkey.session(image)
    turn = session.chat(first, max_new_tokens=10)
    begun = list(session.turns)
    # Another second question in each round: of the same one, all but a token would have been read.
    of_session, of_other = iter(following), iter(following)

    def with_session() -> str:
        session.turns = list(begun)
        return session.chat(next(of_session), max_new_tokens=10).text

    def anew() -> str:
        return monkey.chat(image, next(of_other), [(first, turn)], max_new_tokens=10).text

    pair = Pair(with_session, anew, lambda one, other: one == other)
    rows.append(compare_time("second turn of a chat", "encoding and reading anew", size, pair, settings, 4))
    return rows


def loss_rows(settings: Settings) -> list[Row]:
    """Return the rows of the loss where few of the tokens are learned."""
    vocabulary = 32_000 if settings.is_quick else VOCABULARY
    targets = {100: 20} if settings.is_quick else {100: 20, 600: 4.1}

    def size(labels: int | str) -> str:
        return f"{labels} of {PADDED_LENGTH:,} tokens are learned, {vocabulary:,} words"

    # Memory first: what timed work has left behind would be there for more of it.
    path = "peak memory of the loss"
    memory = [
        compare_memory(path, RELEASED, size(labels), loss_pair_builder(labels, vocabulary), target=None)
        for labels in targets
    ]
    # Where every token is learned, ours computes the logits in parts.
    build = loss_pair_builder(PADDED_LENGTH - 1, vocabulary)
    memory.append(compare_memory(path, RELEASED, size("all"), build, target=None))

    times = []
    for labels, target in targets.items():
        pair = loss_pair_builder(labels, vocabulary)()
        path = "loss, forward and backward"
        times.append(compare_time(path, RELEASED, size(labels), pair, settings, target))
    return [*times, *memory]


def loss_pair_builder(count: int, vocabulary: int, width: int = 512) -> Callable[[], Pair]:
    """Return what builds both ways from the language model's output to the gradient of its projection."""

    def build() -> Pair:
        generator = torch.Generator().manual_seed(0)
        head = torch.nn.Linear(width, vocabulary, bias=False)
        hidden = torch.randn(1, PADDED_LENGTH, width, generator=generator)
        labels = torch.full((1, PADDED_LENGTH), IGNORE_INDEX)
        labels[:, -count:] = torch.randint(0, vocabulary, (1, count), generator=generator)

        def gradient(loss: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            loss.backward()
            result = loss.detach(), head.weight.grad
            head.weight.grad = None
            return result

        def monkeylib() -> tuple[torch.Tensor, torch.Tensor]:
            # As `MonkeyForConditionalGeneration.forward` selects them.
            targets = F.pad(labels, (0, 1), value=IGNORE_INDEX)[:, 1:]
            is_learned = targets != IGNORE_INDEX
            return gradient(cross_entropy_in_parts(hidden[is_learned], head, targets[is_learned])[0])

        def released() -> tuple[torch.Tensor, torch.Tensor]:
            return gradient(loss_of_all_logits(hidden, head.weight, labels))

        # Compared outside of what is timed: a gradient has as many values as the projection.
        return Pair(monkeylib, released, lambda first, second: all(map(close(1e-4), first, second)))

    return build


# Training steps


def training_config(quick: bool) -> MonkeyConfig:
    """Return the configuration of a training step: the paper's 1,280 visual tokens, or 320 where quick."""
    return MonkeyConfig(
        vision_config=MonkeyVisionConfig(tile_size=224, width=256, layers=2, heads=4, mlp_width=1024),
        resampler_config=MonkeyResamplerConfig(queries=64 if quick else 256, heads=6),
        text_config=AutoConfig.for_model(
            "qwen2",
            vocab_size=32_000,
            hidden_size=384,
            intermediate_size=1024,
            num_hidden_layers=2 if quick else 4,
            num_attention_heads=6,
            num_key_value_heads=6,
            pad_token_id=0,
            eos_token_id=0,
            max_position_embeddings=PADDED_LENGTH,
        ),
        image_start_id=1,
        image_end_id=2,
        image_token_id=3,
        grids=[[2, 2]],
        lora_dropout=0.0,
    )


def make_batch(config: MonkeyConfig, rows: int, length: int | None = None) -> dict[str, torch.Tensor]:
    """Return random rows of an image and 60 to 180 tokens of text, the last third of which is learned.

    Args:
        config: of the model.
        rows: number of rows.
        length: pad rows to so many tokens; to the longest row by default.
    """
    generator = torch.Generator().manual_seed(0)
    image_ids = [1, *[config.image_token_id] * sizing.count_visual_tokens(config), 2]
    text_lengths = torch.linspace(60, 180, rows).int().tolist()
    length = length or len(image_ids) + max(text_lengths)

    ids = torch.zeros(rows, length, dtype=torch.long)
    labels = torch.full_like(ids, IGNORE_INDEX)
    mask = torch.zeros_like(ids)
    for row, text_length in enumerate(text_lengths):
        text = torch.randint(4, config.text_config.vocab_size, (text_length,), generator=generator)
        end = len(image_ids) + text_length
        ids[row, :end] = torch.cat([torch.tensor(image_ids), text])
        labels[row, end - text_length // 3 : end] = text[-(text_length // 3) :]
        mask[row, :end] = 1

    views = rows * sum(sizing.count_views(config))
    side = config.tile_size
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "pixel_values": torch.randn(views, 3, side, side, generator=generator),
        "grids": torch.tensor([list(sizing.default_grid(config))] * rows),
    }


def released_loss(model: MonkeyForConditionalGeneration, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the loss of a padded batch as the released code computes it."""
    tokens = encode_images(model, batch["pixel_values"], model.lora_index(batch["grids"][:1]))
    embeds = model.splice(batch["input_ids"], tokens)
    output = model.language_model.model(inputs_embeds=embeds, attention_mask=batch["attention_mask"])
    weight = model.get_output_embeddings().weight
    return loss_of_all_logits(output.last_hidden_state, weight, batch["labels"])


def training_pair(config: MonkeyConfig, rows: int = 2) -> Pair:
    """Return both ways to the loss and the gradients of everything that fine-tuning trains."""
    torch.manual_seed(0)
    model = MonkeyForConditionalGeneration(config).train()
    model.freeze_for_finetuning()
    batch, padded = make_batch(config, rows), make_batch(config, rows, PADDED_LENGTH)

    def step(loss: torch.Tensor) -> torch.Tensor:
        loss.backward()
        sums = [weight.grad.abs().sum() for weight in model.parameters() if weight.grad is not None]
        model.zero_grad()
        return torch.stack([loss.detach(), *sums])

    return Pair(lambda: step(model(**batch).loss), lambda: step(released_loss(model, padded)), close(1e-3))


def training_step(settings: Settings) -> list[Row]:
    """Return the rows of a training step without the optimiser: time and memory."""
    config = training_config(settings.is_quick)
    size = f"2 rows, {sizing.count_visual_tokens(config):,} visual tokens, 32,000 words"
    against = f"{RELEASED}, padded to {PADDED_LENGTH:,} tokens"
    fewer = Settings(min(settings.rounds, 2), settings.is_quick)
    # Memory first, as of the loss.
    memory = compare_memory("peak memory of it", against, size, lambda: training_pair(config), target=None)
    return [compare_time("training step", against, size, training_pair(config), fewer, target=None), memory]


ROWS = {"shared_questions": shared_questions, "loss": loss_rows, "training_step": training_step}
