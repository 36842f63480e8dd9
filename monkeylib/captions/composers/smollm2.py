"""Composer in which SmolLM2-135M-Instruct rewrites the captions of the rules.

A model of this size invents and forgets, so its draft is used only if it follows the rules of the prompt,
adds nothing to the annotations, and leaves hardly anything out. Otherwise the text of the rules is used, and
`rewrites` holds the problems.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from monkeylib import assets
from monkeylib.captions import checks
from monkeylib.captions.annotations import GeneratedCaption, Record
from monkeylib.captions.composers.rules import RuleComposer
from monkeylib.captions.models import Composer
from monkeylib.captions.registry import register_composer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HUB, ASSET = "HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m-instruct"
_TASK = (
    "Rewrite this description of a picture in fluent English, in fewer than six sentences. Keep every "
    "object, every place and every quoted text. Add nothing.\n\n"
)
_QUOTED = re.compile(r'"[^"]*"')
_RELATION = re.compile(  # the word before, how it lies, and the word after
    r"([\w-]+)(?: is| are|,)? (?:located |placed )?"
    r"((?:to |on )?the (?:left|right) of|above|below|beside|behind)(?: the| an?)? ([\w-]+)"
)
_EMPTY = frozenset("the and are its with has was picture photograph image shows show showing".split())


class RewriteResult(NamedTuple):
    """The model's draft, and its problems; with any, the caption is that of the rules."""

    draft: str
    problems: tuple[str, ...]


@register_composer("smollm2")
class SmolLm2Composer(Composer):
    """The rules' captions, rewritten where the draft passes all checks.

    The problems of a refused draft are added to those of the record's check. `rewrites` also holds the draft,
    by the caption of the record, for as long as this composer exists.
    """

    name = "smollm2-135m"
    version = "instruct-q4_1-2"
    licence = "Apache-2.0"
    asset_names = (ASSET,)

    def __init__(self, minimum_retained: float = 0.9, maximum_tokens: int = 160) -> None:
        """Create the composer; nothing is loaded yet.

        Args:
            minimum_retained: share of the rules' content words that a draft has to keep, 0..1.
            maximum_tokens: maximum length of a draft.
        """
        self.minimum_retained, self.maximum_tokens = minimum_retained, maximum_tokens
        self.rules = RuleComposer()
        self.rewrites: dict[str, RewriteResult] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """Share of words that a draft has to keep, its maximum length, and the rules that it rewrites."""
        rules = self.rules.provenance.model_dump(mode="json")
        # "minimum_kept" is an earlier name of the parameter: settings are keys of the cache.
        return {"minimum_kept": self.minimum_retained, "maximum_tokens": self.maximum_tokens, "rules": rules}

    @cached_property
    def _parts(self) -> "tuple[PreTrainedTokenizerBase, PreTrainedModel]":
        from monkeylib.checkpoints import pretrained

        if assets.locate(assets.find(ASSET)) is None:
            assets.fetch(ASSET)
        return pretrained.load_tokenizer(HUB), pretrained.load_language_model(HUB, 0).eval()

    def prepare(self) -> None:
        """Load the language model, fetched first if it is missing."""
        _ = self._parts

    def release(self) -> None:
        """Free the language model."""
        self.__dict__.pop("_parts", None)

    def compose(self, record: Record) -> str:
        """Return the caption; empty, without running the model, for a record without annotations."""
        rules_text = self.rules.compose(record)
        if not rules_text:
            return ""

        draft = self.draft(rules_text)

        # `compose_all` looks the result up by the caption that the record gets.
        problems = self.problems(record, rules_text, draft)
        if problems:
            self.rewrites[rules_text] = RewriteResult(draft, problems)
            return rules_text

        self.rewrites[draft] = RewriteResult(draft, problems)
        return draft

    def compose_all(self, records: Sequence[Record]) -> list[str | GeneratedCaption | Exception]:
        """Return the captions, each with the problems of the draft if the rules' text is used."""
        results: list[str | GeneratedCaption | Exception] = []
        for caption in super().compose_all(records):
            rewrite = self.rewrites.get(caption) if isinstance(caption, str) else None
            if rewrite and rewrite.problems:
                results.append(GeneratedCaption(text=caption, refused=rewrite.problems))
            else:
                results.append(caption)
        return results

    def draft(self, rules_text: str) -> str:
        """Return the model's version of a caption, by greedy decoding."""
        import torch

        tokenizer, model = self._parts
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": _TASK + rules_text}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.inference_mode():
            tokens = model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=self.maximum_tokens,
                pad_token_id=tokenizer.pad_token_id,
            )

        prompt_length = inputs["input_ids"].shape[1]
        answer = tokenizer.decode(tokens[0, prompt_length:], skip_special_tokens=True)
        return " ".join(answer.split())

    def problems(self, record: Record, rules_text: str, draft: str) -> tuple[str, ...]:
        """Return the problems of a draft; none if it may replace the rules' text."""
        if not draft:
            return ("it is empty",)

        # The rules of the prompt.
        check = checks.check_caption(record.model_copy(update={"detailed_caption": draft}))
        problems = list(check.problems)
        if not draft.endswith((".", "!", "?", '"')):
            problems.append("its last sentence is cut off")

        # Nothing invented.
        if check.unsupported:
            problems.append(f"nobody said {', '.join(check.unsupported)}")

        # Nothing lost or moved.
        for quote in _QUOTED.findall(rules_text):
            if quote.strip('".') not in draft:
                problems.append(f"it lacks the text {quote}")

        problems += misplaced(rules_text, draft)
        words, missing = content_words(rules_text), forgotten(rules_text, draft)
        if words and 1 - len(missing) / len(words) < self.minimum_retained:
            problems.append(f"it forgets {', '.join(missing)}")
        return tuple(problems)


def misplaced(rules_text: str, draft: str) -> list[str]:
    """Return relations that only the draft states, and texts in the image that it mistakes for objects."""
    rules_prose = _QUOTED.sub(" ", rules_text.lower())
    draft_prose = _QUOTED.sub(" ", draft.lower())

    stated = set(_RELATION.findall(rules_prose))
    problems = []
    for relation in _RELATION.findall(draft_prose):
        if relation not in stated:
            problems.append(f"nobody said {' '.join(relation)}")

    # Words that the rules only quote are no objects.
    only_quoted = content_words(" ".join(_QUOTED.findall(rules_text)))
    in_prose = content_words(rules_prose)
    for stem, word in content_words(draft_prose).items():
        if stem in only_quoted and stem not in in_prose:
            problems.append(f"{word} is only written")

    return problems


def content_words(text: str) -> dict[str, str]:
    """Return the content words of a text by their stems, in the order of the text."""
    words = re.findall(r"[^\W\d_]{3,}", text.lower())
    return {checks.stem(word): word for word in words if word not in _EMPTY}


def forgotten(rules_text: str, draft: str) -> list[str]:
    """Return the content words of the rules' text whose stems the draft lacks."""
    draft_words = content_words(draft)
    return [word for stem, word in content_words(rules_text).items() if stem not in draft_words]
