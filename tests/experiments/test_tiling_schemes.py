"""Schemes of high resolution: their canvases and tokens are those of the code that was published."""

from types import SimpleNamespace

import pytest
from PIL import Image, ImageDraw
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

from monkeylib.data.synthetic import make_sample, sample_files
from monkeylib.experiments import tiling_schemes
from monkeylib.experiments.tiling_schemes import SCHEMES, Layout
from monkeylib.tiling import Grid

SIZES = [(384, 191), (600, 400), (1344, 1344), (500, 3000), (3000, 500), (1, 1), (2000, 1299)]


@pytest.mark.parametrize("size", SIZES)
def test_anyres_has_the_tokens_that_transformers_counts(size):
    pinpoints = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    processor = SimpleNamespace(
        image_processor=SimpleNamespace(image_grid_pinpoints=pinpoints),
        patch_size=14,
        num_additional_image_tokens=0,
    )
    processor._get_unpadded_features = LlavaNextProcessor._get_unpadded_features.__get__(processor)
    expected = LlavaNextProcessor._get_number_of_features(processor, size[1], size[0], 336, 336)
    assert SCHEMES["AnyRes"](size).visual_tokens == expected


@pytest.mark.parametrize("size", SIZES)
def test_dynamic_tiling_has_the_views_that_transformers_cuts(size):
    settings = {"min_patches": 1, "max_patches": 12, "size": {"height": 448, "width": 448}}
    views = GotOcr2ImageProcessorPil().get_number_of_image_patches(
        size[1], size[0], {**settings, "crop_to_patches": True}
    )
    layout = SCHEMES["dynamic tiling"](size)
    assert layout.visual_tokens == 256 * views
    assert layout.grid.tiles in (views, views - 1)


def test_tokens_of_the_other_schemes():
    layouts = {name: lay_out((640, 427)) for name, lay_out in SCHEMES.items()}
    assert [layouts[name].visual_tokens for name in ("one view", "Monkey", "S2")] == [256, 1280, 576]
    assert layouts["Monkey, automatic grid"].grid == Grid(1, 2)
    assert layouts["Monkey, automatic grid"].visual_tokens == 3 * 256
    assert layouts["S2"].canvas == (1008, 1008)


def test_padding_keeps_the_shape_and_stretching_fills_the_canvas():
    padded, stretched = SCHEMES["S2"]((200, 100)), SCHEMES["Monkey"]((200, 100))
    assert padded.content == (0, 252, 1008, 756) and padded.stretch == 1
    assert stretched.content == (0, 0, 896, 896) and stretched.stretch == 2
    assert stretched.resolution == pytest.approx(4.48)
    assert padded.place((100, 50, 200, 100)) == (504, 504, 1008, 756)


def test_borders_cut_what_lies_across_them():
    layout = Layout((100, 50), Grid(1, 2), tile=10, content=(0.0, 0.0, 20.0, 10.0), visual_tokens=0)
    assert layout.cuts((45, 0, 55, 10)) and layout.cuts((0, 0, 100, 50))
    # Up to the border, and across the middle of the height, where there is none.
    assert not layout.cuts((40, 0, 50, 10)) and not layout.cuts((0, 20, 40, 30))
    lower = Layout((100, 50), Grid(2, 1), tile=10, content=(0.0, 5.0, 10.0, 15.0), visual_tokens=0)
    assert lower.cuts((0, 20, 100, 30)) and not lower.cuts((0, 26, 100, 30))


def test_words_of_a_sample_are_those_of_its_texts():
    sample = sample_files.synthetic_sample("receipt.png")
    words = tiling_schemes.words_of_sample(sample)
    assert len(words) == len(sample.transcript.split()) > len(sample.texts)

    # "sunrise 47" is the first line: its words lie beside each other, with a blank between them.
    first, second = words[:2]
    assert sample.texts[0].string == "sunrise 47"
    assert first[0] == sample.texts[0].box[0] and second[2] == pytest.approx(sample.texts[0].box[2])
    assert first[2] < second[0]


def test_words_of_a_page_are_found():
    page = Image.new("RGB", (120, 60), (220, 220, 220))
    draw = ImageDraw.Draw(page)
    for x0, x1 in [(10, 40), (50, 90)]:
        for x in range(x0, x1, 4):  # letters of two pixels, with gaps of two
            draw.rectangle((x, 20, x + 1, 30), fill=(20, 20, 20))
    draw.rectangle((100, 0, 102, 12), fill=(20, 20, 20))  # touches the edge
    words = tiling_schemes.find_words(page)
    assert words == [(10, 20, 40, 31), (50, 20, 88, 31)]


def test_words_of_the_photographed_page():
    page, words = tiling_schemes.photographed_page()
    # "Region-based segmentation", 41 words in five lines, and the code below.
    assert page.size == (384, 191) and 43 <= len(words) <= 48
    title = min(words, key=lambda word: word[1])
    assert title[3] - title[1] > 15 and title[2] - title[0] > 100


def test_comparison_has_a_row_for_each_image_and_scheme():
    word = (90.0, 90.0, 110.0, 110.0)  # in the middle of a square
    rows = tiling_schemes.compare_schemes([("a", (200, 200), [word]), ("b", (100, 200), [])])
    assert [(row["image"], row["scheme"]) for row in rows] == [(i, s) for i in "ab" for s in SCHEMES]

    of_a = {row["scheme"]: row for row in rows if row["image"] == "a"}
    assert of_a["Monkey"]["words cut"] == 1 and of_a["one view"]["words cut"] == 0
    assert of_a["S2"]["words cut"] == 0  # three tiles a side have no border in the middle

    summary = {row["scheme"]: row for row in tiling_schemes.summarise(rows)}
    assert summary["Monkey"] == {
        "scheme": "Monkey",
        "visual tokens": 1280,
        "most tokens": 1280,
        "words cut": 1.0,
        "stretch": 1.5,
        "resolution": 4.48,
    }
    with pytest.raises(ValueError, match="at least one pixel on each side, c has 0x3"):
        tiling_schemes.compare_schemes([("c", (0, 3), [])])


def test_summary_of_images_without_words_says_so():
    rows = tiling_schemes.compare_schemes([("photograph", (640, 427), [])])
    assert {row["words cut"] for row in tiling_schemes.summarise(rows)} == {None}


def test_pages_are_scans_of_test_documents():
    pages = tiling_schemes.document_pages(2)
    assert [name for name, *_ in pages] == ["portrait"] * 2 + ["square"] * 2 + ["landscape"] * 2
    name, size, words = pages[0]
    assert size == (960, 1344) and all(0 <= x0 < x1 <= 960 for x0, _, x1, _ in words)
    sample = make_sample(0, "test", (160, 224), "document")
    assert len(words) == len(sample.transcript.split())

    scan, words_of_scan = tiling_schemes.document_scan(0, "portrait")
    assert scan.size == size and words_of_scan == words
    with pytest.raises(ValueError, match="shape of a document"):
        tiling_schemes.document_scan(0, "round")
