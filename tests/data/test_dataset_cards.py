"""Dataset cards: their order, their fields, and the errors of cards that do not fit the schema."""

import pytest

from monkeylib.data import dataset_cards


def test_cards_come_in_the_order_of_the_papers_tables():
    assert list(dataset_cards.load_cards()) == [
        "detailed-caption", "coco-caption", "flickr30k", "textcaps",
        "vqav2", "okvqa", "gqa", "scienceqa", "vizwiz", "mme",
        "textvqa", "ocrvqa", "ai2d", "stvqa", "estvqa",
        "docvqa", "chartqa", "infovqa", "deepform", "klc", "wtq", "tablefact", "visualmrc",
    ]  # fmt: skip


def test_every_card_is_used_and_states_its_source():
    assert len(dataset_cards.training_cards()) == 19
    assert len(dataset_cards.evaluation_cards()) == 18
    for card in dataset_cards.load_cards().values():
        assert card.train or card.test
        assert card.home.startswith("https://") and card.licence and card.title


def test_no_two_cards_share_a_position():
    cards = dataset_cards.load_cards().values()
    assert len({(card.kind, card.position) for card in cards}) == len(cards)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "layout: textvqa",
            "layout: textcap",
            "layout: there is no layout called 'textcap': choose one of detailed_",
        ),
        ("documented: vqa,", "documented: vqb,", "test.prompts.documented: .*no prompt called 'vqb'"),
        ("prompt: vqa", "prompt: vqb", "train.prompt: .*no prompt called 'vqb'"),
        ("title: TextVQA", "titel: TextVQA", "titel: there is no such field; did you mean title[?]"),
        ("kind: scene text", "kind: scenes", "kind: Input should be 'captions'"),
        ("files: [TextVQA_0.5.1_val.json]", "files: []", "test.files: List should have at least 1 item"),
    ],
)
def test_card_that_does_not_fit_raises(old, new, sentence, tmp_path):
    content = (dataset_cards.FOLDER / "textvqa.yaml").read_text()
    # The replacement must change something, or the card would be valid.
    assert old in content

    (tmp_path / "own.yaml").write_text(content.replace(old, new, 1))
    with pytest.raises(ValueError, match=f"own.yaml, line .*{sentence}"):
        dataset_cards.read_card(tmp_path / "own.yaml")
