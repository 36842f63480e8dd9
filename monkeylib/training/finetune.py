"""Fine-tune a base model into Monkey: adapters, resampler and language model train, the ViT stays frozen
(paper section 3.1)."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from torch import Tensor
from torch.utils.data import DataLoader

from monkeylib import paths, pretrained, profiles, provenance
from monkeylib.data.collate import Encoded, encode, pad
from monkeylib.data.worlds import make_sample
from monkeylib.data.worlds.tasks import SEPARATOR, training_turns
from monkeylib.data.worlds.tokenizer import build_tokenizer
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.processing import MonkeyImageProcessor, MonkeyProcessor, normalisation
from monkeylib.profiles import Profile
from monkeylib.training.batches import PooledBatches, loader
from monkeylib.training.logs import ResumedCSVLogger
from monkeylib.training.metrics import exact_match
from monkeylib.training.optimiser import cosine_with_warmup, parameter_groups

Row = tuple[dict[str, Tensor], Encoded]
VALIDATION_BATCHES = 4


def build_processor(profile: Profile) -> MonkeyProcessor:
    """The processor of a profile: its grid of tiles, and the tokenizer of its pretrained language model or,
    without one, of the nano world.

    Raises:
        FileNotFoundError, ValueError: as `pretrained.build_tokenizer`.
    """
    mean, std = normalisation(getattr(profile.vision, "model_type", "monkey_vision"))
    images = MonkeyImageProcessor(profile.tile_size, profile.rows, profile.cols, profile.views, mean, std)
    tokenizer = pretrained.build_tokenizer(profile) if profile.text.pretrained else build_tokenizer()
    tokens = pretrained.IMAGE_TOKENS
    if profile.text.image_ids.start is None:
        tokens = (tokenizer.convert_ids_to_tokens(profile.text.image_ids.place),)
    return MonkeyProcessor(images, tokenizer, profile.queries, SEPARATOR, tokens)


def build_model(profile: Profile, processor: MonkeyProcessor) -> MonkeyForConditionalGeneration:
    """The profile's model: weights of its base checkpoint or its pretrained parts where it names them, fresh
    adapters, everything else random.

    Raises:
        FileNotFoundError: the base checkpoint or a pretrained part is missing.
        ValueError: pretrained parts that do not fit the profile.
    """
    config = profiles.build_config(profile, processor.tokenizer)
    if profile.base_checkpoint is None and profile.text.pretrained:
        return pretrained.build_model(profile, config)
    if profile.base_checkpoint is None:
        return MonkeyForConditionalGeneration(config)
    folder = paths.REPOSITORY / profile.base_checkpoint
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"There is no base model at {paths.shown(folder)}: "
            "train it with `make nano-base` or check out the repository whole."
        )
    return MonkeyForConditionalGeneration.from_pretrained(folder, config=config)


class WorldRows:
    """Row `n`: the views of image `n` of a split of the nano world, and a conversation about it."""

    def __init__(self, profile: Profile, processor: MonkeyProcessor, split: str):
        self.processor, self.split, self.max_length = processor, split, profile.training.max_length
        self.size = profile.image_size
        self.scale = 1.0 if profile.views != "global" else profile.tile_size / self.size[0]

    def __call__(self, number: int) -> Row:
        """Views and conversation of one image."""
        sample = make_sample(number, self.split, self.size)
        # Visual tokens are most of a row: twice the text costs a tenth more time and teaches more.
        turns = training_turns(
            sample, np.random.default_rng([13, number]), self.scale, budget=300, detailed=0.4
        )
        features = self.processor.image_processor(sample.image)
        return features, encode(self.processor.tokenizer, self.processor.image_span(), turns, self.max_length)

    def collate(self, rows: list[Row]) -> dict[str, Tensor]:
        """Views of all images one after the other, and the padded conversations."""
        images = {
            key: torch.cat([features[key] for features, _ in rows]) for key in ("pixel_values", "grids")
        }
        return images | pad([conversation for _, conversation in rows], self.processor.tokenizer.pad_token_id)


class MonkeyTraining(L.LightningModule):
    """Cross-entropy on answers, the learning rates and the schedule of a profile."""

    def __init__(self, model: MonkeyForConditionalGeneration, processor: MonkeyProcessor, profile: Profile):
        super().__init__()
        self.model, self.processor, self.profile = model, processor, profile
        # A loaded model is in evaluation mode, and Lightning leaves it there: adapters would drop nothing.
        model.train().freeze_for_finetuning()

    def on_train_batch_start(self, batch: dict[str, Tensor], _: int) -> None:
        """Seed each step by its number: a resumed run draws the same dropout as one in one go."""
        torch.manual_seed(self.profile.training.seed * 1_000_000 + self.trainer.global_step)

    def _step(self, batch: dict[str, Tensor], part: str) -> Tensor:
        inputs = {key: value for key, value in batch.items() if key not in ("turns", "grids")}
        grids = None if self.profile.views == "global" else batch["grids"]
        output = self.model(**inputs, grids=grids)
        exact = exact_match(output.logits.detach(), batch["labels"], batch["turns"])
        self.log_dict(
            {f"{part}/loss": output.loss.detach(), f"{part}/exact": exact},
            batch_size=len(batch["labels"]),
            prog_bar=True,
        )
        return output.loss

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """Loss of a batch."""
        return self._step(batch, "train")

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Log the loss of a batch of images that training never sees."""
        self._step(batch, "val")

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW with warm-up and cosine."""
        recipe = self.profile.training
        rates = {"adapter": recipe.adapter_lr} if recipe.adapter_lr else None
        groups = parameter_groups(self.model, recipe.weight_decay, rates)
        optimiser = torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=True)
        schedule = cosine_with_warmup(optimiser, recipe.warmup, recipe.steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _loader(self, split: str, batches: int, start: int) -> DataLoader:
        recipe = self.profile.training
        rows = WorldRows(self.profile, self.processor, split)
        offset = (
            20_000_000 + recipe.seed * 1_000_000 if split == "train" else 20_000_000
        )  # images that nano-base has not seen
        data = PooledBatches(
            rows, lambda row: len(row[1].ids), rows.collate, recipe.batch_size, batches, start, offset
        )
        return loader(data, keep_worker=split == "val")

    def train_dataloader(self) -> DataLoader:
        """Batches from the first one that this run has not seen: a resumed run repeats nothing."""
        return self._loader("train", self.profile.training.steps, self.trainer.global_step)

    def val_dataloader(self) -> DataLoader:
        """The same few batches each time."""
        return self._loader("val", VALIDATION_BATCHES, 0)


def run(profile: Profile, folder: Path, progress: bool | None = None) -> Path:
    """Fine-tune as the profile says and return the folder of the trained checkpoint, `folder / "model"`.

    A finished run with the same recipe and base weights is returned as it is; an interrupted one goes on at
    its last checkpoint; another recipe or base starts anew. The checkpoint appears in one move when training
    is complete. Losses lie in `folder / "metrics.csv"`.

    Args:
        progress: show a progress bar; on a terminal only, if not given.

    Raises:
        FileNotFoundError: the profile's base model is missing.
    """
    recipe = json.loads(profile.model_dump_json(exclude={"evaluation", "ablation", "description"}))
    if profile.base_checkpoint is not None:
        weights = paths.REPOSITORY / profile.base_checkpoint / "model.safetensors"
        recipe["base_digest"] = provenance.file_digest(weights) if weights.is_file() else None
    done, stamp = folder / "model", folder / "recipe.json"
    if stamp.exists() and json.loads(stamp.read_text()) != recipe:
        shutil.rmtree(folder)
    if done.exists():
        return done
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    L.seed_everything(profile.training.seed, verbose=False)
    processor = build_processor(profile)
    module = MonkeyTraining(build_model(profile, processor), processor, profile)
    folder.mkdir(parents=True, exist_ok=True)
    stamp.write_text(json.dumps(recipe, indent=1))
    show = sys.stderr.isatty() if progress is None else progress
    last = folder / "last.ckpt"
    _trainer(profile, folder, show).fit(module, ckpt_path=str(last) if last.exists() else None)
    unfinished = folder / "model.unfinished"
    module.model.eval().save_pretrained(unfinished)
    processor.save_pretrained(unfinished)
    unfinished.rename(done)
    last.unlink(missing_ok=True)
    return done


def _trainer(profile: Profile, folder: Path, progress: bool) -> L.Trainer:
    recipe = profile.training
    every = max(1, recipe.steps // 6)
    checkpoint = ModelCheckpoint(
        folder, filename="last", every_n_train_steps=every, enable_version_counter=False
    )
    bar = [TQDMProgressBar(refresh_rate=5)] if progress else []
    return L.Trainer(
        accelerator="auto",
        devices=1,
        max_steps=recipe.steps,
        max_epochs=1,
        gradient_clip_val=recipe.gradient_clip,
        callbacks=[checkpoint, *bar],
        logger=ResumedCSVLogger(folder, "", ""),
        val_check_interval=every,
        log_every_n_steps=max(1, min(10, recipe.steps // 4)),
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=progress,
    )
