"""Prompt templates by name: those of the paper (arXiv 2311.06607, section 3.3), of the released code and of
LLaVA-1.5, and how a question is put into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from monkeylib.errors import choose

_QUESTION = "{question}"
_UNANSWERABLE = '{{question}} When the provided information is insufficient, respond with "{}". Answer:'


@dataclass(frozen=True)
class PromptTemplate:
    """Words around a question.

    Attributes:
        text: the prompt, `{question}` in it standing for the question. Without it, as in the prompts for
            captions, questions are ignored.
        takes_separator: whether a separator stands between the image and this prompt; otherwise the prompt
            stands right behind the image.
    """

    text: str
    takes_separator: bool = True

    @property
    def takes_question(self) -> bool:
        """Whether the template has a place for a question."""
        return _QUESTION in self.text


PROMPTS: dict[str, PromptTemplate] = {
    # Paper section 3.3. The trailing blank is a token of its own and matters: the released inference has it.
    "vqa": PromptTemplate("{question} Answer: "),
    # The authors standardised Monkey-Chat on the same form (thread 102 of the released code).
    "chat": PromptTemplate("{question} Answer: "),
    # The default of the released evaluation, which writes no blank on either side.
    "vqa_no_blank": PromptTemplate("{question} Answer:", takes_separator=False),
    # Paper section 3.3.
    "caption": PromptTemplate("Generate the caption in English:"),
    "detailed_caption": PromptTemplate("Generate the detailed caption in English:"),
    # The released inference script ends the base model's caption prompt with a blank.
    "detailed_caption_blank": PromptTemplate("Generate the detailed caption in English: "),
    # VizWiz as evaluated for the paper (61.2), and the wording its comments call better (68.37).
    "vizwiz": PromptTemplate(_UNANSWERABLE.format("Unanswerable")),
    "vizwiz_lower": PromptTemplate(_UNANSWERABLE.format("unanswerable") + " "),
    # Multiple choice and yes/no questions in VLMEvalKit.
    "choice": PromptTemplate("\n {question} Answer: "),
    # LLaVA-1.5: the words after the image; "USER: " before it belongs to the prefix ("<s>USER: ").
    "llava": PromptTemplate("\n{question} ASSISTANT:"),
    # The question as it is.
    "plain": PromptTemplate("{question}"),
}


def get_template(name: str) -> PromptTemplate:
    """Return a prompt template by name.

    Raises:
        ValueError: no prompt has that name.
    """
    if name not in PROMPTS:
        choose("prompt", name, PROMPTS)
    return PROMPTS[name]


def build_prompt(name: str, question: str = "", separator: str = "") -> str:
    """Put a question into a named prompt.

    Args:
        name: a key of `PROMPTS`.
        question: may be empty where the prompt takes none.
        separator: written in front of the prompt unless its template stands right behind the image.

    Raises:
        ValueError: no prompt has that name, or it needs a question and got none.
    """
    (text,) = wrap_content([question], name)
    return separator + text if get_template(name).takes_separator else text


def wrap_content(parts: Sequence[Any], name: str) -> list[Any]:
    """Put a named prompt around texts that are interleaved with images.

    The template's words before the question go to the first text, those after it to the last. A prompt that
    takes no question replaces all texts and follows the images.

    Args:
        parts: texts, and anything else as images, in their order.
        name: a key of `PROMPTS`.

    Raises:
        ValueError: no prompt has that name, or it needs a question and there is no text.
    """
    template = get_template(name)
    images = [part for part in parts if not isinstance(part, str)]
    if not template.takes_question:
        return [*images, template.text]

    text_positions = [position for position, part in enumerate(parts) if isinstance(part, str)]
    if not any(parts[position].strip() for position in text_positions):
        raise ValueError(f"the prompt {name!r} needs a question, got an empty one")

    before, _, after = template.text.partition(_QUESTION)
    wrapped = list(parts)
    first, last = text_positions[0], text_positions[-1]
    wrapped[first] = before + wrapped[first]
    wrapped[last] = wrapped[last] + after
    return wrapped
