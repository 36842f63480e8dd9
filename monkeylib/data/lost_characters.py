"""Characters that a tokenizer has no token for: a model can neither read nor write them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

from monkeylib.data.records import Record
from monkeylib.errors import beginning
from monkeylib.prompts import PromptLayout

_LISTED = 8
_MOST_AFFECTED = 0.5  # share of answers


@dataclass
class LostCharacters:
    """Counts the characters of texts that a tokenizer turns into its unknown token.

    Attributes:
        layout: encodes texts as the model reads them.
        counts: how often each lost character occurs.
        texts, affected_texts: number of texts, and of those with a lost character.
        answers, affected_answers, folded_answers: number of answers, of those with a lost character, and of
            those with capitals that the tokenizer reads as small letters.
        example: the first such text, and what the model reads in its place.
    """

    layout: PromptLayout
    counts: Counter[str] = field(default_factory=Counter)
    texts: int = 0
    affected_texts: int = 0
    answers: int = 0
    affected_answers: int = 0
    folded_answers: int = 0
    example: tuple[str, str] | None = None
    _is_lost: dict[str, bool] = field(default_factory=dict)

    def add(self, text: str) -> bool:
        """Count the lost characters of a text; return whether there are any."""
        self.texts += 1
        characters = Counter(text)
        lost = {character: count for character, count in characters.items() if self._loses(character)}
        if not lost:
            return False

        self.affected_texts += 1
        self.counts.update(lost)
        if self.example is None:
            self.example = text, self.layout.tokenizer.decode(self.layout.text_ids(text))
        return True

    def add_record(self, record: Record) -> None:
        """Count the lost characters of a record's prompts and answers."""
        for parts, answer in record.prompts:
            self.add("".join(part for part in parts if isinstance(part, str)))

            self.answers += 1
            self.affected_answers += self.add(answer)
            self.folded_answers += self._folds_case and answer != answer.lower()

    def describe(self) -> str:
        """Return a sentence about what is lost; an empty one where nothing is."""
        folded = ""
        if self.folded_answers:
            folded = (
                f"the tokenizer has no capitals: {self.folded_answers} of {self.answers} answers are learned "
                "in small letters"
            )
        if self.example is None:
            return folded

        listed = [f"{character!r} ({count})" for character, count in self.counts.most_common(_LISTED)]
        if len(self.counts) > _LISTED:
            listed.append(f"and {len(self.counts) - _LISTED} more")
        text, as_read = (beginning(part, 40) for part in self.example)
        return (
            f"the tokenizer has no token for {', '.join(listed)}: {self.affected_texts} of {self.texts} "
            f"prompts and answers lose characters, such as {text!r}, which the model reads as {as_read!r}"
            + (f"; {folded}" if folded else "")
        )

    def check(self) -> None:
        """Check that most answers can be learned.

        Raises:
            ValueError: more than half of them hold characters that the model cannot write.
        """
        if self.affected_answers > _MOST_AFFECTED * self.answers:
            raise ValueError(
                f"{self.affected_answers} of {self.answers} answers hold characters that the model cannot "
                f"write: {self.describe()}; choose a base model whose tokenizer has them, or rewrite the "
                "answers"
            )

    @cached_property
    def _folds_case(self) -> bool:
        return self.layout.tokenizer.decode(self.layout.text_ids("A")).strip() == "a"

    def _loses(self, character: str) -> bool:
        unknown = self.layout.tokenizer.unk_token_id
        if unknown is None:
            return False
        if character not in self._is_lost:
            self._is_lost[character] = unknown in self.layout.text_ids(character)
        return self._is_lost[character]
