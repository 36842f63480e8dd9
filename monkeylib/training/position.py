"""The position of a run in its data, from which it resumes, also on other devices, with another micro-batch
size or with more steps.

A run's progress is counted once, in consumed examples. A checkpoint holds this number, and what Lightning
counts (micro-batches, optimiser steps, steps of the schedule) follows from it, for the devices and the
micro-batch size of the resumed run.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import Any

import lightning as L

from monkeylib.training.batches import LengthBuckets
from monkeylib.training.curves import ResumedCSVLogger

KEY = "progress"  # of the checkpoint's entry


@dataclass(frozen=True)
class Progress:
    """How far a run is, and how it has divided its work so far.

    Fields:
        examples: examples consumed, skipped bad records included.
        end: number of examples of the run's data, None for endless data.
        cuts: numbers of examples at which the data ended before it was given more.
        steps: optimiser steps that the run was to take.
        batch_size: examples of an optimiser step.
        devices: number of devices.
        micro_batch_size: examples on a device at once; None for all of a step.
    """

    examples: int
    end: int | None
    cuts: tuple[int, ...]
    steps: int
    batch_size: int
    devices: int
    micro_batch_size: int | None

    def order(self) -> LengthBuckets:
        """Return the order of the data, without the data."""
        return LengthBuckets(lambda _: None, len, self.batch_size, 0, self.end, self.cuts)


class Resume(L.Callback):
    """Save the progress of a run in its checkpoints, and resume a run from there.

    With the same division over devices and micro-batches, the resumed run ends as an uninterrupted one, bit
    for bit. With another division it differs by rounding, and where there is dropout by other random draws.

    With another number of steps, the learning rate follows the schedule of the new number from the first
    resumed step on. So the result is that of an uninterrupted run of the new number only where the two
    schedules agree up to this step, as they do during the warm-up. Standard error says so in a sentence.
    """

    def on_save_checkpoint(
        self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the progress."""
        checkpoint[KEY] = asdict(_progress(trainer, module))

    def on_load_checkpoint(
        self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Continue the order of the data, and set Lightning's counters to where it continues.

        Raises:
            ValueError: the checkpoint has another batch size or no progress, or the run's data now ends
                within a part of it that is in progress.
        """
        if KEY not in checkpoint:
            raise ValueError(
                "the checkpoint was saved by an earlier version of monkeylib, which counted differently: "
                "train anew, in another folder"
            )

        saved = Progress(**checkpoint[KEY])
        if saved.batch_size != module.profile.training.batch_size:
            raise ValueError(
                f"the run has trained with {saved.batch_size} examples per step and cannot go on with "
                f"{module.profile.training.batch_size}: give --batch-size {saved.batch_size}, or train anew "
                "in another folder"
            )

        module.cuts = _cuts(saved, module.data.num_records)
        step = saved.order().batch_after(saved.examples)
        trainer.fit_loop.epoch_loop.max_steps = module.num_steps
        checkpoint["loops"]["fit_loop"] = _loop_state(trainer, step, module.accumulation_steps)

        current = _progress(trainer, module)
        if trainer.is_global_zero:
            for sentence in _changes(saved, current, step, module.profile.training.warmup):
                print(sentence, file=sys.stderr)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Set the learning rates by the schedule, and drop what was logged after the checkpoint."""
        for config in trainer.lr_scheduler_configs:
            # The optimiser has the rates that it was saved with. The schedule has a closed form, so that
            # nothing changes where the steps are the same.
            schedule = config.scheduler
            groups = zip(schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True)
            for group, base, factor in groups:
                group["lr"] = base * factor(schedule.last_epoch)

        for logger in trainer.loggers:
            if isinstance(logger, ResumedCSVLogger) and trainer.is_global_zero:
                logger.drop_after(trainer.global_step)


def _progress(trainer: L.Trainer, module: L.LightningModule) -> Progress:
    """Return the progress of the run as it is now."""
    training = module.profile.training
    progress = Progress(
        examples=0,
        end=module.data.num_records,
        cuts=module.cuts,
        steps=training.steps,
        batch_size=training.batch_size,
        devices=trainer.world_size,
        micro_batch_size=training.micro_batch_size,
    )
    examples = progress.order().consumed_examples(trainer.global_step)
    return Progress(**{**asdict(progress), "examples": examples})


def _cuts(saved: Progress, end: int | None) -> tuple[int, ...]:
    """Return where the data's length buckets are cut short in a run that now ends at `end`.

    A bucket in progress stays as it was: without this, examples would be left out or seen twice when the data
    ends later than before.
    """
    bucket_end = saved.order().bucket_end(saved.examples)
    if end is not None and end < bucket_end:
        raise ValueError(
            f"the run has consumed {saved.examples} examples and is to go on to {bucket_end}, but is now to "
            f"end after {end}: give as many epochs as before, or more"
        )

    if saved.end is not None and saved.end == bucket_end and saved.end != end:
        return (*saved.cuts, saved.end)
    return saved.cuts


def _loop_state(trainer: L.Trainer, step: int, accumulation_steps: int) -> dict[str, Any]:
    """Return the state of Lightning's loops after an optimiser step, before anything else of this step."""
    state = trainer.fit_loop.state_dict()
    micro_batches = step * accumulation_steps

    for scope in ("total", "current"):
        # In the middle of the only epoch.
        state["epoch_progress"][scope] = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
        # Lightning completes a batch after its callbacks, which save the checkpoint.
        state["epoch_loop.batch_progress"][scope] = {
            "ready": micro_batches,
            "started": micro_batches,
            "processed": micro_batches,
            "completed": micro_batches - 1,
        }
        state["epoch_loop.scheduler_progress"][scope] = {"ready": step, "completed": step}

        optimizer = state["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
        optimizer["step"][scope] = {"ready": step, "completed": step}
        optimizer["zero_grad"][scope] = {"ready": step, "started": step, "completed": step}

    state["epoch_loop.batch_progress"]["is_last_batch"] = False
    state["epoch_loop.state_dict"]["_batches_that_stepped"] = step - 1
    return state


def _changes(saved: Progress, current: Progress, step: int, warmup: float) -> list[str]:
    """Return sentences on what differs between the saved run and the resumed one."""
    sentences = []

    if saved.steps != current.steps:
        result = "as if it had been planned so"
        # The rate is the same in a warm-up of as many steps.
        warmup_steps = round(warmup * current.steps)
        if step > warmup_steps or warmup_steps != round(warmup * saved.steps):
            result = (
                f"so that the model will differ somewhat from one that was trained for {current.steps} steps "
                "at once"
            )
        sentences.append(
            f"resuming after step {step}, now with {current.steps} steps instead of {saved.steps}: from here "
            f"on the learning rate follows the schedule of {current.steps} steps, {result}"
        )

    division = _division(saved), _division(current)
    if division[0] != division[1]:
        sentences.append(
            f"resuming after step {step} on {division[1]} instead of {division[0]}: the result is the same "
            "up to rounding, and up to random draws where there is dropout"
        )
    return sentences


def _division(progress: Progress) -> str:
    size = progress.micro_batch_size or progress.batch_size // progress.devices
    devices = "1 device" if progress.devices == 1 else f"{progress.devices} devices"
    return f"{devices} with micro-batches of {size}"
