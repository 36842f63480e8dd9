"""What raising the twelve best-known models to 2x2 tiles costs, counted by `monkeylib.raising.costs`.

Each model has the sizes of its public configuration, and no weights: they take no memory, and a machine
without a GPU counts the operations of all twelve in a few minutes.

    python benchmarks/raising_costs.py
    python benchmarks/raising_costs.py --only google/gemma-3-4b-it

writes `results/raising_costs.csv` and the table in `docs/raising-costs.md`.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from transformers import AutoModelForImageTextToText, PreTrainedConfig

from monkeylib import resources, tables
from monkeylib.raising.costs import RaisingCosts, raising_costs

RESULTS = resources.REPOSITORY / "benchmarks" / "results" / "raising_costs.csv"
PAGE = resources.REPOSITORY / "docs" / "raising-costs.md"
START, END = "<!-- costs -->", "<!-- /costs -->"

GRID = (2, 2)
RANK = 16
TEXT_TOKENS = 128

# SigLIP with 400 million parameters, the tower of many of them.
_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
}


def _llava(**text: Any) -> PreTrainedConfig:
    vision = tf.CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    text_config = tf.LlamaConfig(vocab_size=32_064, max_position_embeddings=4096, **text)
    return tf.LlavaConfig(vision_config=vision, text_config=text_config)


def llava_7b() -> PreTrainedConfig:
    """LLaVA-1.5 with Vicuna 7B."""
    return _llava()  # LlamaConfig's own sizes are those of 7B


def llava_13b() -> PreTrainedConfig:
    """LLaVA-1.5 with Vicuna 13B."""
    return _llava(hidden_size=5120, intermediate_size=13_824, num_hidden_layers=40, num_attention_heads=40)


def paligemma() -> PreTrainedConfig:
    """PaliGemma at 224 pixels, with Gemma 2B."""
    text = tf.GemmaConfig(
        vocab_size=257_216,
        hidden_size=2048,
        intermediate_size=16_384,
        num_hidden_layers=18,
        num_attention_heads=8,
        num_key_value_heads=1,
        head_dim=256,
        max_position_embeddings=8192,
    )
    vision = tf.SiglipVisionConfig(**_SO400M, image_size=224, vision_use_head=False)
    return tf.PaliGemmaConfig(
        vision_config=vision,
        text_config=text,
        projection_dim=2048,
        hidden_size=2048,
        image_token_index=257_152,
    )


def gemma3() -> PreTrainedConfig:
    """Gemma 3 with 4 billion parameters."""
    text = tf.Gemma3TextConfig(
        vocab_size=262_208,
        hidden_size=2560,
        intermediate_size=10_240,
        num_hidden_layers=34,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
        sliding_window=1024,
        max_position_embeddings=131_072,
    )
    vision = tf.SiglipVisionConfig(**_SO400M, image_size=896, vision_use_head=False)
    return tf.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=256)


def blip2() -> PreTrainedConfig:
    """BLIP-2 with OPT 2.7B; tower and Q-Former have the sizes of transformers' own configuration."""
    text = tf.OPTConfig(
        vocab_size=50_304,
        hidden_size=2560,
        ffn_dim=10_240,
        num_hidden_layers=32,
        num_attention_heads=32,
        word_embed_proj_dim=2560,
        max_position_embeddings=2048,
    )
    return tf.Blip2Config(text_config=text, image_token_index=50_265)


def instructblip() -> PreTrainedConfig:
    """InstructBLIP with Vicuna 7B; tower and Q-Former have the sizes of transformers' own configuration."""
    text = tf.LlamaConfig(vocab_size=32_001, max_position_embeddings=2048)
    former = tf.InstructBlipQFormerConfig(vocab_size=30_523)
    return tf.InstructBlipConfig(text_config=text, qformer_config=former, image_token_index=32_000)


