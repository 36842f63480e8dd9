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

VOCABULARY = "qwen.tiktoken"
END_OF_TEXT = "<|endoftext|>"
# In the order of their ids, which begin after the last rank: 151643 in the release.
SPECIAL_TOKENS = (
    END_OF_TEXT,
    *("<|im_start|>", "<|im_end|>"),
    *(f"<|extra_{i}|>" for i in range(205)),
    *("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>"),
    *("<img>", "</img>", "<imgpad>"),
)
# How Qwen cuts a text before BPE: contractions, words with one character before, single digits, punctuation,
# line ends, blanks.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def build(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a `qwen.tiktoken` file; texts are brought to Unicode's form NFC as in the release.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no vocabulary in tiktoken's format.
    """
    ranks = read_ranks(path)
    letters = bytes_to_unicode()

    def spelled(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    vocabulary = {spelled(token): rank for token, rank in ranks.items()}
    pairs = [(spelled(left), spelled(right)) for left, right in _merges(ranks)]
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=pairs, ignore_merges=True))
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
    """Byte sequence -> rank, in the order of the ranks 0, 1, 2, ...

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not a base64 text and a rank, ranks are missing, or one of the 256 bytes is.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no vocabulary at {path}: the released folders hold {VOCABULARY}, and "
            "`monkeylib assets fetch qwen-vocabulary` fetches it"
        )
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines()):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise ValueError(
                f"line {number + 1} of {path} is not a base64 text and a rank: "
                f"take the release's {VOCABULARY}"
            ) from error
    if list(ranks.values()) != list(range(len(ranks))) or not all(bytes([i]) in ranks for i in range(256)):
        raise ValueError(
            f"{path} must hold the 256 bytes and the ranks 0, 1, 2, ... in order: "
            f"take the release's {VOCABULARY}"
        )
    return ranks


def write_ranks(tokenizer: PreTrainedTokenizerFast, path: Path) -> None:
    """Write the vocabulary of a tokenizer made by `build` as `qwen.tiktoken`, byte for byte as it was.

    Raises:
        ValueError: another kind of tokenizer.
    """
    vocabulary = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
    first_special = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    if first_special != len(vocabulary) or not set("".join(vocabulary)) <= set(letters):
        raise ValueError(f"only Qwen's tokenizer can be written as {VOCABULARY}, got another one")
    lines = []
    for token, rank in sorted(vocabulary.items(), key=lambda pair: pair[1]):
        lines.append(base64.b64encode(bytes(letters[letter] for letter in token)) + b" %d\n" % rank)
    path.write_bytes(b"".join(lines))


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The pair that BPE joins into each token, by rank.

    Inside a longer text a token is always reached by the same joins, so one pair per token is enough. Tokens
    that are never reached have none; they stand only for pieces of text that are wholly theirs.
    """
    pairs = []
    for token, rank in ranks.items():
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            joined = [ranks.get(left + right, rank) for left, right in zip(parts, parts[1:], strict=False)]
            best = min(joined)
            if best >= rank:
                break
            at = joined.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            pairs.append((parts[0], parts[1]))
    return pairs
