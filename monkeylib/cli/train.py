"""`monkeylib train`: fine-tune a base model into Monkey."""

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from monkeylib import resources
from monkeylib.cli import options
from monkeylib.progress import say

if TYPE_CHECKING:
    from monkeylib.data.mixture import Mixture
    from monkeylib.profiles import Profile
    from monkeylib.profiles.raised import RaisedProfile
    from monkeylib.training.batches import TrainingData

# Of each dataset before training: a second or two.
_CHECKED_RECORDS = 2_000


def train(
    profile: options.Profile = resources.COMMITTED_PROFILE,
    data: Annotated[
        str,
        typer.Option(help="Name or YAML file of a mixture, or a file of records. Default: synthetic data."),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run. Default: below data/runs, by profile, seed and data."),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint of the base model, by default the profile's: a folder, a shipped model's name, "
            "or a name on a hub; or a model of transformers that is raised."
        ),
    ] = None,
    grid: Annotated[
        str,
        typer.Option(
            metavar="GRID",
            help="Tiles that a model of transformers is raised to: ROWSxCOLUMNS, or auto:6 for those of an "
            "image's shape, up to six. Default: 2x2.",
        ),
    ] = "",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Number of optimizer steps. Default: the profile's.")
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Number of epochs over the mixture, instead of steps.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Examples per step, over all devices. Default: the profile's.")
    ] = None,
    micro_batch_size: Annotated[
        int | None, typer.Option(min=1, help="Micro-batch: examples per device at once.")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate of components without their own: training.lr.")
    ] = None,
    warmup: Annotated[
        float | None, typer.Option(help="Warm-up of the learning rate: training.warmup.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Lightning's name of a precision, such as bf16-mixed.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that prepare data on each device.")] = None,
    save_every: Annotated[
        str,
        typer.Option(metavar="N|Nmin", help="Save a checkpoint every N steps, or every N minutes (30min)."),
    ] = "",
    assignments: options.Set = None,
    devices: Annotated[int, typer.Option(min=1, help="Devices per node.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Number of nodes.")] = 1,
    strategy: Annotated[
        Literal["auto", "ddp", "fsdp"] | None, typer.Option(help="Lightning's strategy for several devices.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip bad records and list them in skipped.jsonl.")
    ] = False,
    wandb: Annotated[
        bool, typer.Option("--wandb", help="Log to Weights & Biases too; offline without WANDB_API_KEY.")
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Train anew, in place of the run in the folder; other files stay."),
    ] = False,
    json: Annotated[
        bool,
        typer.Option("--json", help="Print a line of JSON: the trained model, its steps and last losses."),
    ] = False,
) -> None:
    """Fine-tune a profile's base model into Monkey, or a model of transformers that is raised.

    The same command resumes an interrupted run at its last checkpoint, also with more steps, on other devices
    or with another micro-batch size.
    """
    from lightning.pytorch.utilities import rank_zero_only

    from monkeylib.data import mixture as mixtures
    from monkeylib.profiles.overrides import override, parse_assignments
    from monkeylib.training import finetune

    options.hide_loading_bars()
    data = str(resources.to_path(Path(data))) if data else ""
    # Only options that were given override the profile.
    short_forms = {
        "training.steps": steps,
        "training.batch_size": batch_size,
        "training.micro_batch_size": micro_batch_size,
        "training.strategy": strategy,
        "training.lr": lr,
        "training.warmup": warmup,
        "training.precision": precision,
        "training.workers": workers,
        **_save_interval(save_every),
    }
    start, changes = _start(profile, base, grid, data)
    changes |= {name: value for name, value in short_forms.items() if value is not None}
    assigned = parse_assignments(assignments or ())
    if twice := sorted(changes.keys() & assigned.keys()):
        raise ValueError(f"{twice[0]} is given by --set and by an option of its own: leave one of them out")

    changes |= assigned
    settings = override(start, changes)

    seed = settings.training.seed
    folder = resources.to_path(out) if out else _default_folder(settings.name, profile, data, seed)

    training_data = None  # the profile's synthetic data
    if data:
        mixture = mixtures.load_mixture(data)
        if rank_zero_only.rank == 0:
            for sentence in (*mixture.left_out(), *mixture.without_images()):
                say(sentence)
        num_records = None
        if epochs is not None:
            num_records = _num_records(epochs, mixture)
            # Rounded up, so that the last batch may be smaller.
            settings = settings.with_training(steps=-(-num_records // settings.training.batch_size))
        training_data = _mixture_data(mixture, num_records, folder / "skipped.jsonl" if skip_bad else None)
    elif epochs is not None:
        raise ValueError("Synthetic data has no epochs: give --steps, or --data with --epochs.")

    with options.lines_of_json_alone(json):
        checkpoint = finetune.run(
            settings,
            folder,
            True,
            training_data,
            finetune.Devices(devices, nodes),
            wandb,
            fresh=fresh,
            notes={"data": data or "synthetic", "overrides": changes},
        )

    # Every process of a distributed run gets here.
    if rank_zero_only.rank != 0:
        return
    if json:
        options.print_json(
            {
                "model": resources.display_path(checkpoint),
                "run": resources.display_path(folder),
                "profile": settings.name,
                "data": data or "synthetic",
                "seed": seed,
                "steps": settings.training.steps,
                **_last_losses(folder),
                **_skipped(training_data),
            }
        )
    else:
        _print_result(checkpoint, training_data)


def _start(
    profile: str, base: Path | None, grid: str, data: str
) -> "tuple[Profile | RaisedProfile, dict[str, Any]]":
    """Return the profile of a run, and the fields of it that options say.

    Raises:
        ValueError: options of a Monkey for a base of transformers, or the other way round.
    """
    from monkeylib import profiles
    from monkeylib.checkpoints import hub
    from monkeylib.profiles.raised import RaisedProfile
    from monkeylib.raising import loading
    from monkeylib.tiling import parse_grid

    path = None if base is None else options.find_model(base)
    if path is None or not (loading.is_raised(path) or loading.may_be_raised(path)):
        if grid:
            raise ValueError(
                "--grid is of a model of transformers, which --base names: a Monkey's grid is said by its "
                "profile, such as --set rows=2 --set cols=3"
            )
        # A Monkey on a hub is fetched first, like any other base.
        changes = {} if path is None else {"base_checkpoint": str(hub.fetch_model(path).resolve())}
        return profiles.load_profile(profile), changes

    if profile != resources.COMMITTED_PROFILE:
        raise ValueError(
            f"--profile {profile} is of a Monkey, and {base} is a model of transformers: leave it out, and "
            "change single fields by --set, such as --set rank=8 or --set connector=frozen"
        )
    if not data:
        raise ValueError("a model of transformers that is raised trains on your records: name them by --data")
    if grid:
        parse_grid(grid)
    name = str(path.resolve()) if path.exists() else str(path)
    changes = {"base": name, **({"grid": grid} if grid else {})}
    return RaisedProfile(name=f"raised-{path.name}", base=name), changes


def _save_interval(text: str) -> dict[str, float]:
    """Return the fields of a saving interval in steps ("500") or in minutes ("30min").

    Raises:
        ValueError: it is neither.
    """
    if not text:
        return {}
    number, is_minutes = text.removesuffix("min"), text.endswith("min")
    try:
        if is_minutes:
            return {"training.save_every_minutes": float(number)}
        return {"training.save_every_steps": int(number)}
    except ValueError as error:
        raise ValueError(f"--save-every takes steps (500) or minutes (30min), got {text!r}") from error


def _default_folder(name: str, profile: str, data: str, seed: int) -> Path:
    """Return the folder of a run, named after its profile, its seed and its mixture.

    Files of the user's may have one name in several folders, so their folders tell their runs apart.
    """
    from monkeylib.data import mixture as mixtures
    from monkeylib.training import fingerprint

    data_name = "monkey"
    if data:
        file = mixtures.find_mixture(data)
        data_name = file.stem if file.parent == mixtures.FOLDER else _name_with_folder(file)

    is_file = profile.endswith(".yaml")
    profile_name = _name_with_folder(Path(profile)) if is_file else name
    folder = resources.runs(profile_name, seed) / data_name

    # Where an earlier version has begun to train with this seed, it goes on.
    earlier = resources.runs(profile_name) / data_name
    return earlier if not folder.exists() and fingerprint.seed_of_run(earlier) == seed else folder


def _name_with_folder(file: Path) -> str:
    """Return the name of a file with a short digest of its folder: mixture-1f2e3d4c."""
    from monkeylib.digests import text_digest

    return f"{file.stem}-{text_digest(str(file.resolve().parent))[:8]}"


def _check_images(mixture: "Mixture") -> None:
    """Look for the images of the first records of each dataset and of the validation before a run begins.

    Raises:
        BadRecord: a record or an image of it cannot be read.
    """
    from monkeylib.data.records import BadRecord

    for records in (*mixture.sets, mixture.validation or ()):
        for number in range(min(len(records), _CHECKED_RECORDS)):
            try:
                records[number].read_sizes()
            except BadRecord as error:
                raise error.with_advice() from error


def _num_records(epochs: float, mixture: "Mixture") -> int:
    """Return how many examples the epochs have."""
    if not math.isfinite(epochs):
        raise ValueError(f"--epochs has to be a finite number, got {epochs}.")
    num_records = round(epochs * len(mixture))
    if num_records < 1:
        raise ValueError(f"--epochs {epochs} of {len(mixture)} records is less than one: give more.")
    return num_records


def _mixture_data(mixture: "Mixture", num_records: int | None, skipped: Path | None) -> "TrainingData":
    """Return a mixture as training data.

    Args:
        mixture: the mixture.
        num_records: examples to train on; without an end if not given.
        skipped: file that lists skipped bad records; a bad record is an error if not given.
    """
    from monkeylib.training.batches import SkippedRecords, TrainingData

    validation = mixture.validation
    # The fingerprint is computed in the first process alone.
    return TrainingData(
        mixture,
        validation,
        mixture.fingerprint,
        num_records=num_records,
        num_validation_records=None if validation is None else len(validation),
        skipped=None if skipped is None else SkippedRecords(skipped),
        check=partial(_check_images, mixture) if skipped is None else None,
    )


def _print_result(checkpoint: Path, data: "TrainingData | None") -> None:
    print(f"trained model: {resources.display_path(checkpoint)}")

    skipped = _skipped(data)
    if skipped["skipped"]:
        print(f"skipped {skipped['skipped']} bad records, listed in {skipped['skipped_file']}")


def _skipped(data: "TrainingData | None") -> dict[str, int | str | None]:
    """Return how many bad records were skipped, `skipped`, and the file that lists them, `skipped_file`."""
    count = 0 if data is None or data.skipped is None else len(data.skipped.errors())
    return {"skipped": count, "skipped_file": resources.display_path(data.skipped.file) if count else None}


def _last_losses(folder: Path) -> dict[str, float | None]:
    """Return the last `train_loss` and `val_loss` of a run; None of a part that has logged none."""
    from monkeylib.training import curves

    file = folder / "metrics.csv"
    last = {row["part"]: row["loss"] for row in curves.read_curves(file)} if file.exists() else {}
    return {f"{split}_loss": last.get(split) for split in curves.SPLITS}
