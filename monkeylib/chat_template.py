"""Conversations in the form of transformers: their text, and the Jinja template that writes it.

`MonkeyProcessor.apply_chat_template` lays a conversation out as `messages.lay_out` does and has
`PromptLayout` make its ids, here as everywhere. Its text is a `ChatText`, which remembers that layout: the
processor makes the same ids of it, and what a user has typed, such as `<img>`, stays text.

Programs that only read a folder's files find the same layout as a Jinja template, `chat_template.jinja`.
It is written from the prompts of `prompts.PROMPTS`; the variable `prompt` chooses one of them, "vqa" by
default.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from monkeylib.messages import ROLES, TEXT_TYPES, Part, Turns
from monkeylib.prompts import PROMPTS

DEFAULT_PROMPT = "vqa"

# By this line a template is recognised as Monkey's own, also one of an earlier version.
_TITLE = "{#- Monkey: written from monkeylib's prompts -#}"

# Roles, parts and separators as in `messages.lay_out`.
_TEMPLATE = """\
{%- set roles = ROLES -%}
{#- name: words before and after the question, whether it takes a question, whether a separator -#}
{%- set prompts = PROMPTS -%}
{%- set name = prompt | default(DEFAULT) -%}
{%- if name not in prompts -%}
    {{- raise_exception("no prompt has the name " ~ name) -}}
{%- endif -%}
{%- set before, after, takes_question, takes_separator = prompts[name] -%}
{%- set separator = SEPARATOR if takes_separator else "" -%}
{%- set state = namespace(is_answered=false, is_separated=true) -%}
{{- PREFIX -}}
{%- for message in messages -%}
    {%- set role = roles[message.role] -%}
    {%- set parts = [message.content] if message.content is string else message.content -%}
    {%- set places = namespace(texts=[], images=[]) -%}
    {%- for part in parts -%}
        {%- if part is string or part.type in TEXT_TYPES -%}
            {%- set places.texts = places.texts + [loop.index] -%}
        {%- else -%}
            {%- set places.images = places.images + [loop.index] -%}
        {%- endif -%}
    {%- endfor -%}
    {%- if role == "user" -%}
        {%- if takes_question and not places.texts -%}
            {{- raise_exception("the prompt " ~ name ~ " needs a question") -}}
        {%- endif -%}
        {%- set state.is_separated = not (places.images and not state.is_answered) -%}
        {%- for part in parts -%}
            {%- if loop.index in places.images -%}
                {{- IMAGE -}}
                {%- set state.is_separated = true -%}
            {%- elif takes_question -%}
                {{- separator if state.is_separated -}}
                {{- before if loop.index == places.texts[0] -}}
                {{- part if part is string else part.text -}}
                {{- after if loop.index == places.texts[-1] -}}
                {%- set state.is_separated = false -%}
            {%- endif -%}
        {%- endfor -%}
        {%- if not takes_question -%}
            {{- separator if state.is_separated -}}
            {{- before -}}
        {%- endif -%}
    {%- else -%}
        {%- set content -%}
            {%- for part in parts -%}
                {{- part if part is string else part.text -}}
            {%- endfor -%}
        {%- endset -%}
        {%- if role == "system" -%}
            {{- content ~ (SEPARATOR or "\\n") -}}
        {%- else -%}
            {%- generation -%}
                {{- content ~ END -}}
            {%- endgeneration -%}
            {%- set state.is_answered = true -%}
        {%- endif -%}
    {%- endif -%}
{%- endfor -%}
"""


class ChatText(str):
    """Text of a conversation, each image as its tokens around one placeholder.

    Attributes:
        turns: the layout that it was written from; the images in it need not be there.
    """

    turns: Turns

    def __new__(cls, text: str, turns: Turns) -> "ChatText":
        """Return a text that remembers its layout."""
        chat_text = super().__new__(cls, text)
        chat_text.turns = turns
        return chat_text

    def __getnewargs__(self) -> tuple[str, Turns]:  # type: ignore[override]
        """Return what copies and pickles are made of."""
        return str(self), self.turns


def write_text(turns: Turns, image_text: str, prefix: str, end_of_text: str) -> ChatText:
    """Write the text of a conversation.

    Args:
        turns: its layout.
        image_text: stands for an image.
        prefix: begins every prompt.
        end_of_text: closes each answer.
    """

    def write(parts: Sequence[Part]) -> str:
        return "".join(part if isinstance(part, str) else image_text for part in parts)

    answered = "".join(write(parts) + answer + end_of_text for parts, answer in turns.answered)
    return ChatText(prefix + answered + write(turns.last), turns)


def build_template(separator: str, prefix: str, image_text: str, end_of_text: str) -> str:
    """Return the Jinja template of a processor's prompts.

    Args:
        separator: of the processor.
        prefix, image_text, end_of_text: as in `write_text`.
    """
    prompts = {}
    for name, template in PROMPTS.items():
        before, _, after = template.text.partition("{question}")
        prompts[name] = [before, after, template.takes_question, template.takes_separator]

    values: dict[str, Any] = {
        "ROLES": ROLES,
        "PROMPTS": prompts,
        "DEFAULT": DEFAULT_PROMPT,
        "SEPARATOR": separator,
        "PREFIX": prefix,
        "TEXT_TYPES": TEXT_TYPES,
        "IMAGE": image_text,
        "END": end_of_text,
    }
    # JSON of texts, lists and truth values is Jinja, too.
    body = re.sub(r"\b[A-Z_]{3,}\b", lambda name: json.dumps(values[name[0]]), _TEMPLATE)
    return f"{_TITLE}\n{body}"


def is_own(template: Any) -> bool:
    """Tell whether a template is Monkey's own, or none."""
    return template is None or (isinstance(template, str) and template.startswith(_TITLE))
