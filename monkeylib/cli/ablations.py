"""`monkeylib ablations`: train and score the grid of experiments."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monkeylib import resources
from monkeylib.cli import options
from monkeylib.progress import say, say_error

if TYPE_CHECKING:
    from monkeylib.profiles import Profile
    from monkeylib.tables import Row

# Operations a second that the runs of the committed grid reach on one core: per_tile takes ten minutes.
_CPU_FLOPS = 90e9


def _hours(profile: "Profile", rows: "list[Row]") -> str:
    """Return the hours of a plan in words: of a GPU and, for the profile of the committed grid, of a core."""
    gpu_hours = sum(float(row["gpu_hours"] or 0) for row in rows)
    text = f"{gpu_hours:.3g} GPU hours"
    if profile.name == resources.COMMITTED_PROFILE:
        flops = sum(int(row["runs"]) * float(row["petaflops_per_run"]) * 1e15 for row in rows)
        text += f", or about {flops / _CPU_FLOPS / 3600:.1f} hours of one CPU core"
    return text


def ablations(
    profile: options.Profile = resources.COMMITTED_PROFILE,
    only: Annotated[
        list[str] | None, typer.Option(help="Run only this variant, such as per_tile. May be repeated.")
    ] = None,
    rendering: Annotated[
        list[str] | None,
        typer.Option(help="Run only in this rendering: ordinary, fixed or dealt. May be repeated."),
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(help="Run with this seed, also one that the grid has not. May be repeated."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Runs side by side. Default: one for each GPU, or for each CPU core."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print runs, GPU hours and memory, and run nothing.")
    ] = False,
    publish: Annotated[
        bool, typer.Option("--publish", help="Put finished runs into the committed table.")
    ] = False,
) -> None:
    """Train and score named variants of Monkey from one base model, for hours; interrupt it and go on later.

    Runs that are finished here, or whose results are committed, are skipped. With --only, committed ones are
    run here, too, and their scores are printed beside the committed ones.
    """
    from rich.console import Console

    from monkeylib import profiles
    from monkeylib.experiments import claims, grid
    from monkeylib.tables import print_table

    # The grid names its seeds itself; a notebook's kernel may have chosen another one for its tables.
    resources.use_seed(0)
    loaded = profiles.load_profile(profile)
    profiles.require_own_name(loaded)
    cells = grid.list_cells(only or (), rendering or (), seed or ())
    if dry_run:
        rows = grid.plan(loaded, cells)
        print_table(rows, f"{len(cells)} runs of profile {profile}", Console())
        print("GPU hours are those of an H100, if training reaches 40 % of its peak")
        print(f"in all {_hours(loaded, rows)}")

        left = grid.cells_to_train(loaded, cells, committed=not only)
        if not left:
            print("none of them is left: all are finished")
        elif len(left) < len(cells):
            remaining = _hours(loaded, grid.plan(loaded, left, with_memory=False))
            print(f"left: {len(left)} of {len(cells)} runs, {remaining}")
        return

    outcome = grid.run_grid(loaded, cells, workers, committed=not only)
    if outcome.skipped:
        where = "here" if only else "here or in the committed table"
        say(f"{len(outcome.skipped)} of {len(cells)} runs were finished already, {where}")
    # What is finished here is not trained again by naming it; what is only committed is.
    only_committed = grid.cells_to_train(loaded, outcome.skipped, committed=False)
    if only_committed and len(outcome.skipped) == len(cells):
        first = only_committed[0]
        named = f"--only {first.variant} --rendering {first.rendering} --seed {first.seed}"
        say(f"to train a committed one on this machine, name it: {named}")
    if publish:
        names = ", ".join(cell.name for cell in grid.publish(loaded))
        say(f"published {names or 'nothing, since no run is finished'}")
        if names:
            claims.write_claims(loaded)

    rows = grid.beside_committed(loaded, grid.collect(loaded, cells), loaded.ablation.steps)
    if rows:
        print_table(rows, "After the last step, beside what is committed", Console())
    if outcome.failed:
        folder = resources.display_path(Path(grid.folder_of(loaded)))
        say_error(f"{len(outcome.failed)} runs failed, see log.txt in their folders in {folder}")
        raise typer.Exit(1)
