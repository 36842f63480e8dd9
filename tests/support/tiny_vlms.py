"""Tiny vision-language models of transformers with random weights, and their processors: a function a family.

Texts are read by characters. All weights are drawn wide, so that everything has an effect.
"""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple
from unittest import mock

import torch
import transformers as tf
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 14,
    "image_size": 28,
}
THREE_LAYERS = {**VISION, "num_hidden_layers": 3}
CHARACTERS = "abcdefghijklmnopqrstuvwxyz ?\n:"


class TinyVLM(NamedTuple):
    """A tiny model and its processor.

    Fields:
        model, processor: of one family.
        marker: of an image in a prompt.
        tile_size: that it has to be told.
        nests_images: whether the processor takes the images of several prompts only as one list a prompt.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    marker: str = "<image>"
    tile_size: int | None = None
    nests_images: bool = False

    def prompt(self, text: str = "ab") -> str:
        """Return a prompt about one image."""
        return f"{self.marker}{text}"


def words(*tokens: str, **named: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of characters and of these special tokens, some of which are attributes of it."""
    special = ["<s>", "</s>", "<pad>", "<unk>", *tokens, *named.values()]
    ids = {token: number for number, token in enumerate([*dict.fromkeys(special), *CHARACTERS])}
    characters = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    characters.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=characters,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=named,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(dict.fromkeys(special[4:]))})
    return tokenizer


def text_config(kind: type, tokenizer: PreTrainedTokenizerFast, **sizes: Any) -> Any:
    """Return the configuration of a tiny language model."""
    return kind(
        **{**TEXT, **sizes},
        vocab_size=len(tokenizer) + 8,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )


def widen(model: PreTrainedModel) -> PreTrainedModel:
    """Draw all weights anew, so wide that each has an effect, and none overflows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                fan_in = parameter[0].numel() if not name.endswith("embed_tokens.weight") else 4
                parameter.normal_(std=fan_in**-0.5, generator=generator)
            elif "norm" not in name.lower() and "scale" not in name.lower():
                parameter.normal_(std=0.1, generator=generator)
    return model.eval()


def build(family: str) -> TinyVLM:
    """Build the tiny model of a family."""
    torch.manual_seed(0)
    model, *others = FAMILIES[family]()
    # torch multiplies by other kernels where weights may get a gradient, which shows in the last bit.
    return TinyVLM(widen(model).requires_grad_(False), *others)


def clip_images(side: int = 28) -> Any:
    """Return CLIP's image processor for views of this side."""
    return tf.CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def square(kind: Any, side: int = 28, **options: Any) -> Any:
    """Return an image processor that resizes to a square."""
    return kind(size={"height": side, "width": side}, **options)


def _llava(vision: Any, images: Any, class_tokens: int) -> tuple:
    tokenizer = words("<image>")
    config = tf.LlavaConfig(
        vision_config=vision,
        text_config=text_config(tf.LlamaConfig, tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="default" if class_tokens else "full",
        vision_feature_layer=-2,
    )
    processor = tf.LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=class_tokens,
    )
    return tf.LlavaForConditionalGeneration(config), processor


def llava_clip() -> tuple:
    """LLaVA with CLIP's tower."""
    return _llava(tf.CLIPVisionConfig(**THREE_LAYERS, intermediate_size=48), clip_images(), 1)


def llava_siglip() -> tuple:
    """LLaVA with SigLIP's tower."""
    vision = tf.SiglipVisionConfig(**THREE_LAYERS, intermediate_size=48)
    return _llava(vision, square(tf.SiglipImageProcessorPil), 0)


def llava_dinov2() -> tuple:
    """LLaVA with DINOv2's tower."""
    vision = tf.Dinov2Config(**THREE_LAYERS, mlp_ratio=2)
    return _llava(vision, clip_images(), 1)


