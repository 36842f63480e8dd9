"""Fine-tune a base model into Monkey: LoRA, resampler and language model train, the ViT stays frozen (paper
section 3.1)."""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities import rank_zero_only

from monkeylib import digests, resources
from monkeylib.profiles import Profile, build, trainable
from monkeylib.training import checkpointing, strategies
from monkeylib.training.batches import ExampleEncoder, TrainingData, synthetic_data
from monkeylib.training.callbacks import (
    MemoryUse,
    SampleAnswers,
    Throughput,
)
from monkeylib.training.checkpointing import DurableCheckpointIO, SaveCheckpoints
from monkeylib.training.curves import ResumedCSVLogger
from monkeylib.training.health import Health, StepTimer, require_finite, require_usable_records
from monkeylib.training.module import MonkeyTraining, accumulation_steps
from monkeylib.training.progress import TrainingProgress, without_wrong_warnings
from monkeylib.training.resuming import Resume
from monkeylib.training.signals import StopOnSignal

# A run is validated this often, and saved unless its profile says how often.
VALIDATIONS_PER_RUN = 6


# All that a run, and its evaluation among the ablations, writes into its folder.
RUN_FILES = {
    "run.json",
    "model",
    "model.partial",
    checkpointing.FOLDER,
    "metrics.csv",
    "answers.jsonl",
    "bad_batch.jsonl",
    "memory.json",
    "skipped.jsonl",
    "predictions",
    "tensorboard",
    "wandb",
}


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
    profile: Profile,
    folder: Path,
    progress: bool = True,
    data: TrainingData | None = None,
    devices: Devices | None = None,
    wandb: bool = False,
) -> Path:
    """Fine-tune as a profile says and return the folder of the trained checkpoint, `folder / "model"`.

    A finished run of the same profile, data and base weights is returned as it is, and an interrupted one
    resumes at its last checkpoint; with another profile, data or base, training starts from scratch. The
    checkpoint appears in one move when training is complete.

    Beside it lie the losses (`metrics.csv`), answers to some validation questions (`answers.jsonl`), and the
    measured and estimated memory of a step (`memory.json`).

    Args:
        profile: model and training settings.
        folder: folder of the run.
        progress: report steps, loss and time left: a bar on a terminal and in a notebook, else lines.
        data: records to train on; synthetic ones by default.
        devices: one device by default.
        wandb: log to Weights & Biases too, offline without an API key in the environment.

    Raises:
        BadRecord: a record that can't be trained on, unless `data` skips such records.
        FileExistsError: the folder holds files that no training run writes; nothing is changed then.
        FileNotFoundError: the profile's base model is missing.
        ValueError: a batch that cannot be divided over the devices.
        Interrupted: a signal has ended the run after a step that is saved.
    """
    data, devices = data or synthetic_data(profile), devices or Devices()
    accumulation_steps(profile, devices.world_size)  # raises before anything is written

    output, config_file = folder / "model", folder / "run.json"
    config = _run_config(profile, data)
    resumes = config_file.exists() and json.loads(config_file.read_text()) == config

    if resumes and output.exists():
        return output
    if not resumes:
        _require_run_folder(folder)
    last_checkpoint = checkpointing.find_last_checkpoint(folder) if resumes else None

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)

    # From here on random draws count: initial weights, data and dropout.
    L.seed_everything(profile.training.seed, verbose=False)
    processor = build.build_processor(profile)
    if data.skipped is not None:
        require_usable_records(data, ExampleEncoder(processor, profile.training.max_length))
    model = build.build_model(profile, processor)
    require_finite(model.named_parameters(), "The base model")

    # The base model is there: from here on the folder may be changed.
    if rank_zero_only.rank == 0 and not resumes:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        config_file.write_text(json.dumps(config, indent=1))

    # After the seed, since the language model's LoRA is drawn here.
    trainable.set_trainable(model, profile)
    module = MonkeyTraining(model, processor, profile, data)

    with StopOnSignal() as stop, without_wrong_warnings():
        trainer = _trainer(profile, folder, progress, devices, stop, wandb)
        trainer.fit(module, ckpt_path=last_checkpoint)
        _save_model(trainer, module, folder)
    return output


