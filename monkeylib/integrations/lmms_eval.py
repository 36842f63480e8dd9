"""Monkey for lmms-eval, which finds it as `monkeylib` once this package is installed:

lmms_eval --model monkeylib --model_args pretrained=CHECKPOINT,prompt=vqa --tasks ocrbench,mmbench_en_dev
"""

import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api import instance
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from tqdm import tqdm

from monkeylib import inference
from monkeylib.evaluation import distributed
from monkeylib.images import ImageInput
from monkeylib.integrations import common

_AUTO_BATCH_SIZE = 16


class MonkeyForLmmsEval(lmms):
    """A checkpoint in either layout behind lmms-eval's interface.

    Args:
        pretrained: folder of the checkpoint, or of a raised model; with a grid also a base that is raised.
        batch_size: questions answered at once; "auto" begins with `max_batch_size`, and halves it whenever
            the memory doesn't suffice.
        prompt: name of the prompt around each question, a key of `prompts.PROMPTS`; by default vqa, and for a
            raised chat model the question as the task writes it.
        max_new_tokens: maximum length of an answer where a task does not set it.
        device: where to run; by default the GPU of this process, if there is one.
        max_batch_size: largest batch for `batch_size="auto"`, 16 by default.
        grid: another grid of tiles than the model's, such as "2x3".

    Raises:
        ValueError: a batch size that is neither a positive number nor "auto".
    """

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 1,
        prompt: str | None = None,
        max_new_tokens: int | str = 64,
        device: str | None = None,
        max_batch_size: int | str | None = None,
        grid: str | None = None,
    ) -> None:
        super().__init__()
        self.batch_size, self._is_auto = _read_batch_size(batch_size, max_batch_size)
        self.accelerator = Accelerator()
        self._rank = self.accelerator.process_index
        self._world_size = self.accelerator.num_processes

        # With several processes, one device for all would put every model on the same GPU.
        if device is None or self._world_size > 1:
            device = distributed.local_device()
        self.monkey = inference.load_model(pretrained, device, grid=grid)

        self.max_new_tokens = int(max_new_tokens)
        self.prompt = prompt or self.monkey.default_prompt

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return answers in the order of the requests; those with the same settings are batched by length."""
        arguments = [request.args for request in requests]
        answers = [""] * len(requests)

        def settings_and_length(index: int) -> tuple[str, int]:
            text, settings, *_ = arguments[index]
            return repr(settings), len(text)

        # Neighbours then have the same settings and similar lengths, which needs little padding.
        pending = sorted(range(len(requests)), key=settings_and_length)
        bar = tqdm(total=len(requests), disable=self.rank != 0, desc="monkeylib")
        while pending:
            settings = arguments[pending[0]][1]
            batch = [index for index in pending[: self.batch_size] if arguments[index][1] == settings]
            pending = pending[len(batch) :]

            # An argument: text, settings, image function, document index, task, split.
            questions = [(arguments[index][0], self._images(*arguments[index][2:6])) for index in batch]
            try:
                batch_answers = self._answer(questions, settings)
            except (MemoryError, RuntimeError) as error:
                if not self._is_auto or len(batch) == 1 or not _is_out_of_memory(error):
                    raise
                self.batch_size = max(1, len(batch) // 2)
                pending = [*batch, *pending]
                continue

            for index, answer in zip(batch, batch_answers, strict=True):
                answers[index] = answer
                self.cache_hook.add_partial("generate_until", arguments[index][:2], answer)
            bar.update(len(batch))

        bar.close()
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return a number for each continuation, and whether it is the greedy one.

        Of a choice, the number is the loss, minus the summed log-probability: since 0.3, lmms-eval takes the
        choice with the smallest number. For tasks whose output type is "loglikelihood", and for older
        versions, it is the summed log-probability.

        Raises:
            ValueError: a request without an image function, as for the metric "acc_mutual_info".
        """
        results = []
        for request in requests:
            if len(request.args) < 6:
                raise ValueError(
                    "Monkey needs a request's image and document, and got a text with a continuation alone, "
                    "as lmms-eval makes them for acc_mutual_info: leave this metric out of the task."
                )

            text, target, doc_to_images, *doc_location = request.args
            is_choice = isinstance(target, str)
            # Tasks of the type "loglikelihood" give the continuation as a function of the document.
            continuation = target if is_choice else target(self._doc(*doc_location))

            images = self._images(doc_to_images, *doc_location)
            log_likelihood, is_greedy = common.compute_log_likelihood(
                self.monkey, text, images, self.prompt, continuation
            )
            takes_loss = is_choice and _takes_smallest_choice()
            results.append(_keep_pair(-log_likelihood if takes_loss else log_likelihood, is_greedy))

        return results

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Refuse tasks of several rounds: Monkey was trained on single questions."""
        raise NotImplementedError("tasks of several rounds aren't for Monkey, which answers single questions")

    def _answer(
        self, questions: Sequence[tuple[str, list[ImageInput]]], settings: Mapping[str, Any]
    ) -> list[str]:
        """Answer questions with a task's generation settings, cut at its stop texts."""
        max_new_tokens = int(settings.get("max_new_tokens", self.max_new_tokens))
        answers = common.generate_answers(
            self.monkey, questions, self.prompt, max_new_tokens, **_generation_options(settings)
        )

        # The model stops at its end of text only, so cut what follows a stop text.
        stop_texts = settings.get("until", [])
        if isinstance(stop_texts, str):
            stop_texts = [stop_texts]
        for stop_text in filter(None, stop_texts):
            answers = [answer.split(stop_text)[0] for answer in answers]
        return answers

    def _doc(self, index: Any, task: str, split: str) -> Any:
        """Return a task's document."""
        return self.task_dict[task][split][index]

    def _images(self, doc_to_images: Any, index: Any, task: str, split: str) -> list[ImageInput]:
        """Return the images of a task's document."""
        if doc_to_images is None:
            return []
        return list(doc_to_images(self._doc(index, task, split)) or [])


