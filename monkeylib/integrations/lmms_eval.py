"""Monkey for lmms-eval, which finds it as `monkeylib` once this package is installed:

lmms_eval --model monkeylib --model_args pretrained=CHECKPOINT,prompt=vqa --tasks ocrbench,mmbench_en_dev
"""

from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import Accelerator
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from tqdm import tqdm

from monkeylib import inference
from monkeylib.evaluation import distributed
from monkeylib.images import ImageInput
from monkeylib.integrations import common


class MonkeyForLmmsEval(lmms):
    """A checkpoint in either layout behind lmms-eval's interface.

    Args:
        pretrained: folder of the checkpoint.
        batch_size: questions answered at once.
        prompt: name of the prompt around each question, a key of `prompts.PROMPTS`.
        max_new_tokens: maximum length of an answer where a task does not set it.
        device: where to run; by default the GPU of this process, if there is one.
    """

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 1,
        prompt: str = "vqa",
        max_new_tokens: int | str = 64,
        device: str | None = None,
    ) -> None:
        super().__init__()
        self.accelerator = Accelerator()
        self._rank = self.accelerator.process_index
        self._world_size = self.accelerator.num_processes

        # With several processes, one device for all would put every model on the same GPU.
        if device is None or self._world_size > 1:
            device = distributed.local_device()
        self.monkey = inference.load_model(pretrained, device)

        self.batch_size = int(batch_size)
        self.max_new_tokens = int(max_new_tokens)
        self.prompt = prompt

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
            for index, answer in zip(batch, self._answer(questions, settings), strict=True):
                answers[index] = answer
                self.cache_hook.add_partial("generate_until", arguments[index][:2], answer)
            bar.update(len(batch))

        bar.close()
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return the summed log-probability of each continuation, and whether it is the greedy one."""
        results = []
        for request in requests:
            text, target, doc_to_images, *doc_location = request.args
            # Some tasks give the continuation as a function of the document.
            continuation = target if isinstance(target, str) else target(self._doc(*doc_location))
            images = self._images(doc_to_images, *doc_location)
            results.append(
                common.compute_log_likelihood(self.monkey, text, images, self.prompt, continuation)
            )

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