def _require_run_folder(folder: Path) -> None:
    """Check that a folder may be trained in anew: it is missing, empty, or holds a training run alone.

    Raises:
        FileExistsError: it holds anything else.
    """
    if not folder.exists():
        return

    names = {path.name for path in folder.iterdir()}
    foreign = sorted(name for name in names if not _belongs_to_run(name))
    # Without its configuration, even familiar names, such as `model`, may be somebody else's.
    if names and "run.json" not in names:
        foreign = foreign or sorted(names)

    if foreign:
        raise FileExistsError(
            f"{resources.display_path(folder)} holds {foreign[0]}, which is not of a training run that could "
            "be replaced: name another folder, or move what is there away"
        )


def _belongs_to_run(name: str) -> bool:
    """Return whether a training run writes a file or folder of this name; a killed one leaves `.last...`."""
    leftover = name.startswith(".") and name[1:].split(".")[0] in {Path(file).stem for file in RUN_FILES}
    return name in RUN_FILES or leftover


def _run_config(profile: Profile, data: TrainingData) -> dict[str, Any]:
    """Return everything that changes what a run learns."""
    # Fields that change no weight.
    training = {"workers", "max_bad_share", "save_every_steps", "save_every_minutes"}
    no_effect = {"evaluation": True, "ablation": True, "description": True, "training": training}
    config = json.loads(profile.model_dump_json(exclude=no_effect))
    config["data"] = data.digest
    if profile.base_checkpoint is not None:
        config["base_digest"] = _base_digest(resources.REPOSITORY / profile.base_checkpoint)
    return config


def _base_digest(folder: Path) -> str | dict[str, str]:
    """Return the digest of a base model's weights: of one file, or of several by their names."""
    single_file = folder / "model.safetensors"
    if single_file.is_file():
        return digests.file_digest(single_file)
    files = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    return {file.name: digests.file_digest(file) for file in sorted(files)}


def _trainer(
    profile: Profile, folder: Path, progress: bool, devices: Devices, stop: StopOnSignal, wandb: bool = False
) -> L.Trainer:
    training = profile.training
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
        SaveCheckpoints(folder, save_interval, training.save_every_minutes),
        stop,  # after a checkpoint that is due anyway
        TrainingProgress(folder, progress),
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
        logger=_loggers(profile, folder, wandb),
        enable_checkpointing=False,
        val_check_interval=validation_interval * accumulation,
        log_every_n_steps=max(1, min(10, training.steps // 4)),
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=False,
        profiler=timer,
    )


def _loggers(profile: Profile, folder: Path, wandb: bool) -> list[Logger]:
    """Return loggers to CSV and TensorBoard, and to Weights & Biases where it is requested.

    Weights & Biases stays offline without an API key in the environment.
    """
    # Each row is written at once, so that a killed run has left it.
    csv_logger = ResumedCSVLogger(folder, "", "", flush_logs_every_n_steps=1)
    tensorboard = TensorBoardLogger(folder, "tensorboard", "")
    tensorboard.log_hyperparams(profile.model_dump(mode="json"))

    loggers: list[Logger] = [csv_logger, tensorboard]
    if wandb:
        offline = "WANDB_API_KEY" not in os.environ
        loggers.append(WandbLogger(folder.name, folder, offline=offline, project="monkeylib"))
    return loggers


def _save_model(trainer: L.Trainer, module: MonkeyTraining, folder: Path) -> None:
    """Write the trained model in one move; every process takes part.

    Of the run's checkpoints the last one stays, so that more steps can follow, and the best one where that
    has become the model.
    """
    training = module.profile.training
    best_checkpoint = None
    if training.select == "best":
        # The file that the first process finds, for all of them.
        best_checkpoint = trainer.strategy.broadcast(checkpointing.find_best_checkpoint(folder))
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
        # The finished folder appears in one move; its name tells that a run is complete.
        partial = folder / "model.partial"
        shutil.rmtree(partial, ignore_errors=True)
        trainable.save_trained(module.model.eval(), state, module.processor, module.profile, partial)
        partial.rename(folder / "model")

        kept = [*checkpointing.list_checkpoints(folder)[-1:], best_checkpoint]
        checkpointing.remove_checkpoints(folder, keep=kept)

    trainer.strategy.barrier()
