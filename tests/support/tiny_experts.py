"""Folders of tiny random weights of the experts' true architectures, as the hub would give them."""

import dataclasses
import json
import string
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertTokenizerFast,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2Processor,
    BlipImageProcessorPil,
    CLIPImageProcessorPil,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    PreTrainedTokenizerFast,
    SamConfig,
    SamImageProcessorPil,
    SamModel,
)

from monkeylib import assets
from monkeylib.captions.experts.grit.expert import CHECKPOINTS, VOCABULARY, GritRegions
from tests.support import grit_goldens
from tests.support.weights import numpy_numbers, say_visible_tokens_alone

SIDE = 28  # pixels that BLIP-2 sees, in patches of 14
QUERIES = 4
TEXT = ["a cat on a mat", "two dogs and a red bus", "a man holds a cup of tea", "the sign says stop\n"]

VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 14,
    "initializer_range": 0.02,
}
QFORMER = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def louder(model: torch.nn.Module, factor: float = 4.0) -> torch.nn.Module:
    """Weights so large that inputs matter: random ones of the usual size answer everything alike."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(factor)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))

    return model.eval()


def byte_pairs(special: list[str], size: int = 320, **tokens: str) -> PreTrainedTokenizerFast:
    """A tokenizer of the kind of GPT-2's and OPT's, for small letters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = ["Ġ", "Ċ", *string.ascii_lowercase]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens)


