"""Records, the filter and the composed text of the caption pipeline."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeylib import boxes
from monkeylib.captions import experts, filtering
from monkeylib.captions.annotations import Caption, Failure, Mask, OcrLine, Record, Region
from monkeylib.captions.composers import chat, rules
from monkeylib.captions.record_files import read_records, write_records


def region(text="cat", box=(10, 10, 50, 60), score=0.9, **more) -> Region:
    return Region(text=text, box=box, score=score, expert="e", **more)


def line(text="STOP", box=(10, 10, 60, 20), confidence=0.95) -> OcrLine:
    x0, y0, x1, y1 = box
    return OcrLine(
        text=text, quad=((x0, y0), (x1, y0), (x1, y1), (x0, y1)), confidence=confidence, expert="ocr"
    )


def record(**more) -> Record:
    return Record(**{"name": "a.png", "sha256": "0" * 64, "width": 100, "height": 100, **more})


@st.composite
def some_box(draw):
    x0, y0 = draw(st.integers(0, 90)), draw(st.integers(0, 90))
    return x0, y0, draw(st.integers(x0 + 1, 100)), draw(st.integers(y0 + 1, 100))


found = st.builds(region, text=st.sampled_from(["cat", "dog"]), box=some_box(), score=st.floats(0, 1))


# --- records -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["records.jsonl", "records.parquet"])
def test_records_survive_the_file(tmp_path, file):
    records = [
        record(
            name="é\u2028.png",
            captions=(Caption(text='a "cat"\n', expert="c"),),
            regions=(region(match=0.3, mask=Mask(size=(2, 3), counts=(1, 4, 1))),),
            lines=(line(),),
            original_caption="漢",
        ),
        Record(name="b.png", failures=(Failure(stage="read", error="OSError: no"),)),
    ]
    path = write_records(records, tmp_path / "new" / file)
    assert list(read_records(path)) == records
    assert list(tmp_path.glob("new/*")) == [path]
    if path.suffix == ".jsonl":
        assert len(path.read_text(encoding="utf-8").split("\n")) == 3


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = write_records([record()], tmp_path / "records.jsonl")
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="on the way"):
        write_records((item if item else _raise() for item in (record(), None)), path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["records.jsonl"]


def _raise():
    raise RuntimeError("on the way")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"schema_version": 1, "name": "a"}', "Line 1 .* has schema version 1, this code reads 2"),
        ('{"name": "a", "sha256": "xyz"}', "Line 1 .*: sha256"),
        ('{"name": "a", "colour": "red"}', "Line 1 .*: colour"),
        ('{"name": "a"', "Line 1 .* is no record"),
        ("[]", "Line 1 .*: the record"),
    ],
)
def test_lines_that_are_no_records_are_refused(tmp_path, text, complaint):
    (tmp_path / "r.jsonl").write_text(text + "\n")
    with pytest.raises(ValueError, match=complaint):
        list(read_records(tmp_path / "r.jsonl"))


def test_missing_records_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no records at"):
        list(read_records(tmp_path / "r.jsonl"))


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: region(box=(10, 10, 10, 20)), "x0 < x1"),
        (lambda: region(score=1.2), "less than or equal to 1"),
        (lambda: region(score=float("nan")), "score"),
        (lambda: Mask(size=(2, 2), counts=(1, 2)), "sum to 3, not to 2 x 2"),
    ],
)
def test_impossible_findings_are_refused(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()


def test_the_box_of_a_turned_line_holds_all_its_corners():
    turned = OcrLine(text="x", quad=((30, 10), (50, 30), (40, 40), (20, 20)), confidence=1, expert="o")
    assert turned.box == (20, 10, 50, 40)


# --- overlap and the filter --------------------------------------------------------------------------


@given(some_box(), some_box(), st.integers(-50, 50), st.integers(1, 9))
def test_iou_is_symmetric_and_knows_neither_place_nor_unit(first, second, shift, scale):
    value = boxes.iou(first, second)
    assert 0 <= value <= 1 and value == boxes.iou(second, first)
    assert boxes.iou(first, first) == 1
    moved = [tuple(scale * (side + shift) for side in box) for box in (first, second)]
    assert boxes.iou(*moved) == pytest.approx(value)


@given(some_box(), some_box())
def test_iou_is_the_share_of_common_cells(first, second):
    cells = [{(x, y) for x in range(b[0], b[2]) for y in range(b[1], b[3])} for b in (first, second)]
    assert boxes.iou(first, second) == pytest.approx(len(cells[0] & cells[1]) / len(cells[0] | cells[1]))


def test_the_releases_overlap_takes_distinct_boxes_for_one():
    box = (0.0, 0.0, 0.1, 0.1)
    touching, apart = (0.1, 0.0, 0.2, 0.1), (0.25, 0.0, 0.35, 0.1)
    assert boxes.iou(box, touching) == boxes.iou(box, apart) == 0
    assert boxes.released_iou(box, touching) == pytest.approx(0.8333, abs=1e-4)
    assert boxes.released_iou(box, apart) == pytest.approx(0.6296, abs=1e-4)


@given(st.lists(found, max_size=8))
def test_suppression_keeps_the_first_of_a_text_and_what_lies_elsewhere(items):
    kept, left_out = filtering.suppress_same_caption(items)
    assert sorted(map(id, kept + left_out)) == sorted(map(id, items))
    first = {item.text: item for item in reversed(items)}
    assert all(any(item is k for k in kept) for item in first.values())
    for item in items:
        elsewhere = boxes.iou(first[item.text].box, item.box) < filtering.SAME_CAPTION_IOU
        assert any(item is k for k in kept) == (elsewhere or item is first[item.text])


@given(st.lists(found, max_size=8), st.floats(0, 1))
def test_a_higher_threshold_keeps_no_more(items, limit):
    whole = record(regions=items)
    for_all = filtering.Thresholds(region=0, same_caption=2)
    stricter = for_all._replace(region=limit)
    loose, strict = (filtering.apply_filter(whole, t) for t in (for_all, stricter))
    assert len(strict.regions) <= len(loose.regions)
    assert len(strict.regions) + len(strict.dropped) == len(items)


@given(st.lists(found, max_size=8), st.floats(0, 1), st.floats(0, 1))
def test_only_segments_can_be_too_small_and_a_higher_limit_keeps_no_more(items, low, high):
    low, high = sorted((low, high))
    everything = filtering.Thresholds(region=-1, segment=-1, same_caption=2)
    segments = [item.model_copy(update={"kind": "segment"}) for item in items]
    whole = record(regions=[*items, *segments])

    def kept(smallest):
        return filtering.apply_filter(whole, everything, smallest_segment=smallest)

    assert set(items) <= set(kept(1).regions), "regions of other experts stay, whatever their size"
    assert set(kept(high).regions) <= set(kept(low).regions) <= set(kept(0).regions)
    assert kept(0) == filtering.apply_filter(whole, everything)
    for item in kept(low).regions:
        x0, y0, x1, y1 = whole.normalised(item.box)
        assert item.kind == "region" or (x1 - x0) * (y1 - y0) >= low
    assert len(kept(high).regions) + len(kept(high).dropped) == len(whole.regions)


def test_a_segment_that_is_too_small_is_named_with_its_size():
    speck, part = (
        region("clock", (0, 0, 10, 10), kind="segment"),
        region("wall", (0, 0, 50, 40), kind="segment"),
    )
    kept = filtering.Filter(smallest_segment=0.02)(record(regions=[speck, part]))
    assert kept.regions == (part,)
    assert kept.dropped[0].reason == "it covers 1.00% of the image, less than 2.00%"


def test_the_paper_has_no_smallest_segment_and_taggers_have_one():
    assert experts.smallest_segment("paper") == experts.smallest_segment(["sam-blip2", "pp-ocr"]) == 0
    assert experts.smallest_segment("cpu") == experts.smallest_segment(["pp-ocr", "tagged-segments"]) > 0
    assert "smallest_segment" not in filtering.Filter().provenance.settings
    assert filtering.Filter(smallest_segment=0.1).provenance.settings["smallest_segment"] == 0.1
    with pytest.raises(ValueError, match="covers 0 to 1 of the image, got 2"):
        filtering.Filter(smallest_segment=2)


def test_thresholds_are_the_releases_and_must_be_exceeded():
    kept = filtering.apply_filter(
        record(
            regions=[region("a", score=0.4), region("b", score=0.41), region("c", score=0.45, kind="segment"),
                     region("d", score=0.9, match=0.4), region("e", score=0.1, match=0.51, kind="segment")],
            lines=[line("f", confidence=0.85), line("g", confidence=0.86)],
        )
    )  # fmt: skip
    assert [item.text for item in kept.regions] == ["b", "e"] and [item.text for item in kept.lines] == ["g"]
    reasons = {item.text: item.reason for item in kept.dropped}
    assert reasons == {
        "a": "score 0.40 is not above 0.4",
        "c": "score 0.45 is not above 0.5",
        "d": "match 0.40 is not above 0.4",
        "f": "confidence 0.85 is not above 0.85",
    }


def test_two_people_side_by_side_stay_two_but_not_by_the_releases_overlap():
    people = record(regions=[region("person", (10, 10, 20, 30)), region("person", (30, 10, 40, 30))])
    assert len(filtering.apply_filter(people).regions) == 2
    released = filtering.apply_filter(people, overlap=boxes.released_iou)
    assert len(released.regions) == 1 and released.dropped[0].reason == "the same text was said of this place"


def test_a_line_read_once_is_kept_once():
    twice = record(lines=[line("STOP"), line("STOP"), line("STOP", (10, 70, 60, 80))])
    assert [item.box for item in filtering.apply_filter(twice).lines] == [(10, 10, 60, 20), (10, 70, 60, 80)]


# --- composed text -----------------------------------------------------------------------------------


def test_the_rules_say_what_was_seen_where_and_nothing_else():
    text = rules.RuleComposer().compose(
        record(
            captions=[Caption(text="a room", expert="c")],
            original_caption="my two cats.",
            regions=[
                region("cat", (0, 40, 30, 60)),
                region("cat", (70, 40, 95, 60)),
                region("vase", (40, 0, 60, 20)),
            ],
            lines=[line("two", (60, 70, 90, 80)), line("one", (10, 70, 50, 80)), line("x", (10, 90, 20, 99))],
        )
    )
    assert text == (
        "A room. My two cats. The picture shows two cats on the left and on the right; a vase at the top. "
        'The text reads "one" and "two".'
    )


@pytest.mark.parametrize(
    ("regions", "relation"),
    [
        (
            [region("cat", (0, 0, 40, 40)), region("vase", (70, 10, 95, 30))],
            " The cat is to the left of the vase.",
        ),
        ([region("vase", (10, 70, 30, 90)), region("cat", (0, 0, 40, 40))], " The cat is above the vase."),
        ([region("cat", (0, 0, 40, 40)), region("vase", (10, 10, 30, 30))], ""),
        ([region("cat", (0, 0, 40, 40)), region("cat", (50, 0, 90, 40)), region("vase", (0, 80, 9, 99))], ""),
    ],
)
def test_the_rules_relate_single_objects_that_are_apart(regions, relation):
    text = rules.RuleComposer().compose(record(regions=regions))
    assert text.startswith("The picture shows") and text.partition(".")[2] == relation


def test_nothing_seen_gives_nothing():
    assert rules.RuleComposer().compose(record()) == ""


@given(st.lists(found, max_size=8), st.lists(st.sampled_from(["STOP", "12 km", "a"]), max_size=4))
def test_composed_text_is_short_bare_of_coordinates_and_grounded(regions, texts):
    lines = [line(text, (5, 5 + 20 * i, 50, 15 + 20 * i)) for i, text in enumerate(texts)]
    whole = record(regions=regions, lines=lines)
    text = rules.RuleComposer().compose(whole)
    assert text.count(". ") + text.endswith(".") <= 5
    assert "[" not in text and "(" not in text
    for name in ("cat", "dog"):
        assert (name in text) == any(item.text == name for item in regions)
    assert ("STOP" in text) == ("STOP" in texts)
    assert rules.RuleComposer().compose(whole) == text


def test_reading_order_goes_row_by_row():
    lines = [
        line("d", (60, 31, 90, 41)),
        line("b", (60, 10, 90, 20)),
        line("c", (10, 30, 50, 40)),
        line("a", (10, 12, 50, 22)),
    ]
    assert "".join(item.text for item in rules.reading_order(lines)) == "abcd"


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((0, 0, 20, 20), "at the top left"), ((40, 40, 60, 60), "in the centre"),
        ((80, 40, 100, 60), "on the right"), ((40, 90, 60, 100), "at the bottom"),
        ((5, 5, 95, 95), "filling most of the picture"), ((99, 99, 100, 100), "at the bottom right"),
    ],
)  # fmt: skip
def test_places_in_words(box, words):
    assert rules.describe_place(record(), box) == words


def test_the_chat_prompt_holds_everything_in_the_papers_order():
    prompt = chat.chat_prompt(
        record(
            captions=[Caption(text="a street", expert="c")],
            original_caption="Main street.",
            regions=[region("a car", (10, 20, 30, 40)), region("a wheel", (10, 30, 20, 40), kind="segment")],
            lines=[line("STOP", (50, 50, 60, 60))],
        )
    )
    parts = [
        "You write captions", "a street. Main street.", "a car: [0.10, 0.20, 0.30, 0.40];", "Segments",
        "a wheel", "Texts in the picture", "STOP: [0.50, 0.50, 0.60, 0.60];", "fewer than six sentences",
    ]  # fmt: skip
    positions = [prompt.index(part) for part in parts]
    assert positions == sorted(positions)
    assert "Texts" not in chat.chat_prompt(record(regions=[region()]))


def test_a_long_chat_prompt_loses_its_least_certain_regions():
    regions = [region(f"thing number {i}", score=i / 100) for i in range(100)]
    prompt = chat.chat_prompt(record(regions=regions), maximum_characters=2000)
    assert len(prompt) <= 2000 and "thing number 99:" in prompt and "thing number 0:" not in prompt
    with pytest.raises(ValueError, match="allow more than 100"):
        chat.chat_prompt(record(regions=regions), maximum_characters=100)


TASK_ALONE = len(chat.chat_prompt(record()))


@given(
    st.lists(found, max_size=30),
    st.lists(st.sampled_from(["STOP", "a\nb", "9" * 300]), max_size=5),
    st.text("ab .\n", max_size=900),
    st.integers(0, 900),
)
def test_the_chat_prompt_is_never_longer_than_it_may_be(regions, texts, original, room):
    lines = [line(text, confidence=0.9) for text in texts]
    whole = record(regions=regions, lines=lines, original_caption=original)
    prompt = chat.chat_prompt(whole, maximum_characters=TASK_ALONE + room)
    assert len(prompt) <= TASK_ALONE + room
    assert len(prompt.splitlines()) <= 6, "no text can begin a part of its own"
    assert prompt.splitlines()[0].startswith("You write captions")
    assert prompt.endswith("don't describe single letters.")


def test_what_is_long_is_cut_where_it_matters_least():
    whole = record(
        captions=[Caption(text="a street", expert="c")],
        original_caption="word " * 500,
        lines=[line("SURE", confidence=0.99), line("DOUBT" * 20, (10, 50, 60, 60), confidence=0.86)],
        regions=[region("a car", match=0.9), region("a rumour " * 20, match=0.5)],
    )
    prompt = chat.chat_prompt(whole, maximum_characters=TASK_ALONE + 300)
    assert "a street." in prompt and "word word" in prompt and "SURE" in prompt and "a car" in prompt
    assert "DOUBT" not in prompt and "rumour" not in prompt and prompt.count("word") < 30


def test_rules_quote_within_quotation_marks_and_cut_long_captions():
    told = record(original_caption="One. Two. Three. Four.", captions=[Caption(text="a. b. c.", expert="c")],
                  lines=[line('the "best"')], regions=[region()])  # fmt: skip
    text = rules.RuleComposer().compose(told)
    assert text == "A. B. One. The picture shows a cat on the left. The text reads \"the 'best'\"."


def test_records_are_plain_json(tmp_path):
    fields = json.loads(record(regions=[region()]).model_dump_json())
    assert fields["schema_version"] == 2 and fields["regions"][0]["box"] == [10, 10, 50, 60]
