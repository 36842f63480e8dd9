"""A composer that has SmolLM2-135M-Instruct rewrite what the rules say.

A model of this size invents and forgets, so what it writes counts only if it keeps to the rules of the
prompt, says nothing that nobody saw and leaves next to nothing out. Otherwise the rules' own text stands,
and `verdicts` says why.
"""

import re
from functools import cached_property
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from monkeylib import assets
from monkeylib.captions import checks
from monkeylib.captions.annotations import GeneratedCaption, Record
from monkeylib.captions.composers.rules import RuleComposer
from monkeylib.captions.experts.base import Composer
from monkeylib.checkpoints import pretrained

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
    """Who wrote a description ("model" or "rules"), the model's draft, and what is wrong with it."""

    writer: str
    draft: str
    problems: tuple[str, ...]


class SmolLm2Composer(Composer):
    """The rules' text, rewritten where the rewriting passes the checks.

    What was wrong with a draft that was refused is among the problems of the record's check. `verdicts`
    holds the draft too, by the description that a record got, for as long as this composer lives.
    """

    name = "smollm2-135m"
    version = "instruct-q4_1-2"
    licence = "Apache-2.0"

    def __init__(self, minimum_kept: float = 0.9, maximum_tokens: int = 160) -> None:
        """A draft keeps `minimum_kept` of the rules' content words or more, in `maximum_tokens` or fewer."""
        self.minimum_kept, self.maximum_tokens = minimum_kept, maximum_tokens
        self.rules = RuleComposer()
        self.verdicts: dict[str, RewriteResult] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """What a draft has to keep, its length, and the rules that it rewrites."""
        rules = self.rules.provenance.model_dump(mode="json")
        return {"minimum_kept": self.minimum_kept, "maximum_tokens": self.maximum_tokens, "rules": rules}

    @cached_property
    def _parts(self) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
        if assets.located(assets.find(ASSET)) is None:
            assets.fetch(ASSET)
        return pretrained.tokenizer(HUB), pretrained.language_model(HUB, 0).eval()

    def prepare(self) -> None:
        """Load the language model, fetched if it isn't there."""
        _ = self._parts

    def release(self) -> None:
        """Free the language model."""
        self.__dict__.pop("_parts", None)

    def compose(self, record: Record) -> str:
        """The description; empty, and the model not asked, where nothing is known."""
        plain = self.rules.compose(record)
        if not plain:
            return ""
        draft = self.draft(plain)
        problems = self.problems(record, plain, draft)
        text = plain if problems else draft
        self.verdicts[text] = RewriteResult("rules" if problems else "model", draft, problems)
        return text

    def write(self, record: Record) -> str | GeneratedCaption:
        """The description, and what was wrong with the draft if the rules' text stands."""
        text = self.compose(record)
        verdict = self.verdicts.get(text)
        return GeneratedCaption(text=text, refused=verdict.problems) if verdict and verdict.problems else text

    @torch.inference_mode()
    def draft(self, plain: str) -> str:
        """What the model makes of a description, the likeliest word at each step."""
        tokenizer, model = self._parts
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": _TASK + plain}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        written = model.generate(
            **ids,
            do_sample=False,
            max_new_tokens=self.maximum_tokens,
            pad_token_id=tokenizer.pad_token_id,
        )
        answer = tokenizer.decode(written[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        return " ".join(answer.split())

    def problems(self, record: Record, plain: str, draft: str) -> tuple[str, ...]:
        """What speaks against a draft in the place of the rules' text; nothing if it may stand."""
        if not draft:
            return ("it is empty",)
        checked = checks.check(record.model_copy(update={"detailed_caption": draft}))
        found = list(checked.problems)
        if not draft.endswith((".", "!", "?", '"')):
            found.append("its last sentence is cut off")
        if checked.unsupported:
            found.append(f"nobody said {', '.join(checked.unsupported)}")
        lost = [text for text in re.findall(r'"[^"]*"', plain) if text.strip('".') not in draft]
        found += [f"it lacks the text {text}" for text in lost]
        found += misplaced(plain, draft)
        missing = forgotten(plain, draft)
        words = content(plain)
        if words and 1 - len(missing) / len(words) < self.minimum_kept:
            found.append(f"it forgets {', '.join(missing)}")
        return tuple(found)


def misplaced(plain: str, draft: str) -> list[str]:
    """Relations that only the draft states, and texts in the image of which it makes things."""
    before, after = (_QUOTED.sub(" ", text.lower()) for text in (plain, draft))
    stated = set(_RELATION.findall(before))
    wrong = [" ".join(relation) for relation in _RELATION.findall(after) if relation not in stated]
    texts = content(" ".join(_QUOTED.findall(plain)))
    outside = content(before)
    things = [word for stem, word in content(after).items() if stem in texts and stem not in outside]
    return [f"nobody said {relation}" for relation in wrong] + [
        f"{thing} is only written" for thing in things
    ]


def content(text: str) -> dict[str, str]:
    """The words of a text that say something, by their stems, in their order."""
    words = re.findall(r"[^\W\d_]{3,}", text.lower())
    return {checks.stem(word): word for word in words if word not in _EMPTY}


def forgotten(plain: str, draft: str) -> list[str]:
    """The words of one text whose stems another lacks."""
    kept = content(draft)
    return [word for stem, word in content(plain).items() if stem not in kept]
