"""Other models in the same runner: any image-text model of transformers, by its folder or its name on a hub.

`load` gives whatever `runner.predict` takes: a Monkey for a checkpoint of ours or of the release, else a
`ChatModel`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import is_torchvision_available

from monkeylib import inference
from monkeylib.checkpoints import released
from monkeylib.evaluation import distributed
from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.prefix_sharing import fingerprint
from monkeylib.inference import Monkey
from monkeylib.model import MonkeyConfig
from monkeylib.processing import open_image
from monkeylib.profiles import build
from monkeylib.prompts import build_prompt

# What chat models are told for a prompt of Monkey's; those that aren't here are asked as Monkey is.
CHAT_PROMPTS: dict[str, str] = {
    "vqa": "{question}\nAnswer the question using a single word or phrase.",
    "vqa_no_blank": "{question}\nAnswer the question using a single word or phrase.",
    "vizwiz": "{question}\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n"
    "Answer the question using a single word or phrase.",
    "choice": "{question}\nAnswer with the option's letter from the given choices directly.",
    "caption": "Describe the image in one sentence.",
    "detailed_caption": "Describe the image in detail.",
}
CHAT_PROMPTS["vizwiz_lower"] = CHAT_PROMPTS["vizwiz"].replace("Unanswerable", "unanswerable")


class ChatModel:
    """Answers examples greedily with an image-text model that has a chat template, a batch at once.

    Fields:
        name: fingerprint of weights, processor and settings.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        max_new_tokens: int = 64,
        prompts: Mapping[str, str] = CHAT_PROMPTS,
    ) -> None:
        if not getattr(processor, "chat_template", None):
            raise ValueError(
                f"{type(processor).__name__} has no chat template, so it is unknown how this model is asked: "
                "put its chat_template.jinja into the folder"
            )
        self.model, self.processor, self.prompts = model.eval(), processor, dict(prompts)
        self.max_new_tokens = max_new_tokens
        processor.tokenizer.padding_side = "left"
        if processor.tokenizer.pad_token is None:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token
        settings = [type(processor).__name__, processor.chat_template, self.prompts, max_new_tokens]
        self.name = fingerprint(model, settings)

    def limited(self, max_new_tokens: int) -> "ChatModel":
        """The same model with another length of an answer at most."""
        return ChatModel(self.model, self.processor, max_new_tokens, self.prompts)

    @torch.no_grad()
    def __call__(self, examples: Sequence[Example]) -> list[str]:
        """One answer for each example of a batch."""
        texts = [
            self.processor.apply_chat_template(self._messages(example), add_generation_prompt=True)
            for example in examples
        ]
        images = [[open_image(example.rendered_image)] for example in examples]
        inputs = self.processor(images=images, text=texts, padding=True, return_tensors="pt")
        inputs = inputs.to(self.model.device, self.model.dtype)
        pad = self.processor.tokenizer.pad_token_id
        output = self.model.generate(
            **inputs, max_new_tokens=self.max_new_tokens, do_sample=False, pad_token_id=pad
        )
        new = output[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.batch_decode(new, skip_special_tokens=True)]

    def _messages(self, example: Example) -> list[dict]:
        """The conversation of one question: its image, then its text."""
        template = self.prompts.get(example.prompt)
        text = (
            build_prompt(example.prompt, example.question)
            if template is None
            else template.replace("{question}", example.question)
        )
        return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]


def is_monkey(name: str | Path) -> bool:
    """Whether that is a folder which `inference.load_model` reads."""
    folder = Path(name)
    if not (folder / "config.json").is_file():
        return (folder / build.TRAINED).is_file()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return released.is_released(folder) or config.get("model_type") == MonkeyConfig.model_type


def load(name: str | Path, max_new_tokens: int = 64, device: str | None = None) -> Monkey | ChatModel:
    """A model to ask, by its folder or its name on a hub.

    Args:
        name: a folder, or a name such as "Qwen/Qwen2-VL-2B-Instruct".
        max_new_tokens: the length of an answer at most; only for models other than Monkey.
        device: where to run; this process's own GPU if there is one.

    Raises:
        FileNotFoundError: neither a folder with a model nor a name that can be fetched.
        ValueError: no image-text model, or one without a chat template.
    """
    device = device or distributed.device()
    folder = Path(name)
    if is_monkey(name):
        return inference.load_model(name, device)
    if folder.exists() or str(name).count("/") != 1:
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"there is no checkpoint at {name}: expected a folder with config.json, or the name of a "
                "model on the hub, such as Qwen/Qwen2-VL-2B-Instruct"
            )
    model = AutoModelForImageTextToText.from_pretrained(name, dtype="auto").to(device)
    return ChatModel(model, load_processor(name), max_new_tokens)


def load_processor(name: str | Path) -> ProcessorMixin:
    """The processor of a model. Without torchvision, which transformers needs for videos, one that reads
    images alone."""
    kind = PROCESSOR_MAPPING.get(type(AutoConfig.from_pretrained(name)), None)
    if is_torchvision_available() or kind is None or "video_processor" not in kind.get_attributes():
        return AutoProcessor.from_pretrained(name)

    class OfPictures(kind):  # accepts that there is nothing for videos
        def check_argument_for_proper_class(self, argument_name: str, argument: object) -> object:
            if argument_name == "video_processor":
                return type(argument)
            return super().check_argument_for_proper_class(argument_name, argument)

    OfPictures.__name__ = kind.__name__
    settings, _ = kind.get_processor_dict(name)
    parts = {
        "image_processor": AutoImageProcessor.from_pretrained(name),
        "tokenizer": AutoTokenizer.from_pretrained(name),
        "video_processor": None,
    }
    return OfPictures.from_args_and_dict([parts[part] for part in kind.get_attributes()], settings)
