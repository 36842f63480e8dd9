"""Folders of a tiny base with a chat template, and of a raised model of it."""

from pathlib import Path

from monkeylib.raising import Raised, load_raised, raise_resolution
from monkeylib.raising.adapters import layer_adapters
from monkeylib.raising.bases import load_base, load_base_processor
from tests.support import tiny_vlms

# As LLaVA's, which writes no end of text behind an answer.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def save_base(folder: Path, chat_template: str | None = CHAT_TEMPLATE) -> Path:
    """Write a tiny LLaVA of random weights, and return its folder."""
    model, processor, *_ = tiny_vlms.build("llava_clip")
    processor.chat_template = chat_template
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def raise_base(folder: Path, grid: str = "2x2") -> Raised:
    """Raise a base, with adapters that have an effect."""
    raised = raise_resolution(load_base(folder), load_base_processor(folder), grid=grid, rank=4)
    for adapters in layer_adapters(raised.model).values():
        for adapter in adapters:
            adapter.lora_B.data.copy_(0.2 * adapter.lora_A.data.mean() + 0.1)
    return raised


def save_raised(folder: Path, base: Path) -> Path:
    """Write a raised model of a base, and return its folder."""
    raise_base(base).save(folder)
    assert load_raised(folder).settings.base == str(base)
    return folder
