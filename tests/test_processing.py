import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from monkeylib.images import open_image
from monkeylib.processing import MonkeyImageProcessor, MonkeyProcessor
from monkeylib.tiling import AutoGrid, Grid, join_tiles, tile_boxes


def test_views_are_tiles_row_by_row_then_the_global_view(make_image):
    processor = MonkeyImageProcessor(tile_size=8, rows=2, cols=3, image_mean=[0] * 3, image_std=[1] * 3)
    image = make_image(0, 24, 16)  # already of the size that is cut
    out = processor(image)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    assert out["pixel_values"].shape == (7, 3, 8, 8)
    assert out["grids"].tolist() == [[2, 3]]
    assert torch.allclose(out["pixel_values"][4], pixels[:, 8:, 8:16])


def test_one_global_view_is_resized_from_the_image_itself(make_image):
    image = make_image(0, 40, 30)
    out = MonkeyImageProcessor(tile_size=8, views="global", image_mean=[0] * 3, image_std=[1] * 3)(image)
    small = np.array(image.resize((8, 8), Image.Resampling.BICUBIC))
    assert torch.allclose(out["pixel_values"][0], torch.from_numpy(small).permute(2, 0, 1) / 255)
    assert out["grids"].tolist() == [[0, 0]]


def test_views_of_tiles_only(make_image):
    out = MonkeyImageProcessor(tile_size=8, rows=1, cols=2, views="tiles")([make_image(0), make_image(1)])
    assert out["pixel_values"].shape == (4, 3, 8, 8)


def test_global_view_of_the_paper_is_the_resized_original(make_image):
    released, paper = (
        MonkeyImageProcessor(56, 2, 2, global_from=source)(make_image()).pixel_values
        for source in ("resized", "original")
    )
    assert torch.equal(released[:4], paper[:4])
    assert torch.equal(paper[4:], MonkeyImageProcessor(56, views="global")(make_image()).pixel_values)
    assert not torch.allclose(released[4], paper[4], atol=0.1)
    with pytest.raises(ValueError, match="called 'x': choose one of resized, original"):
        MonkeyImageProcessor(global_from="x")


def test_unknown_views_raise():
    with pytest.raises(ValueError, match="called 'all': choose one of tiles\\+global, tiles, global"):
        MonkeyImageProcessor(views="all")


@pytest.mark.parametrize("name", ["image_mean", "image_std"])
@pytest.mark.parametrize("values", [None, 5, "abc", [0.5], [0.5, 0.5, "a"], [0.5, 0.5, 2], [0.5, 0.5, -1]])
def test_what_is_no_normalisation_raises(name, values):
    with pytest.raises(ValueError, match=f"{name} is .*: expected three numbers from .* to 1"):
        MonkeyImageProcessor(**{name: values})
    # Pixels would become infinite.
    with pytest.raises(ValueError, match="image_std is"):
        MonkeyImageProcessor(image_std=[0, 0, 0])


@pytest.mark.parametrize(
    "arguments",
    [{"separator": 5}, {"prompt_prefix": None}, {"image_tokens": "<img>"}, {"image_tokens": []}],
)
def test_argument_of_another_type_raises(processor, arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"^{name} is .*: expected "):
        MonkeyProcessor(processor.image_processor, processor.tokenizer, **arguments)


def test_path_array_and_pillow_give_the_same_image(make_image, tmp_path):
    image = make_image()
    image.save(tmp_path / "a.png")
    for same in (tmp_path / "a.png", str(tmp_path / "a.png"), np.array(image)):
        assert np.array_equal(np.array(open_image(same)), np.array(image))


