import copy
import pickle

import numpy as np
import pytest
import torch

from monkeylib import tiling
from monkeylib.raising import raise_resolution
from monkeylib.raising.processor import raise_processor
from tests.raising.conftest import noise_image
from tests.support import tiny_vlms

PROMPT = "<image>ab"


def prepare(processor, images, text, **options):
    return processor(images=images, text=text, return_tensors="pt", **options)


def test_global_view_is_what_the_base_reads_and_tiles_are_the_resized_image(llava, raised):
    image = noise_image()
    views = prepare(raised.processor, image, PROMPT)["pixel_values"]
    assert torch.equal(views[-1:], prepare(llava.processor, image, PROMPT)["pixel_values"])

    canvas = tiling.resize(image, 56, 56)
    for tile, box in zip(views, tiling.tile_boxes(tiling.Grid(2, 2), 28), strict=False):
        assert torch.equal(tile[None], prepare(llava.processor, canvas.crop(box), PROMPT)["pixel_values"])


@pytest.mark.parametrize(
    ("grid", "numbers"),
    [
        (None, [0, 1, 2, 3, -1]),
        ("1x2", [0, 1, -1]),
        ((0, 0), [-1]),
        ("auto", [0, 1, 2, 3, -1]),
    ],
    ids=str,
)
def test_grid_of_a_call(grid, numbers, raised):
    inputs = prepare(raised.processor, noise_image(), PROMPT, grid=grid)
    assert inputs["tile_index"].tolist() == numbers
    assert len(inputs["pixel_values"]) == len(numbers)
    assert (inputs["input_ids"] == raised.model.config.image_token_id).sum() == 4 * len(numbers)


def test_one_view_gives_the_inputs_of_the_base(llava, raised):
    expected = prepare(llava.processor, noise_image(), PROMPT)
    inputs = prepare(raised.processor, noise_image(), PROMPT, grid=(0, 0))
    assert inputs.keys() - {"tile_index"} == expected.keys()
    assert all(torch.equal(inputs[name], value) for name, value in expected.items())


def test_images_and_grids_of_a_batch(raised):
    images = [noise_image(0), noise_image(1), noise_image(2, 120, 40)]
    texts = ["<image>a<image>bc", "<image>"]
    inputs = prepare(raised.processor, images, texts, grid=[(2, 2), (0, 0), (1, 2)], padding=True)
    assert inputs["tile_index"].tolist() == [0, 1, 2, 3, -1, -1, 0, 1, -1]
    places = (inputs["input_ids"] == raised.model.config.image_token_id).sum(dim=1)
    assert places.tolist() == [6 * 4, 3 * 4]


@pytest.mark.parametrize("return_tensors", ["np", None])
def test_other_types_of_tensors(return_tensors, raised):
    inputs = raised.processor(images=noise_image(), text=PROMPT, return_tensors=return_tensors)
    assert list(np.asarray(inputs["tile_index"])) == [0, 1, 2, 3, -1]


def test_text_alone(raised, llava):
    assert raised.processor(text="ab") == llava.processor(text="ab")


