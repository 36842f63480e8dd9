"""Fine-tuning at its smallest size: what trains, and that an interrupted run ends as an uninterrupted one."""

import json
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from monkeylib import inference, profiles
from monkeylib.data import synthetic
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.model.tile_lora import tile_loras
from monkeylib.profiles import build, trainable
from monkeylib.prompts import PromptLayout
from monkeylib.runs import RunDiffers
from monkeylib.training import checkpointing, finetune, micro_batch_size, optim, synthetic_records
from monkeylib.training.batches import EncodedExample, ExampleEncoder, pad
from monkeylib.training.curves import SPLITS, read_curves
from monkeylib.training.module import MonkeyTraining, right_answers
from monkeylib.training.synthetic_records import synthetic_data

SMOKE = profiles.load_profile("smoke")


def smoke_profile(steps: int = 4, **fields):
    """Return the smoke profile with other training steps and fields."""
    return SMOKE.with_training(steps=steps).model_copy(update=fields)


def read_weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return the profile of an uninterrupted run of twelve steps, and the folder of its model."""
    profile = smoke_profile(12)
    return profile, finetune.run(profile, tmp_path_factory.mktemp("uninterrupted") / "run")


@pytest.fixture(scope="module")
def batch():
    """Return a training batch of the smoke profile."""
    encoder = ExampleEncoder(build.build_processor(SMOKE), SMOKE.training.max_length)
    records = synthetic_data(SMOKE).train
    examples = [encoder.encode(records[number]) for number in range(4)]
    return encoder.collate(examples, [encoder.encode_images(example) for example in examples])


def build_module(profile):
    processor = build.build_processor(profile)
    model = build.build_model(profile, processor)
    trainable.set_trainable(model, profile)
    return MonkeyTraining(model, processor, profile, synthetic_data(profile))


def profile_from_base(folder):
    """Return the smoke profile on a new base model of one view in `folder`."""
    one_view = smoke_profile(views="global", lora=SMOKE.lora.model_copy(update={"mode": "none"}))
    torch.manual_seed(5)
    processor = build.build_processor(one_view)
    build.build_model(one_view, processor).save_pretrained(folder / "base")
    processor.save_pretrained(folder / "base")
    return smoke_profile(base_checkpoint=str(folder / "base"))


# --- what trains ---------------------------------------------------------------------------------


def test_vit_stays_bit_for_bit_and_everything_else_changes(uninterrupted):
    profile, folder = uninterrupted
    torch.manual_seed(profile.training.seed)
    model = build_module(profile).model
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    before, after = model.state_dict(), read_weights(folder)
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    unchanged = after.keys() - changed
    assert changed == trained & after.keys()

    assert {name.split(".")[0] for name in changed} == {"vision", "resampler", "language_model"}
    assert all("_lora." in name for name in changed if name.startswith("vision"))
    assert {"vision.positions", "vision.patch_embedding.weight", "resampler.proj.weight"} <= unchanged
    assert not any("_lora." in name for name in unchanged)


def test_seed_decides_the_initial_weights():
    states = []
    for _ in range(2):
        torch.manual_seed(SMOKE.training.seed)
        states.append(build.build_model(SMOKE, build.build_processor(SMOKE)).state_dict())
    assert all(torch.equal(weight, states[1][name]) for name, weight in states[0].items())


def test_vit_trains_in_mode_full(tmp_path):
    profile = smoke_profile(2, lora=SMOKE.lora.model_copy(update={"mode": "full"}))
    torch.manual_seed(profile.training.seed)
    before = build.build_model(profile, build.build_processor(profile)).state_dict()
    after = read_weights(finetune.run(profile, tmp_path / "run"))
    assert not torch.equal(after["vision.positions"], before["vision.positions"])
    assert not any("_lora." in name for name in after)


def test_fresh_monkey_has_the_features_of_its_base(tmp_path):
    """LoRA starts at zero, so training starts from the base model's own features."""
    profile = profile_from_base(tmp_path)
    monkey = build.build_model(profile, build.build_processor(profile)).eval()
    base = MonkeyForConditionalGeneration.from_pretrained(profile.base_checkpoint).eval()
    views = torch.randn(5, 3, profile.tile_size, profile.tile_size)

    with torch.no_grad():
        features = monkey.get_image_features(views, torch.tensor([[2, 2]]))
        base_features = base.get_image_features(views)
    assert torch.allclose(features, base_features, atol=1e-5)


