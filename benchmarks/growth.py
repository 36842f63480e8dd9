"""How costs grow: with views, megapixels, length of the prompt, questions on an image, and records.

    python benchmarks/growth.py            # about 6 minutes
    python benchmarks/growth.py --quick    # a minute, smaller sizes; writes nothing

Each quantity is measured at several sizes, in one process with one thread, the sizes in turn and each as
often as there are rounds; the least of its times counts. An exponent e is that of `cost ~ size^e`, fitted on
logarithms to the sizes from half of them up, where fixed costs matter least. It writes results/growth.json,
and with it the page docs/performance.md.
"""

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pages
import torch
from exponents import Measured, growth_row
from language import build_monkey, make_image, make_questions
from pairing import Row, Settings, in_process, seconds_of, write_json
from PIL import Image
from run import restart_with_fixed_allocator
from transformers import Qwen2Config

from monkeylib import profiles, resources, sizing, tables
from monkeylib.data.mixture import load_mixture
from monkeylib.image_processor import MonkeyImageProcessor
from monkeylib.model import MonkeyConfig, MonkeyForConditionalGeneration
from monkeylib.model.kv_cache import empty_cache

FOLDER = Path(__file__).parent


def least(works: dict[float, Callable[[], object]], rounds: int) -> Measured:
    """Return the least processor time of each work, after a call of each to warm up."""
    for work in works.values():
        work()
    times: dict[float, list[float]] = {size: [] for size in works}
    for _ in range(rounds):
        for size, work in works.items():
            times[size].append(seconds_of(work)[0])
    return [(size, min(values)) for size, values in times.items()]


def of_views(settings: Settings) -> list[Row]:
    """Visual tokens of one image by its number of views."""
    counts = (1, 2, 4, 8) if settings.is_quick else (1, 2, 4, 8, 12, 16, 24)
    config = MonkeyConfig(
        vision_config={"width": 256, "layers": 2, "heads": 4, "mlp_width": 1024, "position_grid": 32},
        resampler_config={"queries": 256, "heads": 4},
        text_config=Qwen2Config(hidden_size=256, num_hidden_layers=1, num_attention_heads=4, vocab_size=64),
        image_start_id=1,
        image_end_id=2,
        image_token_id=3,
        grids=[[4, 6]],
    )
    torch.manual_seed(0)
    model = MonkeyForConditionalGeneration(config).eval()
    views = torch.randn(max(counts), 3, 448, 448)

    def encode(count: int) -> Callable[[], object]:
        resample = model.resampler
        return torch.no_grad()(
            lambda: model.vision(
                views[:count], list(range(count)), reduce=lambda features: resample(features)
            )
        )

    measured = least({count: encode(count) for count in counts}, settings.rounds)
    return [growth_row("views", "views of 448 x 448", "views to visual tokens", measured)]


def of_megapixels(settings: Settings) -> list[Row]:
    """JPEG to views by the number of pixels."""
    sizes = [(640, 480), (1344, 896), (2000, 1500), (4000, 3000)]
    if not settings.is_quick:
        sizes += [(8000, 6000)]
    processor = MonkeyImageProcessor(448, 2, 2)
    works = {}
    for width, height in sizes:
        # Photographs are smooth: noise of a few pixels, enlarged.
        coarse = np.random.default_rng(0).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
        content = io.BytesIO()
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(content, "JPEG")
        works[round(width * height / 1e6, 2)] = partial(processor, [content.getvalue()])
    measured = least(works, settings.rounds)
    return [growth_row("pixels", "megapixels", "JPEG to views, 2x2", measured)]