def test_chat_template_keeps_one_marker_an_image(raised):
    template = "{% for m in messages %}{% for part in m['content'] %}{% if part['type'] == 'image' %}<image>"
    raised.processor.chat_template = (
        template + "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    content = [{"type": "image", "image": noise_image()}, {"type": "text", "text": "ab"}]
    inputs = raised.processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert inputs["tile_index"].tolist() == [0, 1, 2, 3, -1]
    assert torch.equal(inputs["input_ids"], prepare(raised.processor, noise_image(), PROMPT)["input_ids"])


def test_base_processor_stays_as_it_is(llava, raised):
    settings = raised.processor.view_settings
    before = prepare(llava.processor, noise_image(), PROMPT)
    processor = raise_processor(llava.processor, settings)
    assert type(processor).__name__ == type(llava.processor).__name__
    assert "tile_index" in processor.model_input_names
    assert "tile_index" not in llava.processor.model_input_names
    assert prepare(llava.processor, noise_image(), PROMPT).keys() == before.keys()
    with pytest.raises(ValueError, match="raised already"):
        raise_processor(processor, settings)


def test_saved_processor_is_that_of_the_base(raised, tmp_path):
    raised.processor.save_pretrained(tmp_path)
    assert '"processor_class": "LlavaProcessor"' in (tmp_path / "processor_config.json").read_text()
    assert copy.deepcopy(raised.processor).view_settings == raised.processor.view_settings


def test_processor_goes_to_workers_of_a_data_loader(raised):
    processor = pickle.loads(pickle.dumps(raised.processor))
    expected = prepare(raised.processor, noise_image(), PROMPT)
    inputs = prepare(processor, noise_image(), PROMPT)
    assert all(torch.equal(inputs[name], value) for name, value in expected.items())


def test_number_of_grids_must_be_that_of_images(raised):
    with pytest.raises(ValueError, match="got 1 images and 2 grids"):
        prepare(raised.processor, noise_image(), PROMPT, grid=[(2, 2), (1, 2)])


def test_truncated_places_raise(raised):
    with pytest.raises(ValueError, match="places for visual tokens, but 5 views x 4|[Mm]ismatch"):
        prepare(raised.processor, noise_image(), PROMPT, truncation=True, max_length=10)


def test_processor_that_passes_the_cutting_by_raises(raised):
    """A class with a `__call__` of its own, as BLIP-2's, that is not in the table."""

    class OwnCall(type(tiny_vlms.build("llava_clip").processor)):
        def __call__(self, images=None, text=None, **options):
            return {"pixel_values": torch.zeros(1, 3, 28, 28), "input_ids": [[4]]}

    base = tiny_vlms.build("llava_clip").processor
    base.__class__ = OwnCall
    processor = raise_processor(base, raised.processor.view_settings)
    with pytest.raises(ValueError, match="past the place where they are cut"):
        processor(images=noise_image(), text=PROMPT)


def test_internvl_takes_all_views_of_an_image():
    """It slices the pixels by a number of patches, which is that of the views of an image."""
    vlm = tiny_vlms.build("internvl")
    raised = raise_resolution(vlm.model, vlm.processor, rank=4)
    inputs = prepare(raised.processor, [noise_image(0), noise_image(1)], [vlm.prompt(), vlm.prompt()])
    assert len(inputs["pixel_values"]) == len(inputs["tile_index"]) == 10


def test_idefics_counts_real_views_alone():
    """Its pixels are padded to the most views of a prompt, and the padding is dropped before the tower."""
    vlm = tiny_vlms.build("idefics3")
    raised = raise_resolution(vlm.model, vlm.processor, rank=4)
    inputs = prepare(
        raised.processor,
        [[noise_image(0)], [noise_image(1)]],
        [vlm.prompt(), vlm.prompt()],
        grid=[(2, 2), (1, 2)],
        padding=True,
    )
    assert inputs["pixel_values"].shape[:2] == (2, 5)
    assert len(inputs["tile_index"]) == 8
    raised.model(**inputs)

    # A view that is 0 everywhere is dropped as if it were padding.
    inputs["pixel_values"][0, 1] = 0
    with pytest.raises(ValueError, match=r"names 8 views, the vision tower reads 7.*0 everywhere"):
        raised.model(**inputs)


@pytest.fixture(scope="module")
def blip2():
    vlm = tiny_vlms.build("blip2")
    return raise_resolution(vlm.model, vlm.processor, rank=4).processor


def test_repeated_places_stand_where_those_of_one_view_stood(blip2):
    inputs = prepare(
        blip2, [noise_image(0), noise_image(1)], ["ab", "abcd"], grid=[(2, 2), (1, 2)], padding=True
    )
    place, pad = blip2.view_settings.image_token_id, blip2.tokenizer.pad_token_id
    question = blip2.tokenizer("abcd")["input_ids"]
    assert inputs["input_ids"].tolist() == [
        [place] * 20 + question[:2],
        [pad] * 6 + [place] * 12 + question,
    ]
    assert inputs["attention_mask"].tolist() == [[1] * 22, [0] * 6 + [1] * 16]
    assert inputs["pixel_values"].shape == (8, 3, 28, 28)


def test_repeated_places_are_padded_on_the_other_side(blip2):
    images = [noise_image(0), noise_image(1)]
    inputs = prepare(blip2, images, ["ab", "ab"], grid=[(2, 2), (0, 0)], padding=True, padding_side="right")
    assert inputs["attention_mask"].tolist() == [[1] * 22, [1] * 6 + [0] * 16]


def test_repeated_places_beyond_max_length_raise(blip2):
    with pytest.raises(ValueError, match="with all views has 22 tokens, max_length is 12"):
        prepare(blip2, noise_image(), "ab", max_length=12)


def test_instructblip_reads_its_question_once_a_view():
    vlm = tiny_vlms.build("instructblip")
    processor = raise_resolution(vlm.model, vlm.processor, rank=4).processor
    inputs = prepare(
        processor, [noise_image(0), noise_image(1)], ["ab", "cd"], grid=[(1, 2), (0, 0)], padding=True
    )
    ab, cd = (processor.qformer_tokenizer(text)["input_ids"] for text in ("ab", "cd"))
    assert inputs["qformer_input_ids"].tolist() == [ab, ab, ab, cd]


def test_kosmos2_repeats_its_mask_of_places():
    vlm = tiny_vlms.build("kosmos2")
    processor = raise_resolution(vlm.model, vlm.processor, rank=4).processor
    inputs = prepare(processor, noise_image(), "ab")
    one = prepare(processor, noise_image(), "ab", grid=(0, 0))
    assert inputs["image_embeds_position_mask"].sum() == 5 * 64 == 5 * one["image_embeds_position_mask"].sum()
    assert inputs["input_ids"].shape == inputs["image_embeds_position_mask"].shape
