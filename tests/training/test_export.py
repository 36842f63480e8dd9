"""Everything that a training run saves becomes a model."""

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file

from monkeylib import inference, profiles, runs
from monkeylib.checkpoints import loading
from monkeylib.data import synthetic
from monkeylib.experiments import parity
from monkeylib.profiles import Profile, build, trainable
from monkeylib.runs import RunFolder
from monkeylib.training import checkpointing, export, finetune
from tests.support import released_files
from tests.support.training_processes import FSDP, train

SMOKE = profiles.load_profile("smoke")
LORA_COMPONENTS = {
    "vision": {"train": "lora"},
    "resampler": {"train": "full"},
    "language_model": {"train": "lora"},
}


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """Return the smoke profile on a base model, with LoRA in the language model."""
    folder = tmp_path_factory.mktemp("base")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        processor = build.build_processor(SMOKE)
        build.build_model(SMOKE, processor).save_pretrained(folder)
    processor.save_pretrained(folder)

    profile = SMOKE.model_copy(update={"base_checkpoint": str(folder)})
    return profile.with_training(components=LORA_COMPONENTS, language_model_rank=2, lr=0.05, steps=2)


@pytest.fixture(scope="module")
def complete(profile, tmp_path_factory):
    """Return a finished run that has saved all weights."""
    return finetune.run(profile, tmp_path_factory.mktemp("complete") / "run").parent


@pytest.fixture(scope="module")
def trained(profile, tmp_path_factory):
    """Return a finished run that has saved the trained weights alone."""
    run = tmp_path_factory.mktemp("trained") / "run"
    return finetune.run(profile.with_training(keep="trained"), run).parent


def compute_logits(folder, **options):
    monkey = inference.load_model(folder, **options)
    sample = synthetic.make_sample(0, "val", SMOKE.image_size)
    with torch.no_grad():
        return monkey.model(**monkey.prepare([sample.image], ["what?"])).logits


def assert_same_weights(folder, expected):
    weights, expected = (load_file(path / "model.safetensors") for path in (folder, expected))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], weight) for name, weight in expected.items())


# --- to monkeylib's layout


def test_checkpoint_of_a_stopped_run_becomes_the_model_of_the_finished_one(complete, tmp_path):
    """The last checkpoint is that of the last step."""
    export.convert_training(str(complete), str(tmp_path / "model"), which="last")
    assert_same_weights(tmp_path / "model", complete / "model")
    assert torch.equal(compute_logits(tmp_path / "model"), compute_logits(complete / "model"))


def test_checkpoint_of_trained_weights_becomes_a_complete_model(trained, complete, tmp_path):
    export.convert_training(trained / "model", tmp_path / "model")
    assert_same_weights(tmp_path / "model", complete / "model")


def test_checkpoint_file_becomes_a_model(complete, tmp_path):
    (path,) = checkpointing.list_checkpoints(complete)
    export.convert_training(path, tmp_path / "model")
    assert_same_weights(tmp_path / "model", complete / "model")


def test_trained_model_of_a_finished_run_is_the_default(trained, tmp_path):
    assert export._choose(trained, None) == trained / "model"
    (trained / "model").rename(tmp_path / "elsewhere")
    assert export._choose(trained, None) == checkpointing.list_checkpoints(trained)[-1]
    (tmp_path / "elsewhere").rename(trained / "model")


def test_checkpoint_of_a_run_that_is_trained_further_is_its_model(tmp_path):
    """The folder `model` is of the end before."""
    run = tmp_path / "run"
    finetune.run(SMOKE.with_training(steps=1), run)
    with RunFolder.open(run, "training", runs.read_manifest(run).fingerprint) as run_folder:
        run_folder.start()
    assert (run / "model").is_dir()
    assert export._choose(run, None) == checkpointing.checkpoint_path(run, 1)


