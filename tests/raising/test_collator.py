import pytest
import torch
from transformers import Trainer, TrainingArguments

from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.raising import ConversationCollator, load_raised, set_trainable
from tests.raising.conftest import noise_image
from tests.support import tiny_vlms
from tests.support.raised_models import CHAT_TEMPLATE


def record(number, answer="a"):
    question = [{"type": "image"}, {"type": "text", "text": "what"}]
    return {
        "images": [noise_image(number)],
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ],
    }


@pytest.fixture()
def chatting(raise_llava):
    raised = raise_llava(trained=False, grid="1x2")
    raised.processor.chat_template = CHAT_TEMPLATE
    return raised


def test_batch_has_views_and_labels_on_answers(chatting):
    collator = ConversationCollator(*chatting)
    without = {"messages": [{"role": "user", "content": "why"}, {"role": "assistant", "content": "so"}]}
    batch = collator([record(0), without, record(1, "bc")])
    assert batch["tile_index"].tolist() == [0, 1, -1] * 2
    learned = [row[row != IGNORE_INDEX].tolist() for row in batch["labels"]]
    assert [chatting.processor.tokenizer.decode(ids) for ids in learned] == [" a</s>", " so</s>", " bc</s>"]
    assert "turns" not in batch and chatting.model(**batch).loss.isfinite()


def test_images_stand_in_messages_too_and_turns_that_do_not_fit_are_left_out(chatting):
    turn = record(0)["messages"]
    turn[0]["content"][0]["image"] = noise_image(0)
    two = {"messages": [*turn, *turn]}
    one = ConversationCollator(*chatting)([{"messages": turn}])
    shortened = ConversationCollator(*chatting, max_length=one["input_ids"].shape[1])([two])
    assert one.keys() == shortened.keys()
    assert all(torch.equal(one[name], shortened[name]) for name in one)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"messages": [{"role": "user", "content": "why"}]}, "expected an answer to learn"),
        ({"images": []}, "has no image"),
    ],
    ids=["no answer", "no image"],
)
def test_records_that_cannot_be_learned_are_refused(changes, message, chatting):
    with pytest.raises(ValueError, match=message):
        ConversationCollator(*chatting)([{**record(0), **changes}])


def test_batch_without_any_image_is_refused(chatting):
    without = {"messages": [{"role": "user", "content": "why"}, {"role": "assistant", "content": "so"}]}
    with pytest.raises(ValueError, match="no conversation of the batch has an image"):
        ConversationCollator(*chatting)([without])


def options(folder, steps):
    return {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "learning_rate": 3e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "seed": 0,
    }


def check_training(trainer, raised, folder):
    """Train, and check that the loss falls, and that adapters and projector alone learn and are saved."""
    before = {name: weight.clone() for name, weight in raised.model.state_dict().items()}
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < 0.7 * losses[0]

    changed = {
        name for name, weight in raised.model.state_dict().items() if not torch.equal(weight, before[name])
    }
    assert {"tile_lora" in name or "multi_modal_projector" in name for name in changed} == {True}
    assert any("tile_lora" in name for name in changed) and any("projector" in name for name in changed)

    raised.save(folder / "raised")
    vlm = tiny_vlms.build("llava_clip")
    loaded = load_raised(folder / "raised", vlm.model, vlm.processor)
    for name, weight in raised.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], weight), name


def test_trainer_trains_adapters_and_projector(chatting, tmp_path):
    set_trainable(chatting.model)
    records = [record(number, "abcd"[number]) for number in range(4)]
    arguments = TrainingArguments(**options(tmp_path / "run", 10))
    trainer = Trainer(chatting.model, arguments, ConversationCollator(*chatting), records)
    check_training(trainer, chatting, tmp_path)


def test_sft_trainer_trains_adapters_and_projector(chatting, tmp_path):
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    set_trainable(chatting.model)
    records = Dataset.from_list([record(number, "abcd"[number]) for number in range(4)])
    settings = trl.SFTConfig(
        **options(tmp_path / "run", 10), dataset_kwargs={"skip_prepare_dataset": True}, bf16=False
    )
    trainer = trl.SFTTrainer(
        model=chatting.model,
        args=settings,
        data_collator=ConversationCollator(*chatting),
        train_dataset=records,
        processing_class=chatting.processor,
    )
    check_training(trainer, chatting, tmp_path)
