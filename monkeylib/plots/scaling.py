"""What a model costs as it grows and as more devices share it: memory, operations, throughput."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monkeylib.plots.style import COLOURS, INK, PALE
from monkeylib.tables import Row
from monkeylib.tiling import Grid
from monkeylib.training.memory import StepMemory

_GB = 1e9


def draw_training_memory(trainings: Mapping[str, StepMemory], device_gb: Sequence[float] = ()) -> Figure:
    """Draw what fills a device at the fullest moment of a training step, one bar for each way to train.

    Args:
        trainings: by name.
        device_gb: memory of devices, in GB; each is marked by a line.
    """
    fig, ax = plt.subplots(figsize=(8, 1.2 + 0.5 * len(trainings)))
    parts = ("weights", "gradients", "optimizer", "communication")
    titles = ("weights", "gradients", "AdamW's moments", "gathered from others", "activations and the rest")

    for y, memory in enumerate(trainings.values()):
        sizes = [getattr(memory, part) for part in parts]
        sizes.append(max(0, memory.peak - sum(sizes)))

        start = 0.0
        for size, title, colour in zip(sizes, titles, COLOURS, strict=False):
            ax.barh(y, size / _GB, left=start, color=colour, label=title if y == 0 else None, height=0.7)
            start += size / _GB
        ax.text(start + 1, y, f"{memory.peak / _GB:.1f} GB", va="center", fontsize=8, zorder=4).set_bbox(
            {"facecolor": "white", "edgecolor": "none", "pad": 1}
        )

    for size in device_gb:
        ax.axvline(size, color=INK, linestyle="--", linewidth=1, zorder=3)
        ax.text(size, -0.62, f"{size:g} GB", ha="center", va="bottom", fontsize=8)

    highest = max([memory.peak / _GB for memory in trainings.values()] + list(device_gb))
    ax.set(yticks=range(len(trainings)), yticklabels=trainings, xlabel="GB on each device")
    ax.set(xlim=(0, 1.14 * highest), ylim=(len(trainings) - 0.4, -0.6))
    ax.grid(axis="y", visible=False)
    fig.legend(loc="outside upper center", ncols=len(titles), fontsize=8)
    return fig


def draw_grid_costs(
    flops: Mapping[Grid, Mapping[str, int]], cache_bytes: Mapping[Grid, int], displayed: Grid
) -> Figure:
    """Draw what an image costs on grids of more and more tiles, and mark one of the grids.

    Args:
        flops: operations of each part of the model, by grid.
        cache_bytes: keys and values of an image and its prompt, by grid.
        displayed: the grid that is marked.
    """
    fig, (operations, memory) = plt.subplots(1, 2, figsize=(8.5, 2.9))
    # Grids of equally many tiles cost the same.
    grids = {grid.tiles: grid for grid in flops}
    tiles = sorted(grids)

    below = [0.0] * len(tiles)
    for part, colour in zip(next(iter(flops.values())), COLOURS, strict=False):
        values = [flops[grids[count]][part] / 1e12 for count in tiles]
        operations.bar(tiles, values, bottom=below, color=colour, label=part, width=0.8)
        below = [low + value for low, value in zip(below, values, strict=True)]
    operations.set(xlabel="tiles of an image", ylabel="TFLOP", title="operations until an answer begins")
    operations.legend(fontsize=7)

    caches = [cache_bytes[grids[count]] / _GB for count in tiles]
    memory.bar(tiles, caches, color=COLOURS[4], width=0.8)
    memory.set(xlabel="tiles of an image", ylabel="GB", title="keys and values of one image")

    for ax in (operations, memory):
        ax.axvspan(displayed.tiles - 0.45, displayed.tiles + 0.45, color=PALE, zorder=-1)
        ax.set_xticks(tiles)
        ax.grid(axis="x", visible=False)
    return fig


def draw_throughput(rows: Sequence[Row]) -> Figure:
    """Draw the throughput of caption workers, and how long a run took with the start of its processes.

    Args:
        rows: `workers`, `images/s` while they were at work, `at work s` and `run s` of each run; the first
            with one worker.
    """
    fig, (throughput, seconds) = plt.subplots(1, 2, figsize=(8, 2.7))
    workers = [row["workers"] for row in rows]

    rates = [row["images/s"] for row in rows]
    ideal = [rates[0] * count / workers[0] for count in workers]
    throughput.plot(workers, ideal, color=PALE, linewidth=2, label="as many times one worker's")
    throughput.plot(workers, rates, "o-", color=COLOURS[0], label="measured")
    throughput.set(xlabel="workers", ylabel="images a second", ylim=(0, None), xticks=workers)
    throughput.legend(fontsize=8)

    _draw_seconds(seconds, rows)
    return fig


def _draw_seconds(ax: Axes, rows: Sequence[Row]) -> None:
    places = range(len(rows))
    at_work = [row["at work s"] for row in rows]
    others = [row["run s"] - row["at work s"] for row in rows]
    ax.bar(places, at_work, color=COLOURS[0], label="first image to last", width=0.6)
    ax.bar(places, others, bottom=at_work, color=PALE, label="starting and ending Ray", width=0.6)
    ax.set(xlabel="workers", ylabel="seconds of the run", xticks=places)
    ax.set_xticklabels([str(row["workers"]) for row in rows])
    ax.grid(axis="x", visible=False)
    ax.legend(fontsize=8)