def blip2(root: Path, seed: int = 0) -> Path:
    """`root/blip2-opt-2.7b`: captions, with OPT as the language model."""
    tokenizer = byte_pairs(["<s>", "<pad>", "</s>"], bos_token="</s>", eos_token="</s>", pad_token="<pad>")
    processor = Blip2Processor(
        BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}), tokenizer, num_query_tokens=QUERIES
    )
    language = {
        "model_type": "opt",
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "bos_token_id": 2,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
    config = Blip2Config(
        vision_config=VISION,
        qformer_config=QFORMER,
        text_config=language,
        num_query_tokens=QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    with numpy_numbers(seed), torch.no_grad():
        model = louder(Blip2ForConditionalGeneration(config))
        model.query_tokens.normal_()
    say_visible_tokens_alone(model, tokenizer)  # or a caption could end before it begins

    return _save(root / "blip2-opt-2.7b", model, processor)


def blip2_itm(root: Path, placeholders: bool = True, seed: int = 0) -> Path:
    """`root/blip2-itm-vit-g`: the matching head, saved with or without placeholders for the queries."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    words = BertTokenizerFast(tokenizer_object=tokenizer, vocab=tokenizer.get_vocab())
    processor = Blip2Processor(
        BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}),
        words,
        num_query_tokens=QUERIES if placeholders else None,
    )
    config = Blip2Config(
        vision_config=VISION,
        qformer_config={**QFORMER, "vocab_size": len(words), "use_qformer_text_input": True},
        num_query_tokens=QUERIES,
        image_text_hidden_size=16,
        image_token_index=words.convert_tokens_to_ids("<image>") if placeholders else None,
    )
    with numpy_numbers(seed), torch.no_grad():
        model = louder(Blip2ForImageTextRetrieval(config))
        model.query_tokens.normal_()
    return _save(root / "blip2-itm-vit-g", model, processor)


def sam(root: Path, seed: int = 0) -> Path:
    """`root/sam-vit-huge`: an image encoder, prompt encoder and mask decoder for 64 x 64 pixels."""
    side = {"height": 64, "width": 64}
    config = SamConfig(
        vision_config={
            "hidden_size": 24, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 64, "patch_size": 8, "window_size": 3, "global_attn_indexes": [1],
            "num_pos_feats": 16, "initializer_range": 0.02,
        },
        prompt_encoder_config={
            "hidden_size": 32, "image_size": 64, "patch_size": 8, "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 32, "mlp_dim": 24, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    processor = SamImageProcessorPil(
        size={"longest_edge": 64}, pad_size=side, mask_size={"longest_edge": 16},
        mask_pad_size={"height": 16, "width": 16},
    )  # fmt: skip
    with numpy_numbers(seed):
        model = louder(SamModel(config))
    _decide_masks(model, processor)
    return _save(root / "sam-vit-huge", model, processor)


@torch.no_grad()
def _decide_masks(model: SamModel, processor: SamImageProcessorPil) -> None:
    """Make SAM's masks smooth and decided, each with pixels inside and outside, whatever the weights.

    About half of the predicted IoUs pass the threshold of 0.88.
    """
    decoder = model.mask_decoder
    for conv in (decoder.upscale_conv1, decoder.upscale_conv2):
        conv.weight.copy_(conv.weight.mean(dim=(2, 3), keepdim=True).expand_as(conv.weight))

    features, ious = [], []
    hooks = (
        decoder.upscale_conv2.register_forward_hook(lambda module, _, output: features.append(output)),
        decoder.iou_prediction_head.register_forward_hook(lambda module, _, output: ious.append(output)),
    )
    points = torch.tensor([[[[x, y]] for x in (8.0, 32.0, 56.0) for y in (8.0, 32.0, 56.0)]])
    for image in IMAGES:
        model(processor(images=image, return_tensors="pt").pixel_values, input_points=points)
    for hook in hooks:
        hook.remove()

    # A mask's logits are products with the features; across their mean, they have both signs.
    mean = torch.nn.functional.gelu(torch.cat(features)).mean(dim=(0, 2, 3))
    for mlp in decoder.output_hypernetworks_mlps:
        weight = mlp.proj_out.weight
        weight.sub_(torch.outer(mean, mean @ weight) / mean.dot(mean)).mul_(10_000_000)
        mlp.proj_out.bias.zero_()

    predicted = torch.cat(ious).flatten(0, 1)
    scale = 0.05 / predicted.std(dim=0)
    head = decoder.iou_prediction_head.proj_out
    head.weight.mul_(scale[:, None])
    head.bias.sub_(predicted.median(dim=0).values).mul_(scale).add_(0.88)


def florence2(root: Path, images: list[Image.Image], answers: list[str], steps: int = 600) -> Path:
    """`root/Florence-2-large-ft`, trained for seconds to give these answers about these images.

    Random weights name no places, so there would be nothing to read from what they write.
    """
    side, locations = 32, [f"<loc_{i}>" for i in range(1000)]
    special = ["<s>", "<pad>", "</s>", "<unk>", "<image>", *locations]
    tokenizer = byte_pairs(
        special, len(special) + 60, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    image_processor = CLIPImageProcessorPil(
        size={"height": side, "width": side}, do_center_crop=False, image_seq_length=1 + (side // 8) ** 2
    )
    processor = Florence2Processor(
        image_processor, tokenizer, post_processor_config={"description_with_bboxes": {}, "pure_text": {}}
    )
    width, heads = 32, {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = Florence2Config(
        vision_config={
            "depths": [1, 1], "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1],
            "patch_prenorm": [False, True], "embed_dim": [8, 16], "num_heads": [2, 2], "num_groups": [2, 2],
            "window_size": 4, "projection_dim": width, "drop_path_rate": 0.0,
        },
        text_config={
            "model_type": "bart", "vocab_size": len(tokenizer), "d_model": width, "encoder_layers": 1,
            "decoder_layers": 1, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "dropout": 0.0, **heads,
            "max_position_embeddings": 1100, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2,
            "decoder_start_token_id": 2, "forced_bos_token_id": 0, "forced_eos_token_id": 2,
        },
        image_token_id=tokenizer.image_token_id,
    )  # fmt: skip
    with numpy_numbers():
        model = Florence2ForConditionalGeneration(config).train()
    model.generation_config.update(num_beams=3, early_stopping=True)  # or beams go on without end
    prompts = ["<DENSE_REGION_CAPTION>"] * len(images)
    inputs = processor(text=prompts, images=images, return_tensors="pt")
    wanted = [f"<s>{answer}</s>" for answer in answers]
    labels = tokenizer(wanted, add_special_tokens=False, padding=True, return_tensors="pt").input_ids
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        logits = model(**inputs, labels=labels).logits
        losses = torch.nn.functional.cross_entropy(logits[labels != 1], labels[labels != 1], reduction="none")
        if losses.max() < 0.03:  # or a beam search could prefer something else
            break
        losses.mean().backward()
        optimizer.step()

    return _save(root / "Florence-2-large-ft", model.eval(), processor)


def grit(root: Path) -> Path:
    """`root/grit_b_densecap.pth`: the small GRiT of the goldens, with as many words as it has ids."""
    words = ["[PAD]", *(f"▁word{i}" if i % 7 else f"piece{i}" for i in range(1, 512))]
    words[100:104] = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (root / "vocab.json").write_text(json.dumps(words), encoding="utf-8")

    tensors = {key: tensor.float() for key, tensor in grit_goldens.weights().items()}
    torch.save({"model": tensors, "iteration": 9}, root / CHECKPOINTS[0])
    return root / CHECKPOINTS[0]


def use_tiny_grit(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Let the expert find the sizes and the vocabulary of `grit`; images become small, and any box counts."""
    config = dataclasses.replace(
        grit_goldens.CONFIG, short_side=96, long_side=160, score_threshold=0.02, detections=3
    )
    monkeypatch.setattr(GritRegions, "config", config)

    fetch = assets.fetch
    monkeypatch.setattr(
        assets, "fetch", lambda name: root / "vocab.json" if name == VOCABULARY else fetch(name)
    )


def squares(width: int, height: int, *colours: str) -> Image.Image:
    """A black image with a square of each colour along its diagonal."""
    image = Image.new("RGB", (width, height))
    side = min(width, height) // (2 * len(colours))
    for index, colour in enumerate(colours):
        x, y = (int((index + 0.25) * length / len(colours)) for length in (width, height))
        image.paste(colour, (x, y, x + side, y + side))

    return image


def _save(folder: Path, model, processor) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


# Images to annotate, and what the tiny Florence-2 generates for the plain ones.
IMAGES = [squares(80, 60, "red", "white"), squares(40, 70, "blue"), squares(97, 41, "yellow", "red", "cyan")]
PLAIN = [Image.new("RGB", (80, 60), "red"), Image.new("RGB", (40, 70), "blue")]
ANSWERS = [
    "a cat<loc_10><loc_20><loc_400><loc_500>two dogs on a mat<loc_500><loc_20><loc_900><loc_990>"
    "<loc_1><loc_2><loc_30><loc_40>",
    "the sign<loc_0><loc_0><loc_999><loc_999>",
]


def assert_same_captions(first, second):
    """Check for equal texts in equal order, and scores as close as batches of another size leave them."""
    assert [text for text, _ in first] == [text for text, _ in second]
    np.testing.assert_allclose([score for _, score in first], [score for _, score in second], rtol=1e-4)