def test_folder_with_checkpoints_is_no_run_of_training_by_itself(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    assert not export.is_from_training(tmp_path)

    with RunFolder.open(tmp_path / "captions", "captions", {}) as run_folder:
        run_folder.start()
        run_folder.own("checkpoints/a").write_text("1")
    assert not export.is_from_training(tmp_path / "captions")


def test_weights_that_a_profile_neither_loads_nor_trains_are_drawn_as_in_the_run(tmp_path):
    """The smoke profile has no base model: its ViT is random, and frozen."""
    run = finetune.run(SMOKE.with_training(steps=1), tmp_path / "run").parent
    torch.rand(7)
    export.convert_training(run, tmp_path / "model", which="1")
    assert_same_weights(tmp_path / "model", run / "model")


# --- to the other layouts


def test_trained_weights_become_a_released_folder(tmp_path):
    """Of a profile on a released model, with LoRA in the language model."""
    base = released_files.write(
        tmp_path / "base", released_files.golden_settings(), parity.released_weights()
    )
    profile = profiles.load_profile("paper-896").model_copy(update={"base_checkpoint": str(base)})
    profile = profile.with_training(
        components=LORA_COMPONENTS, language_model_rank=2, keep="trained", precision="32-true"
    )
    processor = build.build_processor(profile)
    model = trainable.build_trainable(profile, processor)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "language_model" in name and ".lora_B" in name:
                weight.normal_()
    trainable.save_trained(model, model.state_dict(), processor, profile, tmp_path / "trained")

    export.convert_training(tmp_path / "trained", tmp_path / "released", "released")
    merged = model.language_model.merge_and_unload().state_dict()
    saved = loading.load_checkpoint(tmp_path / "released").language_model.state_dict()
    assert all(torch.equal(saved[name], weight) for name, weight in merged.items())
    assert {path.name for path in (tmp_path / "released").iterdir()} >= {"config.json", "qwen.tiktoken"}


@pytest.mark.parametrize("source", ["checkpoint", "model"])
def test_lora_of_tiles_and_language_model_is_written(trained, tmp_path, source):
    path = checkpointing.list_checkpoints(trained)[-1] if source == "checkpoint" else trained / "model"
    export.convert_training(path, tmp_path / "lora", "peft")
    names = {"language-model", *(f"tile-{tile}" for tile in range(4))}
    assert {folder.name for folder in (tmp_path / "lora").iterdir()} == names

    # peft loads it beside the language model of the base.
    model, _ = export._load(path)
    profile = Profile.model_validate_json((trained / "model" / "profile.json").read_text())
    base = inference.load_model(profile.base_checkpoint).model.language_model
    loaded = PeftModel.from_pretrained(base, tmp_path / "lora" / "language-model").eval()
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.allclose(loaded(ids).logits, model.eval().language_model(ids).logits)


def test_model_without_lora_has_nothing_for_peft(tmp_path):
    frozen = SMOKE.lora.model_copy(update={"mode": "none"})
    profile = SMOKE.model_copy(update={"lora": frozen}).with_training(steps=1)
    run = finetune.run(profile, tmp_path / "run").parent
    with pytest.raises(ValueError, match="trained without LoRA"):
        export.convert_training(run, tmp_path / "lora", "peft", "last")
    assert not (tmp_path / "lora").exists()


# --- what cannot be converted


@pytest.mark.parametrize(
    ("which", "complaint"),
    [
        ("7", r"has no checkpoint 7; it has step-000002\.ckpt"),
        ("newest", "choose last, best or the number of a step"),
    ],
)
def test_checkpoint_that_does_not_exist_is_said(complete, tmp_path, which, complaint):
    with pytest.raises((FileNotFoundError, ValueError), match=complaint):
        export.convert_training(complete, tmp_path / "model", which=which)
    assert not (tmp_path / "model").exists()


def test_broken_checkpoint_is_named(complete, tmp_path):
    (path,) = checkpointing.list_checkpoints(complete)
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"step-000002\.ckpt cannot be used, since it is cut off"):
        export.convert_training(copy, tmp_path / "model")


def test_checkpoint_of_another_base_is_refused(complete, tmp_path, profile, monkeypatch):
    narrow = profile.with_training(language_model_rank=3)
    monkeypatch.setattr(export.Profile, "model_validate_json", lambda _: narrow)
    with pytest.raises(ValueError, match=r"and its profile differ in language_model\..*lora_"):
        export.convert_training(complete, tmp_path / "model", which="last")


