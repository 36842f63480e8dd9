"""The matching head: its heads, its training on made pairs, its scores, its matcher, and what is shipped."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from torch.nn import functional as F

from monkeylib import paths, tables
from monkeylib.captions.experts import matching
from monkeylib.captions.experts.encoders import PICTURES, SIDE, TEXTS, Encoders, pixels_of
from monkeylib.captions.experts.matching import MatchingHead, TrainedMatcher
from monkeylib.data import assets
from monkeylib.data.pictures import Described
from monkeylib.training import matching as training
from monkeylib.training import matching_features, matching_scores
from monkeylib.training.matching_features import PHOTOGRAPH, WHITE, Features

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
SHIPPED = paths.models() / matching.FOLDER


def pairs(count: int = 300, seed: int = 0) -> Features:
    """Pictures and texts that share a hidden vector, as a picture and its description share a meaning."""
    rng = np.random.default_rng(seed)
    meaning = rng.normal(size=(count, 12))
    bases = rng.normal(size=(12, 768)), rng.normal(size=(12, 384))
    views, words = (F.normalize(torch.tensor(meaning @ base, dtype=torch.float32), dim=-1) for base in bases)
    texts = tuple(f"thing {number}" for number in range(count))
    sources = tuple("openmoji" if number % 3 else "tuxpaint-stamps" for number in range(count))
    behind = tuple(WHITE if source == "openmoji" or n % 2 else PHOTOGRAPH for n, source in enumerate(sources))
    return Features(sources, texts, texts, behind, views, words)


def test_what_shares_a_description_is_in_one_split_and_the_shares_are_as_stated():
    texts = [f"thing number {number}" for number in range(4000)]
    shares = [sum(training.split_of(text) == split for text in texts) / 4000 for split in training.SPLITS]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.02)
    assert training.split_of("man juggling") == training.split_of("woman juggling")
    assert training.split_of("people with bunny ears") == training.split_of("men with bunny ears")
    features = pairs()
    rows = [training.rows_of(features, split) for split in training.SPLITS]
    assert sorted(sum(rows, [])) == list(range(len(features)))
    texts = [{features.texts[row] for row in part} for part in rows]
    assert not (texts[0] & texts[2] or texts[0] & texts[1] or texts[1] & texts[2])


def test_training_learns_to_match_what_it_was_never_shown_and_says_how_likely_it_is():
    features = pairs()
    head, curve = training.train(features, training.Recipe(epochs=25, width=32, dropout=0.0))
    assert len(curve) == 25 and curve[-1]["loss"] < curve[0]["loss"] / 2
    test = features.chosen(training.rows_of(features, "test"))
    values, belongs = matching_scores.closeness(head, test)
    assert matching_scores.hits(values, belongs, 1).mean() > 0.7
    probability = head.probability(torch.from_numpy(values)).numpy()
    assert matching_scores.judged(probability, belongs, 0.5).mean() > 0.9
    assert probability[belongs].mean() > 0.8 and probability[~belongs].mean() < 0.2
    again, _ = training.train(features, training.Recipe(epochs=25, width=32, dropout=0.0))
    assert all(
        torch.equal(a, b)
        for a, b in zip(head.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_rows_with_one_description_aren_t_pushed_apart():
    unit = F.normalize(torch.eye(3), dim=-1)
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    together = torch.stack([unit[0], unit[0], unit[2]])
    apart = torch.stack([unit[0], unit[1], unit[2]])
    assert training.contrast(together, together, same.float(), 0.1) < training.contrast(
        apart, apart, same.float(), 0.1
    )


@UNHURRIED
@given(arrays.arrays(np.float64, (5, 6), elements=st.floats(-1, 1)), st.integers(0, 5), st.integers(1, 6))
def test_a_hit_is_a_right_candidate_among_the_first(values, column, depth):
    belongs = np.zeros((5, 6), dtype=bool)
    belongs[:, column] = True
    found = matching_scores.hits(values, belongs, depth)
    for row, hit in zip(values, found, strict=True):
        better = sum(row[j] >= row[column] for j in range(6) if j != column)
        assert hit == (better < depth)
    assert (found <= matching_scores.hits(values, belongs, depth + 1)).all()
    assert matching_scores.chance(belongs, depth) == pytest.approx(depth / 6)


def test_chance_counts_every_right_candidate():
    belongs = np.array([[True, True, False, False]])
    assert matching_scores.chance(belongs, 1) == 0.5
    assert matching_scores.chance(belongs, 2) == pytest.approx(5 / 6)
    assert matching_scores.chance(belongs, 9) == 1


def test_the_table_has_every_group_with_intervals_beside_chance():
    rows = matching_scores.table(MatchingHead(8).eval(), pairs(60))
    assert {row["pictures"] for row in rows} == set(matching_scores.GROUPS)
    for row in rows:
        assert row["low"] <= row["value"] <= row["high"] and 0 < row["chance"] <= 1
        assert row["queries"] >= row["candidates"] if row["direction"] == "picture to text" else True


def test_a_head_is_saved_small_and_read_back(tmp_path):
    head = MatchingHead().eval()
    head.gain.fill_(9.0)
    matching.save(head, tmp_path, {"version": "abc", "views": {}})
    assert (tmp_path / "model.safetensors").stat().st_size < 2**20
    again, facts = matching.load_head(tmp_path)
    assert facts == {"width": 256, "version": "abc", "views": {}}
    assert torch.allclose(head.picture.weight, again.picture.weight, atol=1e-3) and again.gain == 9
    assert TrainedMatcher(tmp_path).provenance.version == "abc"
    with pytest.raises(FileNotFoundError, match="no matching head in .*train one with"):
        matching.load_head(tmp_path / "nowhere")


class CountingEncoders(Encoders):
    """Knows pictures by their colour and texts by their first letter; counts what it is asked."""

    def __init__(self):
        super().__init__()
        self.asked = {"pictures": 0, "texts": 0}

    def pictures(self, images):
        self.asked["pictures"] += len(images)
        return torch.stack(
            [F.one_hot(torch.tensor(image.getpixel((0, 0))[0] % 7), 768).float() for image in images]
        )

    def texts(self, texts):
        self.asked["texts"] += len(texts)
        return torch.stack([F.one_hot(torch.tensor(ord(text[0]) % 7), 384).float() for text in texts])


def test_the_matcher_encodes_everything_once_and_answers_in_order(tmp_path):
    torch.manual_seed(0)
    matching.save(MatchingHead(16), tmp_path, {"version": "1"})
    made = TrainedMatcher(tmp_path)
    made.encoders = CountingEncoders()
    first, second = Image.new("RGB", (9, 9), (3, 0, 0)), Image.new("RGB", (9, 9), (4, 0, 0))
    said = made.match([first, second, first, first], ["A cat.", "dog", "dog", "cat"])
    assert made.encoders.asked == {"pictures": 2, "texts": 2}
    alone = [
        made.match([crop], [text])[0] for crop, text in [(first, "cat"), (second, "dog"), (first, "dog")]
    ]
    assert said == pytest.approx([*alone, alone[0]]) and all(0 < value < 1 for value in said)
    assert len({round(value, 5) for value in alone}) == 3
    assert made.match([], []) == []
    with pytest.raises(ValueError, match="a text for each crop: got 1 and 2"):
        made.match([first], ["a", "b"])


@pytest.fixture(scope="module")
def tiny_encoders() -> Encoders:
    """Networks of the true architectures, tiny."""
    from transformers import BertConfig, BertModel, BertTokenizer, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "dog", "red"]
    made = Encoders(batch_size=2)
    made.__dict__["_vision"] = Dinov2Model(Dinov2Config(image_size=56, patch_size=14, **sizes)).eval()
    language = BertModel(BertConfig(vocab_size=len(words), intermediate_size=48, **sizes)).eval()
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    made.__dict__["_language"] = (tokenizer, language)
    return made


def test_batches_change_no_features(tiny_encoders):
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (30, 20 + 9 * n, 3), dtype=np.uint8)) for n in range(5)]
    together = tiny_encoders.pictures(images)
    assert together.shape == (5, 48)
    assert torch.allclose(together, torch.cat([tiny_encoders.pictures([i]) for i in images]), atol=1e-5)
    assert torch.allclose(together.norm(dim=-1) ** 2, torch.full((5,), 2.0), atol=1e-4)
    texts = ["cat", "red dog", "red red cat dog"]
    words = tiny_encoders.texts(texts)
    assert torch.allclose(words, torch.cat([tiny_encoders.texts([t]) for t in texts]), atol=1e-5)
    assert torch.allclose(words.norm(dim=-1), torch.ones(3), atol=1e-5)
    assert tiny_encoders.pictures([]).shape == (0, 768) and tiny_encoders.texts([]).shape == (0, 384)


def test_a_crop_lies_in_the_middle_of_white():
    pixels = pixels_of(Image.new("RGB", (200, 50), "black"))
    assert pixels.shape == (3, SIDE, SIDE) and pixels.dtype == np.float32
    rows = pixels[0].mean(axis=1)
    assert rows[0] > 2 and rows[-1] > 2 and rows[SIDE // 2] < -2
    assert (rows < 0).sum() == SIDE // 4


def test_pictures_are_laid_on_white_and_on_the_same_photograph_every_time():
    image = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    image.paste((255, 0, 0, 255), (10, 10, 30, 30))
    white = matching_features.on_white(image)
    assert white.getpixel((0, 0)) == (255, 255, 255) and white.getpixel((20, 20)) == (255, 0, 0)
    photographs = [Image.new("RGB", (300, 200), (0, g, 0)) for g in (50, 100)]
    first, again = (matching_features.on_photograph(image, photographs, "a") for _ in range(2))
    assert first.tobytes() == again.tobytes() and first.getpixel((0, 0))[1] in (50, 100)
    assert (np.asarray(first) == (255, 0, 0)).all(axis=-1).sum() == 400


def test_features_are_made_once_in_chunks_and_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    pictures = [
        Described(
            "tuxpaint-stamps", f"animals/{n}", f"beast {n // 2}", Image.new("RGBA", (9, 9), (n, 0, 0, 255))
        )
        for n in range(7)
    ]
    opened, made = [], CountingEncoders()

    def source():
        opened.append(1)
        yield from pictures

    monkeypatch.setattr(matching_features, "SOURCES", {"tuxpaint-stamps": source})
    monkeypatch.setattr(matching_features, "Encoders", lambda: made)
    monkeypatch.setattr(matching_features, "CHUNK", 3)
    make, chunks = matching_features._make, []

    def interrupted(path, *rest):
        if len(chunks) == 2:
            raise KeyboardInterrupt
        chunks.append(path)
        make(path, *rest)

    monkeypatch.setattr(matching_features, "_make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        matching_features.collect(tmp_path, ["tuxpaint-stamps"], progress=False)
    monkeypatch.setattr(matching_features, "_make", make)
    found = matching_features.collect(tmp_path, ["tuxpaint-stamps"], progress=False)
    assert made.asked == {"pictures": 14, "texts": 7}  # each picture on white and on a photograph, once
    assert sorted(set(found.texts)) == [f"beast {n}" for n in range(4)]
    assert found.behind.count(WHITE) == found.behind.count(PHOTOGRAPH) == 7
    assert found.views.shape == (14, 768) and found.words.shape == (14, 384)
    row = found.names.index("animals/5")
    assert found.views[row].argmax() == 5 and found.texts[row] == "beast 2"
    again = matching_features.collect(tmp_path, ["tuxpaint-stamps"], progress=False)
    assert torch.equal(again.views, found.views) and again.names == found.names and len(opened) == 2


def test_a_trained_folder_holds_head_scores_and_card(tmp_path):
    recipe = training.Recipe(epochs=3, width=8)
    training.run(tmp_path, recipe, pairs(200))
    head, facts = matching.load_head(tmp_path)
    assert facts["recipe"]["epochs"] == 3 and sum(facts["views"].values()) == 200
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    rows = tables.read_file(tmp_path / "retrieval.csv")
    assert all(f"{100 * row['value']:.1f} (" in card for row in rows) and "{" not in card
    assert len(tables.read_file(tmp_path / "curve.csv")) == 3
    test = pairs(200).chosen(training.rows_of(pairs(200), "test"))
    assert rows[0]["value"] == pytest.approx(matching_scores.table(head, test)[0]["value"])


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="no head is shipped")
def test_the_shipped_head_is_small_beats_chance_and_its_card_states_its_table():
    assert (SHIPPED / "model.safetensors").stat().st_size <= 2 * 2**20
    head, facts = matching.load_head(SHIPPED)
    assert head.gain > 0 and facts["views"].keys() == set(training.SPLITS)
    rows = tables.read_file(SHIPPED / "retrieval.csv")
    card = (SHIPPED / "README.md").read_text(encoding="utf-8")
    for row in rows:
        assert f"{100 * row['value']:.1f} ({100 * row['low']:.1f}–{100 * row['high']:.1f})" in card
        if row["metric"] == "recall at 10":
            assert row["low"] > row["chance"]
    assert facts["version"] in card


@pytest.mark.skipif(
    not (SHIPPED.is_dir() and all(assets.folder(name).is_dir() for name in (PICTURES, TEXTS))),
    reason="needs `monkeylib assets fetch dinov2-small minilm-l6`",
)
def test_the_real_matcher_tells_a_cat_from_a_motorcycle():
    folder = assets.fetch("scikit-image-pictures")
    cat, motorcycle = (Image.open(folder / name) for name in ("chelsea.png", "motorcycle_left.png"))
    made = TrainedMatcher()
    made.prepare()
    right = made.match([cat, motorcycle], ["a cat", "a motorcycle"])
    wrong = made.match([cat, motorcycle], ["a motorcycle", "a cat"])
    assert min(right) > max(wrong)
