"""Words of the synthetic data, and the rule that keeps its splits disjoint.

Every written fact is a (key, value) pair such as `("milk", "4.20")`. A hash of the pair decides which split
may show it, so a pair that a model has read in training is never an answer in validation or test.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from numpy.random import Generator

from monkeylib.digests import text_number

SPLITS = ("train", "val", "test")
_PERCENT = {"test": 15, "val": 10}  # of all pairs; the rest is train
_MAX_DRAWS = 2000

ITEMS = (
    "milk bread rice tea soap eggs corn kiwi salt cake jam beans pasta apple pear plum lemon onion "
    "garlic butter cheese honey sugar flour yogurt cocoa mango peach melon grape olive bacon ham soup "
    "juice water cider spice nuts oats"
).split()
SHOPS = (
    "market bakery corner depot harbor garden station village central sunrise meadow river summit orchard"
).split()
NAMES = (
    "anna ben clara david emma felix grace henry iris jonas karen leo maria nina oscar paula quinn rosa "
    "simon tara uma victor wendy xavier yara zoe"
).split()
CITIES = (
    "oslo rome paris lima cairo delhi tokyo seoul quito dakar miami perth berlin vienna madrid lisbon "
    "dublin athens warsaw prague zurich geneva boston denver havana bogota"
).split()
MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
DAYS = "mon tue wed thu fri sat sun".split()
FORM_TITLES = "order ticket invoice permit booking member visitor delivery".split()
TABLE_TITLES = "stock visits sales rain goals trips".split()
COLUMNS = "sold kept made paid lost sent".split()
SIGN_WORDS = (
    "open closed exit stop slow push pull caution private parking library museum hotel cafe bank school "
    "platform gate taxi bus metro ferry tickets keep turn north south east west danger quiet please "
    "mind step no entry wet floor fresh coffee hot soup books flowers repair bikes boats rent sale "
    "today free lunch dinner bar garden beach tower bridge castle forest lake hill park street road "
    "lane avenue harbor market old new lion swan gold crown silver fox king queen rose anchor"
).split()


@lru_cache(maxsize=1 << 16)  # a long training draws the same pairs again and again
def split_of(key: str, value: str) -> str:
    """Return the split that may show a pair. Stable over machines and Python versions (SHA-256)."""
    # Percent 0 to 99: the first 15 are test, the next 10 val, the rest train.
    bucket = text_number(f"{key}\0{value}", 4) % 100

    for split, percent in _PERCENT.items():
        if bucket < percent:
            return split
        bucket -= percent

    return "train"


def draw_value(key: str, split: str, draw: Callable[[], str]) -> str:
    """Draw values until the pair (key, value) belongs to `split`.

    Raises:
        RuntimeError: none of 2000 drawn values belongs to it.
    """
    for _ in range(_MAX_DRAWS):
        value = draw()
        if split_of(key, value) == split:
            return value

    raise RuntimeError(
        f"none of {_MAX_DRAWS} values drawn for '{key}' belongs to the split '{split}': draw from more values"
    )


def pick(rng: Generator, words: tuple[str, ...] | list[str], count: int = 1) -> list[str]:
    """Draw `count` different words."""
    return [words[i] for i in rng.permutation(len(words))[:count]]


def price(rng: Generator) -> str:
    """Draw an amount such as 4.20, below 10 more often than not."""
    return f"{rng.integers(1, 30 if rng.random() < 0.3 else 10)}.{rng.integers(0, 100):02d}"


def number(rng: Generator) -> str:
    """Draw a count below 1000, below 100 more often than not."""
    return str(rng.integers(1, 100 if rng.random() < 0.6 else 1000))


def date(rng: Generator) -> str:
    """Draw a day such as 12 may."""
    return f"{rng.integers(1, 32)} {pick(rng, MONTHS)[0]}"


def code(rng: Generator) -> str:
    """Draw two letters and three digits."""
    letters = "".join(chr(ord("a") + letter) for letter in rng.integers(0, 26, 2))
    return f"{letters}{rng.integers(100, 1000)}"


def phone(rng: Generator) -> str:
    """Draw a number such as 555-1234."""
    return f"{rng.integers(100, 1000)}-{rng.integers(1000, 10000)}"


def person(rng: Generator) -> str:
    """Draw a name and an initial other than "a", which is a word of the captions."""
    return f"{pick(rng, NAMES)[0]} {chr(ord('b') + rng.integers(0, 25))}"


def address(rng: Generator) -> str:
    """Draw a city and a number."""
    return f"{pick(rng, CITIES)[0]} {rng.integers(1, 100)}"


def clock(rng: Generator) -> str:
    """Draw a time of day such as 8:05."""
    return f"{rng.integers(0, 24)}:{rng.integers(0, 60):02d}"


# Keys of a form, and what their values are drawn by.
FIELDS: dict[str, Callable[[Generator], str]] = {
    "name": person,
    "guest": person,
    "date": date,
    "due": date,
    "city": address,
    "from": address,
    "to": address,
    "code": code,
    "ref": code,
    "phone": phone,
    "time": clock,
    "seat": code,
    "room": number,
    "fee": price,
    "tax": price,
    "age": number,
    "size": number,
    "desk": number,
}
