"""The page docs/performance.md and the README's table of speed, from the committed results.

python benchmarks/pages.py    # fills both anew, without measuring
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exponents import growth_row

from monkeylib import resources, tables
from monkeylib.reproduce.tables import fill_blocks, markdown_table

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
PAGE = FOLDER.parent / "docs" / "performance.md"
README = FOLDER.parent / "README.md"
FIGURE = FOLDER.parent / "docs" / "performance.png"

COLUMNS = {
    "path": "path",
    "against": "against",
    "size": "size",
    "monkeylib": "monkeylib",
    "other": "other",
    "ratio": "ratio",
    "spread": "lowest–highest",
    "target": "target",
    "verdict": "reached",
    "share": "share of GEMM",
}

# The rows of the README, in its order: path, and size; each against the released way, or encoding anew.
README_ROWS = (
    ("JPEG to views, in bytes", "1344 x 896"),
    ("visual tokens", "width 512, 4 layers, 896 x 896, batch 1"),
    ("peak memory of visual tokens", "width 512, 4 layers, 896 x 896"),
    ("answer_batch on one image", "16 questions, 1280 visual tokens"),
    ("second turn of a chat", "16 questions, 1280 visual tokens"),
    ("loss, forward and backward", "100 of 2,048 tokens are learned, 151,936 words"),
    ("loss, forward and backward", "600 of 2,048 tokens are learned, 151,936 words"),
)
README_COLUMNS = {column: COLUMNS[column] for column in list(COLUMNS)[:6]}  # up to the ratio
SPEED = re.compile(r"(?<=<!-- speed -->\n).*?(?=<!-- /speed -->)", re.DOTALL)


def read(name: str) -> dict[str, Any] | None:
    """Return a file of results; None where nothing was measured."""
    path = RESULTS / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def read_paths() -> dict[str, Any] | None:
    """Return the results of all paths: of the full run, else of the quick one."""
    return read("paths.json") or read("paths-quick.json")


def verdict(row: Mapping[str, Any]) -> str:
    """Return whether a row reaches its target, and by how much it misses."""
    if row.get("target") is None:
        return "–"
    if row["met"]:
        return "yes"

    value = row.get("ratio", row["monkeylib"])
    share = abs(value / row["target"] - 1)
    return f"no: {100 * share:.0f} % {'over' if row.get('target is') == 'at most' else 'short'}"


def line(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the cells of a row."""
    if "failed" in row:
        return {"path": row["path"], "verdict": f"failed: {row['failed']}"}

    unit = row["unit"]
    sign = {"at most": "≤ ", "at least": "≥ "}.get(row.get("target is", ""), "≥ ")
    times = "×" if "ratio" in row else f" {unit}"
    spread = f"{row['lowest']:.3g}–{row['highest']:.3g}"
    shares = [row.get(f"share of GEMM, {name}") for name in ("monkeylib", "other")]
    return {
        "path": row["path"],
        "against": row["against"],
        "size": row["size"],
        "monkeylib": f"{_digits(row['monkeylib'])} {unit}",
        "other": f"{_digits(row['other'])} {unit}" if "other" in row else "–",
        "ratio": f"{row['ratio']:.2f}×" if "ratio" in row else "–",
        "spread": spread,
        "target": "–" if row.get("target") is None else f"{sign}{row['target']:.3g}{times}",
        "verdict": verdict(row),
        "share": "–" if shares[0] is None else f"{100 * shares[0]:.0f} % (other {100 * shares[1]:.0f} %)",
    }


def sentence(row: Mapping[str, Any]) -> str:
    """Return a row as a line of text."""
    return ", ".join(f"{name}: {value}" for name, value in line(row).items())


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of all paths."""
    return markdown_table([line(row) for row in rows], COLUMNS)


def limits_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of what takes the time of the paths that miss their targets."""
    lines = [
        {
            "path": row["path"],
            "against": row["against"],
            "size": row["size"],
            **{name: _shares(row["limits"][name]) for name in ("monkeylib", "other")},
        }
        for row in rows
        if "limits" in row
    ]
    return markdown_table(lines) if lines else "No path misses its target.\n"


