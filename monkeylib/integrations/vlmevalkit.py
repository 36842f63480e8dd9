"""Monkey for VLMEvalKit. In a script beside its run.py:

from monkeylib.integrations import vlmevalkit
vlmevalkit.register("CHECKPOINT", name="monkeylib")
from run import main                      # or: from vlmeval.run import main
main()                                    # python script.py --model monkeylib --data OCRBench MMBench_DEV_EN
"""

from functools import partial
from pathlib import Path

from vlmeval.dataset import DATASET_TYPE
from vlmeval.vlm.base import BaseModel

from monkeylib import inference
from monkeylib.evaluation import distributed

_CHOICES = ("MCQ", "Y/N")
_LETTERS = 10  # new tokens of the answer to a choice
_WORDS = 512


class MonkeyForVLMEvalKit(BaseModel):
    """A checkpoint of ours or of the release, asked as the kit's own entry for Monkey asks it: choices with
    the prompt `choice` and 10 new tokens, all else with `vqa` and 512.

    Args:
        model_path: its folder.
        device: where to run; this process's own GPU if there is one.
        max_new_tokens: of answers that aren't a choice.
    """

    INSTALL_REQ = False
    INTERLEAVE = True

    def __init__(
        self, model_path: str | Path, device: str | None = None, max_new_tokens: int = _WORDS
    ) -> None:
        super().__init__()
        self.monkey = inference.load_model(model_path, device or distributed.local_device())
        self.max_new_tokens = max_new_tokens

    def generate_inner(self, message: list[dict[str, str]], dataset: str | None = None) -> str:
        """The answer to a message of texts and images in their order.

        Raises:
            ValueError: a part that is neither text nor image, or a message without text.
        """
        if odd := {part["type"] for part in message} - {"text", "image"}:
            raise ValueError(f"Monkey reads text and images, not {', '.join(sorted(odd))}")
        choice = dataset is not None and (dataset == "HallusionBench" or DATASET_TYPE(dataset) in _CHOICES)
        parts = [Path(part["value"]) if part["type"] == "image" else part["value"] for part in message]
        inputs = self.monkey.prepare([None], [parts], prompt="choice" if choice else "vqa")
        return self.monkey.generate(inputs, _LETTERS if choice else self.max_new_tokens)[0]


def register(model_path: str | Path, name: str = "monkeylib") -> None:
    """Let the kit know a checkpoint under a name, for its `--model`."""
    from vlmeval.config import supported_VLM

    supported_VLM[name] = partial(MonkeyForVLMEvalKit, model_path=model_path)
