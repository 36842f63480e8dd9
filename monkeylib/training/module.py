"""Fine-tuning as a Lightning module: loss, optimiser, data loaders, and what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import DataLoader

from monkeylib.data.records import BadRecord
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.monkey import Monkey
from monkeylib.processing import MonkeyProcessor
from monkeylib.profiles import Profile, trainable
from monkeylib.training import strategies
from monkeylib.training.batches import (
    Collator,
    EncodedExample,
    ExampleEncoder,
    LengthBuckets,
    MicroBatches,
    RecordDataset,
    TrainingData,
    build_dataloader,
)
from monkeylib.training.data_parallel import Shard, accumulation_steps
from monkeylib.training.optim import cosine_with_warmup, learning_rates, parameter_groups

# Batches of the training batch's size that a validation goes through.
VALIDATION_BATCHES = 4

# Entries of a micro-batch that are not arguments of the model.
_NOT_MODEL_INPUTS = (
    "turns",
    "tokens",
    "num_examples",
    "num_batch_examples",
    "num_records",
    "num_bad_records",
)


class MonkeyTraining(L.LightningModule):
    """Fine-tuning of a model with cross-entropy on answers.

    The loss is the mean over all labels of a batch, however the batch is divided over devices and
    micro-batches (`batches.Collator`).

    Args:
        model: the model, of which the right components are trainable (`trainable.set_trainable`).
        processor: encodes records.
        profile: training settings.
        data: records to train on and to validate with.
    """

    def __init__(
        self,
        model: MonkeyForConditionalGeneration,
        processor: MonkeyProcessor,
        profile: Profile,
        data: TrainingData,
    ):
        super().__init__()
        self.model, self.processor, self.profile, self.data = model, processor, profile, data
        self.frozen = {name for name, weight in self.named_parameters() if not weight.requires_grad}
        # Checkpoints leave frozen weights out; `load_state_dict` checks the others itself.
        self.strict_loading = False
        # Numbers of examples at which the data ended before a resumed run was given more.
        self.cuts: tuple[int, ...] = ()
        # Losses of the running step's micro-batches.
        self.micro_batch_losses: list[Tensor] = []
        # Of its answers, `[answers]` of each: 1 where it is right.
        self._step_right: list[Tensor] = []
        self._num_validated = 0
        self._sharded = False

        if profile.training.checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})

    @property
    def accumulation_steps(self) -> int:
        """Micro-batches of an optimiser step on each device."""
        return accumulation_steps(self.profile, self.trainer.world_size)

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the run: the profile's, and those that cuts in the data add."""
        batches, uncut = self.training_batches(), self.training_batches(cuts=())
        if batches.num_batches is None or uncut.num_batches is None:
            return self.profile.training.steps
        return self.profile.training.steps + batches.num_batches - uncut.num_batches

    @cached_property
    def encoder(self) -> Any:
        """Encodes the records of training and validation; packed examples have their own."""
        return self.build_encoder(self.processor, self.profile)

    @staticmethod
    def build_encoder(processor: Any, profile: Any) -> Any:
        """Return what encodes records for a processor, as a profile says."""
        return ExampleEncoder(processor, profile.training.max_length)

    @property
    def monkey(self) -> Monkey:
        """The model as it is now, ready to answer."""
        return Monkey(self.model, self.processor)

    def learning_rates(self) -> dict[str, float]:
        """Return the learning rates of parts that have their own, by the prefix of their weights' names."""
        return learning_rates(self.profile)

    def configure_model(self) -> None:
        """Shard the model where the strategy is FSDP."""
        if self.profile.training.strategy == "fsdp" and not self._sharded:
            strategies.shard_model(self.model, self.device_mesh["data_parallel"])
            self._sharded = True

    # --- steps

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Seed each micro-batch by its number, so that a resumed run draws the same dropout as an
        uninterrupted one."""
        step_seed = self.profile.training.seed * 1_000_000 + self.trainer.global_step
        micro_batch = batch_idx % self.accumulation_steps
        # Two large primes keep the seeds of steps, micro-batches and devices apart.
        torch.manual_seed(step_seed + 7_919_000_003 * micro_batch + 104_729_000_017 * self.global_rank)

    def loss_and_accuracy(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the `loss` of a micro-batch, and in `right`, `[answers]`, 1 for each answer that is right.

        Raises:
            BadRecord: a record that cannot be trained on, which the data loader of any device reports in
                `failure`.
        """
        self._require_no_failure(batch.get("failure"))

        inputs = {name: value for name, value in batch.items() if name not in _NOT_MODEL_INPUTS}
        loss, predictions = self.loss_and_predictions(inputs)

        return {"loss": loss, "right": right_answers(predictions, batch["labels"], batch["turns"])}

    def loss_and_predictions(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the loss of a micro-batch, and the most likely token `[N]` in the place of each label."""
        grids = None if self.profile.views == "global" else inputs.get("grids")
        output = self.model(**{**inputs, "grids": grids}, return_logits=False)
        return output.loss, output.predictions

    def _require_no_failure(self, failure: str | None) -> None:
        """Raise the error of a bad record on all devices: an image is opened by one of them alone, and the
        others would wait for it.

        Raises:
            BadRecord: there is one.
        """
        # A single process has no others to ask.
        if failure is None and not torch.distributed.is_initialized():
            return
        if not strategies.is_true_anywhere(failure is not None, self.device):
            return

        failures = [message for message in strategies.gather_objects(failure) if message is not None]
        strategies.raise_together(BadRecord(failures[0]))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a micro-batch; log the loss of the step, and the share of its answers that are
        right: of several devices the mean of theirs."""
        metrics = self.loss_and_accuracy(batch)
        if batch_idx % self.accumulation_steps == 0:
            self.micro_batch_losses, self._step_right = [], []
        self.micro_batch_losses.append(metrics["loss"].detach())
        self._step_right.append(metrics["right"])

        # Each micro-batch logs the step so far, so that what the last one logs is of the whole step.
        logged = {
            "train/loss": sum(self.micro_batch_losses) / self.accumulation_steps,
            "train/exact": mean_right(torch.cat(self._step_right)),
        }
        self.log_dict(logged, batch_size=1, prog_bar=True, sync_dist=self.trainer.world_size > 1)
        return metrics["loss"]

    def on_validation_epoch_start(self) -> None:
        """Count the examples of this validation."""
        self._num_validated = 0

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the loss of a micro-batch of images that training never sees."""
        metrics = self.loss_and_accuracy(batch)
        right = metrics["right"]
        self._num_validated += batch["num_examples"]

        # The loss is a share of its whole batch's, and each batch counts by its examples; exact match counts
        # by answers. So neither mean depends on how batches are divided.
        log = partial(self.log, prog_bar=True, sync_dist=self.trainer.world_size > 1)
        log("val/loss", metrics["loss"].detach(), batch_size=batch["num_batch_examples"])
        log("val/exact", mean_right(right), batch_size=len(right))

    def on_validation_epoch_end(self) -> None:
        """Check that something was validated.

        Raises:
            ValueError: every validation record was left out.
        """
        num_validated = self.trainer.strategy.reduce(
            torch.tensor(float(self._num_validated), device=self.device), reduce_op="sum"
        )
        if num_validated == 0:
            strategies.raise_together(
                ValueError(
                    "none of the validation records can be used, skipped.jsonl has the reasons: fix them, or "
                    "leave the validation out of the mixture"
                )
            )

    def configure_optimizers(self) -> dict[str, Any]:
        """Return AdamW with a warm-up and a cosine decay; each component trains at its own rate."""
        training = self.profile.training
        groups = parameter_groups(self.model, training.weight_decay, self.learning_rates())

        # FSDP has no fused steps on a CPU, and Lightning clips no gradients before one in mixed precision.
        # Otherwise weight by weight: `foreach` holds another copy of all of them.
        fused = training.strategy != "fsdp" and training.precision != "bf16-mixed"
        optimizer = torch.optim.AdamW(
            groups, lr=training.lr, betas=training.betas, fused=fused, foreach=False
        )
        schedule = cosine_with_warmup(optimizer, training.warmup_steps, training.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # --- data

    def train_dataloader(self) -> DataLoader:
        """Return the micro-batches of this device from the first one on that the run has not seen."""
        training = self.profile.training
        shard = Shard(self.trainer.global_rank, self.trainer.world_size, self.accumulation_steps)
        collator = self.collator(shard, packing=training.packing)
        # On resuming, the step follows from the consumed examples (`position.Resume`).
        micro_batches = MicroBatches(
            self.training_batches(), collator, self.num_steps, self.trainer.global_step, shard
        )
        return build_dataloader(micro_batches, workers=training.workers)

    def training_batches(self, cuts: Sequence[int] | None = None) -> LengthBuckets:
        """Return the batches of the run.

        Args:
            cuts: numbers of examples at which the data is cut, by default those of this run.
        """
        data = self.data
        end = None if data.num_records is None else data.offset + data.num_records
        cuts = [data.offset + cut for cut in (self.cuts if cuts is None else cuts)]
        return self._batches(data.train, self.profile.training.batch_size, data.offset, end, cuts)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """Return the same few batches each time."""
        training, data = self.profile.training, self.data
        if data.validation is None:
            return []

        num_batches, num_examples, end = VALIDATION_BATCHES, training.batch_size, None
        if data.num_validation_records is not None:
            end = data.validation_offset + data.num_validation_records
            num_batches = min(num_batches, -(-data.num_validation_records // training.batch_size))
            num_examples = min(num_examples, data.num_validation_records)

        # Batches as large as those of training, as many examples at once as in training.
        world_size, accumulation = self.trainer.world_size, 1
        if training.micro_batch_size is not None:
            accumulation = -(-num_examples // (training.micro_batch_size * world_size))

        batches = self._batches(data.validation, training.batch_size, data.validation_offset, end)
        shard = Shard(self.trainer.global_rank, world_size, accumulation)
        micro_batches = MicroBatches(batches, self.collator(shard, fixed_size=True), num_batches, shard=shard)
        return build_dataloader(micro_batches, keep_workers=True)

    def collator(self, shard: Shard, packing: bool = False, fixed_size: bool = False) -> Collator:
        """Return the collator of a device's micro-batches.

        Args:
            shard: the part of each batch that the device gets.
            packing: pack examples instead of padding them.
            fixed_size: show images as the processor does, where training changes the size of its one view.
        """
        encoder = self.encoder
        if packing:
            encoder = ExampleEncoder(self.processor, self.profile.training.max_length, packing=True)
        return Collator(encoder, shard, self.skip, None if fixed_size else self._view_side)

    def _batches(
        self,
        dataset: RecordDataset,
        batch_size: int,
        offset: int,
        end: int | None,
        cuts: Sequence[int] = (),
    ) -> LengthBuckets:
        encoder = self.encoder

        def load_example(index: int) -> EncodedExample | None:
            try:
                return encoder.encode(dataset[index])
            except BadRecord as error:
                self.skip(error)
                return None

        return LengthBuckets(load_example, len, batch_size, offset, end, cuts)

    def _view_side(self, step: int) -> int | None:
        """Return the pixels of the one view at a step, where they change as training goes on."""
        training = self.profile.training
        if not training.view_sides:
            return None
        if training.view_order == "progressive":
            size = step * len(training.view_sides) // training.steps
            return training.view_sides[min(size, len(training.view_sides) - 1)]
        return int(np.random.default_rng([23, training.seed, step]).choice(training.view_sides))

    def skip(self, error: BadRecord) -> None:
        """Log a bad record, or raise its error where the run does not skip any."""
        if self.data.skipped is None:
            raise error.with_advice() from error
        self.data.skipped.add(error)

    # --- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the profile, and leave frozen weights out: they come from the base model.

        A sharded checkpoint keeps them, since PyTorch reads every weight of the model back.
        """
        # So that a checkpoint alone becomes a model.
        checkpoint["profile"] = self.profile.model_dump_json()

        if self.profile.training.strategy == "fsdp":
            return

        checkpoint[trainable.FROZEN_DIGEST] = self._frozen_digest
        # A quantised weight consists of several tensors, whose names begin with its own.
        prefixes = tuple(f"{name}." for name in self.frozen)
        checkpoint["state_dict"] = {
            name: value
            for name, value in checkpoint["state_dict"].items()
            if name not in self.frozen and not name.startswith(prefixes)
        }

    @cached_property
    def _frozen_digest(self) -> str:
        """Digest of the frozen weights, so that a checkpoint does not become a model on another base."""
        weights = self.model.named_parameters()
        frozen = {name: weight for name, weight in weights if not weight.requires_grad}
        return trainable.frozen_digest(frozen, self.profile)

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load trained weights; frozen ones are in the model already.

        Raises:
            RuntimeError: trained weights are missing, or there are some that the model doesn't have.
        """
        result = super().load_state_dict(state_dict, strict=False, assign=assign)

        not_saved = self.frozen | {name for name, _ in self.named_buffers()}
        missing = [name for name in result.missing_keys if name not in not_saved]
        if missing or result.unexpected_keys:
            raise RuntimeError(
                f"this checkpoint is of another model: it lacks {missing or 'nothing'} and has "
                f"{result.unexpected_keys or 'nothing'} too many"
            )

        return result


@torch.no_grad()
def right_answers(predictions: Tensor, labels: Tensor, turns: Tensor) -> Tensor:
    """Return which answers greedy decoding would get right, from one teacher-forced pass.

    Greedy decoding repeats an answer exactly when each of its tokens, end of text included, is the most
    likely one after the right tokens before it.

    Args:
        predictions: `[N]`, the most likely token in the place of each of the N labels.
        labels: `[B, T]`, `IGNORE_INDEX` where there is no label.
        turns: `[B, T]`, the turn whose answer a label belongs to.

    Returns:
        `[answers]`, by example and turn: 1.0 where it is right, else 0.0. Without labels, as those of a dummy
        example, there are none.
    """
    # The position before a label predicts it.
    targets = pad(labels, (0, 1), value=IGNORE_INDEX)[:, 1:]
    target_turns = pad(turns, (0, 1), value=-1)[:, 1:]
    # [B, T], true at N positions in all
    labelled = targets != IGNORE_INDEX

    # Number the answers: [N] of 0 to answers - 1, by example and turn.
    example = torch.arange(len(targets), device=labels.device)[:, None].expand_as(targets)[labelled]
    answers, answer = torch.unique(torch.stack([example, target_turns[labelled]]), dim=1, return_inverse=True)

    # An answer is right if none of its tokens is wrong.
    wrong = (predictions != targets[labelled]).float()
    wrong_tokens = wrong.new_zeros(answers.shape[1]).index_add_(0, answer, wrong)
    return (wrong_tokens == 0).float()


def mean_right(right: Tensor) -> Tensor:
    """Return the share of right answers `[answers]`, 0 where there are none."""
    return right.sum() / max(len(right), 1)
