"""Scores of twenty regions of an image by BLIP-2's matcher, against the released way.

The released code opens the file for each region, and gives the matcher one pair of crop and text at a time.
The matcher has BLIP-2's structure at a small size, and random weights: one of true size (1.2 billion weights)
would hide what is done around it.
"""

import io
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch
from pairing import Pair, Row, Settings, close, compare_time
from PIL import Image
from preprocessing import FILES, RELEASED, make_jpeg
from transformers import Blip2Config, Blip2ForImageTextRetrieval, BlipImageProcessorPil

from monkeylib.captions.experts.blip2 import Blip2Matcher, clean
from monkeylib.captions.models import crop
from monkeylib.data.synthetic.tokenizer import build_tokenizer
from monkeylib.images import open_image

REGIONS, SIDE, WIDTH, LAYERS = 20, 224, 128, 2

Box = tuple[float, float, float, float]


def make_boxes(width: int, height: int) -> list[Box]:
    """Return regions of an image, each of 30 % of its width and height."""
    corners = np.random.default_rng(0).uniform(0, 0.7, (REGIONS, 2))
    return [(x * width, y * height, (x + 0.3) * width, (y + 0.3) * height) for x, y in corners]


def image_processor() -> BlipImageProcessorPil:
    """Return what makes the matcher's pixels of a crop."""
    return BlipImageProcessorPil(size={"height": SIDE, "width": SIDE})


def build_matcher() -> Blip2Matcher:
    """Return monkeylib's matcher with a small network of BLIP-2's structure."""
    tokenizer = build_tokenizer()
    tokenizer.padding_side = "right"  # as that of the matcher's BERT
    parts = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": WIDTH // 64,
    }
    torch.manual_seed(0)
    config = Blip2Config(
        vision_config={**parts, "image_size": SIDE, "patch_size": 14},
        qformer_config={
            **parts,
            "encoder_hidden_size": WIDTH,
            "vocab_size": len(tokenizer),
            "use_qformer_text_input": True,
        },
        image_token_index=None,
    )
    network = Blip2ForImageTextRetrieval(config).eval()

    matcher = Blip2Matcher(device="cpu")
    matcher._loaded = (network, SimpleNamespace(image_processor=image_processor(), tokenizer=tokenizer))
    return matcher


def crops(settings: Settings) -> list[Row]:
    """Return the rows of the crops alone, ready for the matcher."""
    prepare = image_processor()
    rows = []
    for size, ((width, height), _) in FILES.items():
        content, boxes = make_jpeg(width, height), make_boxes(width, height)

        def opened_once(content: bytes = content, boxes: Sequence[Box] = tuple(boxes)) -> torch.Tensor:
            image = open_image(content)
            return prepare([crop(image, box) for box in boxes], return_tensors="pt").pixel_values

        def opened_for_each(content: bytes = content, boxes: Sequence[Box] = tuple(boxes)) -> torch.Tensor:
            each = [crop(Image.open(io.BytesIO(content)).convert("RGB"), box) for box in boxes]
            return torch.cat([prepare(one, return_tensors="pt").pixel_values for one in each])

        pair = Pair(opened_once, opened_for_each, torch.equal)
        path = f"crops of {REGIONS} regions for the matcher"
        rows.append(compare_time(path, RELEASED, size, pair, settings, None))
    return rows


def scores(settings: Settings) -> list[Row]:
    """Return the rows of the regions' scores, from the file to the matcher's answers."""
    matcher = build_matcher()
    network, processor = matcher.parts
    texts = [f"A sign with the number {number} on a wall." for number in range(REGIONS)]
    rows = []
    for size, ((width, height), _) in FILES.items():
        content, boxes = make_jpeg(width, height), make_boxes(width, height)

        def together(content: bytes = content, boxes: Sequence[Box] = tuple(boxes)) -> torch.Tensor:
            image = open_image(content)
            return torch.tensor(matcher.match([crop(image, box) for box in boxes], texts))

        @torch.no_grad()
        def one_by_one(content: bytes = content, boxes: Sequence[Box] = tuple(boxes)) -> torch.Tensor:
            answers = []
            for box, text in zip(boxes, texts, strict=True):
                region = crop(Image.open(io.BytesIO(content)).convert("RGB"), box)
                pixels = processor.image_processor(region, return_tensors="pt").pixel_values
                tokens = processor.tokenizer(clean(text), return_tensors="pt")
                output = network(
                    pixel_values=pixels,
                    input_ids=tokens.input_ids,
                    attention_mask=tokens.attention_mask,
                    use_image_text_matching_head=True,
                )
                answers.append(output.logits_per_image.softmax(dim=-1)[0, 1])
            return torch.stack(answers)

        pair = Pair(together, one_by_one, close(1e-4))
        path = f"scores of {REGIONS} regions, with a small matcher"
        rows.append(compare_time(path, RELEASED, size, pair, settings, 4))
    return rows


ROWS = {"region_crops": crops, "region_scores": scores}