def test_loaded_base_trains_with_the_dropout_of_the_profile(tmp_path):
    """`from_pretrained` leaves a model in evaluation mode, in which nothing would be dropped."""
    profile = profile_from_base(tmp_path)
    loras = tile_loras(build_module(profile).model)
    assert loras
    assert all(lora.training and lora.dropout == profile.lora.dropout for lora in loras)


def test_missing_base_model_raises(tmp_path):
    profile = smoke_profile(base_checkpoint="data/models/none-such")
    with pytest.raises(FileNotFoundError, match="no base model at data/models/none-such.*make nano-base"):
        finetune.run(profile, tmp_path / "run")
    assert not (tmp_path / "run").exists()

    misspelt = smoke_profile(base_checkpoint=str(tmp_path / "nano-bse"))
    with pytest.raises(FileNotFoundError, match="no base model at .*nano-bse: did you mean nano-base?"):
        finetune.run(misspelt, tmp_path / "run")


def test_one_batch_is_learned_by_heart(batch):
    torch.manual_seed(0)
    model = build.build_model(SMOKE, build.build_processor(SMOKE))
    model.freeze_for_finetuning()
    adamw = torch.optim.AdamW(optim.parameter_groups(model, 0.0), lr=1e-2)
    inputs = {name: tensor for name, tensor in batch.items() if name != "turns"}

    losses = []
    while len(losses) < 150 and (not losses or losses[-1] > 0.1):
        output = model(**inputs)
        adamw.zero_grad()
        output.loss.backward()
        adamw.step()
        losses.append(output.loss.item())
    assert losses[0] > 4
    assert losses[-1] <= 0.1, len(losses)

    model.eval()
    logits = model(**inputs).logits
    assert right_answers(logits.argmax(-1), batch["labels"], batch["turns"]).mean() > 0.8


# --- interrupted, finished and changed runs --------------------------------------------------------


def fail_at_step(monkeypatch, step):
    """Make training stop with an error when `step` steps are complete."""
    training_step = MonkeyTraining.training_step

    def failing(self, batch, number):
        if self.trainer.global_step == step:
            raise RuntimeError("the machine went down")
        return training_step(self, batch, number)

    monkeypatch.setattr(MonkeyTraining, "training_step", failing)


def assert_same_run(model_folder, expected_folder):
    """Check that weights, curves and sample answers of two runs agree bit for bit."""
    weights, expected_weights = read_weights(model_folder), read_weights(expected_folder)
    differing = {name for name, weight in expected_weights.items() if not torch.equal(weights[name], weight)}
    assert differing == set()

    run, expected_run = model_folder.parent, expected_folder.parent
    curves = read_curves(run / "metrics.csv")
    assert curves == read_curves(expected_run / "metrics.csv")
    assert (run / "answers.jsonl").read_text() == (expected_run / "answers.jsonl").read_text()


@pytest.mark.parametrize("step", [1, 7, 11])
def test_interrupted_run_ends_as_an_uninterrupted_one(uninterrupted, tmp_path, monkeypatch, step):
    """Checkpoints come after the first and every second step, so that some steps are repeated."""
    profile, expected_folder = uninterrupted
    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="went down"):
        fail_at_step(patched, step)
        finetune.run(profile, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
    assert checkpointing.find_last_checkpoint(tmp_path / "run"), "the first one comes after the first step"

    resumed = finetune.run(profile, tmp_path / "run")
    assert_same_run(resumed, expected_folder)

    # The last one stays, so that more steps can follow.
    (last,) = checkpointing.list_checkpoints(resumed.parent)
    assert last == checkpointing.checkpoint_path(resumed.parent, profile.training.steps)


@pytest.mark.parametrize("hook", ["on_validation_start", "on_validation_epoch_end"])
def test_interrupted_validation_is_repeated(uninterrupted, tmp_path, monkeypatch, hook):
    profile, expected_folder = uninterrupted

    def failing(self):
        if self.trainer.global_step == 6:
            raise RuntimeError("the machine went down")

    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="went down"):
        patched.setattr(MonkeyTraining, hook, failing)
        finetune.run(profile, tmp_path / "run")
    curves = read_curves(tmp_path / "run" / "metrics.csv")
    assert [row["step"] for row in curves if row["part"] == "val"] == [2, 4]

    assert_same_run(finetune.run(profile, tmp_path / "run"), expected_folder)