def _takes_smallest_choice() -> bool:
    """Return whether the installed lmms-eval takes the choice with the smallest number."""
    try:
        version = metadata.version("lmms_eval")
    except metadata.PackageNotFoundError:
        return True  # a checkout without metadata is newer than 0.3

    major, minor = re.match(r"(\d+)\.?(\d*)", version).groups()
    return (int(major), int(minor or 0)) >= (0, 3)


def _keep_pair(number: float, is_greedy: bool) -> Any:
    """Return a pair as lmms-eval hands it on to the task.

    Since 0.7, lmms-eval makes a text of every response but a `GenerationResult`, of which it takes the text:
    a pair has to stand there to arrive as one.
    """
    result = getattr(instance, "GenerationResult", None)
    if result is None:
        return number, is_greedy

    class PairResult(result):  # what asks for a pair gets one
        def __iter__(self):
            return iter(self.text)

    return PairResult(text=(number, is_greedy))


def _read_batch_size(batch_size: int | str, max_batch_size: int | str | None) -> tuple[int, bool]:
    """Return the batch size to begin with, and whether it adapts to the memory."""
    text = str(batch_size).strip()
    if text == "auto" or text.startswith("auto:"):
        return int(max_batch_size or _AUTO_BATCH_SIZE), True

    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f'The batch size is a positive number or "auto": got {batch_size!r:.60}.')
    return int(text), False


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return "allocate memory" in str(error) or "out of memory" in str(error)


def _generation_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of `generate` for a task's settings; none for greedy decoding."""
    names = ("do_sample", "temperature", "num_beams", "top_p")
    options = {name: settings[name] for name in names if settings.get(name) is not None}

    # Tasks say "greedy" in several ways, such as temperature=0 or do_sample=False with a temperature.
    if options.get("temperature", 0) and options.get("do_sample", True):
        return {**options, "do_sample": True}
    if options.get("num_beams", 1) > 1:
        return {"num_beams": options["num_beams"]}
    return {}
