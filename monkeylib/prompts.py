"""Prompts: their templates by name, and the layout that turns prompts, images and answers into token ids.

The templates are those of the paper (arXiv 2311.06607, section 3.3), of the released code and of LLaVA-1.5.

`PromptLayout` is the only place where texts and images become ids and labels: processing, inference,
evaluation, training, data inspection and the evaluation harnesses all call it.

    prefix | <img> <imgpad> ... </img> | separator + prompt | answer <end of text> | separator + prompt | ...
             one span per image                               labels                 next turn
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from monkeylib.errors import choose, shorten
from monkeylib.label_mask import mask_prompt, mask_tokens

# The released data writes a blank between an image, or an earlier answer, and the prompt that follows.
SEPARATOR = " "
# Around an image's visual tokens, and in the place of each of them.
IMAGE_TOKENS = ("<img>", "</img>", "<imgpad>")

# --- templates

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
        purpose: what the prompt is for, in a few words.
    """

    text: str
    takes_separator: bool = True
    purpose: str = ""

    @property
    def takes_question(self) -> bool:
        """Whether the template has a place for a question."""
        return _QUESTION in self.text


PROMPTS: dict[str, PromptTemplate] = {
    # Paper section 3.3. The trailing blank is a token of its own and matters: the released inference has it.
    "vqa": PromptTemplate("{question} Answer: ", purpose="questions; the default"),
    # The authors standardised Monkey-Chat on the same form (thread 102 of the released code).
    "chat": PromptTemplate("{question} Answer: ", purpose="questions to Monkey-Chat"),
    # The default of the released evaluation, which writes no blank on either side.
    "vqa_no_blank": PromptTemplate(
        "{question} Answer:", takes_separator=False, purpose="questions as the released evaluation asks them"
    ),
    # Paper section 3.3.
    "caption": PromptTemplate("Generate the caption in English:", purpose="a short caption"),
    "detailed_caption": PromptTemplate(
        "Generate the detailed caption in English:", purpose="a detailed caption"
    ),
    # The released inference script ends the base model's caption prompt with a blank.
    "detailed_caption_blank": PromptTemplate(
        "Generate the detailed caption in English: ", purpose="the same, as the released script asks for it"
    ),
    # VizWiz as evaluated for the paper (61.2), and the wording its comments call better (68.37).
    "vizwiz": PromptTemplate(_UNANSWERABLE.format("Unanswerable"), purpose="VizWiz, as in the paper"),
    "vizwiz_lower": PromptTemplate(
        _UNANSWERABLE.format("unanswerable") + " ",
        purpose="VizWiz, in the form that the released code recommends",
    ),
    # Multiple choice and yes/no questions in VLMEvalKit.
    "choice": PromptTemplate("\n {question} Answer: ", purpose="choices and yes or no, as in VLMEvalKit"),
    # LLaVA-1.5: the words after the image; "USER: " before it belongs to the prefix ("<s>USER: ").
    "llava": PromptTemplate("\n{question} ASSISTANT:", purpose="LLaVA-1.5"),
    # The question as it is.
    "plain": PromptTemplate("{question}", purpose="the question as it is"),
    # A prompt with all that belongs around a question, as conversations of the released data hold it.
    "exact": PromptTemplate(
        "{question}", takes_separator=False, purpose="texts that are complete prompts already"
    ),
}


# Prompts of chat models in place of Monkey's. Prompts that are not listed are used unchanged.
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


def get_chat_template(name: str) -> PromptTemplate:
    """Return the template of that name for chat models.

    Raises:
        ValueError: no prompt has that name.
    """
    return PromptTemplate(CHAT_PROMPTS.get(name, get_template(name).text))


def wrap_content(parts: Sequence[Any], name: str, *, for_chat_model: bool = False) -> list[Any]:
    """Put a named prompt around texts that are interleaved with images.

    The template's words before the question go to the first text, those after it to the last. A prompt that
    takes no question replaces all texts and follows the images.

    Args:
        parts: texts, and anything else as images, in their order.
        name: a key of `PROMPTS`.
        for_chat_model: take the prompt of chat models (`CHAT_PROMPTS`).

    Raises:
        ValueError: no prompt has that name, or it needs a question and there is no text.
    """
    template = get_chat_template(name) if for_chat_model else get_template(name)
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


# --- layout of token ids


class Tokenizer(Protocol):
    """What a layout needs of a tokenizer; all of transformers' have it."""

    eos_token_id: int

    def encode(self, text: str, **options: Any) -> list[int]:
        """Return the ids of a text."""


class TokenizedConversation(NamedTuple):
    """Ids of a conversation with their training labels.

    Attributes:
        input_ids: `T` token ids.
        labels: the ids of answers and their end-of-text tokens, `IGNORE_INDEX` elsewhere.
        turns: the number of the turn whose answer a token belongs to, -1 elsewhere.
    """

    input_ids: list[int]
    labels: list[int]
    turns: list[int]


