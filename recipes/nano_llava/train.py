"""Train nano-llava: nano-base with a projector of all patches, as LLaVA-1.5's, in its resampler's place.

ViT and language model are nano-base's and stay as they are. Only the projector trains, in two phases:

* distilled: the projector learns to give each patch the visual token that nano-base's own resampler gives
  for a query at the patch's place (its 8x8 queries are interpolated to 12x12 for that). No language model is
  needed, and the features are computed once.
* tuned: fine-tuning with the loss on answers, about images of one view.

The projector is then scored on validation questions, beside the resampler that it replaces and beside fewer
visual tokens. `make nano-llava` runs everything; a run that was interrupted is resumed.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from monkeylib import profiles, resources, tables
from monkeylib.data.synthetic import make_sample, make_test_set
from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.likelihood import score_answers
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.model.resampler import Projector
from monkeylib.monkey import Monkey
from monkeylib.processing import MonkeyProcessor
from monkeylib.profiles import Profile, build
from monkeylib.profiles.schema import ComponentTraining, ResamplerTraining, TrainableComponents
from monkeylib.profiles.trainable import TRAINED_WEIGHTS
from monkeylib.progress import say
from monkeylib.runs import RunFolder
from monkeylib.training import finetune
from monkeylib.training.optim import cosine_with_warmup
from recipes.nano_llava import card

PROFILE = Path(__file__).parent / "nano-llava.yaml"
PROJECTOR = "projector.safetensors"
SCORES = "validation_scores.csv"

# Number of the first synthetic image of the distillation; nano-base has seen images up to 20 million.
FIRST_IMAGE = 30_000_000


@dataclass(frozen=True)
class Distillation:
    """Settings of the distillation.

    Fields:
        images: synthetic images, each with the views of the profile nano.
        epochs: how often their patches are gone through.
        batch_size: patches of a step.
        lr: largest learning rate of AdamW, which falls as a cosine.
        held_out: further images, on which the projector is compared with the resampler.
    """

    images: int = 300
    epochs: int = 12
    batch_size: int = 2048
    lr: float = 3e-3
    held_out: int = 20


@dataclass(frozen=True)
class Tuning:
    """Settings of the fine-tuning; the fields are those of a profile's `training`."""

    steps: int = 120
    batch_size: int = 16
    lr: float = 5e-4
    warmup: float = 0.1
    max_length: int = 512


@dataclass(frozen=True)
class Scoring:
    """Validation questions of each kind."""

    large: int = 200
    fine: int = 200


# --- profiles


def llava_profile(projector: Path | None = None) -> Profile:
    """Return the profile nano-llava without LoRA, with the projector of a file in place of its own."""
    profile = profiles.load_profile(str(PROFILE))
    lora = profile.lora.model_copy(update={"mode": "none"})
    return profile.model_copy(
        update={"lora": lora, "projector": None if projector is None else str(projector.absolute())}
    )


def resampler_profile(queries: int) -> Profile:
    """Return the profile nano without LoRA, with so many queries interpolated from nano-base's."""
    nano = profiles.load_profile("nano")
    lora = nano.lora.model_copy(update={"mode": "none"})
    return nano.model_copy(update={"lora": lora, "queries": queries})


def one_view(profile: Profile) -> Profile:
    """Return a profile that shows its images of the same size in one view."""
    width, height = profile.image_size
    return profile.model_copy(update={"views": "global", "image_width": width, "image_height": height})


def tuning_profile(projector: Path, tuning: Tuning, seed: int) -> Profile:
    """Return the profile of the fine-tuning: one view, and the projector alone trains."""
    frozen = ComponentTraining(train="frozen")
    components = TrainableComponents(
        vision=frozen, resampler=ResamplerTraining(train="full"), language_model=frozen
    )
    profile = one_view(llava_profile(projector))
    return profile.with_training(
        **asdict(tuning), components=components.model_dump(), weight_decay=0.0, keep="trained", seed=seed
    )


# --- distillation


def distil(settings: Distillation, folder: Path, seed: int = 0) -> Path:
    """Distil nano-base's resampler into a projector, or return the one of a finished run of these settings.

    Returns:
        The file of the projector, `folder / "projector.safetensors"`.

    Raises:
        BlockingIOError, FileExistsError, RunDiffers: as `RunFolder.open`.
    """
    target = folder / PROJECTOR
    with RunFolder.open(folder, "nano-llava", {**asdict(settings), "seed": seed}) as run:
        if run.state == "finished" and target.exists():
            return target
        run.start()
        run.own(target.name)

        profile = resampler_profile(profiles.load_profile(str(PROFILE)).queries)
        processor = build.build_processor(profile)
        teacher = build.build_model(profile, processor).eval()
        images = range(FIRST_IMAGE, FIRST_IMAGE + settings.images)
        held_out = range(images.stop, images.stop + settings.held_out)

        say("computing what the resampler gives for each patch")
        features, tokens = compute_tokens(teacher, processor, images, profile)

        torch.manual_seed(seed)
        config = build.build_config(llava_profile(), processor.tokenizer)
        projector = Projector(config)
        fit_projector(projector, features, tokens, settings)

        test_features, test_tokens = compute_tokens(teacher, processor, held_out, profile)
        with torch.no_grad():
            error = F.mse_loss(projector(test_features[None])[0], test_tokens)
        explained = 1 - float(error / test_tokens.var(0, correction=0).mean())
        say(f"the projector explains {explained:.3f} of the variance of the resampler's tokens")

        with resources.atomic_write(target) as temporary:
            save_file(projector.state_dict(), temporary)
        run.note(explained_variance=explained)
        run.finish()
    return target


