import inspect

import pytest
import torch
from transformers import Trainer, TrainingArguments

import monkeylib
from monkeylib import raising
from monkeylib.raising import load_raised, raise_resolution
from monkeylib.raising.adapters import layer_adapters
from tests.raising.conftest import noise_image
from tests.support import tiny_vlms


def test_public_functions_are_those_of_the_package():
    for name in ("check_raising", "load_raised", "raise_resolution"):
        assert getattr(monkeylib, name) is getattr(raising, name)


def test_result_unpacks_into_model_and_processor(raised):
    model, processor = raised
    assert model is raised.model and processor is raised.processor
    assert raised.settings.tile_size == 28 and raised.settings.tokens_per_view == 4
    assert set(raised.settings.ranks.values()) == {4}
    assert all(name.startswith("model.vision_tower.") for name in raised.settings.ranks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "half"}, "no mode called 'half'"),
        ({"grid": "2"}, "ROWSxCOLUMNS"),
        ({"rank": -1}, "rank is -1"),
        ({"rank": {"qkv": 4}}, "no layer of the vision tower is called 'qkv'"),
    ],
    ids=str,
)
def test_impossible_arguments_raise_and_change_nothing(options, message, llava):
    with pytest.raises(ValueError, match=message):
        monkeylib.raise_resolution(llava.model, llava.processor, **options)
    assert "tile_index" not in inspect.signature(llava.model.forward).parameters
    assert not layer_adapters(llava.model)


class Questions(torch.utils.data.Dataset):
    """Records of one image each; two of the four tiles."""

    def __len__(self):
        return 4

    def __getitem__(self, number):
        return {"image": noise_image(number), "text": "<image>ab"}


def test_trainer_trains_the_adapters_and_resumes(raise_llava, tmp_path):
    """Trainer saves and loads the weights by transformers' names of files."""

    def collate(records):
        inputs = raised.processor(
            images=[[record["image"]] for record in records],
            text=[record["text"] for record in records],
            grid=[(1, 2)] * len(records),
            padding=True,
            return_tensors="pt",
        )
        return {**inputs, "labels": inputs["input_ids"]}

    def arguments(steps):
        return TrainingArguments(
            str(tmp_path / "run"),
            max_steps=steps,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            weight_decay=0.1,
            save_steps=1,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            remove_unused_columns=False,
            seed=0,
        )

    raised = raise_llava(trained=False)
    Trainer(raised.model, arguments(2), collate, Questions()).train()
    state = {name: value.clone() for name, value in raised.model.state_dict().items()}
    for adapters in layer_adapters(raised.model).values():
        assert adapters[0].lora_B.any() and adapters[1].lora_B.any()
        # Those of tiles that no batch holds have neither gradient nor weight decay.
        assert not adapters[2].lora_B.any()

    raised = raise_llava(trained=False)
    Trainer(raised.model, arguments(2), collate, Questions()).train(
        resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1")
    )
    for name, value in raised.model.state_dict().items():
        assert torch.allclose(value, state[name], atol=1e-6), name


def test_folder_of_a_base_is_named_in_full(monkeypatch, tmp_path):
    """A raised model loads from any working folder."""
    vlm = tiny_vlms.build("llava_clip")
    for part in (vlm.model, vlm.processor):
        part.save_pretrained(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    raised = raise_resolution(type(vlm.model).from_pretrained("base"), vlm.processor, grid="1x2", rank=2)
    raised.save("raised")
    assert "LlavaForConditionalGeneration" in repr(raised) and len(repr(raised)) < 300

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_raised(tmp_path / "raised").settings.base == str(tmp_path / "base")


def test_merged_adapters_are_not_saved_as_empty_ones(tmp_path):
    vlm = tiny_vlms.build("llava_clip")
    raised = raise_resolution(vlm.model, vlm.processor, grid="1x2", rank=2, mode="shared")
    raised.merge()
    with pytest.raises(ValueError, match="merged into the weights: save the model"):
        raised.save(tmp_path / "raised")
    assert not (tmp_path / "raised").exists()
