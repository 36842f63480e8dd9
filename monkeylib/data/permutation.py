"""Random permutations with random access: the number at any index, without listing the others."""

from collections.abc import Iterator

from monkeylib.digests import short_digest

_ROUNDS = 6
_MASK = (1 << 64) - 1  # 64 bits


class RandomPermutation:
    """A random permutation of `0 ... length - 1`: `permutation[i]` is the number at index `i`.

    A Feistel network permutes the numbers of 2 b bits, the smallest even number of bits that holds the
    length. With halves (l, r), round i maps

        l, r  ->  r, l XOR mix(r XOR key_i)

    which can be inverted whatever `mix` is, so that no number comes twice. Results outside the length are
    permuted again until they lie inside it (cycle walking).

    Args:
        length: number of elements.
        key: what the permutation depends on, e.g. the seed, the dataset and the epoch.
    """

    def __init__(self, length: int, *key: int | str) -> None:
        if length < 1:
            raise ValueError(f"a permutation needs at least one number, got a length of {length}")
        self.length = length

        # At most 4 times as many numbers as elements, so a walk takes 4 steps or fewer on average.
        self._half_bits = max(1, ((length - 1).bit_length() + 1) // 2)

        # 64 bits of the digest for each round.
        digest = short_digest(repr(key).encode(), 8 * _ROUNDS)
        self._keys = [int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(_ROUNDS)]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self.length:
            raise IndexError(f"the permutation has the indices 0 to {self.length - 1}, not {index}")

        number = self._permute(index)
        while number >= self.length:
            number = self._permute(number)
        return number

    def __iter__(self) -> Iterator[int]:
        return (self[index] for index in range(self.length))

    def _permute(self, number: int) -> int:
        low_bits = (1 << self._half_bits) - 1
        left, right = number >> self._half_bits, number & low_bits

        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & low_bits)
        return left << self._half_bits | right


def _mix(value: int) -> int:
    """Return 64 bits each of which depends on all bits of `value` (the finaliser of SplitMix64)."""
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _MASK
    return value ^ value >> 31
