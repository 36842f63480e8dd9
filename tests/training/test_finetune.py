"""Fine-tuning in its smallest form: what moves, what doesn't, and what an interruption changes (nothing)."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from monkeylib import inference, profiles
from monkeylib.data import synthetic
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.model.tile_lora import TileLoRA
from monkeylib.profiles import build, trainable
from monkeylib.token_ids import PromptLayout
from monkeylib.training import callbacks, finetune, optim
from monkeylib.training import data as conversations
from monkeylib.training.data import ExampleEncoder, encode_conversation, pad, synthetic_data
from monkeylib.training.module import MonkeyTraining, exact_match
from recipes.nano_base import dense_heads

SMOKE = profiles.load_profile("smoke")


def recipe(steps: int = 4, **changes):
    """The smoke profile with other training steps and fields."""
    training = SMOKE.training.model_copy(update={"steps": steps, **changes.pop("training", {})})
    return SMOKE.model_copy(update={"training": training, **changes})


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of twelve steps in one go: its profile and the folder of its model."""
    profile = recipe(12)
    return profile, finetune.run(profile, tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def batch():
    """A training batch of the smoke profile."""
    maker, records = (
        ExampleEncoder(build.build_processor(SMOKE), SMOKE.training.max_length),
        synthetic_data(SMOKE),
    )
    rows = [maker.encode(records.train[number]) for number in range(4)]
    return maker.collate(rows, [maker.encode_images(row) for row in rows])


def lightning_module(profile):
    processor = build.build_processor(profile)
    model = build.build_model(profile, processor)
    trainable.set_trainable(model, profile)
    return MonkeyTraining(model, processor, profile, synthetic_data(profile))


# --- what trains ---------------------------------------------------------------------------------


def test_the_vit_stays_bit_for_bit_and_everything_else_moves(whole):
    profile, folder = whole
    torch.manual_seed(profile.training.seed)
    module = lightning_module(profile)
    trainable = {name for name, p in module.model.named_parameters() if p.requires_grad}
    before, after = module.model.state_dict(), weights(folder)
    seed_everything_gives_the_same_start(profile, before)
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == trainable & after.keys()
    parts = {name.split(".")[0] for name in moved}
    assert parts == {"vision", "resampler", "language_model"}
    assert all("_lora." in name for name in moved if name.startswith("vision"))
    still = after.keys() - moved
    assert {"vision.positions", "vision.patch_embedding.weight", "resampler.proj.weight"} <= still
    assert not any("_lora." in name for name in still)


def seed_everything_gives_the_same_start(profile, before):
    """The run starts where `build_model` under its seed does."""
    torch.manual_seed(profile.training.seed)
    again = build.build_model(profile, build.build_processor(profile)).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in before.items())


def test_in_mode_full_the_vit_trains_too(tmp_path):
    profile = recipe(2, lora=SMOKE.lora.model_copy(update={"mode": "full"}))
    torch.manual_seed(profile.training.seed)
    before = build.build_model(profile, build.build_processor(profile)).state_dict()
    after = weights(finetune.run(profile, tmp_path / "run"))
    assert not torch.equal(after["vision.positions"], before["vision.positions"])
    assert not any("_lora." in name for name in after)


def test_a_fresh_monkey_sees_a_tile_as_its_base_does(tmp_path):
    """Adapters start at zero, so training starts from the base model's own features."""
    profile = profile_from_base(tmp_path)
    monkey = build.build_model(profile, build.build_processor(profile)).eval()
    base = MonkeyForConditionalGeneration.from_pretrained(profile.base_checkpoint).eval()
    views = torch.randn(5, 3, profile.tile_size, profile.tile_size)
    with torch.no_grad():
        ours = monkey.get_image_features(views, torch.tensor([[2, 2]]))
        assert torch.allclose(ours, base.get_image_features(views), atol=1e-5)


def profile_from_base(folder):
    """The smoke profile on a base checkpoint of one view that lies in `folder`."""
    one_view = recipe(views="global", lora=SMOKE.lora.model_copy(update={"mode": "none"}))
    torch.manual_seed(5)
    build.build_model(one_view, build.build_processor(one_view)).save_pretrained(folder / "base")
    return recipe(base_checkpoint=str(folder / "base"))


def test_a_loaded_base_trains_with_the_dropout_of_its_profile(tmp_path):
    """`from_pretrained` leaves a model in evaluation mode, in which nothing would be dropped."""
    profile = profile_from_base(tmp_path)
    module = lightning_module(profile)
    banks = [part for part in module.model.modules() if isinstance(part, TileLoRA)]
    assert banks and all(bank.training and bank.dropout == profile.lora.dropout for bank in banks)


