"""The nano world: the same everywhere, complete, true to its images, and its splits apart."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from monkeylib.data import synthetic
from monkeylib.data.synthetic import canvas, samples, scenes, words
from monkeylib.data.synthetic.tasks import training_turns
from monkeylib.data.synthetic.tokenizer import CHARACTERS, SPECIALS, WORDS, build_tokenizer
from monkeylib.prompts import IGNORE_INDEX, SEPARATOR
from recipes.nano_base.dense_labels import CHARS, dense_labels

COUNT = 80  # samples of each split
SIZE = 192
numbers = st.integers(0, 10_000_000)
splits = st.sampled_from(words.SPLITS)
families = st.sampled_from(synthetic.FAMILIES)


def digest(sample) -> str:
    pixels = hashlib.sha256(sample.image.tobytes()).hexdigest()
    truth = (sample.caption, sample.detailed_caption, sample.questions, sample.facts, sample.texts)
    return f"{pixels} {truth}"


@pytest.fixture(scope="module")
def many():
    """Samples of each split."""
    return {split: [synthetic.make_sample(n, split) for n in range(COUNT)] for split in words.SPLITS}


@pytest.fixture(scope="module")
def every(many):
    return [sample for some in many.values() for sample in some]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


# --- the same everywhere -------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(numbers, splits, families, st.sampled_from([96, 112, 192]))
def test_a_sample_depends_on_its_number_alone(number, split, family, side):
    first, second = (synthetic.make_sample(number, split, (side, side), family) for _ in range(2))
    assert digest(first) == digest(second)
    assert first.family == family and first.image.size == (side, side) and first.image.mode == "RGB"


def test_a_sample_is_the_same_in_another_process():
    code = (
        "import hashlib; from monkeylib.data import synthetic\n"
        "for n in range(6):\n"
        "    s = synthetic.make_sample(n, 'test')\n"
        "    print(hashlib.sha256(s.image.tobytes()).hexdigest(), s.questions)"
    )
    environment = {"PYTHONHASHSEED": "77", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    here = [synthetic.make_sample(n, "test") for n in range(6)]
    lines = [f"{hashlib.sha256(s.image.tobytes()).hexdigest()} {s.questions}" for s in here]
    assert done.stdout.splitlines() == lines


def test_an_unknown_split_family_or_test_set_is_refused():
    with pytest.raises(ValueError, match="no split called 'dev': choose one of train, val, test"):
        synthetic.make_sample(0, "dev")
    with pytest.raises(ValueError, match="no family called 'signs': choose one of general"):
        synthetic.make_sample(0, "test", family="signs")
    with pytest.raises(ValueError, match="no test set called 'tiny': choose one of fine, large"):
        synthetic.make_test_set("tiny", 3)


# --- splits apart --------------------------------------------------------------------------------


def test_every_written_fact_belongs_to_the_split_of_its_image(many):
    for split, some in many.items():
        facts = [fact for sample in some for fact in sample.facts]
        assert len(facts) > 3 * COUNT / 2
        assert {words.split_of(*fact) for fact in facts} == {split}


@given(st.text(max_size=12), st.text(max_size=12))
def test_a_fact_belongs_to_one_split_for_good(key, value):
    assert words.split_of(key, value) in words.SPLITS
    assert words.split_of(key, value) == words.split_of(key, value)


def test_the_rule_of_the_splits_is_fixed():
    """A change would let a trained model be tested on facts that it has read."""
    pairs = [("milk", "4.20"), ("total", "49.35"), ("apple", "1.05")]
    assert [words.split_of(*pair) for pair in pairs] == ["train", "test", "val"]


def test_every_value_that_is_asked_for_is_a_fact_of_the_image(every):
    """So that what keeps the facts apart keeps the answers apart."""
    for sample in every:
        values = {value for _, value in sample.facts}
        asked = {q.answer for q in sample.questions if q.kind in ("read", "value", "cell", "title")}
        assert asked <= values


def test_no_photograph_is_in_two_splits_and_backgrounds_keep_to_theirs(monkeypatch):
    names = [name for split in words.SPLITS for name in canvas.PHOTOS[split]]
    assert len(names) == len(set(names)) and set(canvas.PHOTOS) == set(words.SPLITS)
    used = set()
    photo = canvas.photo
    monkeypatch.setattr(canvas, "photo", lambda name: (used.add(name), photo(name))[1])
    for split in words.SPLITS:
        used.clear()
        for number in range(40):
            synthetic.make_sample(number, split, family="general" if number % 2 else "scene_text")
        assert used == set(canvas.PHOTOS[split])


def test_a_number_gives_another_layout_in_each_split(many):
    for layouts in zip(*many.values(), strict=True):
        boxes = [[t.box for t in (*s.objects, *s.texts)] for s in layouts]
        assert boxes[0] != boxes[1] != boxes[2] != boxes[0]


# --- questions and their answers -----------------------------------------------------------------


def answer_from_truth(sample, question: str) -> str:
    """The answer to a question, worked out anew from objects, signs or facts."""
    if sample.family == "general":
        return answer_about_things(sample.objects, question)
    if sample.family == "scene_text":
        return answer_about_signs(sample.signs, question)
    facts = dict(sample.facts)
    if question in ("what shop is this?", "what is the title?"):
        return sample.facts[-1][1]
    if question.startswith("which is the"):
        best = max if "highest" in question else min
        values = {key: int(value) for key, value in sample.facts[:-1]}
        return best(values, key=values.get)
    asked = question.removesuffix("?").removeprefix("what is the value of ").removeprefix("how much is the ")
    if " for " in asked:
        column, key = asked.removeprefix("what is ").split(" for ")
        return facts[f"{key} {column}"]
    return facts[asked.removeprefix("what is the ")]


def answer_about_things(things, question: str) -> str:
    asked = question.removesuffix("?")
    plural = {"fish": "fish", "boxes": "box", "crosses": "cross"}
    if asked.startswith("how many "):
        name = asked.removeprefix("how many ").removesuffix(" are there")
        name = plural.get(name, name.removesuffix("s"))
        return scenes.NUMBERS[sum(thing.name == name for thing in things)]
    if asked.startswith("what is at the "):
        (thing,) = (thing for thing in things if thing.location == asked.removeprefix("what is at the "))
        return thing.name
    (thing,) = (thing for thing in things if thing.name == asked.rsplit(" ", 1)[1])
    return thing.colour if asked.startswith("what colour") else thing.location


def answer_about_signs(signs, question: str) -> str:
    if question == "what does the sign say?":
        (sign,) = signs
    elif question.startswith("what does the "):
        (sign,) = (sign for sign in signs if question == f"what does the {sign.colour} sign say?")
    else:
        (sign,) = (sign for sign in signs if question == f"what is written at the {sign.location}?")
    return sign.text.string


def test_every_answer_follows_from_the_truth(every):
    kinds = set()
    for sample in every:
        assert sample.questions
        for question in sample.questions:
            assert answer_from_truth(sample, question.question) == question.answer, (sample.seed, question)
            kinds.add(question.kind)
    assert kinds == {"colour", "where", "what", "count", "read", "title", "value", "cell", "compare"}


def test_no_question_is_asked_twice_about_a_image(every):
    for sample in every:
        asked = [question.question for question in sample.questions]
        assert len(asked) == len(set(asked))


def test_evidence_lies_in_the_image_and_holds_the_answer(every):
    for sample in every:
        for question in sample.questions:
            x0, y0, x1, y1 = question.answer_box
            assert 0 <= x0 < x1 <= SIZE and 0 <= y0 < y1 <= SIZE
            if question.text_size != "object":
                assert any(
                    text.string.rstrip(":") == question.answer
                    and text.box[0] >= x0 - 1
                    and text.box[2] <= x1 + 1
                    and text.box[1] >= y0 - 1
                    and text.box[3] <= y1 + 1
                    for text in sample.texts
                ), (sample.seed, question)


def test_captions_name_what_is_there(every):
    for sample in every:
        for thing in sample.objects:
            assert thing.name in sample.caption
            assert f"{thing.colour} {thing.name} at the {thing.location}" in sample.detailed_caption
        for text in sample.texts:
            assert text.string in sample.detailed_caption


def test_objects_keep_apart_and_to_their_quadrants(every):
    for sample in every:
        for i, thing in enumerate(sample.objects):
            assert thing.location == scenes.quadrant_of(thing.box, sample.image.size)
            for other in sample.objects[:i]:
                a, b = thing.box, other.box
                assert a[0] > b[2] or b[0] > a[2] or a[1] > b[3] or b[1] > a[3]


def test_objects_have_their_colour_in_the_image(every):
    for sample in every:
        pixels = np.asarray(sample.image)
        for thing in sample.objects:
            x0, y0, x1, y1 = (round(edge) for edge in thing.box)
            shown = (pixels[y0:y1, x0:x1] == scenes.COLOURS[thing.colour]).all(-1)
            assert shown.mean() > 0.15, (sample.seed, thing)


# --- print ---------------------------------------------------------------------------------------


def test_fine_print_is_gone_at_one_tile_and_large_print_is_not(every):
    heights = {"fine": [], "large": []}
    for sample in every:
        for question in sample.questions:
            if question.text_size != "object":
                heights[question.text_size].append(question.height)
    assert min(heights["fine"]) >= samples.LEGIBLE, "legible at full size"
    assert max(heights["fine"]) * samples.TILE / SIZE < samples.LEGIBLE, "gone at one tile"
    assert min(heights["large"]) * samples.TILE / SIZE >= samples.LEGIBLE, "legible at one tile"
    assert min(map(len, heights.values())) > COUNT


def test_the_height_of_a_question_is_that_of_the_smallest_text_it_needs(every):
    for sample in every:
        for question in sample.questions:
            if question.text_size != "object":
                x0, y0, x1, y1 = question.answer_box
                within = [
                    text.height
                    for text in sample.texts
                    if (text.box[0] + text.box[2]) / 2 in Span(x0, x1)
                    and (text.box[1] + text.box[3]) / 2 in Span(y0, y1)
                ]
                assert question.height in within


class Span:
    """An interval, for `in`."""

    def __init__(self, low, high):
        self.low, self.high = low, high

    def __contains__(self, value):
        return self.low <= value <= self.high


@pytest.mark.parametrize("name", canvas.FONTS)
@pytest.mark.parametrize("height", [10, 13, 20, 26])
def test_a_font_is_as_high_as_its_height_says(name, height):
    _, top, _, bottom = canvas.font(name, height).getbbox("Ag")
    assert 0.75 * height <= bottom - top <= 1.1 * height


def ink_of(name, height, string, upper=False):
    """Ink of a line of text on an empty sheet, 0 to 1, and the text."""
    sheet = Image.new("L", (420, 60))
    text = canvas.draw_text(ImageDraw.Draw(sheet), (9.3, 11.6), string, name, height, 255, upper)
    return np.asarray(sheet) / 255, text


@pytest.mark.parametrize("name", canvas.FONTS)
@pytest.mark.parametrize("height", [10, 13, 22])
@pytest.mark.parametrize("upper", [False, True])
def test_glyph_boxes_cover_the_ink(name, height, upper):
    for string in ("sunrise 47", "total:", "975-5626", "queen harbor", "jpqgy."):
        ink, text = ink_of(name, height, string, upper)
        covered = np.zeros(ink.shape, bool)
        for glyph in text.glyphs:
            x0, y0, x1, y1 = glyph.box
            covered[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = True
            middle = ink[round(y0) : round(y1), round(x0) : round(x1)]
            assert middle.sum() > 0.3, f"no ink in the box of {glyph.char!r}"
        # Only descenders reach below a box, and kerned ends beside it.
        assert (ink * covered).sum() > (0.8 if string == "jpqgy." else 0.9) * ink.sum(), string
        assert [glyph.char for glyph in text.glyphs] == list(string.replace(" ", ""))


def test_the_ink_of_a_image_lies_where_its_texts_are(every):
    """A document without its texts is smooth paper: where pixels jump, a glyph, a rule or a bar must be."""
    for sample in every:
        if sample.family == "document" and sample.detailed_caption.startswith("a receipt"):
            grey = np.asarray(sample.image.convert("L"), float)
            ink = np.abs(grey - np.median(grey)) > 90
            covered = np.zeros_like(ink)
            for text in sample.texts:
                x0, y0, x1, y1 = (round(edge) for edge in text.box)
                covered[max(0, y0 - 2) : y1 + 6, max(0, x0 - 4) : x1 + 5] = True
            rule = int(sample.texts[0].box[3])  # below the title
            covered[rule : rule + sample.texts[0].height] = True
            assert (ink & covered).sum() > 0.97 * ink.sum(), sample.seed


# --- dense labels --------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(numbers, families)
def test_the_labels_of_a_tile_are_those_of_the_image(number, family):
    sample = synthetic.make_sample(number, "train", family=family)
    whole = dense_labels(sample, (0, 0, 192, 192), 192, 48)
    for row, col in np.ndindex(2, 2):
        view = (96 * col, 96 * row, 96 * col + 96, 96 * row + 96)
        tile = dense_labels(sample, view, 96, 24)
        part = slice(24 * row, 24 * row + 24), slice(24 * col, 24 * col + 24)
        for name in ("chars", "objects", "colours"):
            assert np.array_equal(getattr(tile, name), getattr(whole, name)[part]), name


def test_labels_say_what_lies_at_a_point(every):
    for sample in every[::3]:
        labels = dense_labels(sample, (0, 0, SIZE, SIZE), SIZE, SIZE)  # a point for every pixel
        for text in sample.texts:
            assert text.height >= samples.LEGIBLE
            for glyph in text.glyphs:
                x, y = ((glyph.box[i] + glyph.box[i + 2]) / 2 for i in (0, 1))
                assert labels.chars[int(y), int(x)] == 1 + CHARS.index(glyph.char)
        for thing in sample.objects:
            x, y = (int((thing.box[i] + thing.box[i + 2]) / 2) for i in (0, 1))
            assert labels.objects[y, x] == 1 + scenes.OBJECTS.index(thing.name)
            assert labels.colours[y, x] == 1 + list(scenes.COLOURS).index(thing.colour)
        for sign in sample.signs:
            x, y = int(sign.box[0] + 1), int(sign.box[1] + 1)
            assert labels.colours[y, x] == 1 + list(scenes.COLOURS).index(sign.colour)


def test_print_too_small_for_a_view_is_not_labelled(every):
    seen = set()
    for sample in every:
        labels = dense_labels(sample, (0, 0, SIZE, SIZE), 96, 96)
        for text in sample.texts:
            legible = text.height * 96 / SIZE >= samples.LEGIBLE
            for glyph in text.glyphs:
                x, y = (int((glyph.box[i] + glyph.box[i + 2]) / 4) for i in (0, 1))
                assert (labels.chars[y, x] != IGNORE_INDEX) == legible
                seen.add(legible)
    assert seen == {True, False}


# --- tokenizer and tasks -------------------------------------------------------------------------


@given(st.text(st.sampled_from(CHARACTERS), max_size=60))
def test_any_text_of_the_world_survives_the_tokenizer(text):
    tokenizer = build_tokenizer_once()
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.unk_token_id not in ids


@given(st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join))
def test_a_template_word_is_one_token(text):
    tokenizer = build_tokenizer_once()
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert len(ids) == len(text.split()) and tokenizer.decode(ids) == text


_built = []


def build_tokenizer_once():
    """One tokenizer for all examples of a property (a fixture can't be shared with `given`)."""
    if not _built:
        _built.append(build_tokenizer())
    return _built[0]


def test_markup_in_a_text_stays_text(tokenizer):
    ids = tokenizer("<img> a <imgpad>", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    special = set(tokenizer.convert_tokens_to_ids(list(SPECIALS)))
    assert not special & set(ids) and tokenizer.decode(ids) == "<img> a <imgpad>"
    assert tokenizer("OPEN é", add_special_tokens=False)["input_ids"][-1] == tokenizer.unk_token_id
    assert tokenizer.decode(tokenizer("OPEN", add_special_tokens=False)["input_ids"]) == "open"


def test_no_drawn_word_is_a_template_word(every, tokenizer):
    """Else reading it would not be copying letters."""
    lists = (words.ITEMS, words.SHOPS, words.NAMES, words.CITIES, words.MONTHS, words.DAYS, words.FORM_TITLES)
    lists += (words.TABLE_TITLES, words.COLUMNS, words.SIGN_WORDS, list(words.FIELDS), ["total"])
    assert not {word for some in lists for word in some} & set(WORDS)
    pieces = {piece for sample in every for text in sample.texts for piece in tokenizer.tokenize(text.string)}
    assert not {piece for piece in pieces if len(piece) > 1}


def test_everything_said_in_training_is_known_to_the_tokenizer(every, tokenizer):
    for sample in every:
        for question in sample.questions:
            assert tokenizer.unk_token_id not in tokenizer(question.question + question.answer)["input_ids"]
        for caption in (sample.caption, sample.detailed_caption):
            assert tokenizer.unk_token_id not in tokenizer(caption)["input_ids"]


@settings(max_examples=60, deadline=None)
@given(numbers, st.floats(0.3, 1), st.integers(1, 400), st.floats(0, 1))
def test_training_turns_are_true_and_keep_to_their_budget(number, scale, budget, detailed):
    sample = sample_of(number % 6)
    turns = training_turns(sample, np.random.default_rng(number), scale, budget, detailed)
    truth = {q.question: q.answer for q in sample.questions}
    assert turns and all(prompt.startswith(SEPARATOR) for prompt, _ in turns)
    assert sum(len(answer) + len(prompt) // 2 for prompt, answer in turns[1:]) <= budget
    for prompt, answer in turns:
        if prompt.endswith("Answer: "):
            assert answer == truth[prompt.strip().removesuffix("Answer:").strip()]
        else:
            assert answer == (sample.detailed_caption if "detailed" in prompt else sample.caption)


_samples = {}


def sample_of(number):
    """A sample of the training split, made once."""
    if number not in _samples:
        _samples[number] = synthetic.make_sample(number, "train")
    return _samples[number]


@settings(max_examples=60, deadline=None)
@given(numbers, st.floats(0.3, 1), st.floats(0, 1), st.booleans())
def test_apart_no_question_follows_a_transcript_or_another_about_the_same_thing(
    number, scale, detailed, captions
):
    sample = sample_of(number % 40)
    rng = np.random.default_rng(number)
    turns = training_turns(sample, rng, scale, 10_000, detailed, captions, independent=True)
    asked = [prompt.strip().removesuffix("Answer:").strip() for prompt, _ in turns]
    told = [prompt for prompt, _ in turns if "detailed" in prompt]
    assert not (told and any(prompt.endswith("Answer: ") for prompt, _ in turns))
    about = [q.answer_box for q in sample.questions if q.question in asked and q.kind in LEAKING]
    assert len(about) == len(set(about)), "two questions about one sign or object"


LEAKING = ("read", "colour", "where", "what")  # kinds of questions whose answers name what others ask for


def test_apart_every_sign_is_asked_for_mostly_by_its_colour_if_wanted():
    by_colour = asked = 0
    for number in range(120):
        sample = synthetic.make_sample(number, "train", (96, 96), "scene_text")
        rng = np.random.default_rng(number)
        turns = training_turns(sample, rng, 1, 10_000, 0.0, False, independent=True, by_colour=0.7)
        assert sorted(answer for _, answer in turns) == sorted(s.text.string for s in sample.signs)
        if len(sample.signs) > 1:
            asked += len(turns)
            by_colour += sum(any(colour in prompt for colour in scenes.COLOURS) for prompt, _ in turns)
    assert 0.7 * asked < by_colour < 0.98 * asked


def test_what_a_view_cannot_show_is_mostly_not_asked(many):
    print_of = {}
    asked = {"fine": 0, "large": 0}
    for number, sample in enumerate(many["train"]):
        print_of = {q.question: q.text_size for q in sample.questions}
        for prompt, _ in training_turns(sample, np.random.default_rng(number), 0.5, 10_000, 0.0):
            found = print_of.get(prompt.strip().removesuffix("Answer:").strip())
            asked |= {found: asked[found] + 1} if found in asked else {}
    there = sum(q.text_size == "fine" for sample in many["train"] for q in sample.questions)
    assert 0 < asked["fine"] < 0.2 * there
    assert asked["large"] == sum(q.text_size == "large" for sample in many["train"] for q in sample.questions)


# --- test sets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fine", "large", "general"])
def test_a_test_set_is_the_same_each_time_and_holds_what_it_says(name):
    first, second = synthetic.make_test_set(name, 12), synthetic.make_test_set(name, 9)
    assert [(a.id, a.question, a.answers) for a in first[:9]] == [
        (a.id, a.question, a.answers) for a in second
    ]
    assert len({a.id for a in first}) == len(first) == 12
    images = [a.sample.seed for a in first]
    assert max(images.count(seed) for seed in images) <= 2
    for asked in first:
        assert asked.sample.split == "test" and asked.prompt == "vqa"
        assert asked.annotation.text_size == ("object" if name == "general" else name)
        assert asked.answers == (answer_from_truth(asked.sample, asked.question),)


def test_the_captions_to_be_written_are_those_of_the_test_split():
    asked = synthetic.make_test_set("caption", 5)
    assert [a.answers for a in asked] == [(synthetic.make_sample(n, "test").caption,) for n in range(5)]
    assert {a.prompt for a in asked} == {"caption"} and {a.question for a in asked} == {""}


def test_validation_sets_share_nothing_with_test_sets():
    sets = [synthetic.make_test_set("fine", 20, split=split) for split in ("val", "test")]
    facts = [{fact for asked in some for fact in asked.sample.facts} for some in sets]
    assert facts[0] and not facts[0] & facts[1]