@torch.no_grad()
def compute_tokens(
    teacher: MonkeyForConditionalGeneration, processor: MonkeyProcessor, numbers: range, profile: Profile
) -> tuple[Tensor, Tensor]:
    """Return the ViT's features of all patches of some images, and the resampler's token at each.

    Args:
        teacher: nano-base with a query at the place of each patch.
        processor: gives the views of an image.
        numbers: of the synthetic images.
        profile: size of the images.

    Returns:
        `[patches, width of the ViT]` and `[patches, width of the language model]`.
    """
    features, tokens = [], []
    for number in numbers:
        sample = make_sample(number, "train", profile.image_size)
        pixels = processor.image_processor(sample.image)["pixel_values"]
        of_views = teacher.vision(pixels)  # [V, patches, width]
        features.append(of_views.flatten(0, 1))
        tokens.append(teacher.resampler(of_views).flatten(0, 1))
    return torch.cat(features), torch.cat(tokens)


def fit_projector(projector: Projector, features: Tensor, tokens: Tensor, settings: Distillation) -> None:
    """Fit a projector to tokens by least squares, on batches of patches.

    Args:
        projector: the projector, as it is before.
        features: `[patches, width of the ViT]`.
        tokens: `[patches, width of the language model]`.
        settings: of the distillation.
    """
    steps_per_epoch = len(features) // settings.batch_size
    steps = settings.epochs * steps_per_epoch
    optimiser = torch.optim.AdamW(projector.parameters(), lr=settings.lr, weight_decay=0.0)
    schedule = cosine_with_warmup(optimiser, warmup=steps // 20, steps=steps)

    for epoch in range(settings.epochs):
        order = torch.randperm(len(features))
        total = 0.0
        for rows in order[: steps_per_epoch * settings.batch_size].split(settings.batch_size):
            loss = F.mse_loss(projector(features[None, rows])[0], tokens[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() / steps_per_epoch
        say(f"distillation, epoch {epoch + 1} of {settings.epochs}: mean squared error {total:.4f}")


# --- scores


def validation_questions(name: str, count: int) -> list[Example]:
    """Return the first validation questions of a test set's kind."""
    return [
        Example(question.id, question.sample.image, question.question, question.answers)
        for question in make_test_set(name, count, split="val")
    ]


def score(candidates: dict[str, Profile], counts: Scoring, path: Path) -> list[dict[str, tables.Value]]:
    """Score untrained models on validation questions, and write the table.

    Args:
        candidates: profiles by the names that they have in the table.
        counts: questions of each kind.
        path: of the table.

    Returns:
        Its rows: exact match and log-likelihood per character, on large text in one view and on fine text in
        tiles and the global view.
    """
    large, fine = (validation_questions(name, count) for name, count in asdict(counts).items())

    rows: list[dict[str, tables.Value]] = []
    for name, profile in candidates.items():
        for views, shown, questions in (
            ("one view", one_view(profile), large),
            ("tiles and global view", profile, fine),
        ):
            processor = build.build_processor(shown)
            scores = score_answers(Monkey(build.build_model(shown, processor).eval(), processor), questions)
            rows.append(
                {
                    "model": name,
                    "views": views,
                    "questions": "large text" if questions is large else "fine text",
                    "visual_tokens": shown.visual_tokens,
                    "exact_match": float(scores.exact.mean()),
                    "log_likelihood": float(scores.log_likelihood.mean()),
                    "n": len(questions),
                }
            )
            say(f"{name}, {views}: exact match {rows[-1]['exact_match']:.3f}")

    tables.write_csv(rows, path)
    return rows


# --- everything


def main(
    distillation: Distillation = Distillation(),
    tuning: Tuning = Tuning(),
    scoring: Scoring = Scoring(),
    seed: int = 0,
) -> None:
    """Train the projector, resuming where an interrupted run stopped; write it, its scores and its card."""
    runs = resources.runs("nano-llava")
    target = resources.models() / "nano-llava"
    target.mkdir(parents=True, exist_ok=True)

    distilled = distil(distillation, runs / "distilled", seed)
    trained = finetune.run(tuning_profile(distilled, tuning, seed), runs / "tuned")

    # The projector alone, by its own names.
    weights = load_file(trained / TRAINED_WEIGHTS)
    projector = {name.removeprefix("resampler."): weight for name, weight in weights.items()}
    with resources.atomic_write(target / PROJECTOR) as temporary:
        save_file(projector, temporary)

    candidates = {
        "nano-base": resampler_profile(64),
        "nano-base, 36 queries": resampler_profile(36),
        "nano-base, 144 queries": resampler_profile(144),
        "projector, distilled": llava_profile(distilled),
        "nano-llava": llava_profile(target / PROJECTOR),
    }
    score(candidates, scoring, target / SCORES)
    parameters = sum(weight.numel() for weight in projector.values())
    card.write(target, parameters, asdict(distillation), asdict(tuning), target / SCORES)
    say(f"wrote {resources.display_path(target)}")


if __name__ == "__main__":
    argparse.ArgumentParser(description=main.__doc__).parse_args()
    main()