def test_a_missing_base_is_said(tmp_path):
    profile = recipe(base_checkpoint="data/models/none-such")
    with pytest.raises(FileNotFoundError, match="no base model at data/models/none-such.*make nano-base"):
        finetune.run(profile, tmp_path / "run")
    assert not (tmp_path / "run").exists(), "nothing half-written"


def test_one_batch_is_learned_by_heart(batch):
    torch.manual_seed(0)
    processor = build.build_processor(SMOKE)
    model = build.build_model(SMOKE, processor)
    model.freeze_for_finetuning()
    groups = optim.parameter_groups(model, 0.0)
    adamw = torch.optim.AdamW(groups, lr=1e-2)
    inputs = {key: value for key, value in batch.items() if key != "turns"}
    losses = []
    while len(losses) < 150 and (not losses or losses[-1] > 0.1):
        output = model(**inputs)
        adamw.zero_grad()
        output.loss.backward()
        adamw.step()
        losses.append(output.loss.item())
    assert losses[0] > 4 and losses[-1] <= 0.1, (losses[0], losses[-1], len(losses))
    model.eval()
    logits = model(**inputs).logits
    assert exact_match(logits, batch["labels"], batch["turns"]) > 0.8


# --- interrupted, finished, another recipe -------------------------------------------------------


def interrupted(monkeypatch, step):
    """Make training stop with an error just before `step` steps are complete, once."""
    training_step = MonkeyTraining.training_step

    def stopping(self, batch, number):
        if self.trainer.global_step == step:
            raise RuntimeError("the machine went down")
        return training_step(self, batch, number)

    monkeypatch.setattr(MonkeyTraining, "training_step", stopping)


@pytest.mark.parametrize("step", [1, 7, 11])
def test_an_interrupted_run_ends_as_one_in_one_go(whole, tmp_path, monkeypatch, step):
    """Bit for bit: checkpoints come after the first and every second step, so that some is done twice."""
    profile, folder = whole
    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="went down"):
        interrupted(patched, step)
        finetune.run(profile, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
    assert (tmp_path / "run" / "last.ckpt").exists(), "the first checkpoint comes after the first step"
    resumed = finetune.run(profile, tmp_path / "run")
    ours, theirs = weights(resumed), weights(folder)
    assert {name for name in theirs if not torch.equal(ours[name], theirs[name])} == set()
    curves = [callbacks.read_curves(run.parent / "metrics.csv") for run in (resumed, folder)]
    assert curves[0] == curves[1]
    assert not (resumed.parent / "last.ckpt").exists()
    answers = [(run.parent / "answers.jsonl").read_text() for run in (resumed, folder)]
    assert answers[0] == answers[1], "no answer twice"


@pytest.mark.parametrize("hook", ["on_validation_start", "on_validation_epoch_end"])
def test_a_run_that_ends_in_a_validation_has_it_in_its_curves(whole, tmp_path, monkeypatch, hook):
    """And its answers, and the same weights as in one go."""
    profile, folder = whole

    def stopping(self):
        if self.trainer.global_step == 6:
            raise RuntimeError("the machine went down")

    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="went down"):
        patched.setattr(MonkeyTraining, hook, stopping)
        finetune.run(profile, tmp_path / "run")
    logged = callbacks.read_curves(tmp_path / "run" / "metrics.csv")
    assert [row["step"] for row in logged if row["part"] == "val"] == [2, 4]
    resumed = finetune.run(profile, tmp_path / "run")
    ours, theirs = weights(resumed), weights(folder)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for name in ("metrics.csv", "answers.jsonl"):
        read = callbacks.read_curves if name == "metrics.csv" else lambda file: file.read_text()
        assert read(resumed.parent / name) == read(folder.parent / name)


def test_finished_run_returns_at_once_and_another_profile_restarts(whole, tmp_path, monkeypatch):
    profile = recipe(2)
    first = finetune.run(profile, tmp_path / "run")
    before = weights(first)
    untouched = (first / "model.safetensors").stat().st_mtime_ns
    with monkeypatch.context() as patched:
        patched.setattr(build, "build_model", lambda *_: pytest.fail("a finished run was trained again"))
        assert finetune.run(profile, tmp_path / "run") == first
        fewer = profile.model_copy(
            update={"evaluation": SMOKE.evaluation.model_copy(update={"batch_size": 9})}
        )
        assert finetune.run(fewer, tmp_path / "run") == first, "how it is evaluated is no part of the recipe"
    assert (first / "model.safetensors").stat().st_mtime_ns == untouched
    other = weights(finetune.run(profile.with_seed(1), tmp_path / "run"))
    assert not torch.equal(other["resampler.query"], before["resampler.query"])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["training"]["seed"] == 1


