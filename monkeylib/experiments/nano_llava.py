"""nano-base as a LLaVA of transformers: a base to raise where there is neither network nor a large model.

Its ViT and language model are those of the profile's base checkpoint, and its projector is nano-llava's. It
is a `LlavaForConditionalGeneration` like any other, and gives the answers of the same weights in monkeylib's
own class.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPImageProcessorPil, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from monkeylib import resources
from monkeylib.digests import json_digest, quick_file_digest
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.processing import MonkeyProcessor
from monkeylib.profiles import Profile, build
from monkeylib.progress import hide_transformers_bars

PROJECTOR = "data/models/nano-llava/projector.safetensors"

# Beginning of a name in monkeylib -> in transformers
_PREFIXES = {
    "vision.": "model.vision_tower.encoder.",
    "resampler.": "model.multi_modal_projector.",
    "language_model.model.": "model.language_model.",
    "language_model.lm_head.": "lm_head.",
}

# The tokens of nano-base's training. A text that ends with a colon is a prompt already, any other a question.
_CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {%- for part in message.content -%}
        {%- if part.type == "image" -%}
            {{- "<img><imgpad></img>" -}}
        {%- elif message.role == "user" -%}
            {{- "" if part.text.startswith(" ") else " " -}}
            {{- part.text -}}
            {{- "" if part.text.rstrip().endswith(":") else " Answer: " -}}
        {%- else -%}
            {{- part.text -}}
        {%- endif -%}
    {%- endfor -%}
    {%- if message.role == "assistant" -%}
        {{- "<|endoftext|>" -}}
    {%- endif -%}
{%- endfor -%}
"""


def llava_profile(profile: Profile) -> Profile:
    """Return a profile of one view without LoRA, with a projector of all patches in the resampler's place.

    A profile that starts from random weights (`smoke`) has a random projector, too.
    """
    patches = (profile.tile_size // profile.vision.patch_size) ** 2
    return profile.model_copy(
        update={
            "views": "global",
            "lora": profile.lora.model_copy(update={"mode": "none"}),
            "queries": patches,
            "resampler_heads": None,
            "projector": PROJECTOR if profile.base_checkpoint else None,
        }
    )


def write_base(profile: Profile) -> Path:
    """Write the LLaVA of a profile into a folder of its runs, once, and return the folder.

    Raises:
        FileNotFoundError: the profile's base checkpoint is missing.
    """
    files: list[Path] = []
    if profile.base_checkpoint:
        files = [*sorted(build.base_folder(profile).glob("*.safetensors")), resources.REPOSITORY / PROJECTOR]
    digest = json_digest([_CHAT_TEMPLATE, [quick_file_digest(file) for file in files]])

    # Another base is another folder: a trained model names the one that it was raised from.
    folder = resources.runs(profile.name) / f"nano-llava-{digest[:8]}"
    if not folder.exists():
        model, processor = build_base(profile)
        with resources.create_folder(folder) as new_folder, hide_transformers_bars():
            model.save_pretrained(new_folder)
            processor.save_pretrained(new_folder)
    return folder


def build_base(profile: Profile) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Return the LLaVA of a profile with its processor; where there is no checkpoint, of random weights."""
    changed = llava_profile(profile)
    processor = build.build_processor(changed)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build.build_model(changed, processor)
    return as_llava(model), as_llava_processor(processor, changed.vision.patch_size)


def as_llava(model: MonkeyForConditionalGeneration) -> LlavaForConditionalGeneration:
    """Return a Monkey with a projector as a LLaVA of the same weights.

    Args:
        model: of monkeylib's own ViT, without LoRA.
    """
    config = model.config
    patches = (config.tile_size // config.vision_config.patch_size) ** 2
    llava_config = LlavaConfig(
        vision_config=config.vision_config.to_dict(),
        text_config=config.text_config.to_dict(),
        image_token_index=config.image_token_id,
        image_seq_length=patches,
        projector_hidden_act=config.resampler_config.hidden_act,
        # All patches behind the last block: there is no class token.
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=config.text_config.tie_word_embeddings,
    )
    llava = LlavaForConditionalGeneration(llava_config)

    state = {}
    for name, weight in model.state_dict().items():
        prefix = next(prefix for prefix in _PREFIXES if name.startswith(prefix))
        state[_PREFIXES[prefix] + name.removeprefix(prefix)] = weight
    llava.load_state_dict(state)

    llava.generation_config.eos_token_id = config.text_config.eos_token_id
    llava.generation_config.pad_token_id = config.text_config.pad_token_id
    return llava.eval()


def as_llava_processor(processor: MonkeyProcessor, patch_size: int) -> LlavaProcessor:
    """Return the processor of a Monkey with a projector as that of the LLaVA: one stretched view an image.

    The marker of an image is `<imgpad>`, which stands for each of its visual tokens, too.

    Args:
        processor: of the Monkey.
        patch_size: side of a patch in pixels.
    """
    images = processor.image_processor
    side = {"height": images.tile_size, "width": images.tile_size}
    image_processor = CLIPImageProcessorPil(
        size=side,
        crop_size=side,
        do_center_crop=False,
        image_mean=images.image_mean,
        image_std=images.image_std,
    )
    return LlavaProcessor(
        image_processor,
        processor.tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy="full",
        image_token=processor.image_tokens[-1],
        chat_template=_CHAT_TEMPLATE,
    )
