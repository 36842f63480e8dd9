"""Conversations of a processor: their text by a chat template, their ids, and masks of the answers."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from transformers import ProcessorMixin

from monkeylib import chat_template as templates
from monkeylib.chat_template import ChatText
from monkeylib.errors import nearest
from monkeylib.image_processor import TensorType
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.messages import ImagePart, Turns, lay_out, read_messages, replace_images
from monkeylib.prompts import PromptLayout

# Arguments of calling the processor.
_CALL_ARGUMENTS = (
    "grid",
    "padding_side",
    "padding",
    "max_length",
    "truncation",
    "return_tensors",
    "prepares_images",
)


class ChatProcessor(ProcessorMixin):
    """A processor that writes conversations as text and encodes them; `processing.MonkeyProcessor` is one.

    Attributes:
        separator, image_tokens, prompt_prefix: as `MonkeyProcessor` takes them.
        image_token, image_token_id: the placeholder of a visual token.
        layout: the layout by which prompts become ids.
    """

    separator: str
    image_tokens: list[str]
    prompt_prefix: str
    image_token: str
    image_token_id: int
    layout: PromptLayout

    @property
    def chat_template(self) -> str | dict[str, str]:
        """The Jinja template that writes the text of a conversation: Monkey's own, unless it is replaced."""
        if self._chat_template is not None:
            return self._chat_template
        return templates.build_template(
            self.separator, self.prompt_prefix, self._image_text, self.tokenizer.eos_token
        )

    @chat_template.setter
    def chat_template(self, template: str | dict[str, str] | None) -> None:
        # Monkey's own is written anew, by the prompts of this version and the settings of this processor.
        self._chat_template = None if templates.is_own(template) else template

    @property
    def _image_text(self) -> str:
        """An image in the text of a conversation: its tokens around one placeholder."""
        start, end = self.image_tokens[:-1] or ("", "")
        return f"{start}{self.image_token}{end}"

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Sequence[Any],
        chat_template: str | None = None,
        *,
        prompt: str = templates.DEFAULT_PROMPT,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: TensorType | Literal["auto"] = "auto",
        processor_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Return the text of a conversation, or with `tokenize=True` its ids or the model's inputs.

        Ids are those of the same conversation in training and in `Monkey.answer_messages`: the text of
        messages is text, whatever markup stands in it.

        Args:
            conversation: messages as `messages.read_messages` takes them, which may end with an answer, or a
                list of such conversations. Images may be missing where they aren't tokenized.
            chat_template: another template, or the name of one, for the text alone.
            prompt: name of the prompt around the user's texts.
            add_generation_prompt: without effect, since the prompt of a question ends where its answer
                begins.
            continue_final_message: leave the last answer open, to be completed.
            return_assistant_tokens_mask: also return `assistant_masks [B, T]`, 1 on answers and the end of
                text that closes each.
            tokenize: make ids of it.
            return_dict: return all inputs of the model, not `input_ids` alone.
            return_tensors: as in calling the processor.
            processor_kwargs: arguments of calling the processor, such as `grid` and `padding`.
            options: the same, or variables of another template.

        Returns:
            A text, or a list of texts for a list of conversations; with `tokenize=True` tensors `[B, T]`, or
            a dictionary of them.

        Raises:
            ValueError: as `messages.read_messages`, or another template where ids are asked for.
            TypeError: an argument that the processor doesn't take.
        """
        is_batch = _is_batch(conversation)
        conversations = list(conversation) if is_batch else [conversation]
        template = self.chat_template if chat_template is None else chat_template
        if isinstance(template, dict):
            template = template.get("default")

        if not templates.is_own(template):
            if tokenize:
                raise ValueError(
                    "this chat template isn't Monkey's own, which alone gives the ids that Monkey was "
                    "trained with: leave chat_template out and name a prompt, such as prompt='caption', or "
                    "take the text with tokenize=False"
                )
            return super().apply_chat_template(
                conversation,
                chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **options,
            )

        given = {**(processor_kwargs or {}), **options}
        arguments = {name: value for name, value in given.items() if value is not None}
        if unknown := arguments.keys() - set(_CALL_ARGUMENTS):
            name = min(unknown)
            hint = nearest(name, _CALL_ARGUMENTS)
            raise TypeError(f"the processor takes no argument {name!r}; {hint}".rstrip("; "))

        texts, images = [], []
        for messages in conversations:
            read = read_messages(messages, accepts_answer=True, accepts_missing_images=not tokenize)
            turns = _open_answer(lay_out(read, prompt, self.separator), continue_final_message)
            eos_token = self.tokenizer.eos_token
            texts.append(templates.write_text(turns, self._image_text, self.prompt_prefix, eos_token))
            images.append([part.source for part in images_of(turns)])
        if not tokenize:
            return texts if is_batch else texts[0]

        if return_tensors != "auto":
            arguments["return_tensors"] = return_tensors
        features = self(images=images, text=texts, **arguments)
        if return_assistant_tokens_mask:
            features["assistant_masks"] = self._mask_answers(texts, features)
        return features if return_dict else features["input_ids"]

    def _mask_answers(self, texts: Sequence[ChatText], features: Mapping[str, Any]) -> Any:
        """Return 1 on the answers of conversations and the ends of text that close them, 0 elsewhere.

        Args:
            texts: of the conversations.
            features: what they have become, with `attention_mask [B, T]`.

        Returns:
            `[B, T]`, of the type of the attention mask.
        """
        attention = torch.as_tensor(features["attention_mask"])
        places = torch.as_tensor(features["input_ids"]) == self.image_token_id
        masks = torch.zeros_like(attention)

        for row, text in enumerate(texts):
            # How many visual tokens an image has doesn't matter: answers have none, and lie between texts.
            answered = [(replace_images(parts, _zeros()), answer) for parts, answer in text.turns.answered]
            labels = self.layout.encode_conversation([], answered).labels if answered else []
            last = self.layout.parts_ids(replace_images(text.turns.last, _zeros()))
            mask = torch.tensor([int(label != IGNORE_INDEX) for label in labels] + [0] * len(last))

            is_text = (attention[row] == 1) & ~places[row]
            masks[row, is_text] = mask[: int(is_text.sum())].to(masks.dtype)
        return masks if torch.is_tensor(features["attention_mask"]) else masks.numpy()


def _is_batch(conversation: Any) -> bool:
    """Tell a list of conversations from one conversation."""
    return (
        isinstance(conversation, list | tuple)
        and bool(conversation)
        and isinstance(conversation[0], list | tuple)
    )


def images_of(turns: Turns) -> list[ImagePart]:
    """Return the images of a conversation in their order."""
    prompts = [*(parts for parts, _ in turns.answered), turns.last]
    return [part for parts in prompts for part in parts if isinstance(part, ImagePart)]


def _open_answer(turns: Turns, is_open: bool) -> Turns:
    """Return a conversation whose last answer, if that is asked for, is a beginning to be completed.

    Raises:
        ValueError: it ends with a question.
    """
    if not is_open:
        return turns
    if not turns.answered or turns.last:
        raise ValueError(
            "continue_final_message needs a conversation whose last message is of the assistant: this one "
            "ends with a question"
        )
    *earlier, (parts, answer) = turns.answered
    return Turns(earlier, (*parts, answer))


def _zeros() -> Iterator[int]:
    """Yield 0 forever."""
    return itertools.repeat(0)