def test_other_base_weights_start_the_training_anew(tmp_path):
    profile = profile_from_base(tmp_path)
    first = weights(finetune.run(profile, tmp_path / "run"))
    other = MonkeyForConditionalGeneration.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        other.resampler.query.mul_(2)
    other.save_pretrained(tmp_path / "base")
    again = weights(finetune.run(profile, tmp_path / "run"))
    assert not torch.equal(first["resampler.query"], again["resampler.query"])


def test_other_synthetic_questions_give_another_digest(monkeypatch):
    before = synthetic_data(SMOKE).digest
    assert synthetic_data(SMOKE).digest == before
    monkeypatch.setattr(conversations, "training_turns", lambda *_, **__: [(" really? Answer: ", "yes")])
    assert synthetic_data(SMOKE).digest != before


def test_a_trained_checkpoint_loads_and_answers(whole):
    _, folder = whole
    monkey = inference.load_model(folder)
    assert monkey.processor.image_processor.tile_size == SMOKE.tile_size
    sample = synthetic.make_sample(0, "val")
    assert isinstance(monkey.answer(sample.image, "what is the title?", max_new_tokens=4), str)


def test_curves_hold_training_and_validation(whole):
    _, folder = whole
    rows = callbacks.read_curves(folder.parent / "metrics.csv")
    steps = {part: [row["step"] for row in rows if row["part"] == part] for part in callbacks.SPLITS}
    assert steps == {"train": [3, 6, 9, 12], "val": [2, 4, 6, 8, 10, 12]}
    losses = [row["loss"] for row in rows if row["part"] == "val"]
    assert losses == sorted(losses, reverse=True), "it learns"
    assert all(0 <= row["exact"] <= 1 for row in rows)
    with pytest.raises(FileNotFoundError, match="no curves.*train first"):
        callbacks.read_curves(folder / "metrics.csv")


def test_runs_of_other_seeds_see_other_images_and_never_those_of_validation():
    nano = profiles.load_profile("nano")
    runs = [synthetic_data(nano.with_seed(seed)) for seed in (0, 1, 2)]
    assert {data.train.split for data in runs} == {"train"}
    assert {data.validation.split for data in runs} == {"val"}
    gaps = np.diff(sorted(data.offset for data in runs))
    assert gaps.min() >= nano.training.steps * nano.training.batch_size


# --- rows, labels, exact match -------------------------------------------------------------------


def test_only_answers_and_their_ends_are_learned(batch):
    tokenizer = build.build_processor(SMOKE).tokenizer
    for ids, labels, turns in zip(batch["input_ids"], batch["labels"], batch["turns"], strict=True):
        learned = labels != IGNORE_INDEX
        assert torch.equal(ids[learned], labels[learned]) and torch.equal(learned, turns >= 0)
        assert int((labels == tokenizer.eos_token_id).sum()) == int(turns.max()) + 1
    assert set(batch) == {"pixel_values", "grids", "input_ids", "labels", "turns"}
    assert batch["pixel_values"].shape == (4 * 5, 3, SMOKE.tile_size, SMOKE.tile_size)


def test_exact_match_is_what_greedy_decoding_would_get_right(tiny, tokenizer):
    """One pass over the right tokens and step by step generation agree on which answers are right."""
    torch.manual_seed(3)
    model = tiny(views="global", lora_mode="none").eval()
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = tokenizer.eos_token_id
    questions = [f"question {number}?" for number in range(12)]
    asked = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in questions]
    expected, found = [], []
    for number, ids in enumerate(asked):
        said = model.generate(torch.tensor([ids]), max_new_tokens=5, do_sample=False)[0, len(ids) :].tolist()
        answer = list(said)
        if number % 3 == 0:
            answer[number % len(answer)] = 7  # a wrong token somewhere
        expected.append(float(said == answer))
        found.append(match_of(model, ids, answer))
    assert found == expected and set(expected) == {0.0, 1.0}


