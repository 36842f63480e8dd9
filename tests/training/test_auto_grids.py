"""Training where the grid of an image follows its shape, and images differ in their visual tokens."""

import pytest
import torch

from monkeylib import inference, profiles, sizing
from monkeylib.checkpoints import convert, peft
from monkeylib.data.records import BadRecord, Record
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.model.tile_lora import tile_loras
from monkeylib.processing import MonkeyProcessor
from monkeylib.profiles import build, trainable
from monkeylib.profiles.overrides import override
from monkeylib.tiling import Grid
from monkeylib.training import finetune, memory
from monkeylib.training.batches import ExampleEncoder
from monkeylib.training.module import MonkeyTraining
from monkeylib.training.synthetic_records import SyntheticRecords, synthetic_data
from tests.support.answers import assert_distinct, assert_same

SMOKE = profiles.load_profile("smoke")
AUTO = override(SMOKE, {"grid": "auto", "max_tiles": 4})

# Width and height in tiles of 56 pixels, and the grid.
SHAPES = {(224, 56): (1, 4), (56, 224): (4, 1), (112, 112): (2, 2), (56, 56): (1, 1), (168, 56): (1, 3)}


@pytest.fixture(scope="module")
def auto_processor() -> MonkeyProcessor:
    return build.build_processor(AUTO)


@pytest.fixture()
def records(make_image, tmp_path):
    """Return a record for each shape, whose images are files."""
    records = []
    for number, size in enumerate(SHAPES):
        path = tmp_path / f"{number}.png"
        make_image(number, *size).save(path)
        turns = (("what? Answer: ", f"answer {number}"),)
        records.append(Record.from_turns(str(number), (path,), turns, "shapes", f"record {number}"))
    return records


def build_module(profile):
    torch.manual_seed(0)
    processor = build.build_processor(profile)
    model = build.build_model(profile, processor)
    trainable.set_trainable(model, profile)
    return MonkeyTraining(model, processor, profile, synthetic_data(profile))


# --- examples and batches


def test_example_has_the_visual_tokens_of_its_grid(auto_processor, records):
    encoder = ExampleEncoder(auto_processor, 500)
    for record, (rows, cols) in zip(records, SHAPES.values(), strict=True):
        example = encoder.encode(record)
        places = int((example.input_ids == auto_processor.image_token_id).sum())

        assert example.grids == (Grid(rows, cols),)
        assert places == (rows * cols + 1) * SMOKE.queries

        images = encoder.encode_images(example)
        assert images["grids"].tolist() == [[rows, cols]]
        assert len(images["pixel_values"]) == rows * cols + 1


def test_turns_that_do_not_fit_leave_out_the_grids_of_their_images(auto_processor, records):
    first, second = records[0], records[1]
    record = Record("both", first.messages + second.messages, "shapes", "both")
    full = ExampleEncoder(auto_processor, 500).encode(record)
    assert full.grids == (Grid(1, 4), Grid(4, 1))

    encoder = ExampleEncoder(auto_processor, len(full) - 1)
    cut = encoder.encode(record)
    assert cut.grids == (Grid(1, 4),)
    assert encoder.encode_images(cut)["grids"].tolist() == [[1, 4]]


def test_image_whose_size_cannot_be_read_makes_a_bad_record(auto_processor, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    turns = (("what? Answer: ", "a"),)
    for name, reason in (("broken.png", "cannot be read as an image"), ("gone.png", "no image at")):
        record = Record.from_turns("1", (tmp_path / name,), turns, "shapes", "record 1")
        with pytest.raises(BadRecord, match=f"record 1, image 1: .*{reason}"):
            ExampleEncoder(auto_processor, 500).encode(record)


def test_only_automatic_grids_read_the_sizes_of_images(tmp_path):
    record = Record.from_turns("1", (tmp_path / "gone.png",), (("a", "b"),), "shapes", "record 1")
    assert ExampleEncoder(build.build_processor(SMOKE), 500).encode(record).grids == (Grid(2, 2),)


def test_device_without_images_takes_a_black_one(auto_processor):
    example, images = ExampleEncoder(auto_processor, 500).dummy()
    views = int((example.input_ids == auto_processor.image_token_id).sum()) // SMOKE.queries
    assert views == len(images["pixel_values"]) and images["grids"].tolist() == [[1, 1]]


@pytest.mark.parametrize("packing", [False, True])
def test_loss_of_a_mixed_batch_is_that_of_its_examples(auto_processor, records, packing):
    module = build_module(AUTO)
    module.model.eval()
    encoder = ExampleEncoder(auto_processor, 500, packing=packing)
    examples = [encoder.encode(record) for record in records]
    images = [encoder.encode_images(example) for example in examples]

    with torch.no_grad():
        together = module.loss_and_accuracy(encoder.collate(examples, images))["loss"]
        losses = [
            module.loss_and_accuracy(encoder.collate([example], [image]))["loss"]
            for example, image in zip(examples, images, strict=True)
        ]

    counts = [int((example.labels[1:] != IGNORE_INDEX).sum()) for example in examples]
    expected = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)
    assert together.item() == pytest.approx(expected.item(), rel=1e-4)


def test_synthetic_images_have_the_sizes_of_all_grids(auto_processor):
    records = SyntheticRecords(AUTO, "train")
    grids = {ExampleEncoder(auto_processor, 500).encode(records[number]).grids[0] for number in range(8)}
    assert len(grids) == 8  # of at most four tiles

    # Those of a fixed grid are as they were.
    assert {SyntheticRecords(SMOKE, "train")[number].images[0].size for number in range(8)} == {(112, 112)}


