import pytest
import transformers as tf
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from monkeylib.raising import check_raising, raise_resolution
from monkeylib.raising.families import REFUSED
from tests.raising.conftest import noise_image
from tests.support import refused_vlms, tiny_hf_models, tiny_vlms


def test_sentence_of_a_model_that_can_be_raised(llava):
    check = check_raising(llava.model, llava.processor, grid="2x3")
    assert check.is_possible
    assert str(check) == (
        "LlavaForConditionalGeneration can be raised to 2x3: 6 tiles and the global view of 28 pixels take 4 "
        "tokens each, 28 together of 512 that it reads; adapters stand beside 12 of 18 linear layers of its "
        "vision tower, and its processor is raised by the route 'views'"
    )


def test_check_changes_nothing(llava):
    names = llava.model.state_dict().keys()
    check_raising(llava.model, llava.processor)
    assert type(llava.model) is tf.LlavaForConditionalGeneration
    assert llava.model.state_dict().keys() == names
    assert "tile_index" not in llava.processor(images=noise_image(), text="<image>")


def test_what_is_no_model_of_transformers_is_refused(monkey):
    with pytest.raises(
        ValueError, match="^Monkey cannot be raised: it is no model of transformers: load the base by"
    ):
        raise_resolution(monkey, None, grid="2x2")


def refuse(model, processor, match, **options):
    """The check says why, and raising the model raises the same sentence."""
    check = check_raising(model, processor, **options)
    assert not check.is_possible
    with pytest.raises(ValueError, match=match) as error:
        raise_resolution(model, processor, **options)
    assert str(error.value) == check.sentence
    assert not any("tile_lora" in name for name in model.state_dict())


def test_more_tokens_than_positions_are_refused(llava):
    refuse(llava.model, llava.processor, "reads 512 tokens, and 144 tiles .* are 580: choose a", grid="12x12")


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (refused_vlms.llava_next, "cuts images into tiles of its own"),
        (refused_vlms.granite4_vision, "cuts images into tiles of its own"),
        (refused_vlms.qwen2_5_vl, "reads images of any size"),
    ],
)
def test_families_with_resolutions_of_their_own_are_refused(build, reason):
    model, processor = build()
    refuse(model, processor, f"^{type(model).__name__} cannot be raised: it {reason}")


def test_family_that_cuts_images_is_refused_without_the_table(monkeypatch):
    """LLaVA-NeXT's processor makes more views of larger images."""
    monkeypatch.setattr("monkeylib.raising.families.REFUSED", {})
    refuse(*refused_vlms.llava_next(), "no fixed resolution to raise; name a tile_size")


def test_refused_families_are_image_text_models_of_transformers():
    assert set(REFUSED) <= set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def test_family_that_reads_any_size_is_refused_without_the_table():
    """Pixtral's processor makes larger pixels of larger images."""
    vlm = tiny_vlms.build("mistral3")
    refuse(vlm.model, vlm.processor, "no fixed resolution to raise; name a tile_size")
    assert check_raising(vlm.model, vlm.processor, tile_size=vlm.tile_size).is_possible


def test_processor_of_another_model_is_refused(llava):
    llava.processor.num_additional_image_tokens = 2
    refuse(llava.model, llava.processor, "makes 4 tokens of one view, while its processor writes 5 places")


def test_processor_that_crops_tiles_is_refused(llava):
    llava.processor.image_processor.size = tf.image_utils.SizeDict(shortest_edge=32)
    refuse(llava.model, llava.processor, "cuts the border off an image of 28x28 pixels")


def test_processor_on_which_cutting_has_no_effect_is_refused(llava):
    class OwnCall(type(llava.processor)):
        def __call__(self, images=None, text=None, **options):
            return tf.LlavaProcessor.__call__(
                tiny_vlms.build("llava_clip").processor, images=images, text=text, **options
            )

    llava.processor.__class__ = OwnCall
    refuse(llava.model, llava.processor, "past the place where they are cut")


def test_model_without_vision_tower_is_refused(llava):
    refuse(llava.model.model.language_model, llava.processor, "no vision tower")


@pytest.mark.parametrize("family", tiny_vlms.FAMILIES)
def test_each_family_can_be_raised(family):
    vlm = tiny_vlms.build(family)
    check = check_raising(vlm.model, vlm.processor, tile_size=vlm.tile_size)
    assert check.reason == ""


def test_tile_size_of_unequal_views_raises_in_the_tower():
    """Views of different sizes lie in one row of Pixtral's tower."""
    vlm = tiny_vlms.build("mistral3")
    model, processor = raise_resolution(vlm.model, vlm.processor, tile_size=vlm.tile_size, rank=4)
    inputs = processor(images=noise_image(), text=vlm.prompt(), return_tensors="pt")
    inputs["image_sizes"] = inputs["image_sizes"] - 14 * (inputs["tile_index"] == 0)[:, None]
    with pytest.raises(ValueError, match="14x14 and 28x28 pixels, cannot be told apart"):
        model(**inputs)


def test_qwen2_vl_is_refused_by_its_configuration_alone(tokenizer, tmp_path):
    """Qwen2-VL itself, whose processor needs torchvision."""
    folder = tiny_hf_models.qwen2_vl(tokenizer, tmp_path / "qwen2_vl")
    model = tf.Qwen2VLForConditionalGeneration.from_pretrained(folder)
    assert "reads images of any size" in check_raising(model, None).sentence
