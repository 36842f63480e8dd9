"""Orders of any length whose every place is computed alone: the same on every machine and in every process.

NumPy may change its random streams between versions and shuffles whole lists; a run that is resumed after an
upgrade, or that samples from billions of rows, needs neither.
"""

import hashlib

_ROUNDS = 6
_MASK = (1 << 64) - 1


class Shuffle:
    """A random order of `0 ... length - 1`: `shuffle[i]` is what stands at place `i`.

    A Feistel network permutes the smallest square of a power of two that holds the length; results outside
    are permuted again until they lie inside (cycle walking), so every number comes exactly once.

    Args:
        length: how many numbers there are.
        key: what the order depends on, e.g. the seed, the set and the epoch.
    """

    def __init__(self, length: int, *key: int | str) -> None:
        if length < 1:
            raise ValueError(f"an order needs at least one number, got a length of {length}")
        self.length = length
        digest = hashlib.blake2b(repr(key).encode(), digest_size=8 * _ROUNDS).digest()
        self._keys = [int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(_ROUNDS)]
        self._bits = max(1, ((length - 1).bit_length() + 1) // 2)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: int) -> int:
        if not 0 <= place < self.length:
            raise IndexError(f"the order has the places 0 to {self.length - 1}, not {place}")
        number = self._permuted(place)
        while number >= self.length:
            number = self._permuted(number)
        return number

    def _permuted(self, number: int) -> int:
        low = (1 << self._bits) - 1
        left, right = number >> self._bits, number & low
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) & low)
        return left << self._bits | right


def _mixed(value: int) -> int:
    """64 bits in which each depends on all of `value` (the finaliser of SplitMix64)."""
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _MASK
    return value ^ value >> 31