def _digits(value: float) -> str:
    """Return a number to three digits: 0.0521, 1.86, 3,570."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())


def machine_line(document: Mapping[str, Any]) -> str:
    """Return what the numbers depend on."""
    machine = document["machine"]
    how = "Measured at the smaller sizes of `QUICK=1`" if document["quick"] else "Measured"
    return (
        f"{how} on one thread of {machine['processor']} ({machine['cores']} cores, {machine['load']} "
        f"programs that wanted one), torch {machine['torch']}.\n"
    )


def caption_growth() -> list[dict[str, Any]]:
    """Return the row of the caption pipeline from the results of caption_growth.py; none without them."""
    path = RESULTS / "caption_growth.csv"
    if not path.is_file():
        return []

    runs = [row for row in tables.read_csv(path) if row["kind"] == "measured"]
    measured = sorted((float(row["images"]), float(row["CPU s"])) for row in runs)
    work = f"`monkeylib caption` with two light experts, on {runs[0]['processor']}"
    return [growth_row("images", "images", work, measured)]


def fill_page(page: str) -> str:
    """Return the page with the tables of the results in their marked places."""
    nothing = "Nothing has been measured yet.\n"

    def render(name: str) -> str:
        if name == "paths":
            document = read_paths()
            if document is None:
                return nothing
            figure = f"![Ratios of all paths with their targets]({FIGURE.name})"
            return f"{machine_line(document)}\n{table(document['rows'])}\n{figure}\n"
        if name == "limits":
            document = read_paths()
            return nothing if document is None else limits_table(document["rows"])
        document = read(f"{name}.json")
        if document is None:
            return nothing
        rows = document["rows"] + (caption_growth() if name == "growth" else [])
        text = machine_line(document) if "machine" in document else ""
        return f"{text}\n{markdown_table(rows)}" if text else markdown_table(rows)

    return fill_blocks(page, render)


def fill_readme(readme: str) -> str:
    """Return the README with its rows of the full run's results; as it is without such a run.

    Raises:
        ValueError: a row was not measured, or the README has no place for the table.
    """
    document = read("paths.json")
    if document is None:
        return readme

    rows = [line(_row_of(document["rows"], path, size)) for path, size in README_ROWS]
    filled, count = SPEED.subn(lambda _: markdown_table(rows, README_COLUMNS), readme)
    if count != 1:
        raise ValueError(f"the README needs one place for the table of speed, <!-- speed -->: got {count}")
    return filled


def _row_of(rows: Sequence[Mapping[str, Any]], path: str, size: str) -> Mapping[str, Any]:
    """Return the first row of a path and a size, which is the one against the released way."""
    for row in rows:
        if (row["path"], row.get("size")) == (path, size):
            return row
    raise ValueError(f"the README shows {path!r} at {size!r}, which was not measured: measure it again")


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the ratio of each path with its spread and its target."""
    from matplotlib import pyplot, ticker

    from monkeylib.plots.style import use_style

    compared = [row for row in rows if "ratio" in row][::-1]
    use_style()
    figure, axes = pyplot.subplots(figsize=(11, 0.3 * len(compared) + 1.2))
    places = range(len(compared))
    ratios = [row["ratio"] for row in compared]
    spread = [
        [row["ratio"] - row["lowest"] for row in compared],
        [row["highest"] - row["ratio"] for row in compared],
    ]
    axes.errorbar(ratios, places, xerr=spread, fmt="o", label="measured, with the spread of the rounds")
    targets = [(row["target"], place) for place, row in zip(places, compared, strict=True) if row["target"]]
    axes.plot([target for target, _ in targets], [place for _, place in targets], "|", ms=12, label="target")
    axes.axvline(1, linewidth=0.8, color="0.5")

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.FixedLocator([0.5, 1, 2, 5, 10, 20]))
    axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_ylim(-0.7, len(compared) - 0.3)
    axes.set_yticks(list(places), _labels(compared[::-1])[::-1])
    axes.tick_params(axis="y", labelsize="small")
    axes.set_xlabel("the alternative's time or memory, divided by monkeylib's")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
    figure.savefig(path, format="png", dpi=110, bbox_inches="tight")
    pyplot.close(figure)


def _labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return for each row what is measured, against what, and the beginning of its size, or all of it where
    several rows begin alike; "it" is the path of the row before."""
    labels, whole, before = [], [], ""
    for row in rows:
        path = row["path"].removeprefix("peak memory of ")
        path = before if path == "it" or path.startswith("it,") else path
        against = row["against"].removeprefix("transformers' processor of ").removeprefix("the ")
        quantity = "memory" if row["unit"] == "MB" else "time"
        label = f"{path}: {quantity} against {against}"
        labels.append(f"{label}, {row['size'].partition(', ')[0]}")
        whole.append(f"{label}, {row['size']}")
        before = path
    return [
        label if labels.count(label) == 1 else longer for label, longer in zip(labels, whole, strict=True)
    ]


def write_page() -> Path:
    """Fill the tables of the page and of the README, draw the figure, and return the page's path."""
    for path, fill in ((PAGE, fill_page), (README, fill_readme)):
        page = fill(path.read_text(encoding="utf-8"))
        with resources.atomic_write(path) as temporary:
            temporary.write_text(page, encoding="utf-8")

    document = read_paths()
    if document is not None:
        with resources.atomic_write(FIGURE) as temporary:
            draw(document["rows"], temporary)
    return PAGE


if __name__ == "__main__":
    print(f"wrote {resources.display_path(write_page())}")
