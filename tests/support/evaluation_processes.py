"""Processes that predict together, started and killed by tests."""

import contextlib
import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from monkeylib.evaluation import distributed, predict
from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.prefix_sharing import PrefixSharingMonkey, monkey_fingerprint
from monkeylib.images import open_image
from monkeylib.inference import load_model

BATCH_SIZE = 3
MAX_NEW_TOKENS = 4


def make_examples(image_path: Path, count: int = 24) -> list[Example]:
    """Return questions of different lengths, four about each image."""
    image = open_image(image_path)
    return [
        Example(
            id=f"q{number}",
            image=image.rotate(90 * (number // 4)).resize((30 + number // 4, 40)),
            question="what is " + "y" * (number * 5 % 17) + "?",
            answers=("yes",),
            image_id=f"image {number // 4}",
        )
        for number in range(count)
    ]


def run_process(
    rank: int, world_size: int, port: int, checkpoint: Path, image: Path, path: Path, pause: float
) -> None:
    """Predict as one process of `world_size`, with a pause in seconds after each batch."""
    torch.set_num_threads(1)  # a forked process does not have the threads of its parent
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TOKENIZERS_PARALLELISM": "false",
    }
    monkey = load_model(checkpoint)
    answer = PrefixSharingMonkey(monkey, MAX_NEW_TOKENS)

    def answer_slowly(batch):
        answers = answer(batch)
        time.sleep(pause)
        return answers

    predict.predict(
        answer_slowly,
        make_examples(image),
        path,
        batch_size=BATCH_SIZE,
        progress=False,
        name=monkey_fingerprint(monkey, MAX_NEW_TOKENS),
    )


def _find_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fork(world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call a function in several processes at once, and return its results in the order of the ranks.

    Args:
        world_size: number of processes.
        function: takes the context of the processes, then the arguments.
        arguments: further arguments.
    """
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    port = _find_port()

    def run(rank: int) -> None:
        torch.set_num_threads(1)  # a forked process does not have the threads of its parent
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        joined = distributed.join_processes()
        results.put((rank, function(joined, *arguments)))
        joined.barrier()

    processes = [context.Process(target=run, args=(rank,)) for rank in range(world_size)]
    for process in processes:
        process.start()
    wait_for(processes)
    return [result for _, result in sorted(results.get(timeout=60) for _ in processes)]


def start_processes(world_size: int, *arguments) -> list[multiprocessing.Process]:
    """Fork processes that call `run_process`, from this one, which has imported the library."""
    context = multiprocessing.get_context("fork")
    port = _find_port()

    processes = [
        context.Process(target=run_process, args=(rank, world_size, port, *arguments))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    return processes


def kill_after(lines: int, path: Path, processes: list[multiprocessing.Process]) -> None:
    """Kill the processes once the predictions file and its parts hold so many lines."""
    deadline = time.monotonic() + 300
    while _count_lines(path) < lines:
        if time.monotonic() > deadline or all(process.exitcode is not None for process in processes):
            raise AssertionError(f"{lines} lines were not written")
        time.sleep(0.02)

    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def _count_lines(path: Path) -> int:
    """Return how many lines a predictions file and its parts hold, as far as they are there."""
    count = 0
    for file in path.parent.glob(f"{path.name}*"):
        with contextlib.suppress(FileNotFoundError):  # a part that has been joined meanwhile
            count += file.read_bytes().count(b"\n")
    return count


def wait_for(processes: list[multiprocessing.Process]) -> None:
    """Wait until all processes have ended without an error."""
    for process in processes:
        process.join(300)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()

    assert codes == [0] * len(codes)
