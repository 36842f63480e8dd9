"""Processor time of several questions about one image: with a shared prefix, against one after the other.

* `together`: a batch of the questions, as `monkeylib evaluate` answers them (`PrefixSharingMonkey`): the
  image is encoded once and read once by the language model;
* `alone`: each question with its image, as in the released evaluation.

Both use the same model with the same random weights, in turn in one process with one thread, after a round to
warm up, and must give the same answers.

    python benchmarks/prefix_sharing.py --questions 8 --rounds 5
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from training_step import SIZES, machine

from monkeylib import resources, sizing, tables
from monkeylib.data.synthetic.tokenizer import build_tokenizer
from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.prefix_sharing import PrefixSharingMonkey
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.monkey import Monkey
from monkeylib.processing import MonkeyImageProcessor, MonkeyProcessor
from monkeylib.prompts import IMAGE_TOKENS

FOLDER = Path(__file__).parent
METHODS = ("together", "alone")


def build_monkey(size: str) -> Monkey:
    """Return a model with random weights, large enough that its answers depend on the question."""
    tokenizer = build_tokenizer()
    config = SIZES[size]()
    config.image_start_id, config.image_end_id, config.image_token_id = tokenizer.convert_tokens_to_ids(
        list(IMAGE_TOKENS)
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

    rows, cols = sizing.default_grid(config)
    images = MonkeyImageProcessor(config.tile_size, rows, cols, config.views)
    return Monkey(model, MonkeyProcessor(images, tokenizer, config.resampler_config.queries))


def make_examples(count: int) -> list[Example]:
    """Return questions of different lengths about one image."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)

    examples = []
    for number in range(count):
        detail = ("", " on the right", " below the image of a cat")[number % 3]
        question = f"What stands in line {number} of the list{detail}?"
        examples.append(Example(str(number), image, question, ("",), "vqa", "one"))

    return examples


def answer(method: str, monkey: Monkey, examples: list[Example], max_new_tokens: int) -> list[str]:
    """Answer the examples by one of the two methods."""
    if method == "together":
        return PrefixSharingMonkey(monkey, max_new_tokens)(examples)
    return [
        monkey.answer(example.rendered_image, example.question, example.prompt, max_new_tokens)
        for example in examples
    ]


def measure(work: Callable[[], list[str]]) -> tuple[float, list[str]]:
    """Return the seconds of processor time that some work takes, and the answers."""
    start = time.process_time()
    answers = work()
    return time.process_time() - start, answers


def compare(size: str, count: int, rounds: int, max_new_tokens: int) -> dict[str, object]:
    """Return one row of the table: medians of both methods, and how many times as long `alone` takes.

    Raises:
        ValueError: the methods give different answers, or all questions get the same one.
    """
    monkey = build_monkey(size)
    examples = make_examples(count)
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}

    for number in range(rounds + 1):
        # In turn within a round, so that both meet the same load on the machine.
        answers = {}
        for method in METHODS:
            duration, answers[method] = measure(
                lambda method=method: answer(method, monkey, examples, max_new_tokens)
            )
            if number > 0:  # the first round warms up
                seconds[method].append(duration)

        # A fast method that mixed up the questions would be worth nothing.
        if answers["together"] != answers["alone"]:
            raise ValueError(f"The answers of the model {size} aren't the same both ways: {answers}")
        if len(set(answers["alone"])) == 1:
            raise ValueError(f"All answers of the model {size} are the same: a mix-up wouldn't show")

    ratios = [alone / together for together, alone in zip(seconds["together"], seconds["alone"], strict=True)]
    return {
        "size": size,
        "questions": count,
        "new tokens": max_new_tokens,
        "rounds": rounds,
        "visual tokens": sizing.count_visual_tokens(monkey.model.config),
        "different answers": len(set(answers["together"])),
        "seconds together": round(statistics.median(seconds["together"]), 3),
        "seconds alone": round(statistics.median(seconds["alone"]), 3),
        "ratio": round(statistics.median(ratios), 2),
        "lowest ratio": round(min(ratios), 2),
        "highest ratio": round(max(ratios), 2),
        **machine(),
    }


def main() -> None:
    """Run the comparison, print it and write results/prefix_sharing.csv."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--questions", type=int, default=8, help="questions about the image")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each method")
    parser.add_argument("--tokens", type=int, default=10, help="new tokens of an answer at most")
    options = parser.parse_args()

    torch.set_num_threads(1)
    rows = [compare(size, options.questions, options.rounds, options.tokens) for size in options.sizes]
    for row in rows:
        print(", ".join(f"{name}: {value}" for name, value in row.items()))

    target = FOLDER / "results" / "prefix_sharing.csv"
    tables.write_csv(rows, target)
    print(f"wrote {resources.display_path(target)}")


if __name__ == "__main__":
    main()
