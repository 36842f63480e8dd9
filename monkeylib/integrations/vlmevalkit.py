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
from monkeylib.raised_monkey import RaisedMonkey

_CHOICE_TYPES = ("MCQ", "Y/N")
_CHOICE_TOKENS = 10  # maximum length of the answer to a choice, as in the kit's own entry for Monkey
_MAX_NEW_TOKENS = 512


class MonkeyForVLMEvalKit(BaseModel):
    """A checkpoint in either layout behind VLMEvalKit's interface.

    Prompts are those of the kit's own entry for Monkey: `choice` with 10 new tokens for choices, and `vqa`
    with 512 for all else. A raised chat model reads the texts as the kit writes them.

    Args:
        model_path: folder of the checkpoint, or of a raised model; with a grid also a base that is raised.
        device: where to run; by default the GPU of this process, if there is one.
        max_new_tokens: maximum length of answers that are not a choice.
        grid: another grid of tiles than the model's, such as "2x3".
    """

    # What the kit asks of a model: no package to install, and texts and images may alternate.
    INSTALL_REQ = False
    INTERLEAVE = True

    def __init__(
        self,
        model_path: str | Path,
        device: str | None = None,
        max_new_tokens: int = _MAX_NEW_TOKENS,
        grid: str | None = None,
    ) -> None:
        super().__init__()
        self.monkey = inference.load_model(model_path, device or distributed.local_device(), grid=grid)
        self.max_new_tokens = max_new_tokens

    def generate_inner(self, message: list[dict[str, str]], dataset: str | None = None) -> str:
        """Answer a message of texts and images in their order.

        Raises:
            ValueError: a part that is neither text nor image, or a message without text.
        """
        unsupported = {part["type"] for part in message} - {"text", "image"}
        if unsupported:
            raise ValueError(f"Monkey reads text and images, not {', '.join(sorted(unsupported))}")

        # The kit passes images as paths in strings.
        content = [Path(part["value"]) if part["type"] == "image" else part["value"] for part in message]
        if _is_multiple_choice(dataset):
            prompt, max_new_tokens = "choice", _CHOICE_TOKENS
        else:
            prompt, max_new_tokens = "vqa", self.max_new_tokens
        if isinstance(self.monkey, RaisedMonkey):
            prompt = self.monkey.default_prompt

        # The kit asks about an image several times. The images are inside the content, none stands before it.
        inputs = self.monkey.prepare_encoded([None], [content], prompt)
        return self.monkey.generate(inputs, max_new_tokens)[0].text


def _is_multiple_choice(dataset: str | None) -> bool:
    """Return whether a dataset's answers are letters, or yes and no."""
    if dataset is None:
        return False
    return dataset == "HallusionBench" or DATASET_TYPE(dataset) in _CHOICE_TYPES


def register(model_path: str | Path, name: str = "monkeylib", grid: str | None = None) -> None:
    """Register a checkpoint with the kit under a name, for its `--model`."""
    from vlmeval.config import supported_VLM

    supported_VLM[name] = partial(MonkeyForVLMEvalKit, model_path=model_path, grid=grid)
