"""From a question to what the language model reads: templates, token ids, labels."""

from monkeylib.prompts.label_mask import IGNORE_INDEX
from monkeylib.prompts.templates import PROMPTS, PromptTemplate, build_prompt, get_template, wrap_content
from monkeylib.prompts.token_ids import SEPARATOR, PromptLayout, TokenizedConversation, Tokenizer

__all__ = [
    "IGNORE_INDEX",
    "PROMPTS",
    "SEPARATOR",
    "PromptLayout",
    "PromptTemplate",
    "TokenizedConversation",
    "Tokenizer",
    "build_prompt",
    "get_template",
    "wrap_content",
]
