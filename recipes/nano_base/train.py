"""Train nano-base, the small vision-language model in the role of Qwen-VL: one view per image, no LoRA.

The curriculum has eight phases, all on synthetic images that are rendered on the fly, so that none repeats:

* reading: ViT and resampler learn from dense labels what is written and drawn where.
* language: the language model joins and learns to write captions and answers from the visual tokens, while
  the dense labels keep the encoder sharp.
* several: most prompts hold several images, as Qwen-VL's may, and only one of them shows the answer.
* details: some of the other images are crops of the same image that cut the answer or lie elsewhere.
* signs: more images show several signs, and questions name a sign by its colour or place.
* parts: longer, with up to four crops. Signs that are too small in the full image can be read in a crop
  beside it, without being the ones asked for.
* colours: one view of signs alone. Each is asked for once, never after a transcript, until the language model
  finds signs by their colour, which it does not learn from a small share of such questions.
* mixed: all kinds of images as in parts, still without a transcript before questions.

`make nano-base` runs them and writes the model.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from monkeylib import profiles, resources
from monkeylib.data.synthetic.tokenizer import build_tokenizer
from monkeylib.evaluation import results
from monkeylib.evaluation.predict import predict_synthetic
from monkeylib.fields import describe_changes, differences
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.model.resampler import sincos_position_embedding
from monkeylib.processing import MonkeyProcessor
from monkeylib.profiles import Profile, build
from monkeylib.runs import RunDiffers, RunFolder, read_manifest
from monkeylib.training import checkpointing
from monkeylib.training.batches import BATCHES_PER_BUCKET, LengthBuckets, MicroBatches, build_dataloader
from monkeylib.training.curves import ResumedCSVLogger
from monkeylib.training.module import mean_right, right_answers
from monkeylib.training.optim import cosine_with_warmup, parameter_groups
from recipes.nano_base import card
from recipes.nano_base.dense_heads import (
    DenseHead,
    FirstAttentionHead,
    attention_loss,
    dense_loss,
    reading_accuracy,
)
from recipes.nano_base.examples import POINTS, BaseExample, BaseExamples

ATTENTION_LAYER = 2  # whose first head learns to look at the character to write next
ATTENTION_WEIGHT = 0.3

SAVE_INTERVAL = 100  # steps


@dataclass(frozen=True)
class Phase:
    """Phase of the curriculum.

    Fields:
        name: of the phase and of its folder.
        steps, batch_size, lr, warmup: of its training; the learning rate then falls as a cosine.
        dense_weight: weight of the dense loss.
        answers: whether the language model takes part.
        several, details, signs, independent: as in `BaseExamples`.
        starts: weight of attending to the first character of each answer, which the question decides.
        first_example: number of the phase's first example; phases share no examples.
    """

    name: str
    steps: int
    batch_size: int
    lr: float
    warmup: int
    dense_weight: float
    answers: bool
    several: float = 0.0
    details: int = 0
    signs: float = 0.0
    independent: bool = False
    starts: float = 0.0
    first_example: int = 0


READING = Phase("reading", steps=4000, batch_size=16, lr=2.0e-3, warmup=50, dense_weight=1.0, answers=False)
LANGUAGE = Phase(
    "language",
    steps=4000,
    batch_size=16,
    lr=1.2e-3,
    warmup=100,
    dense_weight=0.5,
    answers=True,
    first_example=5_000_000,
)
SEVERAL = replace(
    LANGUAGE, name="several", steps=2000, lr=6e-4, warmup=40, several=0.7, first_example=7_000_000
)
DETAILS = replace(SEVERAL, name="details", steps=1000, several=0.8, details=2, first_example=8_000_000)
SIGNS = replace(DETAILS, name="signs", steps=1500, signs=0.6, first_example=8_500_000)
PARTS = replace(SIGNS, name="parts", steps=2500, details=4, signs=0.45, first_example=9_000_000)
COLOURS = replace(
    LANGUAGE,
    name="colours",
    steps=600,
    batch_size=32,
    lr=1e-3,
    warmup=40,
    signs=1.0,
    independent=True,
    starts=1.0,
    first_example=9_500_000,
)
MIXED = replace(
    PARTS, name="mixed", steps=2400, signs=0.5, independent=True, starts=0.3, first_example=9_600_000
)
PHASES = (READING, LANGUAGE, SEVERAL, DETAILS, SIGNS, PARTS, COLOURS, MIXED)


def base_profile() -> Profile:
    """Return the profile nano with one view and no LoRA."""
    nano = profiles.load_profile("nano")
    width, height = nano.image_size
    return nano.model_copy(
        update={
            "views": "global",
            "lora": nano.lora.model_copy(update={"mode": "none"}),
            "image_width": width,
            "image_height": height,
            "base_checkpoint": None,
        }
    )


class BaseTraining(L.LightningModule):
    """A phase of training. Logs losses, the share of characters read, and exact match of answers."""

    def __init__(
        self,
        model: MonkeyForConditionalGeneration,
        heads: tuple[DenseHead, DenseHead],
        phase: Phase,
        processor: MonkeyProcessor,
        seed: int,
    ):
        super().__init__()
        self.model = model
        self.phase = phase
        self.processor = processor
        self.seed = seed
        self.patch_head, self.query_head = heads
        self.first_head = FirstAttentionHead(model.language_model.model.layers[ATTENTION_LAYER].self_attn)

    def compute_losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the `loss` of a batch, its terms, and how often characters and answers are right.

        loss = dense_weight * dense + answers + ATTENTION_WEIGHT * attention + starts * start

        where `attention` is that of all characters, and `start` that of the first ones of answers.
        """
        features = self.model.vision(batch["pixel_values"])  # [V, patches, width of the ViT]
        tokens = self.model.resampler(features)  # [V, queries, width]

        # Dense labels, from patches and from visual tokens.
        by_patch, by_query = self.patch_head(features), self.query_head(tokens)
        out = {"dense": dense_loss(by_patch, batch["dense"]) + dense_loss(by_query, batch["dense"])}
        out["read_patch"] = reading_accuracy(by_patch, batch["dense"])
        out["read_query"] = reading_accuracy(by_query, batch["dense"])
        out["loss"] = self.phase.dense_weight * out["dense"]
        if not self.phase.answers:
            return out

        # `views` picks the images of each prompt, so that one image is encoded once for several prompts.
        embeds = self.model.splice(batch["input_ids"], tokens[batch["views"]])
        text = {name: batch[name] for name in ("attention_mask", "position_ids", "labels")}
        result = self.model(inputs_embeds=embeds, **text)

        # Attention supervision: of all characters, and once more of those with which an answer starts, where
        # the number of the turn changes.
        targets = batch["attention_targets"]
        query, key = self.first_head.query_and_key()
        out["attention"], out["attention_right"] = attention_loss(query, key, targets)
        starts = batch["turns"] != batch["turns"].roll(1, dims=1)
        start, out["start_right"] = attention_loss(query, key, targets.masked_fill(~starts, -1))

        out["answers"] = result.loss.detach()
        out["loss"] = (
            out["loss"] + result.loss + ATTENTION_WEIGHT * out["attention"] + self.phase.starts * start
        )
        predictions = result.logits.detach().argmax(-1)
        out["exact"] = mean_right(right_answers(predictions, batch["labels"], batch["turns"]))
        return out

    def on_train_start(self) -> None:
        """Remove what an interrupted run had logged after its last checkpoint."""
        for logger in self.loggers:
            if isinstance(logger, ResumedCSVLogger):
                logger.drop_after(self.trainer.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the profile, as every checkpoint of the library does."""
        checkpoint["profile"] = base_profile().model_dump_json()

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """Return the loss of a batch."""
        out = self.compute_losses(batch)
        self.log_dict({f"train/{name}": value.detach() for name, value in out.items()}, prog_bar=False)
        return out["loss"]

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Log the loss of a batch of images that training never sees."""
        out = self.compute_losses(batch)
        self.log_dict({f"val/{name}": value for name, value in out.items()}, prog_bar=True)

    def configure_optimizers(self) -> dict[str, Any]:
        """Return AdamW with a warm-up and a cosine decay."""
        optimiser = torch.optim.AdamW(
            parameter_groups(self, weight_decay=0.05), lr=self.phase.lr, betas=(0.9, 0.98), fused=True
        )
        schedule = cosine_with_warmup(optimiser, self.phase.warmup, self.phase.steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _loader(self, split: str, batches: int, start: int) -> DataLoader:
        phase = self.phase
        examples = BaseExamples(
            self.processor,
            split,
            answers=phase.answers,
            several=phase.several,
            details=phase.details,
            signs=phase.signs,
            independent=phase.independent,
            bucket_size=BATCHES_PER_BUCKET * phase.batch_size,
        )
        # Another seed has other examples in every phase.
        offset = self.seed * 10_000_000 + phase.first_example

        def length(example: BaseExample) -> int:
            return len(example.conversation) if phase.answers else 0

        def collate(micro_batch: list[BaseExample], *_: Any) -> dict[str, Tensor]:
            return examples.collate(micro_batch)

        buckets = LengthBuckets(examples, length, phase.batch_size, offset)
        micro_batches = MicroBatches(buckets, collate, batches, start)
        return build_dataloader(micro_batches, keep_workers=split == "val")

    def train_dataloader(self) -> DataLoader:
        """Return the batches of the remaining steps."""
        return self._loader("train", self.phase.steps, self.trainer.global_step)

    def val_dataloader(self) -> DataLoader:
        """Return the same few batches each time."""
        return self._loader("val", 8, 0)


@torch.no_grad()
def initialize_weights(model: MonkeyForConditionalGeneration) -> None:
    """Initialise a small model for training from scratch.

    The ViT's linear maps keep the scale of their input (half of it where they add to the residual stream),
    which at this width learns to read faster than the usual 0.02. Its position embedding starts as sines and
    cosines. Queries and keys of the resampler start as the same rotation of their positions, whose products
    peak where the positions agree; values and output as inverse rotations, which pass on what lies there.
    """
    vision, resampler = model.vision, model.resampler

    # The ViT: standard deviations of 1 / sqrt(d_in).
    grid = model.config.vision_config.position_grid
    vision.positions.copy_(0.7 * sincos_position_embedding(vision.positions.shape[1], grid))
    patches = vision.patch_embedding.weight
    patches.normal_(std=patches[0].numel() ** -0.5)
    for name, module in vision.named_modules():
        if isinstance(module, nn.Linear):
            adds_to_residual = name.endswith(("proj", "out"))
            gain = 0.5 if adds_to_residual else 1.0
            module.weight.normal_(std=gain * module.in_features**-0.5)

    # The resampler: random rotations, of which Q of a QR decomposition is one.
    width = resampler.proj.in_features
    attend = torch.linalg.qr(torch.randn(width, width)).Q
    carry = torch.linalg.qr(torch.randn(width, width)).Q
    resampler.kv_proj.weight.normal_(std=resampler.kv_proj.in_features**-0.5)
    resampler.qkv.weight.copy_(torch.cat([1.5 * attend, 1.5 * attend, carry]))
    resampler.out.weight.copy_(carry.T)
    resampler.proj.weight.copy_(torch.eye(width))


def train_phase(module: BaseTraining, folder: Path) -> None:
    """Run a phase, or resume it. Its last two checkpoints, `metrics.csv` and `run.json` lie in `folder`.

    Raises:
        BlockingIOError: another process trains in the folder.
        FileExistsError: the folder holds files that no run of this phase wrote.
        RunDiffers: the folder holds the phase, trained with other settings.
        ValueError: none of its checkpoints can be read.
    """
    with _open_folder(module, folder) as run_folder:
        last = checkpointing.find_last_checkpoint(folder) if run_folder.state != "new" else None

        run_folder.start()
        run_folder.own_all([f"{checkpointing.FOLDER}/step-*.ckpt", "metrics.csv"])
        _trainer(module.phase, folder).fit(module, ckpt_path=last)
        run_folder.finish()


def _open_folder(module: BaseTraining, folder: Path) -> RunFolder:
    """Open the folder of a phase.

    Raises: as `train_phase`.
    """
    fingerprint = {"phase": asdict(module.phase), "seed": module.seed}
    try:
        return RunFolder.open(folder, "nano-base", fingerprint)
    except RunDiffers as error:
        changes = differences(read_manifest(folder).fingerprint, fingerprint)
        raise RunDiffers(
            f"{resources.display_path(folder)} holds this phase, trained with other settings "
            f"({describe_changes(changes)}): to train it again, move that folder and those of the later "
            "phases away"
        ) from error


def _trainer(phase: Phase, folder: Path) -> L.Trainer:
    # The last two, as `checkpointing` names them.
    checkpoints = ModelCheckpoint(
        folder / checkpointing.FOLDER,
        filename="step-{step:06d}",
        auto_insert_metric_name=False,
        monitor="step",
        mode="max",
        save_top_k=checkpointing.LAST_COUNT,
        every_n_train_steps=SAVE_INTERVAL,
        enable_version_counter=False,
        save_on_train_epoch_end=True,
    )
    return L.Trainer(
        accelerator="cpu",
        max_steps=phase.steps,
        max_epochs=1,
        gradient_clip_val=1.0,
        callbacks=[checkpoints],
        plugins=[checkpointing.DurableCheckpointIO()],
        logger=ResumedCSVLogger(folder, "", ""),
        val_check_interval=150,
        check_val_every_n_epoch=None,
        log_every_n_steps=20,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
    )


def save_model(model: MonkeyForConditionalGeneration, processor: MonkeyProcessor, folder: Path) -> None:
    """Write model and processor, file by file in place of those of the same names; other files stay."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)

        for file in sorted(Path(temporary).iterdir()):
            file.replace(folder / file.name)


def score_model(profile: Profile, folder: Path, runs: Path, model: MonkeyForConditionalGeneration) -> None:
    """Evaluate the model on the test splits, and write the model card with the scores."""
    runs_of_splits = predict_synthetic(profile, folder, runs / "predictions", profile.evaluation.counts)
    predictions = {("nano-base", split): run.path for split, run in runs_of_splits.items()}
    rows = results.score_runs(predictions, by="family")
    table = results.write_table(rows, folder / "test_scores.csv")

    components = {
        "ViT": model.vision,
        "resampler": model.resampler,
        "language model (embeddings tied)": model.language_model,
    }
    counts = {}
    for name, component in components.items():
        counts[name] = sum(parameter.numel() for parameter in component.parameters())

    phases = [asdict(phase) for phase in PHASES]
    card.write(folder, counts, phases, table, profile.tile_size, profile.image_size[0])


def main(seed: int = 0) -> None:
    """Train all phases, resuming where an interrupted run stopped; write the model, its scores and card."""
    runs = resources.runs("nano-base")
    target = resources.models() / "nano-base"

    L.seed_everything(seed)
    profile = base_profile()
    processor = build.build_processor(profile, build_tokenizer())
    model = build.build_model(profile, processor)
    initialize_weights(model)

    # Patches and queries both lie on square grids over the view.
    patches_per_side = profile.tile_size // profile.vision.patch_size
    queries_per_side = math.isqrt(profile.queries)
    heads = (
        DenseHead(profile.vision.width, patches_per_side, POINTS),
        DenseHead(model.config.text_config.hidden_size, queries_per_side, POINTS),
    )

    for phase in PHASES:
        train_phase(BaseTraining(model, heads, phase, processor, seed), runs / phase.name)

    save_model(model.eval(), processor, target)
    score_model(profile, target, runs, model)
    print(f"wrote {resources.display_path(target)}")


if __name__ == "__main__":
    argparse.ArgumentParser(description=main.__doc__).parse_args()
    try:
        main()
    except (BlockingIOError, FileExistsError, RunDiffers) as error:
        print(f"nano-base: {error}", file=sys.stderr)
        sys.exit(2)
