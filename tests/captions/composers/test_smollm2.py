"""The rewriting composer: drafts that are used or refused, and a tiny model of its architecture."""

import re

import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from monkeylib.captions import checks
from monkeylib.captions.annotations import OcrLine, Record, Region
from monkeylib.captions.composers import smollm2
from monkeylib.captions.composers.smollm2 import SmolLm2Composer
from monkeylib.captions.filtering import Filter
from monkeylib.captions.input_images import InputImage
from monkeylib.captions.stages import ComposeStage, PipelineSample


def record(**more) -> Record:
    cat = Region(box=(0.0, 0.0, 30.0, 30.0), text="cat", score=0.9, expert="yolox-nano")
    quad = ((60.0, 80.0), (90.0, 80.0), (90.0, 90.0), (60.0, 90.0))
    line = OcrLine(quad=quad, text="Exit 24", confidence=0.99, expert="pp-ocr")
    return Record(name="a.png", sha256="0" * 64, width=90, height=90, regions=(cat,), lines=(line,), **more)


def composer(monkeypatch, draft: str, **settings) -> SmolLm2Composer:
    rewriter = SmolLm2Composer(**settings)
    monkeypatch.setattr(rewriter, "draft", lambda plain: draft)
    return rewriter


GOOD = 'A picture shows a cat at the top left. The text reads "Exit 24".'


def test_faithful_draft_is_used(monkeypatch):
    rewriter = composer(monkeypatch, GOOD)
    assert rewriter.compose(record()) == GOOD
    assert rewriter.rewrites[GOOD] == smollm2.RewriteResult(GOOD, ())
    assert checks.check_caption(record(detailed_caption=GOOD)).grounding == 1


@pytest.mark.parametrize(
    "draft, problem",
    [
        ('The picture shows a cat and a dog. The text reads "Exit 24".', "nobody said dog"),
        ("The picture shows a cat at the top left.", 'lacks the text "Exit 24"'),
        ('The text reads "Exit 24".', "it forgets cat"),
        ('A cat at [0.1, 0.2]. The picture shows text that reads "Exit 24" at the left.', "coordinates"),
        (" ".join(["The picture shows a cat."] * 6) + ' The text reads "Exit 24".', "sentences"),
        ('The picture shows a cat at the top left. The text reads "Exit 24" and', "cut off"),
        (
            'The picture shows a cat at the top left, above the exit. The text reads "Exit 24".',
            "exit is only written",
        ),
        ("", "empty"),
    ],
)
def test_unfaithful_draft_is_replaced_by_the_rules(monkeypatch, draft, problem):
    rewriter = composer(monkeypatch, draft)
    caption = rewriter.compose(record())

    assert caption == rewriter.rules.compose(record())

    result = rewriter.rewrites[caption]
    assert result.draft == draft
    assert any(re.search(problem, message) for message in result.problems)


def test_reversed_relation_is_a_problem():
    plain = "The picture shows a cat; a motorcycle. The motorcycle is to the right of the cat."
    faithful = "A cat is on the left. The motorcycle is to the right of the cat."
    reversed_relation = "The cat is to the right of the motorcycle."

    assert smollm2.misplaced(plain, faithful) == []
    assert smollm2.misplaced(plain, reversed_relation) == ["nobody said cat to the right of motorcycle"]
    assert smollm2.misplaced(plain, "A cat, above the motorcycle.") == ["nobody said cat above motorcycle"]


def test_empty_record_is_not_sent_to_the_model():
    assert SmolLm2Composer().compose(Record(name="b.png", width=9, height=9)) == ""
    assert SmolLm2Composer(0.5).provenance != SmolLm2Composer(0.9).provenance


def test_babbling_tiny_model_is_replaced_by_the_rules(tokenizer):
    torch.manual_seed(0)
    # Random weights of the same architecture: the draft is noise.
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), **sizes, bos_token_id=None, eos_token_id=0)
    )
    # A copy of the tokenizer with a minimal chat template.
    chat = type(tokenizer)(
        tokenizer_object=tokenizer._tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    chat.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    rewriter = SmolLm2Composer(maximum_tokens=12)
    rewriter.__dict__["_parts"] = (chat, model.eval())
    caption = rewriter.compose(record())

    assert caption == rewriter.rules.compose(record())
    assert rewriter.rewrites[caption].problems
    assert rewriter.draft("a") == rewriter.draft("a")


def test_record_states_the_problems_of_a_refused_draft_also_from_the_cache(monkeypatch, tmp_path):
    plain = SmolLm2Composer().rules.compose(record())
    for place, draft, refused in (
        ("good", GOOD, ()),
        ("bad", "", ("a draft was refused: it is empty",)),
    ):
        rewriter = composer(monkeypatch, draft)
        monkeypatch.setattr(SmolLm2Composer, "prepare", lambda self: None)
        for _ in range(2):  # the second time from the cache
            ((sample,), _) = _stage(rewriter, tmp_path / place)
            assert sample.record.check.problems == refused
            assert sample.record.detailed_caption == (plain if refused else GOOD)
            monkeypatch.setattr(rewriter, "draft", lambda plain: pytest.fail("drafted again"))


def _stage(rewriter, place):
    source = InputImage(Image.new("RGB", (90, 90)), "a.png")
    return ComposeStage(rewriter, Filter(), place)([PipelineSample(source, record())])
