"""Run the torture and write its table: `python -m tests.torture`, or `make torture`.

Every case runs the command line in a process of its own. What it prints is the outcome of each case; what it
writes is the number of cases of each area and how many of them came out right.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from rich.console import Console

from monkeylib import resources, tables
from monkeylib.experiments.variants import TITLES
from monkeylib.reproduce.tables import update_page
from tests.torture import checkpoints, disks, growth, images, kills, processes, records, yaml_files
from tests.torture.cases import Case, Result, run_cases

TABLE = resources.results(resources.COMMITTED_PROFILE) / "torture.csv"
README = resources.REPOSITORY / "README.md"

AREAS: dict[str, Callable[[argparse.Namespace], Iterator[Case]]] = {
    "images": lambda arguments: images.cases(),
    "records": lambda arguments: records.cases(),
    "checkpoints": lambda arguments: checkpoints.cases(),
    "yaml": lambda arguments: yaml_files.cases(),
    "disks": lambda arguments: disks.cases(),
    "processes": lambda arguments: processes.cases(),
    "kills": lambda arguments: _kill_cases(arguments.kills, arguments.seed),
    "growth": lambda arguments: growth.cases(arguments.images),
}


def _kill_cases(count: int, seed: int) -> Iterator[Case]:
    """Yield a case for each kind of run, which is killed again and again."""
    for number, kind in enumerate(kills.KINDS):
        share = count // len(kills.KINDS) + (number < count % len(kills.KINDS))
        yield Case("kills", f"{share} kills of {kind.name}", partial(_kill, kind, share, seed))


def _kill(kind: kills.Kind, count: int, seed: int, folder: Path) -> str:
    result = kills.kill_runs(kind, count, seed, workers=1)
    assert not result.faults, f"{len(result.faults)} faults, such as: {result.faults[0]}"
    by_signal = ", ".join(f"{number} {name}" for name, number in sorted(result.by_signal.items()))
    return f"{result.runs} runs as uninterrupted ones after {by_signal}"


def main() -> None:
    """Run the cases of some areas, print each, and write their rows of the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("areas", nargs="*", choices=[*AREAS, []], help="areas to run; all by default")
    parser.add_argument("--kills", type=int, default=300, help="kills in all")
    parser.add_argument("--images", type=int, default=20_000, help="images of the runs that watch memory")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which runs are killed")
    parser.add_argument("--workers", type=int, default=2, help="cases at a time")
    arguments = parser.parse_args()

    start = time.monotonic()
    rows = []
    failed = 0
    for area in arguments.areas or AREAS:
        results = run_cases(AREAS[area](arguments), arguments.workers, _print)
        rows += count_results(results)
        failed += sum(not result.passed for result in results)

    minutes = (time.monotonic() - start) / 60
    tables.print_table(rows, f"torture, {minutes:.0f} minutes", Console())
    write_table(rows, TABLE)
    update_page(README, names=TITLES)
    print(f"wrote {resources.display_path(TABLE)} and its table in the README")
    raise SystemExit(1 if failed else 0)


def write_table(rows: list[tables.Row], path: Path) -> None:
    """Write the rows of the areas that were run; those of others stay."""
    previous = tables.read_csv(path) if path.exists() else []
    by_area = {row["area"]: row for row in [*previous, *rows]}
    tables.write_csv(list(by_area.values()), path)


def count_results(results: list[Result]) -> list[dict[str, str | int]]:
    """Return the number of cases of each area, and of those that came out right."""
    areas = dict.fromkeys(result.area for result in results)
    return [
        {
            "area": area,
            "cases": sum(result.area == area for result in results),
            "right": sum(result.area == area and result.passed for result in results),
        }
        for area in areas
    ]


def _print(result: Result) -> None:
    verdict = "right" if result.passed else "WRONG"
    print(f"{verdict}  {result.area}: {result.name}: {result.outcome}", flush=True)


if __name__ == "__main__":
    main()
