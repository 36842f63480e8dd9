"""Qwen's tokenizer, as the released checkpoints use it, built as a fast tokenizer from `qwen.tiktoken`.

The file lists byte sequences by rank: byte-level BPE joins the neighbouring pair of lowest rank first. The
special tokens follow the ranks.
"""

import base64
import binascii
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from monkeylib.prompts import IMAGE_TOKENS

VOCABULARY = "qwen.tiktoken"
# Ten times the released file, and its longest line.
_MOST_BYTES, _MOST_TOKEN_BYTES = 2**25, 2_000
END_OF_TEXT = "<|endoftext|>"
# In the order of their ids, which begin after the last rank: 151643 in the released checkpoint.
SPECIAL_TOKENS = (
    END_OF_TEXT,
    *("<|im_start|>", "<|im_end|>"),
    *(f"<|extra_{i}|>" for i in range(205)),
    *("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>"),
    *IMAGE_TOKENS,
)
# Where Qwen splits a text before BPE: contractions, words with one character before, single digits,
# punctuation, line ends, blanks.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def build_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """Build the tokenizer of a `qwen.tiktoken` file; it normalises to Unicode's NFC as the released code.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no vocabulary in tiktoken's format.
    """
    ranks = read_ranks(path)
    letters = bytes_to_unicode()

    # BPE works on characters: every byte stands for one, as in GPT-2.
    def spell(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    vocabulary = {spell(token): rank for token, rank in ranks.items()}
    merges = [(spell(left), spell(right)) for left, right in _find_merges(ranks)]

    # A piece that is a token as a whole needs no merges, hence `ignore_merges`.
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        extra_special_tokens=list(SPECIAL_TOKENS[1:]),
        clean_up_tokenization_spaces=False,
    )


def read_ranks(path: Path) -> dict[bytes, int]:
    """Read the rank of each byte sequence, in the order of the ranks 0, 1, 2, ...

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not a base64 text and a rank, ranks are missing, or one of the 256 bytes is.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no vocabulary at {path}: the released folders hold {VOCABULARY}, and "
            "`monkeylib assets fetch qwen-vocabulary` fetches it"
        )

    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes: take the released {VOCABULARY}")

    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            # Joining a token takes the square of its length.
            token, rank = line[:_MOST_TOKEN_BYTES].split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise ValueError(
                f"line {number} of {path} is not a base64 text and a rank: take the released {VOCABULARY}"
            ) from error

    # A missing line would shift the id of every later token.
    in_order = list(ranks.values()) == list(range(len(ranks)))
    has_all_bytes = all(bytes([value]) in ranks for value in range(256))
    if not in_order or not has_all_bytes:
        raise ValueError(
            f"{path} must hold the 256 bytes and the ranks 0, 1, 2, ... in order: "
            f"take the released {VOCABULARY}"
        )

    return ranks


def write_ranks(tokenizer: PreTrainedTokenizerFast, path: Path) -> None:
    """Write the vocabulary of a tokenizer that `build_tokenizer` built, byte for byte as the file was.

    Raises:
        ValueError: another kind of tokenizer.
    """
    vocabulary = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
    first_special = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    if first_special != len(vocabulary) or not set("".join(vocabulary)) <= set(byte_of):
        raise ValueError(f"only Qwen's tokenizer can be written as {VOCABULARY}, got another one")

    lines = []
    for token, rank in sorted(vocabulary.items(), key=lambda item: item[1]):
        token_bytes = bytes(byte_of[letter] for letter in token)
        lines.append(base64.b64encode(token_bytes) + b" %d\n" % rank)

    path.write_bytes(b"".join(lines))


def _find_merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Find the pair that BPE joins into each token, by rank.

    Inside a longer text a token is always reached by the same joins, so one pair per token is enough. Tokens
    that are never reached have none; they stand only for pieces of text that are nothing but the token.
    """
    merges = []
    for token, rank in ranks.items():
        # Apply BPE to the token itself, with the ranks below its own.
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            pair_ranks = [
                ranks.get(left + right, rank) for left, right in zip(parts, parts[1:], strict=False)
            ]
            lowest = min(pair_ranks)
            if lowest >= rank:
                break
            at = pair_ranks.index(lowest)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]

        if len(parts) == 2:
            merges.append((parts[0], parts[1]))

    return merges
