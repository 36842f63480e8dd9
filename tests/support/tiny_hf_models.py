"""Tiny LLaVA and Qwen2-VL with random weights, written to disk with their processors."""

from pathlib import Path

from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from tests.support.weights import numpy_numbers

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
_TURN = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def _with(tokenizer: PreTrainedTokenizerFast, *tokens: str) -> PreTrainedTokenizerFast:
    """A copy of a tokenizer with more special tokens."""
    copy = PreTrainedTokenizerFast(
        tokenizer_object=type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str()),
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        unk_token=tokenizer.unk_token,
        clean_up_tokenization_spaces=False,
    )
    copy.add_special_tokens({"additional_special_tokens": list(tokens)})
    return copy


def llava(tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    """LLaVA with a ViT of four patches."""
    words = _with(tokenizer, "<image>")
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=28
    )
    vision.patch_size = 14
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(vocab_size=len(words), eos_token_id=words.eos_token_id, **TEXT),
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    with numpy_numbers():
        LlavaForConditionalGeneration(config).save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    LlavaProcessor(
        images,
        words,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_TURN.replace("IMAGE", "<image>"),
    ).save_pretrained(folder)
    return folder


def qwen2_vl(tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    """Qwen2-VL, whose images have as many tokens as they are large."""
    marks = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>")
    words = _with(tokenizer, *marks)
    start, image, end, video = words.convert_tokens_to_ids(list(marks))
    config = Qwen2VLConfig(
        vision_config={"depth": 2, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 2, "hidden_size": 32},
        text_config={
            **TEXT,
            "vocab_size": len(words),
            "eos_token_id": words.eos_token_id,
            "bos_token_id": words.eos_token_id,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4},
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    with numpy_numbers():
        Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 84 * 84})
    template = _TURN.replace("IMAGE", "".join(marks[:3]))
    images.save_pretrained(folder)  # the processor as a whole would need torchvision, for videos
    words.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder
