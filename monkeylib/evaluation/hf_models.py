"""Image-text models of transformers for evaluation, by folder or by name on the hub.

`load_image_text_model` returns a model for `predict.predict`: a `Monkey` for a checkpoint of monkeylib or in
the released layout, else an `HFChatModel`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedModel,
    ProcessorMixin,
)

from monkeylib import inference, resources
from monkeylib.checkpoints import hub, released
from monkeylib.checkpoints.weight_files import explain_broken
from monkeylib.evaluation import distributed
from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.prefix_sharing import model_fingerprint
from monkeylib.images import open_image
from monkeylib.model import MonkeyConfig, cpu
from monkeylib.model.answers import Answer
from monkeylib.model.generation import generate
from monkeylib.monkey import Monkey
from monkeylib.profiles import trainable
from monkeylib.prompts import CHAT_PROMPTS, PROMPTS, build_prompt
from monkeylib.raising import loading
from monkeylib.raising.bases import load_base_processor, quantize_language_model
from monkeylib.settings_files import read_json


class HFChatModel:
    """An image-text model with a chat template that answers batches of examples greedily.

    Attributes:
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
                f"{type(processor).__name__} has no chat template, so there is no way to prompt this model: "
                "put its chat_template.jinja into the folder"
            )

        self.model = model.eval()
        self.processor = processor
        self.prompts = dict(prompts)
        self.max_new_tokens = max_new_tokens

        # Generation continues from the last token of each row, so prompts are padded on the left.
        processor.tokenizer.padding_side = "left"
        if processor.tokenizer.pad_token is None:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token

        # Everything that changes answers, so that stale predictions are noticed.
        settings = [type(processor).__name__, processor.chat_template, self.prompts, max_new_tokens]
        self.name = model_fingerprint(model, settings)

    def with_max_new_tokens(self, max_new_tokens: int) -> "HFChatModel":
        """Return the same model with another limit for the length of an answer."""
        return HFChatModel(self.model, self.processor, max_new_tokens, self.prompts)

    @property
    def templates(self) -> dict[str, str]:
        """The text of each prompt by its name, with `{question}` for the question."""
        return {name: template.text for name, template in PROMPTS.items()} | self.prompts

    @torch.no_grad()
    def __call__(self, examples: Sequence[Example]) -> list[Answer]:
        """Return one answer for each example of a batch."""
        texts = [
            self.processor.apply_chat_template(self._messages(example), add_generation_prompt=True)
            for example in examples
        ]

        # A list of images for each prompt, here of one.
        images = [[open_image(example.rendered_image)] for example in examples]
        inputs = self.processor(images=images, text=texts, padding=True, return_tensors="pt")
        inputs = inputs.to(self.model.device, self.model.dtype)

        end_ids = self.model.generation_config.eos_token_id
        return generate(self.model, self.processor, inputs, self.max_new_tokens, end_ids=end_ids)

    def _messages(self, example: Example) -> list[dict[str, Any]]:
        """Return the conversation of one example: its image, then its question in the prompt."""
        template = self.prompts.get(example.prompt)
        if template is None:
            text = build_prompt(example.prompt, example.question)
        else:
            text = template.replace("{question}", example.question)

        return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]


def load_image_text_model(
    name: str | Path,
    max_new_tokens: int = 64,
    device: str | None = None,
    grid: str = "",
    dtype: str | None = None,
    bits: int | None = None,
    exact: bool | None = None,
) -> Monkey | HFChatModel:
    """Load a model for evaluation by its folder or its name on a hub.

    Args:
        name: a folder, or a name such as "Qwen/Qwen2-VL-2B-Instruct".
        max_new_tokens: maximum length of an answer; only for models other than Monkey.
        device: where to run; by default this process's own GPU if there is one.
        grid: another grid of tiles than a Monkey's own; a model of transformers is raised to it, with
            adapters that are not trained. Empty for none.
        dtype: data type of the weights, such as "bfloat16"; as saved if not given.
        bits: quantise the language model to 4 or 8 bits with bitsandbytes.
        exact: prepare a Monkey's images as the released code does, or in bytes; as saved if not given.

    Raises:
        FileNotFoundError: neither a folder with a model nor a name on the hub.
        ModuleNotFoundError: `bits` without bitsandbytes.
        ValueError: not an image-text model, one without a chat template, `bits` neither 4 nor 8, or
            `exact` for a model of transformers.
    """
    require_model(name)
    device = device or distributed.local_device()
    if grid or is_monkey_checkpoint(name):
        return inference.load_model(name, device, dtype, bits=bits, grid=grid or None, exact=exact)

    hub.go_offline_if_unreachable(name)
    with explain_broken(name):
        # A Monkey on the hub, too, is asked in its own way.
        config = AutoConfig.from_pretrained(name)
        if config.model_type == MonkeyConfig.model_type:
            return inference.load_model(name, device, dtype, bits=bits, exact=exact)
        if exact is not None:
            raise ValueError(
                f"{name} is a {config.model_type}, whose own processor prepares its images: leave exact out"
            )
        options: dict[str, Any] = {"dtype": dtype or "auto"}
        if bits is not None:
            # Quantised weights are placed while they are read.
            options |= {"device_map": device, "quantization_config": quantize_language_model(config, bits)}
        model = AutoModelForImageTextToText.from_pretrained(name, **options)
        if bits is None:
            model = model.to(device)
            if model.device.type == "cpu" and dtype is None:
                model = cpu.to_fastest_dtype(model)
        processor = load_base_processor(name)
    return HFChatModel(model, processor, max_new_tokens)


def require_model(name: str | Path) -> None:
    """Check that a name is a folder with a model or may be one on a hub, without reading or fetching it.

    Raises:
        FileNotFoundError: it is neither.
    """
    folder = Path(name)
    hub.require_finished_run(folder)

    # "owner/name" that is no folder here may be a name on the hub.
    may_be_on_hub = not folder.exists() and str(name).count("/") == 1
    is_folder = (folder / "config.json").is_file() or is_monkey_checkpoint(folder)
    if not may_be_on_hub and not is_folder:
        expected = (
            "expected a folder with config.json, or the name of a model on the hub, such as "
            "Qwen/Qwen2-VL-2B-Instruct"
        )
        raise FileNotFoundError(
            f"there is no checkpoint at {name}: {resources.suggest_model(name, expected)}"
        )


def is_monkey_checkpoint(name: str | Path) -> bool:
    """Return whether it is a folder that `inference.load_model` reads, that of a raised model too."""
    folder = Path(name)
    if loading.is_raised(folder):
        return True
    if not (folder / "config.json").is_file():
        # A checkpoint of trained weights only, without the frozen ones.
        return (folder / trainable.TRAINED_WEIGHTS).is_file()

    config = read_json(folder / "config.json")
    return released.is_released(folder) or config.get("model_type") == MonkeyConfig.model_type