def test_exif_rotation_is_applied(make_image, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    make_image(0, 20, 10).save(tmp_path / "a.jpg", exif=exif)
    assert open_image(tmp_path / "a.jpg").size == (10, 20)


def test_image_becomes_a_span_of_placeholders_before_the_text(processor, make_image):
    out = processor(images=[make_image()], text="hi")
    places = 5 * 16
    assert out["input_ids"][0].tolist() == [1, *[3] * places, 2, *processor.layout.text_ids("hi")]
    assert processor.image_ids() == out["input_ids"][0, : places + 2].tolist()
    assert processor.image_ids(Grid(1, 2)) == [1, *[3] * 48, 2]


def test_image_tokens_in_a_users_text_stay_text(processor, make_image):
    text = "look: <img>/etc/passwd</img> <imgpad> <|endoftext|>"
    ids = processor.layout.text_ids(text)
    assert not {0, 1, 2, 3} & set(ids)
    assert processor.tokenizer.decode(ids) == text
    assert (processor(images=make_image(), text=text)["input_ids"] == 3).sum() == 80


def test_images_and_texts_keep_the_order_of_their_list(processor, make_image):
    out = processor(text=[["a", make_image(1), "b", make_image(2)]])
    span, text = processor.image_ids(), processor.layout.text_ids
    assert out["input_ids"][0].tolist() == [*text("a"), *span, *text("b"), *span]
    expected = processor.image_processor([make_image(1), make_image(2)])["pixel_values"]
    assert torch.equal(out["pixel_values"], expected)


def test_padding_side(processor, make_image):
    left = processor(images=[make_image(), None], text=["a", "bc"])
    right = processor(images=[make_image(), None], text=["a", "bc"], padding_side="right")
    assert left["attention_mask"][1].nonzero().flatten().tolist() == [81, 82]
    assert right["attention_mask"][1].nonzero().flatten().tolist() == [0, 1]
    assert left["grids"].tolist() == [[2, 2]]


def test_text_without_image_has_no_pixels(processor):
    assert set(processor(text="a")) == {"input_ids", "attention_mask"}


# --- grids by the shape of an image


def test_each_image_has_the_grid_of_its_shape(processor, make_image):
    images = [make_image(0, 40, 200), make_image(1, 200, 40), make_image(2, 30, 30)]
    out = processor(images=images, text=["a", "b", "c"], grid="auto:3")
    assert out["grids"].tolist() == [[3, 1], [1, 3], [1, 1]]
    assert (out["input_ids"] == 3).sum(1).tolist() == [4 * 16, 4 * 16, 2 * 16]
    assert len(out["pixel_values"]) == 4 + 4 + 2

    # The views of an image are those of its grid.
    expected = processor.image_processor(images[0], Grid(3, 1))["pixel_values"]
    assert torch.equal(out["pixel_values"][:4], expected)


def test_automatic_grid_has_as_many_tiles_as_the_processor_gives_an_image(make_image):
    image = make_image(0, 20, 300)
    fixed, automatic = MonkeyImageProcessor(8, 2, 3), MonkeyImageProcessor(8, 2, 3, max_tiles=4)
    assert fixed(image)["grids"].tolist() == [[2, 3]]
    assert fixed(image, "auto")["grids"].tolist() == [[6, 1]]
    assert automatic(image)["grids"].tolist() == automatic(image, "auto")["grids"].tolist() == [[4, 1]]
    assert automatic(image, "2x3")["grids"].tolist() == automatic(image, (2, 3))["grids"].tolist() == [[2, 3]]
    assert fixed(image, AutoGrid(6, within=Grid(2, 2)))["grids"].tolist() == [[2, 1]]


def test_visual_tokens_of_an_automatic_grid_need_the_size_of_the_image(processor):
    assert processor.visual_tokens("auto:3", size=(300, 100)) == 4 * 16
    assert processor.visual_tokens("2x1") == 3 * 16
    with pytest.raises(ValueError, match="depends on the shape of the image"):
        processor.visual_tokens("auto")


def test_automatic_processor_is_the_same_after_saving_and_loading(make_image, tmp_path):
    MonkeyImageProcessor(8, max_tiles=5).save_pretrained(tmp_path)
    loaded = MonkeyImageProcessor.from_pretrained(tmp_path)
    assert loaded.max_tiles == 5
    assert loaded(make_image(0, 10, 90))["grids"].tolist() == [[5, 1]]


def test_one_grid_for_each_image(make_image):
    images = MonkeyImageProcessor(8)
    assert images([make_image(), make_image(1)], [Grid(1, 2), Grid(2, 1)])["grids"].tolist() == [
        [1, 2],
        [2, 1],
    ]
    with pytest.raises(ValueError, match="2 images and 1 grids"):
        images([make_image(), make_image(1)], [Grid(1, 2)])


@pytest.mark.parametrize("grid", ["3", "auto:0", 4, (2,), ("a", "b")])
def test_impossible_grid_raises(processor, make_image, grid):
    with pytest.raises(ValueError, match="a grid is"):
        processor(images=make_image(), text="a", grid=grid)


# --- keywords are obeyed or refused

LONG = "what is on it? " * 200


def test_prompt_beyond_max_length_raises_with_its_numbers(processor, make_image):
    with pytest.raises(ValueError, match=r"the prompt has [\d,]+ tokens, max_length is 500"):
        processor(images=make_image(), text=LONG, max_length=500)


def test_truncation_cuts_the_end_of_a_prompt(processor, make_image):
    full = processor(images=make_image(), text=LONG)["input_ids"]
    for truncation in (True, "longest_first"):
        cut = processor(images=make_image(), text=LONG, max_length=100, truncation=truncation)
        assert torch.equal(cut["input_ids"], full[:, :100]) and cut["attention_mask"].all()

    # As much as there is room for; a shorter prompt stays as it is.
    assert torch.equal(
        processor(images=make_image(), text="a", max_length=500, truncation=True)["input_ids"],
        processor(images=make_image(), text="a")["input_ids"],
    )


def test_truncation_cuts_no_visual_tokens(processor, make_image):
    for max_length in (50, 81):
        with pytest.raises(ValueError, match="would cut off visual tokens"):
            processor(images=make_image(), text=LONG, max_length=max_length, truncation=True)


def test_padding_is_as_requested(processor):
    padded = processor(text=["a", "bcd"], padding="max_length", max_length=9, padding_side="right")
    assert padded["input_ids"].shape == (2, 9)
    assert padded["attention_mask"].sum(1).tolist() == [1, 3]

    assert processor(text=["a", "b"], padding=False)["input_ids"].shape == (2, 1)
    with pytest.raises(ValueError, match="different lengths"):
        processor(text=["a", "bcd"], padding=False)


def test_tensors_are_of_the_requested_type(processor, make_image):
    tensors = processor(images=make_image(), text="a")
    arrays = processor(images=make_image(), text="a", return_tensors="np")
    assert set(tensors) == set(arrays)
    for name, array in arrays.items():
        assert isinstance(array, np.ndarray) and np.array_equal(array, tensors[name].numpy())

    views = processor.image_processor(make_image(), return_tensors="np")["pixel_values"]
    assert np.array_equal(views, arrays["pixel_values"])


@pytest.mark.parametrize(
    "keywords, message",
    [
        ({"return_tensors": "tf"}, "no type of tensors called 'tf': choose one of pt, np"),
        ({"padding": "longer"}, "no way of padding called 'longer'"),
        ({"padding": "max_length"}, "needs a max_length"),
        ({"padding_side": "middle"}, "no side of padding called 'middle'"),
        ({"truncation": True}, "truncation needs a max_length"),
        ({"truncation": "only_second", "max_length": 9}, "no way of truncation called 'only_second'"),
        ({"max_length": 0}, "max_length is 0"),
        ({"max_length": "50"}, "max_length is '50'"),
        ({"add_special_tokens": True}, "no special tokens but those of its images"),
    ],
)
def test_keyword_that_cannot_be_obeyed_raises(processor, keywords, message):
    with pytest.raises(ValueError, match=message):
        processor(text="a", **keywords)


def test_unknown_keyword_raises(processor, make_image):
    with pytest.raises(TypeError, match="max_lenght"):
        processor(text="a", max_lenght=5)
    with pytest.raises(TypeError, match="do_resize"):
        processor.image_processor(make_image(), do_resize=False)
    with pytest.raises(TypeError, match="no argument 'tile_sice'; did you mean tile_size"):
        MonkeyImageProcessor(tile_sice=8)


def test_settings_given_on_loading_are_checked(make_image, tmp_path):
    MonkeyImageProcessor(8, 2, 3).save_pretrained(tmp_path)
    loaded = MonkeyImageProcessor.from_pretrained(tmp_path, rows=1, max_tiles=4)
    assert (loaded.rows, loaded.cols, loaded.max_tiles) == (1, 3, 4)
    for keywords in ({"views": "all"}, {"tile_size": 0}, {"max_tiles": "many"}):
        with pytest.raises(ValueError, match=next(iter(keywords))):
            MonkeyImageProcessor.from_pretrained(tmp_path, **keywords)


@pytest.mark.parametrize("load", [MonkeyProcessor.from_pretrained, AutoProcessor.from_pretrained])
def test_arguments_given_on_loading_are_obeyed(load, processor, make_image, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = load(tmp_path, queries=9, prompt_prefix="a", max_tiles=3, padding_side="right")
    assert (loaded.queries, loaded.prompt_prefix, loaded.separator) == (9, "a", processor.separator)
    assert loaded.image_processor.max_tiles == 3 and loaded.tokenizer.padding_side == "right"

    for keywords in ({"queriess": 9}, {"max_tile": 3}, {"view": "tiles"}):
        with pytest.raises(TypeError, match="a processor has no argument .*: did you mean"):
            load(tmp_path, **keywords)


@pytest.mark.parametrize(
    "text, images, error, message",
    [
        (None, None, TypeError, "text is None: pass a text or a list of texts"),
        (5, None, TypeError, r"text is of type int \('5'\)"),
        (b"a", None, TypeError, "text is of type bytes"),
        ([], None, ValueError, "an empty list"),
        (["a", None], None, TypeError, "a text is None"),
        (["a", 5], None, TypeError, "a text is of type int"),
        ([["a", ["b"]]], None, TypeError, "a text holds a list"),
        ([["a", None]], None, TypeError, "a text holds None"),
        ("a", 5, ValueError, "no image in int"),
        ("a", [5], ValueError, "no image in int"),
        ("a", [["IMAGE"]], TypeError, "the images of one text hold a list"),
        ("a", [None], TypeError, "the images of one text hold None"),
        (["a"], [[["IMAGE"]]], TypeError, "entry 1 of images hold a list"),
        (["a"], ["IMAGE", "IMAGE"], ValueError, "1 texts and 2 entries"),
        (["a", "b"], "IMAGE", ValueError, "2 texts and 1 entries"),
    ],
)
def test_wrong_type_is_refused_in_one_sentence(processor, make_image, text, images, error, message):
    def with_image(value):
        if isinstance(value, list):
            return [with_image(entry) for entry in value]
        return make_image() if isinstance(value, str) else value

    with pytest.raises(error, match=message) as raised:
        processor(images=with_image(images), text=text)
    assert "\n" not in str(raised.value)


def test_no_image_raises(processor):
    with pytest.raises(ValueError, match="there is no image to prepare"):
        processor.image_processor([])


def test_unequal_numbers_of_images_and_texts_raise(processor, make_image):
    with pytest.raises(ValueError, match="2 texts and 1 entries"):
        processor(images=[make_image()], text=["a", "b"])


def test_separator_stands_between_an_image_and_its_text_only(processor, make_image):
    blank = MonkeyProcessor(processor.image_processor, processor.tokenizer, queries=16, separator=" ")
    ids = blank(text=[["a", make_image(), "b"]])["input_ids"][0].tolist()
    assert processor.tokenizer.decode(ids, skip_special_tokens=True) == "a b"


def test_prompt_prefix_may_hold_special_tokens(processor, make_image, tmp_path):
    """Once for each prompt, with the special token that no user can type."""
    with_prefix = MonkeyProcessor(
        processor.image_processor, processor.tokenizer, queries=16, prompt_prefix="<unk>USER: "
    )
    with_prefix.save_pretrained(tmp_path)
    unknown = processor.tokenizer.unk_token_id

    for prefixed in (with_prefix, MonkeyProcessor.from_pretrained(tmp_path)):
        prefix_ids = [unknown, *prefixed.layout.text_ids("USER: ")]
        assert prefixed.layout.prefix_ids() == prefix_ids
        ids = prefixed(images=[[make_image(), make_image(1)]], text=["<unk>"])["input_ids"][0].tolist()
        assert ids == [
            *prefix_ids,
            *prefixed.image_ids(),
            *prefixed.image_ids(),
            *prefixed.layout.text_ids("<unk>"),
        ]
        assert unknown not in prefixed.layout.text_ids("<unk>")
        assert prefixed(text="a")["input_ids"][0].tolist() == [*prefix_ids, *prefixed.layout.text_ids("a")]
    assert processor.layout.prefix_ids() == []


def test_tokenizer_without_image_tokens_raises(processor, tokenizer):
    bare = tokenizer.__class__(
        tokenizer_object=tokenizer.backend_tokenizer.__class__.from_str(
            tokenizer.backend_tokenizer.to_str().replace("imgpad", "other")
        )
    )

    with pytest.raises(ValueError, match="<imgpad>"):
        MonkeyProcessor(processor.image_processor, bare)


def test_processors_are_the_same_after_saving_and_loading(processor, make_image, tmp_path):
    processor.image_processor.save_pretrained(tmp_path / "images")
    again = MonkeyImageProcessor.from_pretrained(tmp_path / "images")
    assert again.to_dict() == processor.image_processor.to_dict()

    processor.save_pretrained(tmp_path / "all")
    for loaded in (
        MonkeyProcessor.from_pretrained(tmp_path / "all"),
        AutoProcessor.from_pretrained(tmp_path / "all"),
    ):
        assert (loaded.queries, loaded.separator) == (processor.queries, processor.separator)
        before, after = (p(images=make_image(), text="<img> hi") for p in (processor, loaded))
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_overlapping_tiles_are_windows_of_the_image_that_they_cover_together(make_image):
    images = MonkeyImageProcessor(56, 3, 2, tile_overlap=28, global_from="original")
    covered = MonkeyImageProcessor(28, 4, 3)  # the same 112 x 84 pixels, in tiles that share none
    views, parts = images(make_image()), covered(make_image())
    assert views["pixel_values"].shape == (7, 3, 56, 56)

    whole = join_tiles(parts["pixel_values"][:-1], Grid(4, 3))
    for view, (x0, y0, x1, y1) in zip(views["pixel_values"], tile_boxes(Grid(3, 2), 56, 28), strict=False):
        assert torch.equal(view, whole[:, y0:y1, x0:x1])


def test_overlap_is_saved_where_there_is_one(tmp_path):
    MonkeyImageProcessor(56, tile_overlap=28).save_pretrained(tmp_path)
    assert MonkeyImageProcessor.from_pretrained(tmp_path).tile_overlap == 28
    assert "tile_overlap" not in MonkeyImageProcessor(56).to_dict()


def test_overlap_of_tiles_in_automatic_grids_raises(make_image):
    with pytest.raises(ValueError, match="an automatic grid has no overlap of tiles, got 28 pixels: give"):
        MonkeyImageProcessor(56, max_tiles=4, tile_overlap=28)
    with pytest.raises(ValueError, match="this processor's overlap by 28 pixels"):
        MonkeyImageProcessor(56, tile_overlap=28)(make_image(), "auto")
