"""One fine-tuning run as Lightning sees it: its batches, its loss, its optimiser, what it saves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import DataLoader

from monkeylib.data.records import BadRecord, Record
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.processing import MonkeyProcessor
from monkeylib.profiles import Profile, build
from monkeylib.prompts import IGNORE_INDEX
from monkeylib.training import strategies
from monkeylib.training.data import Passes, Pools, Row, RowMaker, Share, Skipped, loader
from monkeylib.training.optim import cosine_with_warmup, parameter_groups


@torch.no_grad()
def exact_match(logits: Tensor, labels: Tensor, turns: Tensor) -> Tensor:
    """Share of answers that greedy decoding would get right, told from one teacher-forced pass.

    Greedy decoding repeats an answer exactly when each of its tokens, end of text included, is the most
    likely one after the right tokens before it.

    Args:
        logits: `[supervised positions, vocabulary]`, as the model gives them with labels.
        labels: `[B, T]`, `IGNORE_INDEX` where nothing is supervised.
        turns: `[B, T]`, the number of the answer that a label belongs to.
    """
    targets, numbers = pad(labels, (0, 1), value=IGNORE_INDEX)[:, 1:], pad(turns, (0, 1), value=-1)[:, 1:]
    keep = targets != IGNORE_INDEX
    row = torch.arange(len(targets), device=labels.device)[:, None].expand_as(targets)[keep]
    _, answer = torch.unique(torch.stack([row, numbers[keep]]), dim=1, return_inverse=True)
    wrong = (logits.argmax(-1) != targets[keep]).float()
    return (wrong.new_zeros(int(answer.max()) + 1).index_add_(0, answer, wrong) == 0).float().mean()


VALIDATION_BATCHES = 4  # of the training batch's size, however many passes that takes


class Source(Protocol):
    """Records by their number, from 0 on; a run starts at `offset`."""

    def __getitem__(self, number: int) -> Record: ...


@dataclass(frozen=True)
class Data:
    """What a run trains on and is validated with.

    `rows` ends the training data after so many rows, counted from `offset`; `digest` tells the data from
    other ones; `skipped` notes bad records and goes on, without it they are errors.
    """

    train: Source
    validation: Source | None
    digest: str
    offset: int = 0
    validation_offset: int = 0
    rows: int | None = None
    validation_rows: int | None = None
    skipped: Skipped | None = None


class MonkeyTraining(L.LightningModule):
    """Cross-entropy on answers, averaged over the labels of a whole batch however it is divided."""

    def __init__(
        self, model: MonkeyForConditionalGeneration, processor: MonkeyProcessor, profile: Profile, data: Data
    ):
        super().__init__()
        self.model, self.processor, self.profile, self.data = model, processor, profile, data
        self.frozen = {name for name, p in self.named_parameters() if not p.requires_grad}
        self.strict_loading = False  # checkpoints leave frozen weights out; `load_state_dict` looks after it
        self._sums: dict[str, Tensor] = {}
        self._sharded = False
        if profile.training.checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})

    @property
    def passes(self) -> int:
        """Passes per optimiser step on each device."""
        return passes(self.profile, self.trainer.world_size)

    def configure_model(self) -> None:
        """Shard the model where the strategy is FSDP."""
        if self.profile.training.strategy == "fsdp" and not self._sharded:
            strategies.shard(self.model, self.device_mesh["data_parallel"])
            self._sharded = True

    def on_train_batch_start(self, batch: dict[str, Tensor], number: int) -> None:
        """Seed each pass by its number: a resumed run draws the same dropout as one in one go."""
        seed = self.profile.training.seed * 1_000_000 + self.trainer.global_step
        torch.manual_seed(seed + 7_919_000_003 * (number % self.passes) + 104_729_000_017 * self.global_rank)

    def _step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if "failure" in batch:
            raise BadRecord(f"{batch['failure']}. Mend it, or leave out what is bad with --skip-bad")
        inputs = {key: value for key, value in batch.items() if key not in ("turns", "grids", "tokens")}
        grids = None if self.profile.views == "global" else batch.get("grids")
        output = self.model(**inputs, grids=grids)
        answered = output.logits.shape[0] > 0
        exact = exact_match(output.logits.detach(), batch["labels"], batch["turns"]) if answered else 0.0
        return {"loss": output.loss, "exact": torch.as_tensor(exact)}

    def training_step(self, batch: dict[str, Tensor], number: int) -> Tensor:
        """Loss of a pass. What is logged is the mean over the passes of a step."""
        out = self._step(batch)
        if number % self.passes == 0:
            self._sums = {}
        for name, value in out.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach() / self.passes
        logged = {f"train/{name}": value for name, value in self._sums.items()}
        self.log_dict(logged, batch_size=1, prog_bar=True, sync_dist=self.trainer.world_size > 1)
        return out["loss"]

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Log the loss of a batch of images that training never sees."""
        logged = {f"val/{name}": value.detach() for name, value in self._step(batch).items()}
        self.log_dict(
            logged, batch_size=len(batch["labels"]), prog_bar=True, sync_dist=self.trainer.world_size > 1
        )

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW with warm-up and cosine."""
        recipe = self.profile.training
        groups = parameter_groups(self.model, recipe.weight_decay, build.rates(self.profile))
        # FSDP has no fused steps on a CPU, and Lightning clips no gradients before one in mixed precision.
        # Otherwise parameter by parameter: all at once takes another copy of them, which no plan counts.
        fused = recipe.strategy != "fsdp" and recipe.precision != "bf16-mixed"
        optimiser = torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=fused, foreach=False)
        schedule = cosine_with_warmup(optimiser, recipe.warmup, recipe.steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # --- data

    def train_dataloader(self) -> DataLoader:
        """Passes from the first one that this run has not seen: a resumed run repeats nothing."""
        recipe, data = self.profile.training, self.data
        end = None if data.rows is None else data.offset + data.rows
        pools = self._pools(data.train, recipe.batch_size, data.offset, end)
        share = Share(self.trainer.global_rank, self.trainer.world_size, self.passes)
        maker = RowMaker(self.processor, recipe.max_length, recipe.packed)
        made = Passes(pools, self._collate(maker, share), recipe.steps, self.trainer.global_step, share)
        return loader(made, workers=recipe.workers)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """The same few batches each time."""
        recipe, data = self.profile.training, self.data
        if data.validation is None:
            return []
        end = None if data.validation_rows is None else data.validation_offset + data.validation_rows
        size = recipe.batch_size if recipe.per_device is None else recipe.per_device * self.trainer.world_size
        pools = self._pools(data.validation, size, data.validation_offset, end)
        share = Share(self.trainer.global_rank, self.trainer.world_size)
        batches = VALIDATION_BATCHES * recipe.batch_size // size
        if data.validation_rows is not None:
            batches = min(batches, -(-data.validation_rows // size))
        maker = RowMaker(self.processor, recipe.max_length)
        made = Passes(pools, self._collate(maker, share, growing=False), batches, 0, share)
        return loader(made, keep_worker=True)

    def _pools(self, source: Source, batch_size: int, offset: int, end: int | None) -> Pools:
        encode = RowMaker(self.processor, self.profile.training.max_length).encode

        def row(number: int) -> Row | None:
            try:
                return encode(source[number])
            except BadRecord as error:
                self._skip(error)
                return None

        return Pools(row, len, batch_size, offset, end)

    def _side(self, step: int) -> int | None:
        """Pixels of the one view at a step where they change as training goes on."""
        recipe = self.profile.training
        if not recipe.view_sides:
            return None
        if recipe.view_order == "progressive":
            return recipe.view_sides[step * len(recipe.view_sides) // recipe.steps]
        return int(np.random.default_rng([23, recipe.seed, step]).choice(recipe.view_sides))

    def _skip(self, error: BadRecord) -> None:
        if self.data.skipped is None:
            raise error
        self.data.skipped.note(error)

    def _collate(self, maker: RowMaker, share: Share, growing: bool = True) -> Any:
        """Tensors of a pass. Its loss is divided by its fair share of the labels of its whole batch, so that
        the mean over devices and passes is the mean over the batch's labels."""

        def collate(rows: Sequence[Row], batch: Sequence[Row], number: int) -> dict[str, Any]:
            side, kept, views = self._side(number) if growing else None, [], []
            for row in rows:
                try:
                    views.append(maker.views(row, side))
                    kept.append(row)
                except BadRecord as error:
                    self._skip(error)
            if not any(views):  # every device needs images, or its adapters have no gradient to share
                row, shown = maker.blank()
                kept, views = [*kept, row], [*views, shown]
            labels = sum(row.supervised for row in batch)
            tokens = sum(len(row) for row in kept)
            fair = max(labels, 1) / (share.devices * share.passes)
            return maker.collate(kept, views) | {"num_items_in_batch": fair, "tokens": tokens}

        return collate

    # --- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out what is frozen: it comes from where the model was built from. A sharded checkpoint keeps
        it, since PyTorch reads back every weight of the model."""
        if self.profile.training.strategy == "fsdp":
            return
        within = tuple(f"{name}." for name in self.frozen)  # what quantised weights consist of
        checkpoint["state_dict"] = {
            name: value
            for name, value in checkpoint["state_dict"].items()
            if name not in self.frozen and not name.startswith(within)
        }

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load what was trained; what is frozen is there already.

        Raises:
            RuntimeError: trained weights are missing, or some that the model doesn't have are there.
        """
        found = super().load_state_dict(state_dict, strict=False, assign=assign)
        fixed = self.frozen | {name for name, _ in self.named_buffers()}
        missing = [name for name in found.missing_keys if name not in fixed]
        if missing or found.unexpected_keys:
            raise RuntimeError(
                f"this checkpoint is of another model: it lacks {missing or 'nothing'} and has "
                f"{found.unexpected_keys or 'nothing'} too many"
            )
        return found


def passes(profile: Profile, devices: int) -> int:
    """Passes per optimiser step.

    Raises:
        ValueError: the batch cannot be divided so.
    """
    recipe = profile.training
    if recipe.per_device is None:
        return 1
    if recipe.batch_size % (devices * recipe.per_device):
        raise ValueError(
            f"a batch of {recipe.batch_size} rows cannot be divided over {devices} devices with "
            f"{recipe.per_device} rows each: choose batch_size = devices x per_device x a whole number"
        )
    return recipe.batch_size // (devices * recipe.per_device)