def test_finished_run_returns_at_once(tmp_path, monkeypatch):
    profile = smoke_profile(2)
    folder = finetune.run(profile, tmp_path / "run")
    modified = (folder / "model.safetensors").stat().st_mtime_ns

    monkeypatch.setattr(build, "build_model", lambda *_: pytest.fail("a finished run was trained again"))
    assert finetune.run(profile, tmp_path / "run") == folder

    # How a model is evaluated is not a part of its training.
    evaluation = SMOKE.evaluation.model_copy(update={"batch_size": 9})
    assert finetune.run(profile.model_copy(update={"evaluation": evaluation}), tmp_path / "run") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == modified


def file_contents(folder):
    """Return the bytes of every file below a folder, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_run_with_other_settings_is_refused(uninterrupted, tmp_path):
    profile, model = uninterrupted
    before = file_contents(model.parent)

    other = profile.with_training(lr=0.5, seed=1)
    with pytest.raises(
        RunDiffers,
        match=r"other settings \(training.lr 0\.\d+ -> 0.5, training.seed 0 -> 1, data.records .*--fresh",
    ):
        finetune.run(other, model.parent)
    # Fewer steps would end before where the run has got to.
    with pytest.raises(RunDiffers, match=r"a run of 12 steps.*\(training.steps 12 -> 2\)"):
        finetune.run(profile.with_training(steps=2), model.parent)
    # Shards of a model are saved in other files than copies of it.
    with pytest.raises(RunDiffers, match="training.strategy auto or ddp -> fsdp"):
        finetune.run(profile.with_training(strategy="fsdp"), model.parent)
    assert file_contents(model.parent) == before


def test_name_of_a_profile_and_how_its_work_is_divided_make_no_other_run(uninterrupted, monkeypatch, capsys):
    profile, model = uninterrupted
    monkeypatch.setattr(build, "build_model", lambda *_: pytest.fail("a finished run was trained again"))

    renamed = profile.model_copy(update={"name": "two", "description": "other words"})
    assert finetune.run(renamed, model.parent) == model
    divided = profile.with_training(micro_batch_size=1, workers=2, strategy="ddp")
    assert finetune.run(divided, model.parent, devices=finetune.Devices(1, 1)) == model
    assert "is finished already, nothing was done" in capsys.readouterr().err


def test_fresh_run_takes_the_place_of_another_one_and_leaves_foreign_files(tmp_path):
    profile, run = smoke_profile(1), tmp_path / "run"
    first = read_weights(finetune.run(profile, run))
    (run / "notes.txt").write_text("mine")
    (run / "model" / "README.md").write_text("mine")
    (run / "tensorboard" / "notes.txt").write_text("mine")

    second = read_weights(finetune.run(profile.with_seed(1), run, fresh=True))
    assert not torch.equal(second["resampler.query"], first["resampler.query"])
    for name in ("notes.txt", "model/README.md", "tensorboard/notes.txt"):
        assert (run / name).read_text() == "mine"
    assert len(list((run / "tensorboard").glob("events*"))) == 1, "the curves of one run"

    # As notebooks do, whose profile is a parameter.
    faster = profile.with_seed(1).with_training(lr=0.5)
    third = read_weights(finetune.run(faster, run, if_changed="replace"))
    assert not torch.equal(third["resampler.query"], second["resampler.query"])

    # But what another seed has trained goes only where somebody says so.
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(
        RunDiffers, match="holds a training with seed 1, which one with seed 0 does not replace"
    ):
        finetune.run(profile, run, if_changed="replace")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    fourth = read_weights(finetune.run(profile, run, fresh=True))
    assert torch.equal(fourth["resampler.query"], first["resampler.query"])


def test_run_that_ends_early_writes_no_model(tmp_path, monkeypatch):
    fit = lightning.Trainer.fit

    def end_early(trainer, module, ckpt_path=None):
        trainer.fit_loop.epoch_loop.max_steps = 1
        fit(trainer, module, ckpt_path=ckpt_path)

    with monkeypatch.context() as patched:
        patched.setattr(lightning.Trainer, "fit", end_early)
        with pytest.raises(ValueError, match="training ended after step 1 of 2, and no model was written"):
            finetune.run(smoke_profile(2), tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
    assert not json.loads((tmp_path / "run" / "run.json").read_text())["finished"]

    assert finetune.run(smoke_profile(2), tmp_path / "run").is_dir()


def test_fresh_run_that_cannot_start_leaves_the_trained_model(tmp_path, monkeypatch):
    profile, run = smoke_profile(1), tmp_path / "run"
    finetune.run(profile, run)
    before = file_contents(run)

    with pytest.raises(FileNotFoundError, match="no base model"):
        finetune.run(profile.model_copy(update={"base_checkpoint": "none-such"}), run, fresh=True)
    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr(build, "build_model", lambda *_: (_ for _ in ()).throw(MemoryError))
        finetune.run(profile.with_seed(1), run, fresh=True)
    assert file_contents(run) == before


def test_base_model_of_a_run_is_not_replaced_by_it(tmp_path):
    run = tmp_path / "run"
    model = finetune.run(smoke_profile(1), run)
    before = file_contents(run)
    for fresh in (False, True):
        with pytest.raises(ValueError, match="model is a file of the run in .*can't be its input"):
            finetune.run(smoke_profile(1, base_checkpoint=str(model)), run, fresh=fresh)
    assert file_contents(run) == before


def test_base_model_counts_with_its_weights_and_not_with_its_place(tmp_path):
    profile = profile_from_base(tmp_path).with_training(steps=1)
    run = tmp_path / "run"
    model = finetune.run(profile, run)

    (tmp_path / "base").rename(tmp_path / "moved")
    moved = profile.model_copy(update={"base_checkpoint": str(tmp_path / "moved")})
    assert finetune.run(moved, run) == model

    other_base = MonkeyForConditionalGeneration.from_pretrained(tmp_path / "moved")
    with torch.no_grad():
        other_base.resampler.query.mul_(2)
    other_base.save_pretrained(tmp_path / "moved")
    with pytest.raises(RunDiffers, match=r"base.model.safetensors has another content \(\w{12} -> \w{12}\)"):
        finetune.run(moved, run)


def test_field_that_a_later_version_adds_resumes_earlier_runs(tmp_path):
    profile, run = smoke_profile(1), tmp_path / "run"
    model = finetune.run(profile, run)
    record = json.loads((run / "run.json").read_text())
    del record["fingerprint"]["training"]["packing"]
    del record["fingerprint"]["resize_mode"]
    (run / "run.json").write_text(json.dumps(record))

    assert finetune.run(profile, run) == model
    with pytest.raises(RunDiffers, match="training.packing not set -> true"):
        finetune.run(profile.with_training(packing=True), run)


def test_second_training_in_a_folder_is_refused(tmp_path, monkeypatch):
    run = tmp_path / "run"
    sentences = []
    build_model = build.build_model

    def train_again_meanwhile(*arguments):
        with monkeypatch.context() as patched:
            patched.setattr(build, "build_model", build_model)
            with pytest.raises(BlockingIOError) as error:
                finetune.run(smoke_profile(1), run)
        sentences.append(str(error.value))
        return build_model(*arguments)

    monkeypatch.setattr(build, "build_model", train_again_meanwhile)
    assert finetune.run(smoke_profile(1), run).exists()
    assert "is in use by process" in sentences[0]


def test_micro_batch_that_was_chosen_is_kept_on_resuming(tmp_path, monkeypatch):
    """However much memory is free now; what the user names counts more."""
    answers = iter([(2, "micro-batches of 2"), (1, "micro-batches of 1")])
    monkeypatch.setattr(micro_batch_size, "choose_micro_batch", lambda *_: next(answers))
    profile = smoke_profile(1)
    finetune.run(profile, tmp_path)

    def read_size():
        return json.loads((tmp_path / "run.json").read_text())["fingerprint"]["training"]["micro_batch_size"]

    assert read_size() == 2
    devices = finetune.Devices()
    kept = finetune._with_micro_batch(profile, tmp_path, devices, fresh=False)
    assert kept.training.micro_batch_size == 2
    assert finetune._with_micro_batch(profile, tmp_path, devices, fresh=True).training.micro_batch_size == 1


def test_process_takes_the_micro_batch_of_the_first_one(tmp_path, monkeypatch):
    """Another node may have more memory."""
    sizes = []
    monkeypatch.setattr(finetune, "_trainer", lambda profile, *_: sizes.append(profile))
    monkeypatch.setattr(finetune, "_from_main_process", lambda *_: (True, 2))
    finetune.run(smoke_profile(1), tmp_path / "run")
    assert [profile.training.micro_batch_size for profile in sizes] == [None, 2]


class TwoProcesses:
    """Stand-in for a trainer of two processes that torchrun has started."""

    world_size = 2

    def __init__(self, broadcast=lambda value: value):
        environment = SimpleNamespace(creates_processes_externally=True)
        self.strategy = SimpleNamespace(
            cluster_environment=environment, broadcast=broadcast, setup_environment=lambda: None
        )


def test_error_of_the_first_process_ends_the_others(monkeypatch):
    """Or they would wait for it until their timeout."""

    def fail():
        raise RunDiffers("another run")

    said = []
    with pytest.raises(RunDiffers, match="another run"):
        finetune._from_main_process(TwoProcesses(said.append), fail)
    assert said == [True]

    monkeypatch.setattr(finetune.rank_zero_only, "rank", 1)
    with pytest.raises(SystemExit) as ended:
        finetune._from_main_process(TwoProcesses(lambda _: True), fail)
    assert ended.value.code == 2


def test_folder_that_cannot_be_opened_is_said_where_others_wait(uninterrupted, monkeypatch):
    profile, folder = uninterrupted
    waiting = []

    def note(trainer, function):
        waiting.append(trainer)
        return function()

    monkeypatch.setattr(finetune, "_trainer", lambda *_: TwoProcesses())
    monkeypatch.setattr(finetune, "_from_main_process", note)
    with pytest.raises(RunDiffers, match="seed"):
        finetune.run(profile.with_training(seed=3), folder.parent, devices=finetune.Devices(2))
    assert len(waiting) == 1


def test_finished_run_without_its_checkpoint_is_not_trained_further(tmp_path):
    model = finetune.run(smoke_profile(1), tmp_path / "run")
    for checkpoint in (*model.parent.glob("*.ckpt"), *model.parent.glob("checkpoints/*.ckpt")):
        checkpoint.unlink()
    before = file_contents(model.parent)
    with pytest.raises(ValueError, match="would be trained further, is not there: train its model further"):
        finetune.run(smoke_profile(2), tmp_path / "run")
    assert file_contents(model.parent) == before


def test_other_synthetic_questions_give_another_digest(monkeypatch):
    digest = synthetic_data(SMOKE).digest
    assert synthetic_data(SMOKE).digest == digest

    monkeypatch.setattr(synthetic_records, "training_turns", lambda *_, **__: [(" really? Answer: ", "yes")])
    assert synthetic_data(SMOKE).digest != digest


def test_trained_checkpoint_loads_and_answers(uninterrupted):
    _, folder = uninterrupted
    monkey = inference.load_model(folder)
    assert monkey.processor.image_processor.tile_size == SMOKE.tile_size
    sample = synthetic.make_sample(0, "val")
    assert monkey.answer(sample.image, "what is the title?", max_new_tokens=4).tokens


def test_curves_hold_training_and_validation(uninterrupted):
    _, folder = uninterrupted
    rows = read_curves(folder.parent / "metrics.csv")
    steps = {part: [row["step"] for row in rows if row["part"] == part] for part in SPLITS}
    assert steps == {"train": [3, 6, 9, 12], "val": [2, 4, 6, 8, 10, 12]}

    losses = [row["loss"] for row in rows if row["part"] == "val"]
    assert losses == sorted(losses, reverse=True), "it learns"
    assert all(0 <= row["exact"] <= 1 for row in rows)


def test_missing_curves_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match="no curves.*train first"):
        read_curves(tmp_path / "metrics.csv")


def test_seeds_train_on_different_images_and_never_on_those_of_validation():
    nano = profiles.load_profile("nano")
    datasets = [synthetic_data(nano.with_seed(seed)) for seed in (0, 1, 2)]
    assert {data.train.split for data in datasets} == {"train"}
    assert {data.validation.split for data in datasets} == {"val"}

    gaps = np.diff(sorted(data.offset for data in datasets))
    assert gaps.min() >= nano.training.steps * nano.training.batch_size


# --- examples, labels, right answers ---------------------------------------------------------------


def test_only_answers_and_their_ends_are_learned(batch):
    tokenizer = build.build_processor(SMOKE).tokenizer
    for ids, labels, turns in zip(batch["input_ids"], batch["labels"], batch["turns"], strict=True):
        is_learned = labels != IGNORE_INDEX
        assert torch.equal(ids[is_learned], labels[is_learned])
        assert torch.equal(is_learned, turns >= 0)
        assert int((labels == tokenizer.eos_token_id).sum()) == int(turns.max()) + 1

    assert set(batch) == {"pixel_values", "grids", "input_ids", "labels", "turns"}
    assert batch["pixel_values"].shape == (4 * 5, 3, SMOKE.tile_size, SMOKE.tile_size)


def test_right_answers_agree_with_greedy_decoding(tiny, tokenizer):
    """One forward pass over an answer and step-by-step generation agree on which answers are right."""
    torch.manual_seed(3)
    model = tiny(views="global", lora_mode="none").eval()
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = tokenizer.eos_token_id

    expected, matches = [], []
    for number in range(12):
        prompt = tokenizer(f"question {number}?", add_special_tokens=False)["input_ids"]
        output = model.generate(torch.tensor([prompt]), max_new_tokens=5, do_sample=False)
        generated = output[0, len(prompt) :].tolist()

        # A wrong token in every third answer.
        answer = list(generated)
        if number % 3 == 0:
            answer[number % len(answer)] = 7
        expected.append(float(generated == answer))
        matches.append(_is_right(model, prompt, answer))

    assert matches == expected
    assert set(expected) == {0.0, 1.0}


def _is_right(model, prompt, answer):
    ids = torch.tensor([[*prompt, *answer]])
    labels = torch.tensor([[IGNORE_INDEX] * len(prompt) + answer])
    turns = torch.tensor([[-1] * len(prompt) + [0] * len(answer)])
    with torch.no_grad():
        return right_answers(model(ids, labels=labels).logits.argmax(-1), labels, turns).item()


def test_answers_are_right_or_wrong_each_by_itself():
    labels = torch.tensor(
        [[IGNORE_INDEX, 4, 5, IGNORE_INDEX, 6], [IGNORE_INDEX, IGNORE_INDEX, 7, 8, IGNORE_INDEX]]
    )
    turns = torch.tensor([[-1, 0, 0, -1, 1], [-1, -1, 0, 0, -1]])
    logits = torch.zeros(5, 10)
    for position, token in enumerate((4, 5, 9, 7, 8)):  # the second answer of the first row is wrong
        logits[position, token] = 1
    assert right_answers(logits.argmax(-1), labels, turns).tolist() == [1, 0, 1]

    logits[1, 2] = 2  # one token of the first answer too
    assert right_answers(logits.argmax(-1), labels, turns).tolist() == [0, 0, 1]

    nothing = torch.full_like(labels, IGNORE_INDEX)
    assert len(right_answers(torch.zeros(0), nothing, turns)) == 0


def test_conversation_that_does_not_fit_loses_complete_turns(tokenizer):
    turns = [("ab", "cd"), ("ef", "ghi")]
    layout = PromptLayout(tokenizer, placeholder_id=3, image_start_id=1, image_end_id=2)

    def encode(images, turns, max_length):
        return EncodedExample.from_conversation(layout.encode_conversation(images, turns, max_length))

    truncated = encode([2], turns, max_length=12)
    assert tokenizer.decode(truncated.input_ids[4:]) == "abcd<|endoftext|>"
    assert int(truncated.turns.max()) == 0

    assert len(encode([2], turns, max_length=15)) == 15
    with pytest.raises(ValueError, match="need 9 tokens but max_length is 8: raise max_length"):
        encode([2], turns, max_length=8)

    padded = pad([truncated, encode([0], turns[:1], 20)], pad_id=0)
    assert padded["attention_mask"].sum(1).tolist() == [9, 7]
    assert (padded["labels"][padded["attention_mask"] == 0] == IGNORE_INDEX).all()


# --- folders that hold something else --------------------------------------------------------------


@pytest.mark.parametrize("name", ["notes.txt", ".git", "recipe.json", "model"])
def test_folder_with_foreign_files_is_refused_and_untouched(name, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / name).write_text("mine")

    with pytest.raises(FileExistsError, match=f"run holds files that no run .* wrote, such as {name}"):
        finetune.run(SMOKE.with_training(steps=1), run)

    assert [path.name for path in run.iterdir()] == [name]
    assert (run / name).read_text() == "mine"


def test_notes_beside_another_run_are_not_removed(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    (run / "notes.txt").write_text("mine")

    with pytest.raises(ValueError, match="run.json is damaged or not the record of a run"):
        finetune.run(SMOKE.with_training(steps=1), run, fresh=True)

    assert (run / "notes.txt").read_text() == "mine"
