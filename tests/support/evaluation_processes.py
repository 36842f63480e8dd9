"""Processes that answer together, started and killed by tests."""

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

SIZE, TOKENS = 3, 4


def questions(image: Path, count: int = 24) -> list[Example]:
    """Questions of different lengths, four about each image."""
    image = open_image(image)
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


def answer(rank: int, count: int, port: int, checkpoint: Path, image: Path, path: Path, pause: float) -> None:
    """One process of `count`: predict, with a pause after each batch."""
    torch.set_num_threads(1)  # the threads of the process that was forked aren't here
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "TOKENIZERS_PARALLELISM": "false"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    monkey = load_model(checkpoint)
    shared = PrefixSharingMonkey(monkey, TOKENS)

    def slowly(batch):
        answers = shared(batch)
        time.sleep(pause)
        return answers

    name = monkey_fingerprint(monkey, TOKENS)
    predict.predict(slowly, questions(image), path, batch_size=SIZE, progress=False, name=name)


def start(count: int, *arguments) -> list[multiprocessing.Process]:
    """`count` processes of `answer`, forked from this one, which has imported the library."""
    context = multiprocessing.get_context("fork")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made = [context.Process(target=answer, args=(rank, count, port, *arguments)) for rank in range(count)]
    for process in made:
        process.start()
    return made


def kill_after(lines: int, path: Path, processes: list[multiprocessing.Process]) -> None:
    """SIGKILL all of them once the predictions file and its parts hold so many lines."""
    deadline = time.monotonic() + 300
    while sum(file.read_bytes().count(b"\n") for file in path.parent.glob(f"{path.name}*")) < lines:
        if time.monotonic() > deadline or all(process.exitcode is not None for process in processes):
            raise AssertionError(f"{lines} lines were not written")
        time.sleep(0.02)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def finish(processes: list[multiprocessing.Process]) -> None:
    """Wait until all have ended well."""
    for process in processes:
        process.join(300)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * len(codes)