def match_of(model, prompt, answer):
    ids = torch.tensor([[*prompt, *answer]])
    labels = torch.tensor([[IGNORE_INDEX] * len(prompt) + answer])
    turns = torch.tensor([[-1] * len(prompt) + [0] * len(answer)])
    with torch.no_grad():
        return exact_match(model(ids, labels=labels).logits, labels, turns).item()


def test_exact_match_counts_answers_not_tokens_or_rows():
    labels = torch.tensor(
        [[IGNORE_INDEX, 4, 5, IGNORE_INDEX, 6], [IGNORE_INDEX, IGNORE_INDEX, 7, 8, IGNORE_INDEX]]
    )
    turns = torch.tensor([[-1, 0, 0, -1, 1], [-1, -1, 0, 0, -1]])
    logits = torch.zeros(5, 10)
    for position, token in enumerate((4, 5, 9, 7, 8)):  # the second answer of the first row is wrong
        logits[position, token] = 1
    assert exact_match(logits, labels, turns).item() == pytest.approx(2 / 3)
    logits[1, 2] = 2  # one token of the first answer too
    assert exact_match(logits, labels, turns).item() == pytest.approx(1 / 3)


def test_a_conversation_that_does_not_fit_loses_whole_turns(tokenizer):
    turns = [("ab", "cd"), ("ef", "ghi")]
    layout = PromptLayout(tokenizer, placeholder_id=3, image_start_id=1, image_end_id=2)
    row = encode_conversation(layout, [2], turns, max_length=12)
    assert tokenizer.decode(row.input_ids[4:]) == "abcd<|endoftext|>" and int(row.turns.max()) == 0
    assert len(encode_conversation(layout, [2], turns, max_length=15)) == 15
    with pytest.raises(ValueError, match="need 9 tokens but max_length is 8: raise max_length"):
        encode_conversation(layout, [2], turns, max_length=8)
    padded = pad([row, encode_conversation(layout, [0], turns[:1], 20)], pad_id=0)
    assert padded["attention_mask"].sum(1).tolist() == [9, 7]
    assert (padded["labels"][padded["attention_mask"] == 0] == IGNORE_INDEX).all()


# --- optimiser and dense labels ------------------------------------------------------------------


def test_adapters_have_their_rate_and_only_matrices_decay(tiny):
    model = tiny()
    model.freeze_for_finetuning()
    groups = optim.parameter_groups(model, 0.1, {"vision.": 3e-3})
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    seen = set()
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            seen.add(name)
            assert group.get("lr") == (3e-3 if "_lora" in name else None)
            decays = parameter.ndim >= 2 and not name.endswith(("query", "positions"))
            assert group["weight_decay"] == (0.1 if decays else 0.0)
    assert seen == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_the_rate_warms_up_and_falls_to_its_floor():
    adamw = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = optim.cosine_with_warmup(adamw, warmup=4, steps=20)
    rates = []
    for _ in range(21):
        rates.append(adamw.param_groups[0]["lr"])
        adamw.step()
        schedule.step()
    assert rates[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    assert rates[4:] == sorted(rates[4:], reverse=True) and rates[20] == pytest.approx(0.04)
    assert rates[12] == pytest.approx(2 * (0.02 + 0.98 / 2)), "half way down the cosine"


def test_a_dense_head_puts_scores_where_their_points_are():
    """Each cell of the grid scores its own points, row by row."""
    head = dense_heads.DenseHead(width=8, side=3, points=6)
    features = torch.randn(2, 9, 8)
    scores = head(features)
    assert [tuple(s.shape) for s in scores] == [(2, 36, classes) for classes in dense_heads.CLASSES]
    changed = features.clone()
    changed[:, 5] += torch.randn(8)  # row 1, column 2
    moved = (head(changed)[0] != scores[0]).any(-1)[0].view(6, 6)
    assert moved.nonzero().tolist() == [[2, 4], [2, 5], [3, 4], [3, 5]]


def test_reading_accuracy_counts_written_points_alone():
    labels = torch.zeros(1, 3, 2, 2, dtype=torch.long)
    labels[0, 0] = torch.tensor([[0, 3], [5, IGNORE_INDEX]])
    chars = torch.zeros(1, 4, dense_heads.CLASSES[0])
    chars[0, 1, 3] = chars[0, 2, 9] = 1
    scores = (chars, *(torch.zeros(1, 4, n) for n in dense_heads.CLASSES[1:]))
    assert dense_heads.reading_accuracy(scores, labels).item() == 0.5
    assert torch.isfinite(dense_heads.dense_loss(scores, labels))