def smolvlm2() -> PreTrainedConfig:
    """SmolVLM2 with SmolLM2 1.7B."""
    text = tf.LlamaConfig(
        vocab_size=49_280,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=24,
        num_attention_heads=32,
        max_position_embeddings=8192,
    )
    vision = tf.SmolVLMVisionConfig(**_SO400M, image_size=384)
    return tf.SmolVLMConfig(
        vision_config=vision, text_config=text, scale_factor=3, image_token_id=49_190, pad_token_id=2
    )


def internvl3() -> PreTrainedConfig:
    """InternVL3 with Qwen2.5 7B; the tower has the sizes of transformers' own configuration."""
    text = tf.Qwen2Config(
        vocab_size=151_674,
        hidden_size=3584,
        intermediate_size=18_944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=32_768,
    )
    return tf.InternVLConfig(
        vision_config=tf.InternVLVisionConfig(attention_bias=True),
        text_config=text,
        tie_word_embeddings=False,
    )


def janus_pro() -> PreTrainedConfig:
    """Janus-Pro 1B; tower and image decoder have the sizes of transformers' own configuration."""
    text = tf.LlamaConfig(
        vocab_size=102_400,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=24,
        num_attention_heads=16,
        max_position_embeddings=16_384,
    )
    return tf.JanusConfig(text_config=text, tie_word_embeddings=False)


def aya_vision() -> PreTrainedConfig:
    """Aya Vision 8B."""
    text = tf.Cohere2Config(
        vocab_size=256_000,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        sliding_window=4096,
        max_position_embeddings=8192,
    )
    vision = tf.SiglipVisionConfig(**_SO400M, image_size=364, vision_use_head=False)
    return tf.AyaVisionConfig(
        vision_config=vision, text_config=text, alignment_intermediate_size=28_672, downsample_factor=2
    )


def mistral_small() -> PreTrainedConfig:
    """Mistral Small 3.1 24B."""
    text = tf.MistralConfig(
        vocab_size=131_072,
        hidden_size=5120,
        intermediate_size=32_768,
        num_hidden_layers=40,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        sliding_window=None,
        max_position_embeddings=131_072,
    )
    vision = tf.PixtralVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        head_dim=64,
        image_size=1540,
        patch_size=14,
    )
    return tf.Mistral3Config(
        vision_config=vision, text_config=text, spatial_merge_size=2, tie_word_embeddings=False
    )


def got_ocr2() -> PreTrainedConfig:
    """GOT-OCR 2.0; the tower has the sizes of transformers' own configuration."""
    text = tf.Qwen2Config(
        vocab_size=151_860,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=16,
        max_position_embeddings=32_768,
    )
    return tf.GotOcr2Config(text_config=text)


# Name on the hub -> how it is called, its configuration, and the side of a view that it has to be told.
MODELS: dict[str, tuple[str, Callable[[], PreTrainedConfig], int | None]] = {
    "llava-hf/llava-1.5-7b-hf": ("LLaVA-1.5 7B", llava_7b, None),
    "llava-hf/llava-1.5-13b-hf": ("LLaVA-1.5 13B", llava_13b, None),
    "google/paligemma-3b-mix-224": ("PaliGemma 3B", paligemma, None),
    "google/gemma-3-4b-it": ("Gemma 3 4B", gemma3, None),
    "Salesforce/blip2-opt-2.7b": ("BLIP-2 OPT 2.7B", blip2, None),
    "Salesforce/instructblip-vicuna-7b": ("InstructBLIP 7B", instructblip, None),
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": ("SmolVLM2 2.2B", smolvlm2, None),
    "OpenGVLab/InternVL3-8B-hf": ("InternVL3 8B", internvl3, None),
    "deepseek-community/Janus-Pro-1B": ("Janus-Pro 1B", janus_pro, None),
    "CohereLabs/aya-vision-8b": ("Aya Vision 8B", aya_vision, None),
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503": ("Mistral Small 3.1", mistral_small, 448),
    "stepfun-ai/GOT-OCR-2.0-hf": ("GOT-OCR 2.0", got_ocr2, None),
}


