"""The prompts of the paper and the release, and of LLaVA-1.5.

Every template takes `question`; those for captions ignore it. The released data writes a blank between the
image and the text: that is `MonkeyProcessor.separator`.
"""

from monkeylib.errors import choose

_UNANSWERABLE = '{{question}} When the provided information is insufficient, respond with "{}". Answer:'

PROMPTS: dict[str, str] = {
    # Paper section 3.3. The trailing blank is a token of its own and matters; the release's inference has it.
    "vqa": "{question} Answer: ",
    # The authors standardised Monkey-Chat on the same form (the release's thread 102).
    "chat": "{question} Answer: ",
    # The release's default in evaluation.
    "vqa_no_blank": "{question} Answer:",
    # Paper section 3.3.
    "caption": "Generate the caption in English:",
    "detailed_caption": "Generate the detailed caption in English:",
    # The release's inference script ends the base model's caption prompt with a blank.
    "detailed_caption_blank": "Generate the detailed caption in English: ",
    # VizWiz as evaluated for the paper (61.2), and the wording its comments call better (68.37).
    "vizwiz": _UNANSWERABLE.format("Unanswerable"),
    "vizwiz_lower": _UNANSWERABLE.format("unanswerable") + " ",
    # Multiple choice and yes/no questions in VLMEvalKit.
    "choice": "\n {question} Answer: ",
    # LLaVA-1.5's, after the image; before it stands "USER: " (a processor's opening "<s>USER: ").
    "llava": "\n{question} ASSISTANT:",
    # The question as it is.
    "plain": "{question}",
}


# The release's default in evaluation stands right behind the image.
_WITHOUT_SEPARATOR = {"vqa_no_blank"}


def build_prompt(name: str, question: str = "") -> str:
    """The text of a named prompt.

    Raises:
        ValueError: no prompt has that name, or it needs a question and got none.
    """
    choose("prompt", name, PROMPTS)
    template = PROMPTS[name]
    if "{question}" in template and not question.strip():
        raise ValueError(f"the prompt {name!r} needs a question, got an empty one")
    return template.format(question=question)


def after_image(name: str, question: str, separator: str) -> str:
    """What stands behind an image: `separator`, but for prompts that the release writes without, then the
    prompt.

    Raises:
        ValueError: see `build_prompt`.
    """
    return ("" if name in _WITHOUT_SEPARATOR else separator) + build_prompt(name, question)
