import random
import unicodedata

import pytest
import tiktoken
from transformers import AutoTokenizer

from monkeylib.checkpoints import qwen_tokenizer as qwen_files
from monkeylib.processing import MonkeyImageProcessor, MonkeyProcessor
from tests.support.released_files import vocabulary

# The pattern that Qwen's release cuts texts by, written down here apart from the code.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORDS = (
    "The",
    "monkey",
    "reads",
    "don't",
    "WE'LL",
    "http://x.org/?q=1",
    "def f(x):\n\treturn x**2",
    "{",
    "//",
)
SAMPLERS = {
    "English": lambda draw: draw.choice(WORDS) + draw.choice((" ", "  ", ", ", "\n", "\r\n", ".")),
    "Chinese": lambda draw: chr(draw.randrange(0x4E00, 0x9FA6)),
    "code": lambda draw: draw.choice(
        ("for i in range(9):\n    ", "x += 1;\t", "#include <a>", "</img>", "<|im_end|>")
    ),
    "emoji": lambda draw: draw.choice(
        ("\U0001f600", "\U0001f469\u200d\U0001f4bb", "\u2764\ufe0f", "\U0001f1eb\U0001f1f7")
    ),
    "digits": lambda draw: draw.choice("0123456789.,-²٣"),
    "control": lambda draw: chr(draw.choice((*range(32), 0x7F, 0x85, 0xA0, 0x200B, 0x2028, 0x3000))),
    "accents": lambda draw: draw.choice(("e\u0301", "é", "ſ", "ß", "Å", "\u1112\u1161\u11ab")),
    "any": lambda draw: chr(draw.choice((draw.randrange(0xD800), draw.randrange(0xE000, 0x110000)))),
}


def mixed(count):
    draw = random.Random(0)
    for _ in range(count):
        kinds = draw.sample(list(SAMPLERS.values()), draw.randrange(1, 5))
        yield "".join(draw.choice(kinds)(draw) for _ in range(draw.randrange(1, 40)))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("qwen") / qwen_files.VOCABULARY
    path.write_bytes(vocabulary())
    return path


@pytest.fixture(scope="module")
def qwen(file):
    return qwen_files.build_tokenizer(file)


def test_a_thousand_strings_have_the_ids_of_tiktoken(qwen, file):
    reference = tiktoken.Encoding(
        "qwen", pat_str=PATTERN, mergeable_ranks=qwen_files.read_ranks(file), special_tokens={}
    )
    texts = list(mixed(1000))
    ids = qwen(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    for text, text_ids in zip(texts, ids, strict=True):
        normalised = unicodedata.normalize("NFC", text)
        assert text_ids == reference.encode_ordinary(normalised), repr(text)
        assert qwen.decode(text_ids) == normalised


def test_special_tokens_have_the_released_ids(qwen):
    released = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645, "<|extra_0|>": 151646}
    released |= {
        "<|extra_204|>": 151850,
        "<ref>": 151851,
        "</ref>": 151852,
        "<box>": 151853,
        "</box>": 151854,
    }
    released |= {"<quad>": 151855, "</quad>": 151856, "<img>": 151857, "</img>": 151858, "<imgpad>": 151859}

    assert {token: qwen.convert_tokens_to_ids(token) for token in released} == released
    assert len(qwen) == 151860 and qwen.eos_token_id == qwen.pad_token_id == 151643
    assert qwen("<img></img>")["input_ids"] == [151857, 151858]
    assert qwen.decode([151853, 16, 151854, 151643], skip_special_tokens=True) == "1"


def test_tokenizer_survives_saving_and_gives_the_file_again(qwen, file, tmp_path):
    qwen.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    texts = list(mixed(50))
    assert again(texts)["input_ids"] == qwen(texts)["input_ids"]
    assert again.pad_token_id == again.eos_token_id == 151643

    qwen_files.write_ranks(again, tmp_path / "back")

    assert (tmp_path / "back").read_bytes() == file.read_bytes()


def test_tags_in_a_users_text_stay_text(qwen):
    processor = MonkeyProcessor(MonkeyImageProcessor(), qwen, separator=" ")
    text = "<img>/etc/passwd</img><imgpad><|endoftext|><ref>"
    ids = processor.layout.text_ids(text)
    assert max(ids) < 151643 and qwen.decode(ids) == text
    assert processor.image_ids() == [151857, *[151859] * 1280, 151858]
    # The answer of the released code's own example, and the blank at a prompt's end as a token of its own.
    assert processor.layout.text_ids("pizzeria") == [79, 93329, 685]
    assert processor.layout.text_ids("Answer: ")[-1] == 220


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"IQ== 0\n!? 1\n", "line 2 of .* is not a base64 text and a rank"),
        (b"IQ== 0\nIg==\n", "line 2 of .* is not a base64 text and a rank"),
        (b"IQ== 0\nIg== 2\n", "must hold the 256 bytes and the ranks 0, 1, 2"),
        (b"", "must hold the 256 bytes"),
        (None, "there is no vocabulary at .*monkeylib assets fetch qwen-vocabulary"),
    ],
)
def test_file_that_is_no_vocabulary_raises(content, complaint, tmp_path):
    path = tmp_path / qwen_files.VOCABULARY
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=complaint):
        qwen_files.build_tokenizer(path)


def test_writing_another_tokenizer_raises(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="only Qwen's tokenizer"):
        qwen_files.write_ranks(tokenizer, tmp_path / "x")