def test_checkpoint_on_changed_weights_is_refused(complete, tmp_path, monkeypatch):
    build_trainable = export.trainable.build_trainable

    def build_on_other_weights(profile, processor):
        model = build_trainable(profile, processor)
        frozen = [weight for weight in model.parameters() if not weight.requires_grad]
        with torch.no_grad():
            frozen[0].mul_(1.5)
        return model

    monkeypatch.setattr(export.trainable, "build_trainable", build_on_other_weights)
    with pytest.raises(ValueError, match=r"step-000002\.ckpt was trained on other weights than .* has now"):
        export.convert_training(complete, tmp_path / "model", which="last")


# --- loading without conversion


def test_trained_weights_load_in_the_dtype_that_is_asked_for(trained):
    model = inference.load_model(trained / "model", dtype=torch.bfloat16).model
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("options", [{"device_map": "auto"}, {"bits": 4}], ids=str)
def test_trained_weights_refuse_what_they_cannot_do(trained, options):
    with pytest.raises(ValueError, match="load without device_map and bits.*monkeylib convert"):
        inference.load_model(trained / "model", **options)


def test_fresh_lora_is_not_reported_as_missing(tmp_path, caplog):
    profile = profiles.load_profile("nano")
    with caplog.at_level("WARNING", logger="transformers"):
        build.build_model(profile, build.build_processor(profile))
    assert "MISSING" not in caplog.text


def test_run_in_place_of_a_model_is_explained(complete, tmp_path):
    with pytest.raises(ValueError, match="is the folder of a training run, not a model: name .*model"):
        inference.load_model(complete)

    (path,) = checkpointing.list_checkpoints(complete)
    with pytest.raises(ValueError, match="monkeylib convert .*ckpt NEW_FOLDER"):
        inference.load_model(path)


# --- every way to train

MODES = {
    f"{vision}, {language_model}": {
        "vision": {"train": vision},
        "resampler": {"train": "full"},
        "language_model": {"train": language_model},
    }
    for vision in ("frozen", "lora", "full")
    for language_model in ("frozen", "lora", "full")
}


@pytest.mark.parametrize("keep", ["all", "trained"])
@pytest.mark.parametrize("components", MODES.values(), ids=MODES)
def test_each_way_to_train_is_saved_with_and_without_shards(tmp_path, components, keep):
    """Gathered weights are tensors of their own, also where the model ties two of them."""
    profile = SMOKE.with_training(components=components, language_model_rank=2, keep=keep)
    processor = build.build_processor(profile)
    model = trainable.build_trainable(profile, processor)
    gathered = {name: weight.clone() for name, weight in model.state_dict().items()}
    question = {"input_ids": torch.tensor([[1, 2, 3]])}
    expected = model.eval().language_model(**question).logits

    sharded = profile.with_training(strategy="fsdp")
    for name, settings, state in (
        ("fsdp", sharded, gathered),
        ("auto", profile, model.state_dict()),
    ):
        trainable.save_trained(model, state, processor, settings, tmp_path / name)
        saved = inference.load_model(tmp_path / name).model.language_model
        assert torch.allclose(saved(**question).logits, expected, atol=1e-5), name

    names = [load_file(next((tmp_path / name).glob("*.safetensors"))).keys() for name in ("fsdp", "auto")]
    assert names[0] == names[1]


# --- sharded runs


@pytest.mark.parametrize("keep", ["all", "trained"])
def test_sharded_run_with_lora_is_saved_and_converted(profile, complete, tmp_path, keep):
    """The weights that its processes hold in parts become those of a run of one process."""
    training = {"components": LORA_COMPONENTS, "language_model_rank": 2, "lr": 0.05, "keep": keep}
    text = {"extends": "smoke", "description": "LoRA", "training": training}
    text["base_checkpoint"] = profile.base_checkpoint
    run = train(tmp_path, yaml.safe_dump(text), steps=2, **FSDP)

    # The checkpoint says the same as the trained model.
    export.convert_training(run, tmp_path / "from-checkpoint", which="last")
    export.convert_training(run, tmp_path / "from-model")
    assert_same_weights(tmp_path / "from-checkpoint", tmp_path / "from-model")
    # The same names as without shards.
    names = [
        load_file(path / "model.safetensors").keys() for path in (tmp_path / "from-model", complete / "model")
    ]
    assert names[0] == names[1]
