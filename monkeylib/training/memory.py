"""What a run's own training step holds in memory, beside what was planned for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from monkeylib import planner, profiles, resources, sizing
from monkeylib.measuring import LiveBytes
from monkeylib.profiles import Profile, build
from monkeylib.prompts import IGNORE_INDEX
from monkeylib.recipes import Recipe

FILE = "memory.json"


def read(folder: Path) -> dict[str, int | float | None]:
    """What a run in `folder` measured, as a row of a table: bytes in MB, and the plan's share of them.

    Raises:
        FileNotFoundError: nothing was measured there: a run of one step, or of several processes on CPUs.
    """
    found = json.loads((folder / FILE).read_bytes())
    measured, planned = found["measured"] / 1e6, (found["planned"] or 0) / 1e6
    known = {"planned, MB": round(planned, 2), "ratio": round(planned / measured, 3)} if planned else {}
    return {"step": found["step"], "measured, MB": round(measured, 2)} | known


class Memory(L.Callback):
    """Measures the first optimiser step after a start at which AdamW's moments are there (of a new run the
    second), and writes it to `memory.json` in the run's folder.

    A GPU's allocator knows the most that tensors took. On a CPU they are counted while they live, which takes
    one process: with several, nothing is measured there.
    """

    def __init__(self, folder: Path):
        self.file = folder / FILE
        self.live: LiveBytes | None = None
        self.step = -1
        self.planned: list[int] = []

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Choose the step."""
        self.step = max(1, trainer.global_step)

    def on_train_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: dict[str, Tensor], number: int
    ) -> None:
        """Start to measure with the first pass of the step, and plan each of its passes."""
        on_gpu = module.device.type == "cuda"
        if trainer.global_step != self.step or not (on_gpu or trainer.world_size == 1):
            return
        if not self.planned:
            if on_gpu:
                torch.cuda.reset_peak_memory_stats(module.device)
            else:
                self._count(trainer, module)
        for tensor in batch.values() if self.live else ():
            if isinstance(tensor, Tensor):
                self.live.add(tensor)
        recipe = recipe_of(module.profile, batch, trainer.world_size, module.passes, on_gpu)
        config = module.model.config
        self.planned.append(planner.plan(config, recipe).peak if recipe else 0)

    def _count(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.live = LiveBytes()
        states = (value for state in trainer.optimizers[0].state.values() for value in state.values())
        for tensor in (*module.model.state_dict().values(), *states):
            if isinstance(tensor, Tensor):
                self.live.add(tensor)
        self.live.__enter__()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        """Write what was measured when the step is done."""
        if not self.planned or trainer.global_step <= self.step:
            return
        measured = self.live.peak if self.live else torch.cuda.max_memory_allocated(module.device)
        planned, self.planned = max(self.planned), []
        self._stop()
        if trainer.is_global_zero:
            found = {"step": self.step + 1, "measured": measured, "planned": planned or None}
            with resources.atomic_write(self.file) as unfinished:
                unfinished.write_text(json.dumps(found) + "\n", encoding="utf-8")

    def on_exception(self, *_: Any) -> None:
        """Count no longer."""
        self._stop()

    def _stop(self) -> None:
        if self.live:
            self.live.__exit__(None, None, None)
            self.live = None


def recipe_of(
    profile: Profile, batch: dict[str, Tensor], devices: int, passes: int, on_gpu: bool
) -> Recipe | None:
    """What of a profile and a pass decides about memory; None where the planner doesn't know such passes:
    packed ones, and those whose rows hold other than one image of the profile's own grid."""
    recipe, parts, config = profile.training, build.parts_of(profile), profiles.build_config(profile)
    rows, length = batch["labels"].shape
    shape = (rows * sum(sizing.view_counts(config)), 3, config.tile_size, config.tile_size)
    if recipe.packed or tuple(batch["pixel_values"].shape) != shape:
        return None
    answers = int((batch["labels"] != IGNORE_INDEX).sum())
    made = Recipe(
        vision=parts.vision.train,
        resampler=parts.resampler.train,
        language_model=parts.language_model.train,
        resampler_output=parts.resampler_output,
        language_model_rank=recipe.language_model_rank,
        language_model_bits=recipe.language_model_bits,
        precision=recipe.precision,
        checkpointing=recipe.checkpointing,
        rows=rows,
        passes=passes,
        text_tokens=length - sizing.visual_tokens(config) - 2,
        answer_tokens=max(1, -(-answers // rows)),
        on_gpu=on_gpu,
    )
    if devices == 1:
        return made
    return replace(made, strategy="fsdp" if recipe.strategy == "fsdp" else "ddp", devices=devices)
