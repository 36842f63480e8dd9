"""Fine-tune a base model into Monkey: LoRA, resampler and language model train, the ViT stays frozen (paper
section 3.1)."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities import rank_zero_only
from safetensors import SafetensorError

from monkeylib import resources, runs
from monkeylib.errors import run_on_main
from monkeylib.profiles import Profile
from monkeylib.progress import say
from monkeylib.runs import RunDiffers, RunFolder
from monkeylib.training import checkpointing, fingerprint, micro_batch_size, strategies
from monkeylib.training.batches import TrainingData
from monkeylib.training.callbacks import (
    MemoryUse,
    SampleAnswers,
    Throughput,
)
from monkeylib.training.checkpointing import DurableCheckpointIO, SaveCheckpoints
from monkeylib.training.curves import ResumedCSVLogger
from monkeylib.training.data_parallel import accumulation_steps
from monkeylib.training.health import (
    Health,
    StepTimer,
    require_finite,
    require_trainable,
    require_usable_records,
)
from monkeylib.training.module import MonkeyTraining
from monkeylib.training.position import Resume
from monkeylib.training.progress import TrainingProgress, report_lost_characters, without_wrong_warnings
from monkeylib.training.signals import StopOnSignal
from monkeylib.training.synthetic_records import synthetic_data
from monkeylib.training.trainees import AnyProfile, Trainee, trainee_of

# A run is validated this often, and saved unless its profile says how often.
VALIDATIONS_PER_RUN = 6


# The name in the manifest of how a step is divided, where the library has chosen it.
DIVISION_NOTE = "chosen_division"

# What a run writes into its folder, besides its checkpoints and the model.
RUN_FILES = (
    f"{checkpointing.FOLDER}/{checkpointing.BEST_FILE}",
    "metrics.csv",
    "answers.jsonl",
    "bad_batch.jsonl",
    "memory.json",
    "skipped.jsonl",
    "tensorboard/events.out.tfevents.*",
    "tensorboard/hparams.yaml",
)

# Those of Weights & Biases: a folder of each start, and links to the latest one.
WANDB_FILES = (
    "wandb/latest-run",
    "wandb/debug*.log",
    *(
        f"wandb/{folder}/{name}"
        for folder in ("run-*", "offline-run-*")
        for name in (
            "run-*.wandb",
            "files/config.yaml",
            "files/output.log",
            "files/requirements.txt",
            "files/conda-environment.yaml",
            "files/wandb-metadata.json",
            "files/wandb-summary.json",
            "logs/debug*.log",
        )
    ),
)


@dataclass(frozen=True)
class Devices:
    """Devices that train together.

    Fields:
        per_node: devices of each node.
        nodes: number of nodes.
    """

    per_node: int = 1
    nodes: int = 1

    @property
    def world_size(self) -> int:
        """Number of processes, one for each device."""
        return self.per_node * self.nodes


def run(
    profile: AnyProfile,
    folder: str | Path,
    progress: bool = True,
    data: TrainingData | None = None,
    devices: Devices | None = None,
    wandb: bool = False,
    *,
    fresh: bool = False,
    if_changed: Literal["refuse", "replace"] = "refuse",
    notes: Mapping[str, Any] | None = None,
    callbacks: Sequence[L.Callback] = (),
    stop_after: int | None = None,
) -> Path:
    """Fine-tune as a profile says and return the folder of the trained checkpoint, `folder / "model"`.

    A finished run of the same settings, data and base weights is returned as it is, and an interrupted one
    resumes at its last checkpoint. More steps, other devices and another micro-batch resume it, too: see
    `position.Resume` for what the result then is. The checkpoint appears in one move when training is
    complete.

    Beside it lie the losses (`metrics.csv`), answers to some validation questions (`answers.jsonl`), and the
    measured and estimated memory of a step (`memory.json`). The folder may hold other files, but not before
    its first run; they are left alone.

    Args:
        profile: model and training settings.
        folder: folder of the run.
        progress: report steps, loss and time left: a bar on a terminal and in a notebook, else lines.
        data: records to train on; synthetic ones by default.
        devices: one device by default.
        wandb: log to Weights & Biases too, offline without an API key in the environment.
        fresh: train anew, in place of the run that the folder holds.
        if_changed: what to do with a run of other settings, data or base weights: refuse it, or train anew in
            its place. That of another seed is refused in any case.
        notes: what `run.json` records beside the settings.
        callbacks: called after the run's own, such as `experiments.scoring.ScoreAtSteps`.
        stop_after: a step before the last one after which the run is saved and ends, as at a signal.

    Raises:
        BadRecord: a record that can't be trained on, unless `data` skips such records.
        BlockingIOError: another process trains in the folder.
        FileExistsError: the folder holds files that no training run wrote; nothing is changed then.
        FileNotFoundError: the profile's base model is missing.
        runs.RunDiffers: the folder holds a run with other settings, data or base weights.
        ValueError: a batch that cannot be divided over the devices, a step that does not fit into their
            memory, or training that ended before its last step.
        Interrupted: a signal has ended the run after a step that is saved.
        StoppedAsPlanned: `stop_after` has.
    """
    folder = resources.to_path(folder)
    trainee = trainee_of(profile)
    if data is None and not isinstance(profile, Profile):
        raise ValueError("a raised model trains on records, and not on synthetic ones: pass them as data")
    data, devices = data or synthetic_data(profile), devices or Devices()
    trainee.require_start()
    is_chosen = profile.training.micro_batch_size is None
    profile = _with_micro_batch(profile, folder, devices, fresh)
    accumulation_steps(profile, devices.world_size)  # raises before anything is written

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)

    error: ValueError | OSError | None = None
    try:
        if data.check is not None and rank_zero_only.rank == 0:
            data.check()
        run_folder = _open_run_folder(profile, folder, data, devices, fresh, if_changed)
    except (ValueError, OSError) as raised:
        if devices.world_size == 1:
            raise
        # Raised below, where other processes wait for this one.
        error, run_folder = raised, RunFolder.follow(folder, fingerprint.KIND)

    with run_folder:
        folder = run_folder.path
        output = folder / "model"
        stop = StopOnSignal(stop_after)
        trainer = _trainer(profile, run_folder, progress, devices, stop, wandb, callbacks)

        # Other processes follow the first one, which alone has read the folder.
        is_complete, size = _from_main_process(
            trainer, lambda: (_is_complete(run_folder, error), profile.training.micro_batch_size)
        )
        # Another node may have another memory, but all of them have to divide a step alike.
        if size != profile.training.micro_batch_size:
            profile = profile.with_training(micro_batch_size=size)
            trainer = _trainer(profile, run_folder, progress, devices, stop, wandb, callbacks)
        if is_complete:
            _say(f"{resources.display_path(folder)} is finished already, nothing was done")
            return output

        # From here on random draws count: initial weights, data and dropout.
        L.seed_everything(profile.training.seed, verbose=False)
        processor = trainee.build_processor()
        if data.skipped is not None:
            require_usable_records(data, trainee.module.build_encoder(processor, profile))
        if isinstance(profile, Profile):  # pretrained tokenizers lose nothing that their model could read
            report_lost_characters(data, processor, is_silent=not progress or rank_zero_only.rank != 0)
        model = trainee.build_model(processor)
        require_finite(model.named_parameters(), "The base model")
        # After the seed, since the language model's LoRA is drawn here.
        trainee.set_trainable(model)
        require_trainable(model)

        # Every process has the base model: from here on the folder may be changed.
        if _has_processes_of_others(trainer):
            trainer.strategy.barrier()
        checkpoint = _from_main_process(trainer, lambda: _start(run_folder, profile, notes, wandb))
        if is_chosen:
            run_folder.note(**{DIVISION_NOTE: _division(profile, devices)})

        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(profile.model_dump(mode="json"))

        module = trainee.module(model, processor, profile, data)
        with stop, without_wrong_warnings():
            trainer.fit(module, ckpt_path=checkpoint)
            _require_all_steps(trainer.global_step, module.num_steps)
            _save_model(trainer, trainee, module, run_folder)
    return output


def _division(profile: AnyProfile, devices: Devices) -> dict[str, int | None]:
    """Return how a step is divided, as it is noted in the manifest where the library has chosen it."""
    training = profile.training
    return {
        "micro_batch_size": training.micro_batch_size,
        "batch_size": training.batch_size,
        "devices": devices.world_size,
    }


def _with_micro_batch(profile: AnyProfile, folder: Path, devices: Devices, fresh: bool) -> Profile:
    """Return a profile with the micro-batch that fits; a run that resumes keeps the one that was chosen.

    The memory that is free may differ from one start to the next, and with it the rounding of the sums.

    Raises:
        ValueError: a step does not fit, or the folder's manifest is damaged.
    """
    if profile.training.micro_batch_size is None and not fresh:
        manifest = runs.read_manifest(folder)
        noted = manifest.notes.get(DIVISION_NOTE) if manifest is not None else None
        size = noted.get("micro_batch_size") if isinstance(noted, dict) else None
        if size is not None and noted == _division(profile, devices) | {"micro_batch_size": size}:
            return profile.with_training(micro_batch_size=size)

    # The step of a base of transformers is not counted.
    if not isinstance(profile, Profile):
        return profile

    available = micro_batch_size.available_memory(devices.per_node, devices.nodes)
    total = micro_batch_size.total_memory(devices.per_node)
    size, remark = micro_batch_size.choose_micro_batch(
        profile, devices.per_node, devices.nodes, available, total
    )
    if not remark:
        return profile
    _say(remark)
    return profile.with_training(micro_batch_size=size)


def _open_run_folder(
    profile: AnyProfile,
    folder: Path,
    data: TrainingData,
    devices: Devices,
    fresh: bool,
    if_changed: Literal["refuse", "replace"],
) -> RunFolder:
    """Open the folder in the first process, which compares what it holds with what is to be trained.

    Raises: as `RunFolder.open`.
    """
    if rank_zero_only.rank > 0:
        return RunFolder.follow(folder, fingerprint.KIND)

    fields, defaults = fingerprint.training_fingerprint(profile, data, devices.per_node, devices.nodes)
    inputs = trainee_of(profile).inputs
    options = {"may_change": fingerprint.MAY_CHANGE, "defaults": defaults, "inputs": inputs}

    try:
        run_folder = RunFolder.open(folder, fingerprint.KIND, fields, fresh=fresh, **options)
        try:
            _require_no_fewer_steps(run_folder)
        except RunDiffers:
            run_folder.close()
            raise
    except RunDiffers as error:
        if if_changed == "refuse":
            raise
        _require_same_seed(folder, error)
        run_folder = RunFolder.open(folder, fingerprint.KIND, fields, fresh=True, **options)

    for remark in run_folder.remarks:
        _say(f"{resources.display_path(folder)}: {remark}")
    return run_folder


def _require_same_seed(folder: Path, error: RunDiffers) -> None:
    """Check that the run of a folder, which differs from another one, has the same seed.

    Raises:
        RunDiffers: it has not.
    """
    if "training.seed" in error.changes:
        old, new = error.changes["training.seed"]
        raise RunDiffers(
            f"{resources.display_path(folder)} holds a training with seed {old}, which one with seed {new} "
            "does not replace: move the folder away, or remove it",
            error.changes,
        ) from None


def _require_no_fewer_steps(run_folder: RunFolder) -> None:
    """Check that a run is not to end before where it may have got to already.

    Raises:
        RunDiffers: it has fewer steps than before.
    """
    before, after = run_folder.changes.get("training.steps", (0, 0))
    if after < before:
        raise RunDiffers(
            f"{resources.display_path(run_folder.path)} holds a run of {before} steps, which cannot be "
            f"trained for {after} (training.steps {before} -> {after}): give at least as many, replace it "
            "with --fresh, or name another folder"
        )


def _start(
    run_folder: RunFolder, profile: AnyProfile, notes: Mapping[str, Any] | None, wandb: bool = False
) -> Path | None:
    """Start the run, and return the checkpoint at which it resumes, None if it begins anew.

    Raises:
        ValueError: none of the checkpoints can be read, or a finished run that is to be trained further has
            none.
    """
    # What lies in the folder of a run that is replaced counts no more.
    checkpoint = None
    if run_folder.state != "new" or not run_folder.main_process:
        checkpoint = checkpointing.find_last_checkpoint(run_folder.path)

    if run_folder.state == "finished" and checkpoint is None:
        raise ValueError(
            f"{resources.display_path(run_folder.path)} is finished and its last checkpoint, from which it "
            "would be trained further, is not there: train its model further as --base with another --out, "
            "or train anew with --fresh"
        )

    run_folder.start()
    run_folder.own_all([*RUN_FILES, *(WANDB_FILES if wandb else ())])
    if run_folder.main_process:
        run_folder.note(profile=profile.name, **(notes or {}))
    return checkpoint


def _is_complete(run_folder: RunFolder, error: ValueError | OSError | None) -> bool:
    """Return whether the run has nothing left to do; raise the error that opening its folder has met."""
    if error is not None:
        raise error
    return run_folder.state == "finished" and "training.steps" not in run_folder.changes


def _has_processes_of_others(trainer: L.Trainer) -> bool:
    """Return whether a scheduler or torchrun has started several processes, and not Lightning."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    # Asked in a process that Lightning has started, its own environment says yes, too.
    is_foreign = environment is not None and not isinstance(environment, LightningEnvironment)
    return trainer.world_size > 1 and is_foreign


