"""Monkey for lmms-eval, which finds it as `monkeylib` once this package is installed:

lmms_eval --model monkeylib --model_args pretrained=CHECKPOINT,prompt=vqa --tasks ocrbench,mmbench_en_dev
"""

from collections.abc import Sequence
from typing import Any

from accelerate import Accelerator
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from tqdm import tqdm

from monkeylib import inference
from monkeylib.evaluation import distributed
from monkeylib.images import ImageInput
from monkeylib.integrations import common

_GREEDY = {"do_sample": False, "temperature": 0, "num_beams": 1}


class MonkeyForLmmsEval(lmms):
    """A checkpoint of ours or of the release.

    Args:
        pretrained: its folder.
        batch_size: questions answered at once.
        prompt: name of the prompt around each question, a key of `prompts.PROMPTS`.
        max_new_tokens: where a task doesn't say it.
        device: where to run; this process's own GPU if there is one.
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
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        own = device if device and self._world_size == 1 else distributed.local_device()
        self.monkey = inference.load_model(pretrained, own)
        self.batch_size, self.max_new_tokens = int(batch_size), int(max_new_tokens)
        self.prompt = prompt

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers in the order of the requests; those with the same settings are batched by length."""
        arguments = [request.args for request in requests]
        order = sorted(range(len(requests)), key=lambda n: (repr(arguments[n][1]), len(arguments[n][0])))
        found = [""] * len(requests)
        bar = tqdm(total=len(order), disable=self.rank != 0, desc="monkeylib")
        while order:
            settings = arguments[order[0]][1]
            same = [n for n in order[: self.batch_size] if arguments[n][1] == settings]
            asked = [(arguments[n][0], self._images(*arguments[n][2:6])) for n in same]
            for n, text in zip(same, self._answers(asked, dict(settings)), strict=True):
                found[n] = text
                self.cache_hook.add_partial("generate_until", arguments[n][:2], text)
            order = order[len(same) :]
            bar.update(len(same))
        bar.close()
        return found

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """The summed log-probability of each continuation, and whether it is the greedy one."""
        found = []
        for text, target, *place in (request.args for request in requests):
            said = target if isinstance(target, str) else target(self._doc(*place[1:]))
            found.append(
                common.compute_log_likelihood(self.monkey, text, self._images(*place), self.prompt, said)
            )
        return found

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not done: Monkey was trained on single questions."""
        raise NotImplementedError("tasks of several rounds aren't for Monkey, which answers single questions")

    def _answers(self, asked: Sequence[tuple[str, list[ImageInput]]], settings: dict[str, Any]) -> list[str]:
        ends = settings.pop("until", [])
        length = int(settings.pop("max_new_tokens", self.max_new_tokens))
        known = {name: settings[name] for name in (*_GREEDY, "top_p") if settings.get(name) is not None}
        sampled = bool(known.get("temperature", 0)) and known.get("do_sample", True)
        if not sampled:
            known = {"num_beams": known["num_beams"]} if known.get("num_beams", 1) > 1 else {}
        else:
            known["do_sample"] = True
        texts = common.generate_answers(self.monkey, asked, self.prompt, length, **known)
        for end in filter(None, [ends] if isinstance(ends, str) else ends):
            texts = [text.split(end)[0] for text in texts]
        return texts

    def _doc(self, number: Any, task: str, split: str) -> Any:
        return self.task_dict[task][split][number]

    def _images(self, images_of: Any, number: Any, task: str, split: str) -> list[ImageInput]:
        return [] if images_of is None else list(images_of(self._doc(number, task, split)) or [])