# --- memory


@pytest.mark.parametrize("mode", ["per_tile", "shared", "none"])
def test_memory_is_counted_for_the_most_tiles(mode):
    profile = override(AUTO, {"lora.mode": mode})
    config = build.build_config(profile)
    assert (
        sizing.count_parameters(config)["LoRA"] == sizing.count_in_model(build_module(profile).model)["LoRA"]
    )

    batch = memory.random_micro_batch(profile, examples=2)
    assert len(batch["pixel_values"]) == 2 * 5
    assert profile.visual_tokens == sizing.count_visual_tokens(config) == 5 * SMOKE.queries
    assert memory.count_step(profile, [batch]).peak == pytest.approx(
        memory.measure_step(profile, [batch]), rel=0.1
    )


# --- a run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of a model that was trained on images of all shapes."""
    return finetune.run(AUTO, tmp_path_factory.mktemp("auto") / "run")


def test_each_position_of_the_grids_is_trained(trained):
    fresh = build_module(AUTO).model
    model = inference.load_model(trained).model
    assert model.config.max_tiles == 4 and model.config.grids == []

    for lora, before in zip(tile_loras(model), tile_loras(fresh), strict=True):
        assert (lora.lora_B.flatten(1) != before.lora_B.flatten(1)).any(1).all()


def test_trained_checkpoint_answers_about_images_of_any_shape(trained, make_image):
    monkey = inference.load_model(trained)
    questions = [(make_image(number, *size), "what?") for number, size in enumerate(SHAPES)]
    inputs = monkey.prepare(*zip(*questions, strict=True))
    assert inputs["grids"].tolist() == [list(grid) for grid in SHAPES.values()]

    answers = monkey.answer_batch(questions, max_new_tokens=3)
    assert_same(answers, [monkey.answer(*question, max_new_tokens=3) for question in questions])
    assert_distinct(answers)
    with pytest.raises(ValueError, match="up to 4 tiles, got an image of 1x5 tiles"):
        monkey.answer(questions[0][0], "what?", grid="1x5")


def test_resumed_run_ends_as_an_uninterrupted_one(trained, tmp_path, monkeypatch):
    stopped = {}

    def stop(module, batch, batch_idx):
        if module.trainer.global_step == 2 and not stopped:
            stopped["at"] = 2
            raise KeyboardInterrupt
        return original(module, batch, batch_idx)

    original = MonkeyTraining.training_step
    monkeypatch.setattr(MonkeyTraining, "training_step", stop)
    profile = AUTO.with_training(save_every_steps=1)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        finetune.run(profile, tmp_path / "run")

    resumed = finetune.run(profile, tmp_path / "run")
    assert (resumed / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_model_cannot_go_to_the_released_layout(trained, tmp_path):
    with pytest.raises(
        ValueError, match="one grid for all images, this model gives each a grid of up to 4 tiles"
    ):
        convert.convert_to_released(str(trained), str(tmp_path / "released"))
    assert not (tmp_path / "released").exists()


def test_lora_goes_to_peft_by_row_and_column(trained, tmp_path):
    convert.export_lora(str(trained), str(tmp_path / "peft"))
    names = sorted(path.name for path in (tmp_path / "peft").iterdir())
    assert names == [
        f"tile-{row}-{col}" for row, col in inference.load_model(trained).model.config.lora_positions
    ]

    model = inference.load_model(trained).model
    expected = [lora.lora_B[5].clone() for lora in tile_loras(model)]
    with torch.no_grad():
        for lora in tile_loras(model):
            lora.lora_B[5] = 0
    peft.read_lora(tmp_path / "peft" / "tile-1-1", model, tile=5)
    assert all(
        torch.equal(lora.lora_B[5], before) for lora, before in zip(tile_loras(model), expected, strict=True)
    )


# --- the base


def test_lora_of_a_fixed_grid_starts_at_its_positions(tmp_path):
    model, processor = build_module(SMOKE).model, build.build_processor(SMOKE)
    with torch.no_grad():
        for lora in tile_loras(model):
            lora.lora_B.normal_()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)

    profile = override(AUTO, {"base_checkpoint": str(tmp_path)})
    started = build.build_model(profile, build.build_processor(profile))

    assert started.config.max_tiles == 4
    for lora, before in zip(tile_loras(started), tile_loras(model), strict=True):
        assert torch.equal(lora.lora_B[[0, 1, 4, 5]], before.lora_B)


# --- profiles


@pytest.mark.parametrize(
    "values, message",
    [
        ({"max_tiles": 4}, "set grid to auto"),
        ({"grid": "auto", "views": "global"}, "has no tiles"),
        ({"grid": "automatic"}, "grid"),
        ({"grid": "auto", "max_tiles": 0}, "max_tiles"),
    ],
)
def test_profile_of_an_impossible_automatic_grid_raises(values, message):
    with pytest.raises(ValueError, match=message):
        override(SMOKE, values)


def test_automatic_grid_has_as_many_tiles_as_the_fixed_one_by_default():
    profile = override(SMOKE, {"grid": "auto"})
    assert profile.auto_tiles == 4 and build.build_config(profile).max_tiles == 4
    assert SMOKE.auto_tiles is None
    # A variant of one view.
    assert profile.model_copy(update={"views": "global"}).auto_tiles is None