@dataclass(frozen=True)
class PromptLayout:
    """Order of everything that the language model reads.

    Images are passed as numbers of visual tokens: `Part` is a text, or the number of an image's tokens.

    Attributes:
        tokenizer: encodes texts. Special tokens in them, such as a typed `<img>`, stay plain text.
        placeholder_id: stands once for each visual token of an image.
        image_start_id, image_end_id: around an image's placeholders; LLaVA-1.5 has none.
        prefix: begins every prompt, and special tokens count in it: "<s>" for Vicuna, nothing for Qwen.
        separator: stands between an image, or an earlier answer, and the text that follows.
    """

    tokenizer: Tokenizer
    placeholder_id: int
    image_start_id: int | None = None
    image_end_id: int | None = None
    prefix: str = ""
    separator: str = ""

    # Pieces of a prompt

    def image_ids(self, visual_tokens: int) -> list[int]:
        """Return the span of one image: `<img>`, a placeholder for each visual token, `</img>`."""
        span = [self.image_start_id, *[self.placeholder_id] * visual_tokens, self.image_end_id]
        return [token for token in span if token is not None]

    def text_ids(self, text: str) -> list[int]:
        """Encode a text in which special tokens are plain text.

        Raises:
            ValueError: the text holds half a character, which no tokenizer can read.
        """
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(
                f"the text {shorten(text)} is not Unicode: it holds a byte that is not UTF-8, or half of a "
                "surrogate pair; write it in UTF-8"
            )
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def prefix_ids(self, images: Sequence[int] = ()) -> list[int]:
        """Return what all prompts about the same images begin with: the prefix and the images' spans.

        Args:
            images: number of visual tokens of each image.
        """
        ids = self.tokenizer.encode(self.prefix, add_special_tokens=False) if self.prefix else []
        for visual_tokens in images:
            ids = ids + self.image_ids(visual_tokens)
        return ids

    def question_ids(self, question: str, prompt: str) -> list[int]:
        """Encode a question in a named prompt that follows an image or an earlier answer."""
        return self.text_ids(build_prompt(prompt, question, self.separator))

    def parts_ids(self, parts: Sequence[str | int]) -> list[int]:
        """Encode texts, and numbers of visual tokens for images, in their order, as they are."""
        ids: list[int] = []
        for part in parts:
            ids += self.text_ids(part) if isinstance(part, str) else self.image_ids(part)
        return ids

    def answer_ids(self, answer: str) -> list[int]:
        """Encode an answer with the end-of-text token that closes it."""
        return [*self.text_ids(answer), self.tokenizer.eos_token_id]

    # Whole prompts

    def encode(self, parts: Sequence[str | int], prompt: str | None = None) -> list[int]:
        """Encode interleaved texts and images, ready to be completed by the model.

        Args:
            parts: texts, and numbers of visual tokens for images, in their order.
            prompt: name of the prompt around the texts; without one, texts stand as they are.

        Raises:
            ValueError: no such prompt, or it needs a question and there is no text.
        """
        separator = self.separator
        if prompt is not None:
            parts = wrap_content(parts, prompt)
            if not get_template(prompt).takes_separator:
                separator = ""

        ids = self.prefix_ids()
        follows_image = False
        for part in parts:
            if isinstance(part, str):
                ids = ids + self.text_ids(separator + part if follows_image else part)
                follows_image = False
            else:
                ids = ids + self.image_ids(part)
                follows_image = True

        return ids

    def encode_turns(
        self, answered: Sequence[tuple[Sequence[str | int], str]], last: Sequence[str | int]
    ) -> list[int]:
        """Encode a conversation whose last prompt is to be answered.

        Args:
            answered: earlier prompts exactly as they are tokenized, texts and numbers of visual tokens in
                their order, and their answers.
            last: the prompt to be answered.
        """
        ids = self.prefix_ids()
        for parts, answer in answered:
            ids = ids + self.parts_ids(parts) + self.answer_ids(answer)
        return ids + self.parts_ids(last)

    def encode_conversation(
        self,
        images: Sequence[int],
        turns: Sequence[tuple[str | Sequence[str | int], str]],
        max_length: int | None = None,
    ) -> TokenizedConversation:
        """Encode a conversation to train on, with labels on its answers.

        As in the released code, prompt and answer are tokenized separately, everything but the answers is
        masked, and the end of text is both attended and supervised. The released code uses one turn; further
        turns follow the same rule. A turn that does not fit into `max_length` is left out with all that
        follow, where the released code cuts its answer silently.

        Args:
            images: number of visual tokens of each image that opens the conversation.
            turns: prompts exactly as they are tokenized, separators included, and their answers. A prompt is
                a text, or texts and numbers of visual tokens in their order.
            max_length: tokens of the conversation at most.

        Raises:
            ValueError: not even the first turn fits.
        """
        input_ids = self.prefix_ids(images)
        labels = mask_tokens(input_ids)
        turn_numbers = [-1] * len(input_ids)

        for number, (prompt, answer) in enumerate(turns):
            prompt_ids = self.parts_ids([prompt] if isinstance(prompt, str) else prompt)
            answer_ids = self.answer_ids(answer)
            length = len(input_ids) + len(prompt_ids) + len(answer_ids)

            if max_length is not None and length > max_length:
                if number == 0:
                    raise ValueError(
                        f"The image and its first question need {length} tokens but max_length is "
                        f"{max_length}: raise max_length or shorten the answer."
                    )
                break

            input_ids = input_ids + prompt_ids + answer_ids
            labels += mask_prompt(prompt_ids, answer_ids)
            turn_numbers += [-1] * len(prompt_ids) + [number] * len(answer_ids)

        return TokenizedConversation(input_ids, labels, turn_numbers)