def of_length(settings: Settings) -> list[Row]:
    """The first token, and each token after it, by the length of the prompt."""
    lengths = (256, 512, 1024, 2048) if settings.is_quick else (256, 512, 1024, 2048, 4096, 8192)
    config = MonkeyConfig(
        vision_config={"tile_size": 28, "width": 32, "layers": 1, "heads": 2, "mlp_width": 32},
        resampler_config={"queries": 4, "heads": 2},
        text_config=Qwen2Config(
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            vocab_size=1024,
            max_position_embeddings=2 * max(lengths),
        ),
        image_start_id=1,
        image_end_id=2,
        image_token_id=3,
        grids=[[2, 2]],
    )
    torch.manual_seed(0)
    model = MonkeyForConditionalGeneration(config).eval()
    new_tokens = 32

    @torch.no_grad()
    def read(length: int) -> object:
        cache = empty_cache(model)
        model(torch.full((1, length), 7), past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache

    def decode(length: int) -> Callable[[], object]:
        cache = read(length)
        token = torch.full((1, 1), 7)

        @torch.no_grad()
        def work() -> None:
            for _ in range(new_tokens):
                model(token, past_key_values=cache, use_cache=True)
            cache.crop(-new_tokens)

        return work

    prefill = least({length: lambda length=length: read(length) for length in lengths}, settings.rounds)
    decoded = least({length: decode(length) for length in lengths}, settings.rounds)
    per_token = [(length, seconds / new_tokens) for length, seconds in decoded]
    work = "language model of 4 layers of width 256"
    return [
        growth_row("tokens of the prompt", "tokens", f"first token, {work}", prefill),
        growth_row("tokens of the prompt", "tokens", f"a token after it, {work}", per_token),
    ]


def of_questions(settings: Settings) -> list[Row]:
    """`answer_batch` by the number of questions on one image."""
    counts = (1, 4, 16) if settings.is_quick else (1, 2, 4, 8, 16, 32)
    monkey = build_monkey(quick=True)
    monkey.cached_images = 0
    image = make_image()

    def ask(count: int) -> Callable[[], object]:
        pairs = [(image, question) for question in make_questions(count)]
        return lambda: monkey.answer_batch(pairs, max_new_tokens=5)

    measured = least({count: ask(count) for count in counts}, settings.rounds)
    return [growth_row("questions on one image", "questions", "answer_batch, 5 tokens an answer", measured)]


def of_records(settings: Settings) -> list[Row]:
    """Opening a mixture with a validation share, and drawing a record, by the number of records."""
    counts = (1_000, 10_000, 100_000) if settings.is_quick else (1_000, 10_000, 100_000, 1_000_000)
    opened, drawn = [], []
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        for count in counts:
            rows = (
                {
                    "id": str(number),
                    "image": f"{number}.jpg",
                    "conversations": [
                        {"from": "human", "value": "<image>\nWhat?"},
                        {"from": "gpt", "value": str(number)},
                    ],
                }
                for number in range(count)
            )
            lines = "".join(f"{json.dumps(row)}\n" for row in rows)
            (folder / f"{count}.jsonl").write_text(lines, encoding="utf-8")
            mixture = folder / f"{count}.yaml"
            mixture.write_text(
                f"root: {folder}\nsets:\n- {{name: all, path: {count}.jsonl, images: .}}\n"
                "validation: {share: 0.01}\n",
                encoding="utf-8",
            )
            seconds, records = seconds_of(lambda mixture=mixture: load_mixture(mixture))
            opened.append((count, seconds))
            draws = seconds_of(lambda records=records: [records[number] for number in range(1000)])[0]
            drawn.append((count, draws / 1000))
    return [
        growth_row("records", "records", "opening a mixture with a validation share of 1 %", opened),
        growth_row("records", "records", "drawing a record", drawn),
    ]


GROUPS = {
    "views": of_views,
    "megapixels": of_megapixels,
    "length": of_length,
    "questions": of_questions,
    "records": of_records,
}


def arithmetic(rows: Sequence[Row]) -> list[Row]:
    """Return what the growth means for the paper's run, for 1344 x 896, and for 100 million captions.

    Operations are counted (`sizing.count_flops`), times of the CPU are those of the rows, with the exponents
    where a size lies outside of what was measured. Backward through frozen weights, which gradients of the
    adapters pass, costs as much as forward; through weights that are trained it costs twice as much.
    """
    by_work = {row["work"]: row for row in rows}
    lines: list[Row] = []
    for name in ("paper-896", "paper-1344"):
        profile = profiles.load_profile(name)
        config = profiles.build_config(profile)
        operations = sizing.count_flops(config, text_tokens=128)
        language = operations.pop("language model")
        visual = sum(operations.values())
        examples = profile.training.steps * profile.training.batch_size
        total = examples * (2 * visual + 3 * language)
        lines += [
            {
                "what": f"{name}: visual tokens of an image",
                "value": f"{sizing.count_visual_tokens(config):,}",
            },
            {"what": f"{name}: operations of an answer's first token", "value": f"{(visual + language):.3g}"},
            {"what": f"{name}: operations of {examples:,} examples", "value": f"{total:.3g}"},
            {
                "what": f"{name}: at 40 % of an H200's 989 TFLOP/s in bfloat16, hours of one",
                "value": f"{total / (0.4 * 989e12) / 3600:,.0f}",
            },
        ]

    records = by_work.get("opening a mixture with a validation share of 1 %")
    if records is not None:
        seconds = extrapolate(records, 1_440_000)
        lines.append({"what": "opening 1.44 million records, s a process", "value": f"{seconds:.0f}"})

    pixels = by_work.get("JPEG to views, 2x2")
    if pixels is not None:
        for label, megapixels in (("COCO's 640 x 480", 0.31), ("1344 x 896", 1.2)):
            hours = 1e8 * extrapolate(pixels, megapixels) / 3600
            lines.append(
                {"what": f"views of 100 million images of {label}, core hours", "value": f"{hours:,.0f}"}
            )
    # By a straight line, as on the page about clusters.
    for run in tables.read_csv(FOLDER / "results" / "caption_growth.csv"):
        if run["kind"] == "extrapolated" and int(run["images"]) == 100_000_000:
            what = "captions of 100 million images beside what the experts take, core hours"
            lines.append({"what": what, "value": f"{float(run['CPU s']) / 3600:,.0f}"})
    return lines


def extrapolate(row: Row, size: float) -> float:
    """Return the seconds at a size: between measured ones on logarithms, beyond them by the exponent."""
    measured = [tuple(map(float, part.rstrip(" s").split(":"))) for part in row["measured"].split("; ")]
    sizes, seconds = zip(*measured, strict=True)
    if size > sizes[-1]:
        return seconds[-1] * (size / sizes[-1]) ** row["exponent"]
    return float(np.exp(np.interp(np.log(size), np.log(sizes), np.log(seconds))))


def main() -> None:
    """Measure, print, and write results/growth.json, results/arithmetic.json and the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller sizes; writes nothing")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=GROUPS, help="writes nothing")
    options = parser.parse_args()

    torch.set_num_threads(1)
    settings = Settings(options.rounds, options.quick)
    rows = []
    for name in options.only or GROUPS:
        start = time.perf_counter()
        rows += in_process(lambda name=name: GROUPS[name](settings))
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    for row in rows:
        print(", ".join(f"{name}: {value}" for name, value in row.items()))

    if not options.quick and not options.only:
        results = FOLDER / "results"
        write_json(rows, results / "growth.json", settings)
        write_json(arithmetic(rows), results / "arithmetic.json", settings)
        print(f"wrote {resources.display_path(pages.write_page())}")


if __name__ == "__main__":
    restart_with_fixed_allocator()
    main()
