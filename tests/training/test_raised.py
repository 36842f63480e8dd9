import json

import pytest
import torch

from monkeylib.data.records import BadRecord, Record
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.messages import Message
from monkeylib.profiles.raised import RaisedProfile
from monkeylib.raising import load_raised, raise_resolution
from monkeylib.raising.adapters import layer_adapters
from monkeylib.raising.bases import load_base, load_base_processor
from monkeylib.raising.conversations import Conversations
from monkeylib.raising.parts import parameters_of, set_trainable
from monkeylib.runs import RunDiffers
from monkeylib.training import finetune
from monkeylib.training.batches import TrainingData
from monkeylib.training.raised import RaisedExampleEncoder
from tests.raising.conftest import noise_image
from tests.support.raised_models import save_base


class Records:
    """Records of one image each, every third without."""

    def __init__(self, count=8):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        images = () if number % 3 == 2 else (noise_image(number),)
        return Record.from_turns(
            f"r{number}", images, [("what is it", "abcd"[number % 4])], "d", f"r{number}"
        )


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base") / "llava")


@pytest.fixture(scope="module")
def profile(base):
    training = {
        "steps": 3,
        "batch_size": 4,
        "micro_batch_size": 2,
        "max_length": 128,
        "lr": 1e-3,
        "lora_lr": 1e-2,
        "warmup": 0,
        "weight_decay": 0.1,
        "precision": "32-true",
        "checkpointing": True,
        "save_every_steps": 2,
        "workers": 1,
        "seed": 0,
    }
    evaluation = {"counts": {}, "max_new_tokens": 2, "batch_size": 2}
    return RaisedProfile(base=str(base), grid="1x2", rank=2, training=training, evaluation=evaluation)


@pytest.fixture(scope="module")
def encoder(base):
    raised = raise_resolution(load_base(base), load_base_processor(base), rank=2)
    return RaisedExampleEncoder(Conversations(*raised), 200)


def train(profile, folder, validation=None, **options):
    data = TrainingData(Records(), validation, "records", num_records=12, num_validation_records=2)
    return finetune.run(profile, folder, progress=False, data=data, **options)


@pytest.fixture(scope="module")
def trained(profile, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    return folder, train(profile, folder, Records(2))


def weights_of(folder):
    return load_raised(folder).model.state_dict()


def test_run_writes_a_raised_folder(trained, base):
    folder, output = trained
    raised = load_raised(output)
    assert raised.settings.base == str(base) and raised.settings.grids.tiles == 2

    fresh = load_base(base).state_dict()
    changed = {
        name
        for name, weight in raised.model.state_dict().items()
        if name in fresh and not torch.equal(weight, fresh[name])
    }
    assert changed and all("multi_modal_projector" in name for name in changed)
    assert all(adapters[0].lora_B.any() for adapters in layer_adapters(raised.model).values())

    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert {row["prompt"] for row in rows} == {"what is it"}


def test_finished_run_is_returned_and_another_base_is_another_run(trained, profile, tmp_path):
    folder, output = trained
    assert train(profile, folder, Records(2)) == output
    with pytest.raises(RunDiffers, match="rank"):
        train(profile.model_copy(update={"rank": 4}), folder)


def test_resumed_run_is_the_uninterrupted_one(complete_training_runs, trained, profile, tmp_path):
    """It is interrupted after its second step, whose dropout, moments and order of data go on."""

    class Interrupt(finetune.L.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 2:
                raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(profile, tmp_path / "run", callbacks=[Interrupt()])
    assert not (tmp_path / "run" / "model").exists()

    resumed, expected = weights_of(train(profile, tmp_path / "run")), weights_of(trained[1])
    for name, weight in expected.items():
        assert torch.equal(resumed[name], weight), name


def test_batch_of_records_has_the_loss_of_each_alone(encoder):
    records = [Records()[number] for number in (0, 2, 4)]
    examples = [encoder.encode(record) for record in records]
    images = [encoder.encode_images(example) for example in examples]
    assert [bool(opened) for opened in images] == [True, False, True]

    batch = encoder.collate(examples, images)
    assert batch["grids"].tolist() == [[2, 2], [2, 2]]
    assert batch["tile_index"].tolist() == [0, 1, 2, 3, -1] * 2
    learned = [row[row != IGNORE_INDEX].tolist() for row in batch["labels"]]
    assert [encoder.conversations.tokenizer.decode(ids) for ids in learned] == [" a</s>", " c</s>", " a</s>"]


def test_dummy_has_an_image_and_no_labels(encoder):
    example, images = encoder.dummy()
    batch = encoder.collate([example], [images])
    assert (batch["labels"] == IGNORE_INDEX).all() and len(batch["pixel_values"]) == 5


def test_record_that_cannot_be_used_says_where_it_lies(encoder):
    long = Record.from_turns("x", (noise_image(),), [("a" * 300, "b")], "d", "file.json, record 3")
    with pytest.raises(BadRecord, match="file.json, record 3: The image and its first question need"):
        encoder.encode(long)
    marker = Record("y", (Message("user", ("<image>",)), Message("assistant", ("b",))), "d", "record 4")
    with pytest.raises(BadRecord, match="record 4: the text .* holds <image>"):
        encoder.encode(marker)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({}, {"connector"}),
        ({"connector": False}, set()),
        ({"connector": False, "language_model": True}, {"language_model"}),
    ],
    ids=str,
)
def test_parts_train_or_are_frozen(base, options, parts):
    model, _ = raise_resolution(load_base(base), load_base_processor(base), rank=2)
    set_trainable(model, **options)
    for part in ("connector", "language_model"):
        assert {p.requires_grad for p in parameters_of(model, part)} == {part in parts}
    of_tower = [name for name, p in model.named_parameters() if p.requires_grad and "vision_tower" in name]
    assert of_tower and all(name.endswith(("lora_A", "lora_B")) for name in of_tower)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"packing": True}}, "training.packing is not for a raised model"),
        ({"training": {"strategy": "fsdp"}}, "training.strategy is not for a raised model"),
        ({"training": {"components": "paper"}}, "training.components is not for a raised model"),
        ({"bits": 4, "language_model": "full"}, "4 or 8 bits does not train"),
    ],
    ids=str,
)
def test_settings_of_a_monkey_are_refused(changes, message, profile):
    fields = profile.model_dump()
    fields["training"] |= changes.pop("training", {})
    with pytest.raises(ValueError, match=message):
        RaisedProfile.model_validate({**fields, **changes})


def test_raised_folder_is_no_base(trained, profile, tmp_path):
    _, output = trained
    with pytest.raises(ValueError, match="is a raised model: name its base"):
        train(profile.model_copy(update={"base": str(output)}), tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="no base model at"):
        train(profile.model_copy(update={"base": str(tmp_path / "missing")}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