def vipllava() -> tuple:
    """VipLLaVA, which reads several layers of the tower."""
    tokenizer = words("<image>")
    config = tf.VipLlavaConfig(
        vision_config=tf.CLIPVisionConfig(**THREE_LAYERS, intermediate_size=48),
        text_config=text_config(tf.LlamaConfig, tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layers=(-2, -3),
        vision_feature_layer=(-2, -3),
    )
    processor = tf.LlavaProcessor(
        clip_images(),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return tf.VipLlavaForConditionalGeneration(config), processor


def paligemma() -> tuple:
    """PaliGemma."""
    tokenizer = words("<image>", image_token="<image>")
    images = square(tf.SiglipImageProcessorPil)
    images.image_seq_length = 4
    processor = tf.PaliGemmaProcessor(images, tokenizer)
    config = tf.PaliGemmaConfig(
        vision_config=tf.SiglipVisionConfig(
            **VISION, intermediate_size=48, projection_dim=32, vision_use_head=False
        ),
        text_config=text_config(tf.GemmaConfig, tokenizer, head_dim=16),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
    )
    return tf.PaliGemmaForConditionalGeneration(config), processor


def gemma3() -> tuple:
    """Gemma 3."""
    tokenizer = words(boi_token="<boi>", eoi_token="<eoi>", image_token="<soft>")
    processor = tf.Gemma3Processor(square(tf.Gemma3ImageProcessorPil), tokenizer, image_seq_length=4)
    config = tf.Gemma3Config(
        vision_config=tf.SiglipVisionConfig(**VISION, intermediate_size=48),
        text_config=text_config(tf.Gemma3TextConfig, tokenizer, head_dim=16, sliding_window=256),
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.convert_tokens_to_ids("<boi>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<eoi>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<soft>"),
    )
    return tf.Gemma3ForConditionalGeneration(config), processor, "<boi>", None, True


def _qformer(kind: Any, vision: Any, former: Any, model: Any, tokenizer: PreTrainedTokenizerFast) -> Any:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = kind(
        vision_config=vision(**{**VISION, "intermediate_size": 48}, initializer_range=0.1),
        qformer_config=former(
            **sizes, encoder_hidden_size=32, vocab_size=len(tokenizer) + 8, cross_attention_frequency=1
        ),
        text_config=tf.OPTConfig(
            hidden_size=32,
            ffn_dim=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            vocab_size=len(tokenizer) + 8,
            max_position_embeddings=512,
            word_embed_proj_dim=32,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        ),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return model(config)


def blip2() -> tuple:
    """BLIP-2."""
    tokenizer = words("<image>")
    processor = tf.Blip2Processor(square(tf.BlipImageProcessorPil), tokenizer, num_query_tokens=4)
    model = _qformer(
        tf.Blip2Config,
        tf.Blip2VisionConfig,
        tf.Blip2QFormerConfig,
        tf.Blip2ForConditionalGeneration,
        tokenizer=tokenizer,
    )
    return model, processor, ""


def instructblip() -> tuple:
    """InstructBLIP, whose Q-Former reads the question too."""
    tokenizer = words("<image>")
    processor = tf.InstructBlipProcessor(
        square(tf.BlipImageProcessorPil), tokenizer, words("<image>"), num_query_tokens=4
    )
    model = _qformer(
        tf.InstructBlipConfig,
        tf.InstructBlipVisionConfig,
        tf.InstructBlipQFormerConfig,
        tf.InstructBlipForConditionalGeneration,
        tokenizer=tokenizer,
    )
    return model, processor, ""


def idefics2() -> tuple:
    """Idefics2."""
    tokenizer = words("<fake_token_around_image>", "<image>", "<end_of_utterance>")
    images = tf.Idefics2ImageProcessorPil(
        size={"shortest_edge": 28, "longest_edge": 28}, do_image_splitting=False
    )
    processor = tf.Idefics2Processor(images, tokenizer, image_seq_len=4)
    config = tf.Idefics2Config(
        vision_config={**VISION, "intermediate_size": 48},
        perceiver_config={
            "hidden_size": 32,
            "resampler_n_latents": 4,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 16,
            "num_key_value_heads": 2,
        },
        text_config=text_config(tf.MistralConfig, tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return tf.Idefics2ForConditionalGeneration(config), processor


def _idefics3_tokens() -> PreTrainedTokenizerFast:
    places = [f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7)]
    return words("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *places)


def idefics3() -> tuple:
    """Idefics3."""
    tokenizer = _idefics3_tokens()
    images = tf.Idefics3ImageProcessorPil(size={"longest_edge": 28}, max_image_size={"longest_edge": 28})
    processor = tf.Idefics3Processor(images, tokenizer, image_seq_len=4)
    config = tf.Idefics3Config(
        vision_config={**VISION, "patch_size": 7, "intermediate_size": 48},
        text_config=text_config(tf.LlamaConfig, tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    return tf.Idefics3ForConditionalGeneration(config), processor


def without_videos(kind: type) -> type:
    """Return a class of processors that takes None for its video processor, which needs torchvision."""

    class ImageOnly(kind):
        def check_argument_for_proper_class(self, argument_name: str, argument: object) -> object:
            if argument_name == "video_processor":
                return type(argument)
            return super().check_argument_for_proper_class(argument_name, argument)

    ImageOnly.__name__ = kind.__name__
    return ImageOnly


def smolvlm() -> tuple:
    """SmolVLM."""
    from transformers.models.smolvlm import processing_smolvlm

    tokenizer = _idefics3_tokens()
    config = tf.SmolVLMConfig(
        vision_config={**VISION, "patch_size": 7, "intermediate_size": 48},
        text_config=text_config(tf.LlamaConfig, tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    images = tf.SmolVLMImageProcessorPil(size={"longest_edge": 28}, max_image_size={"longest_edge": 28})
    # num2words spells the times of videos.
    with mock.patch.object(processing_smolvlm, "num2words", str, create=True):
        processor = without_videos(processing_smolvlm.SmolVLMProcessor)(
            images, tokenizer, None, image_seq_len=4
        )
    return tf.SmolVLMForConditionalGeneration(config), processor, "<image>", None, True


def internvl() -> tuple:
    """InternVL."""
    from transformers.models.internvl.processing_internvl import InternVLProcessor

    tokenizer = words(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    config = tf.InternVLConfig(
        vision_config=tf.InternVLVisionConfig(
            **{**VISION, "patch_size": (7, 7), "image_size": (28, 28)}, intermediate_size=48
        ),
        text_config=text_config(tf.Qwen2Config, tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    images = square(tf.GotOcr2ImageProcessorPil)
    processor = without_videos(InternVLProcessor)(images, tokenizer, None, image_seq_length=4)
    return tf.InternVLForConditionalGeneration(config), processor, "<IMG_CONTEXT>"


def janus() -> tuple:
    """Janus."""
    tokenizer = words(boi_token="<boi>", eoi_token="<eoi>", image_token="<image>")
    images = tf.JanusImageProcessorPil(size={"height": 28, "width": 28}, min_size=4)
    processor = tf.JanusProcessor(images, tokenizer, num_image_tokens=4)
    config = tf.JanusConfig(
        vision_config=tf.JanusVisionConfig(**VISION, mlp_ratio=2.0, projection_dim=32, num_image_tokens=4),
        vq_config=tf.JanusVQVAEConfig(
            embed_dim=8,
            num_embeddings=16,
            latent_channels=8,
            base_channels=32,
            channel_multiplier=[1, 1],
            num_res_blocks=1,
            num_patches=4,
            projection_dim=32,
            image_token_embed_dim=32,
            num_hidden_layers=1,
        ),
        text_config=text_config(tf.LlamaConfig, tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return tf.JanusForConditionalGeneration(config), processor


def kosmos2() -> tuple:
    """Kosmos-2."""
    tokenizer = words("<image>", "</image>", "<phrase>", "</phrase>", "<object>", "</object>")
    processor = tf.Kosmos2Processor(clip_images(), tokenizer, num_patch_index_tokens=4)
    config = tf.Kosmos2Config(
        text_config={
            "vocab_size": len(tokenizer) + 80,
            "embed_dim": 32,
            "layers": 2,
            "ffn_dim": 48,
            "attention_heads": 2,
            "max_position_embeddings": 1024,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "pad_token_id": 2,
            "bos_token_id": 0,
            "eos_token_id": 1,
        },
        vision_config={**VISION, "intermediate_size": 48},
        latent_query_num=64,
    )
    return tf.Kosmos2ForConditionalGeneration(config), processor, ""


def aya_vision() -> tuple:
    """Aya Vision."""
    tokenizer = words(
        "<image>",
        "<|START_OF_IMG|>",
        "<|END_OF_IMG|>",
        "<|IMG_PATCH|>",
        "<|IMG_LINE_BREAK|>",
        "TILE",
        "TILE_GLOBAL",
    )
    processor = tf.AyaVisionProcessor(
        square(tf.GotOcr2ImageProcessorPil), tokenizer, patch_size=14, img_size=28, downsample_factor=1
    )
    config = tf.AyaVisionConfig(
        vision_config=tf.SiglipVisionConfig(**{**VISION, "patch_size": 7}, intermediate_size=48),
        text_config=text_config(tf.Cohere2Config, tokenizer, head_dim=16, sliding_window=256),
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
        downsample_factor=2,
        alignment_intermediate_size=64,
    )
    return tf.AyaVisionForConditionalGeneration(config), processor


def cohere2_vision() -> tuple:
    """Cohere2 Vision, with InternVL's image processor in place of its own, which needs torchvision."""
    tokenizer = words(
        boi_token="<boi>", eoi_token="<eoi>", image_token="<image>", img_line_break_token="<line>"
    )
    config = tf.Cohere2VisionConfig(
        vision_config=tf.SiglipVisionConfig(**{**VISION, "patch_size": 7}, intermediate_size=48),
        text_config=text_config(tf.Cohere2Config, tokenizer, head_dim=16, sliding_window=256),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        alignment_intermediate_size=64,
    )
    images = square(tf.GotOcr2ImageProcessorPil)
    images.patch_size = 2
    return tf.Cohere2VisionForConditionalGeneration(config), tf.Cohere2VisionProcessor(images, tokenizer)


def deepseek_vl() -> tuple:
    """DeepSeek-VL."""
    tokenizer = words(image_token="<image>")
    images = tf.DeepseekVLImageProcessorPil(size={"height": 28, "width": 28}, min_size=4)
    processor = tf.DeepseekVLProcessor(images, tokenizer, num_image_tokens=4)
    config = tf.DeepseekVLConfig(
        vision_config=tf.SiglipVisionConfig(**VISION, intermediate_size=48),
        text_config=text_config(tf.LlamaConfig, tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return tf.DeepseekVLForConditionalGeneration(config), processor


def ovis2() -> tuple:
    """Ovis2."""
    indicators = ["<IMG_START>", "<IMG_END>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>"]
    tokenizer = words("<image>", "<IMG_ATOM>", *indicators)
    processor = tf.Ovis2Processor(square(tf.Ovis2ImageProcessorPil), tokenizer, image_seq_length=4)
    config = tf.Ovis2Config(
        vision_config=tf.Ovis2VisionConfig(**VISION, intermediate_size=48, vocab_size=32),
        text_config=text_config(tf.Qwen2Config, tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=tokenizer.convert_tokens_to_ids(indicators),
        vocab_size=len(tokenizer) + 8,
        hidden_size=32,
    )
    return tf.Ovis2ForConditionalGeneration(config), processor


def mistral3() -> tuple:
    """Mistral 3, whose Pixtral tower reads views of any size."""
    tokenizer = words("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    config = tf.Mistral3Config(
        vision_config=tf.PixtralVisionConfig(
            **{**VISION, "image_size": 56}, intermediate_size=48, head_dim=16
        ),
        text_config=text_config(tf.MistralConfig, tokenizer, head_dim=16),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=1,
    )
    from transformers.models.pixtral import image_processing_pil_pixtral

    # The module of the processor imports one function of a module that needs torchvision.
    name = "transformers.models.pixtral.image_processing_pixtral"
    with mock.patch.dict(sys.modules, {name: image_processing_pil_pixtral}):
        from transformers.models.pixtral.processing_pixtral import PixtralProcessor

    images = image_processing_pil_pixtral.PixtralImageProcessorPil(
        size={"longest_edge": 28}, patch_size={"height": 14, "width": 14}
    )
    processor = PixtralProcessor(images, tokenizer, patch_size=14)
    return tf.Mistral3ForConditionalGeneration(config), processor, "[IMG]", 28


def got_ocr2() -> tuple:
    """GOT-OCR2."""
    tokenizer = words("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<imgpad>")
    config = tf.GotOcr2Config(
        vision_config=tf.GotOcr2VisionConfig(
            hidden_size=32,
            output_channels=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=128,
            patch_size=16,
            window_size=4,
            global_attn_indexes=[1],
            mlp_dim=48,
            initializer_range=0.1,
        ),
        text_config=text_config(tf.Qwen2Config, tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<imgpad>"),
        image_seq_length=4,
    )
    processor = tf.GotOcr2Processor(square(tf.GotOcr2ImageProcessorPil, 128), tokenizer)
    processor.num_image_tokens = 4
    return tf.GotOcr2ForConditionalGeneration(config), processor, "<imgpad>"


def florence2() -> tuple:
    """Florence-2, an encoder and a decoder, whose processor writes the marker."""
    tokenizer = words(image_token="<image>")
    # Its encoder learns positions, which padding on the left would shift.
    tokenizer.padding_side = "right"
    images = clip_images(64)
    images.image_seq_length = 5
    processor = tf.Florence2Processor(images, tokenizer)
    config = tf.Florence2Config(
        vision_config=tf.Florence2VisionConfig(
            depths=(1, 1, 1, 1),
            embed_dim=(8, 8, 16, 16),
            num_heads=(2, 2, 2, 2),
            num_groups=(2, 2, 2, 2),
            window_size=4,
            projection_dim=32,
            drop_path_rate=0.0,
        ),
        text_config=tf.BartConfig(
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            max_position_embeddings=512,
            vocab_size=len(tokenizer) + 8,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
            decoder_start_token_id=1,
            forced_eos_token_id=None,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return tf.Florence2ForConditionalGeneration(config), processor, ""


def fast_vlm() -> tuple:
    """FastVLM, whose tower of convolutions has attention in its last stages alone."""
    tokenizer = words("<image>")
    config = tf.FastVlmConfig(
        vision_config=tf.TimmWrapperConfig(
            architecture="fastvit_mci3",
            do_pooling=True,
            global_pool="avg",
            hidden_size=128,
            model_args={"inference_mode": True, "layers": (1, 1, 1, 1, 1), "embed_dims": (8, 8, 16, 32, 64)},
        ),
        text_config=text_config(tf.Qwen2Config, tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    # Its processor is LLaVA's; the stages divide each side by 64.
    processor = tf.LlavaProcessor(
        clip_images(128), tokenizer, patch_size=64, vision_feature_select_strategy="full"
    )
    return tf.FastVlmForConditionalGeneration(config), processor


def perception_lm() -> tuple:
    """PerceptionLM."""
    from transformers.models.perception_lm.processing_perception_lm import PerceptionLMProcessor

    tokenizer = words(image_token="<image>", video_token="<video>")
    vision = {
        "embed_dim": 32,
        "num_heads": 2,
        "depth": 2,
        "img_size": (28, 28),
        "ref_feat_shape": (2, 2),
        "global_pool": "",
        "use_post_transformer_norm": False,
        "init_values": 0.1,
    }
    config = tf.PerceptionLMConfig(
        vision_config=tf.TimmWrapperConfig(
            architecture="vit_pe_core_large_patch14_336", do_pooling=False, model_args=vision
        ),
        text_config=text_config(tf.LlamaConfig, tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
    )
    images = tf.PerceptionLMImageProcessor(tile_size=28)
    processor = without_videos(PerceptionLMProcessor)(
        video_processor=None, image_processor=images, tokenizer=tokenizer, patch_size=14, pooling_ratio=1
    )
    return tf.PerceptionLMForConditionalGeneration(config), processor


# Family -> builder of its model, processor and marker.
FAMILIES: dict[str, Callable[[], tuple]] = {
    function.__name__: function
    for function in (
        llava_clip,
        llava_siglip,
        llava_dinov2,
        vipllava,
        paligemma,
        gemma3,
        blip2,
        instructblip,
        idefics2,
        idefics3,
        smolvlm,
        internvl,
        janus,
        kosmos2,
        aya_vision,
        cohere2_vision,
        deepseek_vl,
        ovis2,
        mistral3,
        got_ocr2,
        florence2,
    )
}

# Families whose needs are among nobody's dependencies -> what must be installed for them.
NEEDS = {"fast_vlm": ("timm", "torchvision"), "perception_lm": ("timm", "torchvision")}
for function in (fast_vlm, perception_lm):
    if all(find_spec(package) for package in NEEDS[function.__name__]):
        FAMILIES[function.__name__] = function
