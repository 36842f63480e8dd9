"""Processes that predict together, started and killed by tests."""

import multiprocessing
import os
import socket
import time
from pathlib import Path

import torch

from monkeylib.evaluation import predict
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


def start_processes(world_size: int, *arguments) -> list[multiprocessing.Process]:
    """Fork processes that call `run_process`, from this one, which has imported the library."""
    context = multiprocessing.get_context("fork")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

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
    while sum(file.read_bytes().count(b"\n") for file in path.parent.glob(f"{path.name}*")) < lines:
        if time.monotonic() > deadline or all(process.exitcode is not None for process in processes):
            raise AssertionError(f"{lines} lines were not written")
        time.sleep(0.02)

    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def wait_for(processes: list[multiprocessing.Process]) -> None:
    """Wait until all processes have ended without an error."""
    for process in processes:
        process.join(300)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()

    assert codes == [0] * len(codes)