def _from_main_process(trainer: L.Trainer, function: Callable[[], Any]) -> Any:
    """Return what a function returns in the first process, in every process that a scheduler or torchrun has
    started.

    Processes that Lightning starts come later, when the first one has changed the folder: they have a value
    of their own.

    Raises:
        ValueError, OSError: from the function, in the first process.
        SystemExit: in the others, which would wait for the first one otherwise.
    """
    if not _has_processes_of_others(trainer):
        return function()

    if not torch.distributed.is_initialized():
        trainer.strategy.setup_environment()
    broadcast = trainer.strategy.broadcast
    return broadcast(run_on_main(function, rank_zero_only.rank == 0, broadcast))


def _say(sentence: str) -> None:
    if rank_zero_only.rank == 0:
        say(sentence)


def _trainer(
    profile: AnyProfile,
    run_folder: RunFolder,
    progress: bool,
    devices: Devices,
    stop: StopOnSignal,
    wandb: bool = False,
    more_callbacks: Sequence[L.Callback] = (),
) -> L.Trainer:
    training, folder = profile.training, run_folder.path
    accumulation = accumulation_steps(profile, devices.world_size)
    # In optimiser steps; Lightning counts validations in micro-batches.
    validation_interval = max(1, training.steps // VALIDATIONS_PER_RUN)
    save_interval = training.save_every_steps or validation_interval

    timer = StepTimer()
    callbacks: list[L.Callback] = [
        LearningRateMonitor("step"),
        Throughput(),
        MemoryUse(folder),
        Resume(),
        Health(folder / "bad_batch.jsonl", training.max_bad_share, timer),
        SampleAnswers(folder / "answers.jsonl", max_new_tokens=min(48, profile.evaluation.max_new_tokens)),
        SaveCheckpoints(run_folder, save_interval, training.save_every_minutes),
        stop,  # after a checkpoint that is due anyway
        TrainingProgress(folder, progress),
        *more_callbacks,
    ]

    strategy: str | Strategy = "auto"
    if training.strategy != "auto" or devices.world_size > 1:
        strategy = strategies.build_strategy(training.strategy, devices.world_size)

    plugins: list[Any] = [DurableCheckpointIO()]
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))

    return L.Trainer(
        default_root_dir=folder,
        accelerator="auto",
        devices=devices.per_node,
        num_nodes=devices.nodes,
        strategy=strategy,
        plugins=plugins,
        use_distributed_sampler=False,
        precision=training.precision,
        max_steps=training.steps,
        max_epochs=1,
        accumulate_grad_batches=accumulation,
        gradient_clip_val=training.gradient_clip,
        callbacks=callbacks,
        logger=_loggers(folder, wandb),
        enable_checkpointing=False,
        val_check_interval=validation_interval * accumulation,
        log_every_n_steps=max(1, min(10, training.steps // 4)),
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=False,
        profiler=timer,
    )


def _loggers(folder: Path, wandb: bool) -> list[Logger]:
    """Return loggers to CSV and TensorBoard, and to Weights & Biases where it is requested.

    Weights & Biases stays offline without an API key in the environment.
    """
    # Each row is written at once, so that a killed run has left it.
    csv_logger = ResumedCSVLogger(folder, "", "", flush_logs_every_n_steps=1)
    loggers: list[Logger] = [csv_logger, TensorBoardLogger(folder, "tensorboard", "")]
    if wandb:
        offline = "WANDB_API_KEY" not in os.environ
        loggers.append(WandbLogger(folder.name, folder, offline=offline, project="monkeylib"))
    return loggers


def _require_all_steps(taken: int, planned: int) -> None:
    """Check that training has not ended early.

    Raises:
        ValueError: it has.
    """
    if taken != planned:
        raise ValueError(
            f"training ended after step {taken} of {planned}, and no model was written: run it "
            "again, which goes on from the last checkpoint; if it ends there again, check whether "
            "the training records are still the same"
        )


def _save_model(trainer: L.Trainer, trainee: Trainee, module: MonkeyTraining, run_folder: RunFolder) -> None:
    """Write the trained model in one move; every process takes part.

    Of the run's checkpoints the last one stays, so that more steps can follow, and the best one where that
    has become the model.
    """
    training, folder = module.profile.training, run_folder.path
    best_checkpoint = None
    if training.select == "best":
        # The file that the first process finds, for all of them.
        if trainer.is_global_zero:
            best_checkpoint = _find_best_checkpoint(folder)
        best_checkpoint = trainer.strategy.broadcast(best_checkpoint)
    if best_checkpoint is not None:
        checkpoint = trainer.strategy.load_checkpoint(best_checkpoint, weights_only=True)
        if training.strategy != "fsdp":  # FSDP has read its shards into the model already
            module.load_state_dict(checkpoint["state_dict"])

    if training.strategy == "fsdp":
        # Every process takes part in gathering; the first one gets the weights.
        state = strategies.gather_state_dict(module.model)
    else:
        state = module.model.state_dict()

    # Below, the first process removes what the others may still be reading.
    trainer.strategy.barrier()
    if trainer.is_global_zero:
        with run_folder.create_folder("model") as temporary:
            try:
                trainee.save(module, state, temporary)
            # No OSError, though it is raised where a file cannot be written.
            except SafetensorError as error:
                raise OSError(
                    f"the trained model could not be written ({error}): check space and rights of the disk, "
                    "and run it again, which goes on from the last step"
                ) from error
        run_folder.finish()

        keep = [*checkpointing.list_checkpoints(folder)[-1:], best_checkpoint]
        checkpointing.remove_checkpoints(run_folder, keep=keep)

    trainer.strategy.barrier()


def _find_best_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint of the lowest validation loss; None, with a sentence, if it can't be read."""
    path = checkpointing.find_best_checkpoint(folder)
    damage = checkpointing.find_damage(path) if path is not None else None
    if damage is None:
        return path

    _say(
        f"the checkpoint of the lowest validation loss, {resources.display_path(path)}, cannot be used, "
        f"since {damage}: the model of the last step is saved instead"
    )
    return None
