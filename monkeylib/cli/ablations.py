"""`monkeylib ablations`: train and score the grid of experiments."""

from pathlib import Path
from typing import Annotated

import typer

from monkeylib import resources
from monkeylib.cli import options
from monkeylib.progress import say, say_error

# Operations a second that the runs of the committed grid reach on one core: per_tile takes ten minutes.
_CPU_FLOPS = 90e9


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

    Runs that are finished, or whose results are committed, are skipped; named ones are run anyway, and their
    scores are printed beside the committed ones.
    """
    from rich.console import Console

    from monkeylib import profiles
    from monkeylib.experiments import claims, grid
    from monkeylib.tables import print_table

    # The grid names its seeds itself; a notebook's kernel may have chosen another one for its tables.
    resources.use_seed(0)
    loaded = profiles.load_profile(profile)
    cells = grid.list_cells(only or (), rendering or (), seed or ())
    if dry_run:
        rows = grid.plan(loaded, cells)
        print_table(rows, f"{len(cells)} runs of profile {profile}", Console())
        hours = sum(float(row["gpu_hours"] or 0) for row in rows)
        print(f"{hours:.3g} GPU hours in all, if training reaches 40 % of the peak of an H100")
        if loaded.name == resources.COMMITTED_PROFILE:
            flops = sum(int(row["runs"]) * float(row["petaflops_per_run"]) * 1e15 for row in rows)
            print(f"on a CPU about {flops / _CPU_FLOPS / 3600:.1f} hours of one core")
        return

    outcome = grid.run_grid(loaded, cells, workers, committed=not only)
    for cell in outcome.skipped:
        say(f"{cell.name} is finished already")
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