def count(name: str) -> dict[str, tables.Value]:
    """Return a model's row of the table."""
    title, configuration, tile_size = MODELS[name]
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(configuration())
    costs = raising_costs(model, GRID, RANK, TEXT_TOKENS, tile_size)
    return {"model": title, "name": name, **as_row(costs)}


def as_row(costs: RaisingCosts) -> dict[str, tables.Value]:
    """Return what was counted as plain numbers: operations, bytes, parameters and tokens."""
    base, raised = costs.base, costs.raised
    return {
        "tile size": costs.tile_size,
        "tokens per view": costs.tokens_per_view,
        "visual tokens": raised.visual_tokens,
        "text tokens": costs.text_tokens,
        "positions": costs.positions,
        "parameters": costs.parameters,
        "adapter parameters": costs.adapter_parameters,
        "base tower": base.tower,
        "base connector": base.connector,
        "base language model": base.language_model,
        "raised tower": raised.tower,
        "raised adapters": raised.adapters,
        "raised connector": raised.connector,
        "raised language model": raised.language_model,
        "weight bytes": costs.weight_bytes,
        "base cache bytes": base.cache_bytes,
        "raised cache bytes": raised.cache_bytes,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table of the guide in Markdown."""
    heads = [
        "model",
        "view, pixels",
        "visual tokens: 1 view",
        "2x2",
        "positions",
        "TFLOPs: 1 view",
        "2x2",
        "ratio",
        "of that in the tower",
        "adapters, M",
        "weights, GB",
        "keys and values, MB: 1 view",
        "2x2",
    ]
    lines = [_line(heads), _line(["---", *["---:"] * (len(heads) - 1)])]
    for row in rows:
        base = sum(row[f"base {part}"] for part in ("tower", "connector", "language model"))
        parts = ("tower", "adapters", "connector", "language model")
        raised = sum(row[f"raised {part}"] for part in parts)
        in_tower = row["raised tower"] + row["raised adapters"]
        cells = [
            f"[{row['model']}](https://huggingface.co/{row['name']})",
            row["tile size"],
            row["tokens per view"],
            f"{row['visual tokens']:,}",
            f"{row['positions']:,}",
            f"{base / 1e12:.2f}",
            f"{raised / 1e12:.2f}",
            f"{raised / base:.1f}",
            f"{in_tower / raised:.0%}".replace("%", " %"),
            f"{row['adapter parameters'] / 1e6:.1f}",
            f"{row['weight bytes'] / 1e9:.1f}",
            f"{row['base cache bytes'] / 1e6:.0f}",
            f"{row['raised cache bytes'] / 1e6:.0f}",
        ]
        lines.append(_line([str(cell) for cell in cells]))
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def fill_page(page: str, results: Path) -> str:
    """Return the page with the table of the results between its marks, and what it lacks."""
    rows = tables.read_csv(results)
    text = table(rows)
    counted = {row["name"] for row in rows}
    if missing := [title for name, (title, *_) in MODELS.items() if name not in counted]:
        text += f"\n\nNot counted yet: {', '.join(missing)}."

    before, rest = page.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n\n{text}\n\n{END}{after}"


def main() -> None:
    """Count all models, or one anew beside the others' earlier rows, and write results and page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=MODELS, metavar="NAME", help="name on the hub of one model")
    only = parser.parse_args().only

    earlier = {row["name"]: row for row in tables.read_csv(RESULTS)} if RESULTS.is_file() else {}
    for name in [only] if only else MODELS:
        earlier[name] = count(name)
        print(earlier[name], flush=True)
        # Written after each model, so that a stopped run leaves those that are finished.
        tables.write_csv([earlier[other] for other in MODELS if other in earlier], RESULTS)

    with resources.atomic_write(PAGE) as temporary:
        temporary.write_text(fill_page(PAGE.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")


if __name__ == "__main__":
    main()
