"""All benchmarks of speed and memory: every path that a user waits for, against an alternative.

    python benchmarks/run.py            # 20 minutes on two cores
    python benchmarks/run.py --quick    # 3 minutes: smaller sizes, one round
    python benchmarks/run.py --only visual_tokens loss

It writes results/paths.json (with --quick results/paths-quick.json), and fills the table and draws the figure
of docs/performance.md. With --only, groups that are measured anew replace those of the same machine's
results; where it has none, nothing is written. How two ways are compared, and what the numbers
mean, is in `pairing.py`; the rows are in the modules that `MODULES` lists.
"""

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pages
import torch
from pairing import ENVIRONMENT, Row, Settings, in_process, machine, write_json

from monkeylib import resources

FOLDER = Path(__file__).parent
# Each has `ROWS`: the name of a group of rows -> the function that measures them.
MODULES = (
    "preprocessing",
    "matching",
    "visual",
    "tile_adapters",
    "language",
    "peers",
    "start",
)

Measure = Callable[[Settings], list[Row]]


def groups() -> dict[str, Measure]:
    """Return all groups of rows, in the order of the table."""
    return {
        name: measure
        for module in MODULES
        if (FOLDER / f"{module}.py").is_file()
        for name, measure in importlib.import_module(module).ROWS.items()
    }


def measure(name: str, settings: Settings) -> list[Row]:
    """Return the rows of a group, measured in a process of its own; a failed one is a row, too."""
    start = time.perf_counter()
    try:
        rows = in_process(lambda: groups()[name](settings))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        rows = [{"path": name, "failed": str(error).strip().splitlines()[-1]}]

    for row in rows:
        print(pages.sentence(row), flush=True)
    print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    return [{"group": name, **row} for row in rows]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write results and page; the exit code is 1 where a group failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller sizes and one round, in 3 minutes")
    parser.add_argument("--rounds", type=int, help="timed rounds; by default 3, with --quick 1")
    parser.add_argument(
        "--only", nargs="+", metavar="GROUP", help="groups of rows, which replace those of a whole run"
    )
    options = parser.parse_args(arguments)

    names = list(groups())
    if unknown := set(options.only or ()) - set(names):
        raise SystemExit(f"there is no group {min(unknown)!r}: expected {', '.join(names)}")

    torch.set_num_threads(1)
    settings = Settings(options.rounds or (1 if options.quick else 3), options.quick)
    target = FOLDER / "results" / ("paths-quick.json" if options.quick else "paths.json")
    earlier, earlier_load = _rows_of_this_machine(target) if options.only else ({}, 0.0)
    if options.only and not earlier:
        print("no whole run of this machine: nothing is written", file=sys.stderr)

    measured: dict[str, list[Row]] = {}
    for name in options.only or names:
        measured[name] = measure(name, settings)
        if not measured[name] and name in earlier:
            print(
                f"{name}: a package is missing, so nothing was measured; earlier rows stay", file=sys.stderr
            )
            measured[name] = earlier[name]
        # After each group, so that a run that is stopped leaves those that are finished.
        if earlier or not options.only:
            merged = {**earlier, **measured}
            all_rows = [row for group in names for row in merged.get(group, [])]
            write_json(all_rows, target, settings, earlier_load)

    if earlier or not options.only:
        print(f"wrote {resources.display_path(target)}")
        print(f"wrote {resources.display_path(pages.write_page())}")
    rows = [row for group in measured.values() for row in group]
    return int(any("failed" in row for row in rows))


def _rows_of_this_machine(file: Path) -> tuple[dict[str, list[Row]], float]:
    """Return the rows of an earlier run by group, and the machine's load; none of another machine, or where
    there is no such run."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        return {}, 0.0
    # The load may be another one.
    if {**document["machine"], "load": 0} != {**machine(), "load": 0}:
        return {}, 0.0

    groups_of_rows: dict[str, list[Row]] = {}
    for row in document["rows"]:
        groups_of_rows.setdefault(row["group"], []).append(row)
    return groups_of_rows, document["machine"]["load"]


def restart_with_fixed_allocator() -> None:
    """Replace this process by one with the environment in which everything is measured."""
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ENVIRONMENT)


def run(_: Any = None) -> None:
    """Run the command line."""
    restart_with_fixed_allocator()
    raise SystemExit(main())


if __name__ == "__main__":
    run()
