"""Budget of a chat model in tokens and dollars, which also holds over restarts."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from monkeylib import resources
from monkeylib.captions.failures import FailureKind, ModelError

SPENDING_LOCK = "spending.lock"
_MOST_TOKENS = 10**9  # that an endpoint can report for one request


class BudgetExhausted(ModelError):
    """The next request might exceed the budget."""

    kind: FailureKind = "unavailable"


@dataclass(frozen=True)
class Prices:
    """US dollars for a million tokens of prompts and of answers."""

    prompt: float
    completion: float

    def dollars(self, prompt: int, completion: int) -> float:
        """Return the cost of numbers of tokens in US dollars."""
        return (prompt * self.prompt + completion * self.completion) / 1e6


@dataclass
class Usage:
    """Requests sent, tokens, and dollars (0 where no prices are known)."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens of prompts and answers."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.dollars + other.dollars,
        )


class Reservation:
    """Tokens set aside for one request. They count as used unless `settle` or `release` says otherwise."""

    def __init__(self, prompt: int, completion: int) -> None:
        self.prompt, self.completion = prompt, completion

    def settle(self, prompt: int, completion: int) -> None:
        """Replace the reserved numbers by those that the endpoint reports, unless they cannot be true."""
        if 0 <= prompt <= _MOST_TOKENS and 0 <= completion <= _MOST_TOKENS:
            self.prompt, self.completion = prompt, completion

    def release(self) -> None:
        """Use nothing: the endpoint refused the request, or never got it."""
        self.prompt = self.completion = 0


class Budget:
    """Tokens and dollars of requests that may run side by side.

    A request first reserves the most that it can use. If that does not fit but other requests are running, it
    waits for what they leave unused.

    With an account, a file, the budget holds over restarts: what is reserved is written there before a
    request is sent, and what it used afterwards. A request that a killed process had sent counts in full.
    Accounts in one folder are those of several models with one budget: each notes in its own what it spends,
    in this process or another one, and counts what the others have noted.

    Attributes:
        usage: of this process.
        earlier: usage of earlier processes with the same account.
    """

    def __init__(
        self,
        tokens: int | None = None,
        dollars: float | None = None,
        prices: Prices | None = None,
        account: Path | None = None,
    ) -> None:
        """Create a budget, of which nothing is used but what the account says.

        Args:
            tokens: maximum number of tokens of prompts and answers together; None for no limit.
            dollars: maximum number of US dollars; None for no limit.
            prices: prices of tokens.
            account: file of what was spent; without one, the budget is that of this process. One process at
                a time may use it.

        Raises:
            ValueError: a limit in dollars without prices, or an account that cannot be read.
        """
        if dollars is not None and prices is None:
            raise ValueError(
                f"A budget of {dollars} dollars needs the model's prices: give what a million tokens of "
                "prompts and of answers cost."
            )

        self.tokens, self.dollars, self.prices = tokens, dollars, prices
        self.usage = Usage()
        self.account = account
        self.earlier = _read_account(account) if account else Usage()
        self._reservations: set[Reservation] = set()
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, prompt: int, completion: int) -> Iterator[Reservation]:
        """Reserve the most tokens that a request can use; at the end its `Reservation` is counted as used.

        Raises:
            BudgetExhausted: the request might exceed the limit, and no running request can leave enough.
        """
        reservation = Reservation(prompt, completion)

        # Running requests may use less than they reserved: wait for them before giving up.
        with self._changed:
            # The run before may have ended since this budget was created.
            if self.account and not self.usage.requests and not self._reservations:
                self.earlier = _read_account(self.account)

            while not self._reserve_if_it_fits(reservation):
                if not self._reservations:
                    raise BudgetExhausted(self._exhausted_message(reservation))
                self._changed.wait()

        try:
            yield reservation
        finally:
            with self._changed:
                # Only now is the usage known; requests that wait may fit.
                self._reservations.remove(reservation)
                self.usage.requests += 1
                self.usage.prompt_tokens += reservation.prompt
                self.usage.completion_tokens += reservation.completion
                self.usage.dollars += self._cost(reservation)
                self._changed.notify_all()
                self._write_account()

    def _reserve_if_it_fits(self, reservation: Reservation) -> bool:
        """Note a reservation if the limit allows it; meanwhile no other account of the folder changes."""
        with self._locked_accounts():
            if not self._fits(reservation):
                return False
            self._reservations.add(reservation)
            try:
                self._write_account()
            except BaseException:  # nothing may be sent that could not be noted
                self._reservations.remove(reservation)
                raise
        return True

    @contextmanager
    def _locked_accounts(self) -> Iterator[None]:
        if self.account is None:
            yield
            return
        lock = FileLock(self.account.parent / SPENDING_LOCK)
        try:
            lock.acquire()
        except (OSError, NotImplementedError):  # file systems without locks
            yield
            return
        try:
            yield
        finally:
            lock.release()

    @property
    def total_usage(self) -> Usage:
        """Usage of all processes and of all accounts in the folder."""
        spent = self.earlier + self.usage
        if self.account is not None:
            for path in sorted(self.account.parent.glob("spending*.json")):
                if path.name != self.account.name:
                    spent += _read_account(path)
        return spent

    def _write_account(self) -> None:
        """Write what is spent, and what the running requests may still spend."""
        if self.account is None:
            return

        running = Usage()
        for item in self._reservations:
            running += Usage(1, item.prompt, item.completion, self._cost(item))
        spent = self.earlier + self.usage
        with resources.atomic_write(self.account, durable=True) as temporary:
            content = json.dumps({"spent": asdict(spent), "running": asdict(running)}, indent=1)
            temporary.write_text(content + "\n", encoding="utf-8")

    def _cost(self, reservation: Reservation) -> float:
        return self.prices.dollars(reservation.prompt, reservation.completion) if self.prices else 0.0

    def _fits(self, reservation: Reservation) -> bool:
        """Return whether the limit holds if all reservations and this one are used up."""
        spent = self.total_usage
        tokens, dollars = spent.tokens, spent.dollars
        for item in [*self._reservations, reservation]:
            tokens += item.prompt + item.completion
            dollars += self._cost(item)

        tokens_fit = self.tokens is None or tokens <= self.tokens
        dollars_fit = self.dollars is None or dollars <= self.dollars
        return tokens_fit and dollars_fit

    def _exhausted_message(self, reservation: Reservation) -> str:
        limits = []
        if self.tokens is not None:
            limits.append(f"{self.tokens} tokens")
        if self.dollars is not None:
            limits.append(f"{self.dollars} dollars")
        spent = self.total_usage
        where = f", as {self.account.name} says," if self.account else ""
        return (
            f"The budget of {' and '.join(limits)} is used up: {spent.tokens} tokens "
            f"({spent.dollars:.4f} dollars) are spent{where} and the next request may take "
            f"{reservation.prompt + reservation.completion} more. Allow more and run again: what came "
            "is kept."
        )


def _read_account(path: Path) -> Usage:
    """Return what an account says is spent; what was running when its process ended counts in full.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Usage(**content["spent"]) + Usage(**content["running"])
    except FileNotFoundError:
        return Usage()
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{resources.display_path(path)} should say what was spent, and cannot be read ({error}): mend "
            "it, or move it away to count from zero"
        ) from None
