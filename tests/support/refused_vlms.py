"""Tiny models of transformers, with random weights, of families that have resolutions of their own."""

import transformers as tf
from transformers import AutoModelForImageTextToText, PreTrainedModel, ProcessorMixin

from tests.support.tiny_vlms import TEXT, VISION, text_config, words

PINPOINTS = [[28, 56], [56, 28], [56, 56]]


def llava_next() -> tuple[PreTrainedModel, ProcessorMixin]:
    """LLaVA-NeXT, with its processor."""
    tokenizer = words("<image>")
    config = tf.LlavaNextConfig(
        vision_config=tf.CLIPVisionConfig(**VISION, intermediate_size=48),
        text_config=text_config(tf.LlamaConfig, tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-1,
        image_seq_length=4,
    )
    images = tf.LlavaNextImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=PINPOINTS
    )
    processor = tf.LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return _build(config), processor


def granite4_vision() -> tuple[PreTrainedModel, None]:
    """Granite 4 Vision."""
    tokenizer = words("<image>")
    config = tf.Granite4VisionConfig(
        # Its Q-Former has a head for every 64 numbers.
        vision_config=tf.SiglipVisionConfig(**{**VISION, "hidden_size": 64}, intermediate_size=48),
        text_config=text_config(tf.Granite4VisionTextConfig, tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=PINPOINTS,
        spatial_target_layers=[0, 1],
        deepstack_layer_map=[[-1, 0]],
        downsample_rate="1/2",
    )
    return _build(config), None


def qwen2_5_vl() -> tuple[PreTrainedModel, None]:
    """Qwen2.5-VL, whose processor needs torchvision."""
    tokenizer = words("<image>", "<video>", "<start>", "<end>")
    image, video, start, end = tokenizer.convert_tokens_to_ids(["<image>", "<video>", "<start>", "<end>"])
    config = tf.Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 48,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
        },
        text_config={
            **TEXT,
            "vocab_size": len(tokenizer),
            "bos_token_id": 0,
            "eos_token_id": 1,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4},
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    return _build(config), None


def _build(config: tf.PreTrainedConfig) -> PreTrainedModel:
    return AutoModelForImageTextToText.from_config(config).eval()
