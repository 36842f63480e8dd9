"""Fine-tune a base model into Monkey: adapters, resampler and language model train, the ViT stays frozen
(paper section 3.1)."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import LearningRateMonitor, TQDMProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only

from monkeylib import digests, resources
from monkeylib.profiles import Profile, build
from monkeylib.profiles.build import build_model, build_processor
from monkeylib.training import strategies
from monkeylib.training.callbacks import Checkpoints, Preemption, ResumedCSVLogger, SampleAnswers, Speed
from monkeylib.training.data import WorldRecords
from monkeylib.training.memory import Memory
from monkeylib.training.module import Data, MonkeyTraining, passes

__all__ = ["Machines", "build_model", "build_processor", "run", "worlds"]

UNSEEN = 20_000_000  # number of the first image of the nano world that nano-base has not seen


@dataclass(frozen=True)
class Machines:
    """How many devices of how many nodes train together."""

    devices: int = 1
    nodes: int = 1

    @property
    def world(self) -> int:
        """Processes in all."""
        return self.devices * self.nodes


def worlds(profile: Profile) -> Data:
    """Images of the nano world, made as they are needed: other ones for each seed. Its digest is of the first
    records, so a run is trained anew where the world or what is asked about it has changed."""
    first = UNSEEN + profile.training.seed * 1_000_000
    train, validation = WorldRecords(profile, "train"), WorldRecords(profile, "val")
    records = [train[first + number] for number in range(16)]
    digest = digests.data_digest([(record.turns, record.images) for record in records])
    return Data(train, validation, f"nano worlds {digest}", offset=first, validation_offset=UNSEEN)


def run(
    profile: Profile,
    folder: Path,
    progress: bool | None = None,
    data: Data | None = None,
    machines: Machines | None = None,
) -> Path:
    """Fine-tune as the profile says and return the folder of the trained checkpoint, `folder / "model"`.

    A finished run with the same recipe, data and base weights is returned as it is; an interrupted one goes
    on at its last checkpoint; another recipe or base starts anew. The checkpoint appears in one move when
    training is complete. Losses lie in `folder / "metrics.csv"`, answers to some validation questions in
    `answers.jsonl`, what a step took and what was planned for it in `memory.json`.

    Args:
        progress: show a progress bar; on a terminal only, if not given.
        data: what to train on; the nano world if not given.
        machines: one device if not given.

    Raises:
        BadRecord: a record that can't be trained on, unless `data` says to leave such out.
        FileNotFoundError: the profile's base model is missing.
        ValueError: a batch that cannot be divided over the devices.
    """
    data, machines = data or worlds(profile), machines or Machines()
    passes(profile, machines.world)
    recipe = _recipe(profile, data)
    done, stamp, last = folder / "model", folder / "recipe.json", folder / "last.ckpt"
    goes_on = stamp.exists() and json.loads(stamp.read_text()) == recipe
    for checkpoint in (last, folder / "best.ckpt"):
        strategies.restore(checkpoint)
    if goes_on and done.exists():
        return done
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    L.seed_everything(profile.training.seed, verbose=False)
    processor = build_processor(profile)
    model = build_model(profile, processor)
    if rank_zero_only.rank == 0 and not goes_on:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        stamp.write_text(json.dumps(recipe, indent=1))
    build.choose_what_trains(model, profile)
    module = MonkeyTraining(model, processor, profile, data)
    trainer = _trainer(profile, folder, sys.stderr.isatty() if progress is None else progress, machines)
    trainer.fit(module, ckpt_path=str(last) if goes_on and last.exists() else None)
    _save(trainer, module, folder)
    return done


def _recipe(profile: Profile, data: Data) -> dict[str, Any]:
    """What makes a run this one."""
    apart = {"evaluation": True, "ablation": True, "description": True, "training": {"workers"}}
    recipe = json.loads(profile.model_dump_json(exclude=apart))
    recipe["data"] = data.digest
    if profile.base_checkpoint is not None:
        recipe["base_digest"] = _base_digest(resources.REPOSITORY / profile.base_checkpoint)
    return recipe


def _base_digest(folder: Path) -> str | dict[str, str]:
    """Of the base's weights: one file, or several in our layout or the released one."""
    single = folder / "model.safetensors"
    if single.is_file():
        return digests.file_digest(single)
    shards = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    return {shard.name: digests.file_digest(shard) for shard in sorted(shards)}


def _save(trainer: L.Trainer, module: MonkeyTraining, folder: Path) -> None:
    """Write the trained model in one move; every process takes part."""
    recipe, done, best = module.profile.training, folder / "model", folder / "best.ckpt"
    if recipe.select == "best" and best.exists():
        checkpoint = trainer.strategy.load_checkpoint(best, weights_only=False)
        if recipe.strategy != "fsdp":  # which reads its shards into the model
            module.load_state_dict(checkpoint["state_dict"])
    state = strategies.whole_state(module.model) if recipe.strategy == "fsdp" else module.model.state_dict()
    trainer.strategy.barrier()  # the first process removes what the others may still read
    if trainer.is_global_zero:
        unfinished = folder / "model.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        build.save(module.model.eval(), state, module.processor, module.profile, unfinished)
        unfinished.rename(done)
        for file in (folder / "last.ckpt", best):
            shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
    trainer.strategy.barrier()


def _trainer(profile: Profile, folder: Path, progress: bool, machines: Machines) -> L.Trainer:
    recipe = profile.training
    every = max(1, recipe.steps // 6)
    count = passes(profile, machines.world)
    callbacks = [
        LearningRateMonitor("step"),
        Speed(),
        Memory(folder),
        SampleAnswers(folder / "answers.jsonl", max_new_tokens=min(48, profile.evaluation.max_new_tokens)),
        Checkpoints(folder, every),
        Preemption(),
    ]
    return L.Trainer(
        default_root_dir=folder,
        accelerator="auto",
        devices=machines.devices,
        num_nodes=machines.nodes,
        strategy=strategies.build(recipe.strategy, machines.world),
        plugins=[SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None,
        use_distributed_sampler=False,
        precision=recipe.precision,
        max_steps=recipe.steps,
        max_epochs=1,
        accumulate_grad_batches=count,
        gradient_clip_val=recipe.gradient_clip,
        callbacks=[*callbacks, *([TQDMProgressBar(refresh_rate=5)] if progress else [])],
        logger=_loggers(folder),
        enable_checkpointing=False,
        val_check_interval=every * count,
        log_every_n_steps=max(1, min(10, recipe.steps // 4)),
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=progress,
    )


def _loggers(folder: Path) -> list[Logger]:
    """CSV and TensorBoard, and Weights & Biases where it is installed (offline, unless the environment says
    otherwise)."""
    curves = ResumedCSVLogger(folder, "", "", flush_logs_every_n_steps=1)  # a killed run has written them
    loggers: list[Logger] = [curves, TensorBoardLogger(folder, "tensorboard", "")]
    if find_spec("wandb"):
        offline = "WANDB_API_KEY" not in os.environ
        loggers.append(WandbLogger(folder.name, folder, offline=offline, project="monkeylib"))
    return loggers
