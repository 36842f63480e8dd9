"""Processor time of several questions about one image: together, with the image encoded and read once,
against one after the other.

* `together`: a batch of the questions, as `monkeylib evaluate` asks them (`PrefixSharingMonkey`);
* `alone`: each question with its image, as the released evaluation does.

Both ask the same model with the same random weights, in turn in one process with one thread, after a round to
warm up, and their answers have to be the same.

    python benchmarks/shared_encoding.py --questions 8 --rounds 5
"""

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from training_step import SIZES, machine

from monkeylib import resources, sizing
from monkeylib.data.synthetic.tokenizer import build_tokenizer
from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.prefix_sharing import PrefixSharingMonkey
from monkeylib.inference import Monkey
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.processing import MonkeyImageProcessor, MonkeyProcessor

FOLDER = Path(__file__).parent
WAYS = ("together", "alone")


def monkey(size: str) -> Monkey:
    """A model of that size with random weights, large enough that its answers depend on what is asked."""
    tokenizer, config = build_tokenizer(), SIZES[size]()
    marks = tokenizer.convert_tokens_to_ids(["<img>", "</img>", "<imgpad>"])
    config.image_start_id, config.image_end_id, config.image_token_id = marks
    torch.manual_seed(0)
    model = MonkeyForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.language_model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
        model.get_output_embeddings().weight[len(tokenizer) :] = 0  # words that the tokenizer doesn't have
    rows, cols = sizing.grid_of_config(config)
    images = MonkeyImageProcessor(config.tile_size, rows, cols, config.views)
    return Monkey(model, MonkeyProcessor(images, tokenizer, config.resampler_config.queries))


def questions(count: int) -> list[Example]:
    """Questions of different lengths about one image."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    more = ("", " on the right", " below the image of a cat")
    texts = [f"What stands in line {number} of the list{more[number % 3]}?" for number in range(count)]
    return [Example(str(number), image, text, ("",), "vqa", "one") for number, text in enumerate(texts)]


def ask(way: str, model: Monkey, asked: list[Example], tokens: int) -> list[str]:
    """The answers, got in one of the two ways."""
    if way == "together":
        return PrefixSharingMonkey(model, tokens)(asked)
    return [model.answer(each.rendered_image, each.question, each.prompt, tokens) for each in asked]


def timed(work: Callable[[], list[str]]) -> tuple[float, list[str]]:
    """Seconds of the processor's time, and the answers."""
    start = time.process_time()
    answers = work()
    return time.process_time() - start, answers


def compare(size: str, count: int, rounds: int, tokens: int) -> dict[str, object]:
    """One row of the table: medians of both ways, and how many times as long the questions take alone.

    Raises:
        ValueError: the answers aren't the same both ways, or one for all questions.
    """
    model, asked = monkey(size), questions(count)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):
        answers = {}
        for way in WAYS:
            spent, answers[way] = timed(lambda way=way: ask(way, model, asked, tokens))
            if number:
                seconds[way].append(spent)
        if answers["together"] != answers["alone"]:
            raise ValueError(f"The answers of the model {size} aren't the same both ways: {answers}")
        if len(set(answers["alone"])) == 1:
            raise ValueError(f"All answers of the model {size} are the same: a mix-up wouldn't show")
    ratios = [alone / together for together, alone in zip(seconds["together"], seconds["alone"], strict=True)]
    together, alone = (statistics.median(seconds[way]) for way in WAYS)
    found = {"size": size, "questions": count, "new tokens": tokens, "rounds": rounds}
    found |= {"visual tokens": sizing.visual_tokens(model.model.config)}
    found |= {"different answers": len(set(answers["together"]))}
    found |= {"seconds together": round(together, 3), "seconds alone": round(alone, 3)}
    found |= {"ratio": round(statistics.median(ratios), 2)}
    found |= {"lowest ratio": round(min(ratios), 2), "highest ratio": round(max(ratios), 2)}
    return found | machine()


def main() -> None:
    """Run the comparison, print it and write results/shared_encoding.csv."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--questions", type=int, default=8, help="questions about the image")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each way")
    parser.add_argument("--tokens", type=int, default=10, help="new tokens of an answer at most")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found = [compare(size, chosen.questions, chosen.rounds, chosen.tokens) for size in chosen.sizes]
    for row in found:
        print(", ".join(f"{name}: {value}" for name, value in row.items()))
    target = FOLDER / "results" / "shared_encoding.csv"
    with (
        resources.atomic_write(target) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    print(f"wrote {resources.display_path(target)}")


if __name__ == "__main__":
    main()
