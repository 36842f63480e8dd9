"""What chat requests cost, in tokens and dollars, and a limit that is never passed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class BudgetExhausted(RuntimeError):
    """The next request might pass the limit."""


@dataclass(frozen=True)
class Prices:
    """US dollars for a million tokens of prompts and of answers."""

    prompt: float
    completion: float

    def dollars(self, prompt: int, completion: int) -> float:
        """What so many tokens cost."""
        return (prompt * self.prompt + completion * self.completion) / 1e6


@dataclass
class Spent:
    """What has been spent: requests sent, tokens, and dollars (0 where no prices are known)."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens of prompts and answers."""
        return self.prompt_tokens + self.completion_tokens


class Hold:
    """The tokens set aside for one request; they count as spent unless `used` or `free` says otherwise."""

    def __init__(self, prompt: int, completion: int) -> None:
        self.prompt, self.completion = prompt, completion

    def used(self, prompt: int, completion: int) -> None:
        """The endpoint says what it counted."""
        self.prompt, self.completion = prompt, completion

    def free(self) -> None:
        """The endpoint refused the request, or never got it."""
        self.prompt = self.completion = 0


class Budget:
    """Tokens and dollars of requests that may run side by side.

    A request first sets aside the most that it can take. Where that doesn't fit any more but requests are on
    their way, it waits for what they leave over.
    """

    def __init__(
        self, tokens: int | None = None, dollars: float | None = None, prices: Prices | None = None
    ) -> None:
        """A budget with nothing spent.

        Args:
            tokens: the most tokens of prompts and answers together; None for no limit.
            dollars: the most US dollars; None for no limit.
            prices: what tokens cost.

        Raises:
            ValueError: a limit in dollars without prices.
        """
        if dollars is not None and prices is None:
            raise ValueError(
                f"A budget of {dollars} dollars needs the model's prices: give what a million tokens of "
                "prompts and of answers cost."
            )
        self.tokens, self.dollars, self.prices = tokens, dollars, prices
        self.spent = Spent()
        self._held: set[Hold] = set()
        self._changed = threading.Condition()

    @contextmanager
    def holding(self, prompt: int, completion: int) -> Iterator[Hold]:
        """Set aside the most tokens that a request can take; afterwards what its `Hold` says is spent.

        Raises:
            BudgetExhausted: it might pass the limit, and nothing on its way can leave enough.
        """
        hold = Hold(prompt, completion)
        with self._changed:
            while not self._fits(hold):
                if not self._held:
                    raise BudgetExhausted(self._complaint(hold))
                self._changed.wait()
            self._held.add(hold)
        try:
            yield hold
        finally:
            with self._changed:
                self._held.remove(hold)
                self.spent.requests += 1
                self.spent.prompt_tokens += hold.prompt
                self.spent.completion_tokens += hold.completion
                self.spent.dollars += self._cost(hold)
                self._changed.notify_all()

    def _cost(self, hold: Hold) -> float:
        return self.prices.dollars(hold.prompt, hold.completion) if self.prices else 0.0

    def _fits(self, hold: Hold) -> bool:
        waiting = [*self._held, hold]
        tokens = self.spent.tokens + sum(item.prompt + item.completion for item in waiting)
        dollars = self.spent.dollars + sum(map(self._cost, waiting))
        return (self.tokens is None or tokens <= self.tokens) and (
            self.dollars is None or dollars <= self.dollars
        )

    def _complaint(self, hold: Hold) -> str:
        limits = [] if self.tokens is None else [f"{self.tokens} tokens"]
        limits += [] if self.dollars is None else [f"{self.dollars} dollars"]
        return (
            f"The budget of {' and '.join(limits)} is used up: {self.spent.tokens} tokens "
            f"({self.spent.dollars:.4f} dollars) are spent and the next request may take "
            f"{hold.prompt + hold.completion} more. Allow more and run again: answers that came are kept."
        )
