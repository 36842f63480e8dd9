"""Run the torture and write its table: `python -m tests.torture`, or `make torture`.

Every case runs the command line in a process of its own. What it prints is the outcome of each case; what it
writes is the number of cases of each area and how many of them came out right. In the areas of kills and of
starts, it counts kills and starts.

The outcomes are noted as they come, in `data/runs/nano/torture`, those of kills with the seed of each. With
`--resume`, cases that were right are not tried again: a torture that was interrupted goes on, and one of
1,000 kills may follow one of 300.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from monkeylib import resources, tables
from monkeylib.reproduce.tables import update_page
from tests.torture import (
    checkpoints,
    disks,
    growth,
    images,
    kills,
    processes,
    ray_kills,
    records,
    starts,
    yaml_files,
)
from tests.torture.cases import Case, Result, run_cases

TABLE = resources.results(resources.COMMITTED_PROFILE) / "torture.csv"
OUTCOMES = resources.runs(resources.COMMITTED_PROFILE) / "torture"
PAGE = resources.REPOSITORY / "docs" / "robustness.md"

AREAS: dict[str, Callable[[argparse.Namespace], Iterator[Case]]] = {
    "images": lambda arguments: images.cases(),
    "records": lambda arguments: records.cases(),
    "checkpoints": lambda arguments: checkpoints.cases(),
    "yaml": lambda arguments: yaml_files.cases(),
    "disks": lambda arguments: disks.cases(),
    "processes": lambda arguments: processes.cases(),
    "kills": lambda arguments: kills.cases(arguments.kills, arguments.seed),
    "caption-kills": lambda arguments: kills.caption_cases(arguments.kills, arguments.seed),
    "ray-kills": lambda arguments: ray_kills.cases(arguments.kills, arguments.seed),
    "growth": lambda arguments: growth.cases(arguments.images),
    "starts": lambda arguments: starts.cases(arguments.starts),
}

# Not among those that run by default: they take hours.
LONG_AREAS = {"caption-kills", "ray-kills", "starts"}


class Outcomes:
    """File of the outcomes of an area's cases, one JSON object a line. The latest one of a case counts.

    Args:
        path: the file.
        resume: keep the outcomes that it holds.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        self.path = path
        self.results: dict[tuple[str, str], Result] = {}
        self._lock = threading.Lock()

        path.parent.mkdir(parents=True, exist_ok=True)
        if not resume:
            path.unlink(missing_ok=True)
        if path.exists():
            # A killed torture may have left half a line.
            lines = [
                line for line in path.read_text(encoding="utf-8").splitlines(True) if line.endswith("\n")
            ]
            path.write_text("".join(lines), encoding="utf-8")
            for line in lines:
                self._keep(Result(**json.loads(line)))

    def _keep(self, result: Result) -> None:
        self.results[result.area, result.name] = result

    def add(self, result: Result) -> None:
        """Print an outcome, and note it."""
        verdict = "right" if result.passed else "WRONG"
        print(f"{verdict}  {result.area}: {result.name}: {result.outcome}", flush=True)

        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")
            self._keep(result)

    def is_right(self, case: Case) -> bool:
        """Return whether a case has come out right."""
        result = self.results.get((case.area, case.name))
        return result is not None and result.passed


def main() -> None:
    """Run the cases of some areas, print each, and write their rows of the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "areas",
        nargs="*",
        choices=[*AREAS, []],
        help=f"areas to run; all but {', '.join(sorted(LONG_AREAS))} by default",
    )
    parser.add_argument("--kills", type=int, default=300, help="kills in all")
    parser.add_argument("--starts", type=int, default=300, help="starts of two processes")
    parser.add_argument("--images", type=int, default=20_000, help="images of the runs that watch memory")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which runs are killed")
    parser.add_argument("--workers", type=int, default=2, help="cases at a time")
    parser.add_argument("--resume", action="store_true", help="leave out cases that were right")
    arguments = parser.parse_args()

    start = time.monotonic()
    rows = []
    failed = 0
    for area in arguments.areas or [area for area in AREAS if area not in LONG_AREAS]:
        cases = list(AREAS[area](arguments))
        outcomes = Outcomes(OUTCOMES / f"{area}.jsonl", arguments.resume)
        run_cases(
            [case for case in cases if not outcomes.is_right(case)],
            arguments.workers,
            outcomes.add,
        )

        # A skipped case has no result.
        results = [
            outcomes.results[key] for case in cases if (key := (case.area, case.name)) in outcomes.results
        ]
        failed += sum(not result.passed for result in results)
        area_rows = count_results(results)
        rows += area_rows
        write_table(area_rows, TABLE)

    minutes = (time.monotonic() - start) / 60
    tables.print_table(rows, f"torture, {minutes:.0f} minutes", Console())
    update_page(PAGE)
    print(f"wrote {resources.display_path(TABLE)} and its table in {resources.display_path(PAGE)}")
    raise SystemExit(1 if failed else 0)


def write_table(rows: list[tables.Row], path: Path) -> None:
    """Write the rows of the areas that were run; those of others stay."""
    previous = tables.read_csv(path) if path.exists() else []
    by_area = {row["area"]: row for row in [*previous, *rows]}
    tables.write_csv(list(by_area.values()), path)


def count_results(results: list[Result]) -> list[dict[str, str | int]]:
    """Return the number of cases of each area, and of those that came out right, each with its trials."""
    areas = dict.fromkeys(result.area for result in results)
    return [
        {
            "area": area,
            "cases": sum(result.trials for result in results if result.area == area),
            "right": sum(result.trials for result in results if result.area == area and result.passed),
        }
        for area in areas
    ]


if __name__ == "__main__":
    main()
