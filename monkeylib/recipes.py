"""What of a training recipe decides about memory."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from monkeylib.model.monkey import TrainMode

Precision = Literal["32-true", "bf16-mixed", "bf16-true"]


class Widths(NamedTuple):
    """Bytes of a value: of a weight, of the residual stream and its norms, of what a matrix product gives."""

    weight: int
    stream: int
    product: int


WIDTHS = {"32-true": Widths(4, 4, 4), "bf16-mixed": Widths(4, 4, 2), "bf16-true": Widths(2, 2, 2)}


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; the defaults are the release's parts on one device.

    Fields:
        vision, resampler, language_model: what trains of each part. The language model's adapter is LoRA of
            `language_model_rank` beside all projections but the MLP's last.
        resampler_output: the norm and projection after the resampler train too.
        language_model_bits: the frozen language model is quantised (QLoRA, with `language_model="lora"`).
        precision: Lightning's names.
        checkpointing: blocks of the ViT and layers of the language model keep their input alone and are
            computed again in the backward pass.
        strategy, devices: one device, or as many that hold all states each (ddp) or a share (fsdp).
        rows: rows in one pass on one device; more than one are taken to be padded.
        passes: of an optimiser step on each device; from the second one on, all gradients are there.
        text_tokens, answer_tokens: of a row: all beside the image, and those that are learned.
        on_gpu: all views go through the ViT at once and dropout keeps a byte per value. A CPU takes views in
            chunks and keeps a whole number.

    Raises:
        ValueError: a combination that does not exist.
    """

    vision: TrainMode = "lora"
    resampler: Literal["frozen", "full"] = "full"
    language_model: TrainMode = "full"
    resampler_output: bool = False
    language_model_rank: int = 32
    language_model_bits: Literal[4, 8] | None = None
    precision: Precision = "32-true"
    checkpointing: bool = False
    strategy: Literal["single", "ddp", "fsdp"] = "single"
    devices: int = 1
    rows: int = 1
    passes: int = 1
    text_tokens: int = 128
    answer_tokens: int = 32
    on_gpu: bool = True

    def __post_init__(self) -> None:
        if self.precision not in WIDTHS:
            raise ValueError(f"precision is one of {', '.join(WIDTHS)}, got {self.precision!r}")
        if self.strategy not in ("single", "ddp", "fsdp"):
            raise ValueError(f"strategy is single, ddp or fsdp, got {self.strategy!r}")
        if (self.strategy == "single") != (self.devices == 1):
            raise ValueError(
                f"strategy {self.strategy!r} does not go with {self.devices} device(s): "
                "single has one, ddp and fsdp have several"
            )
        if self.language_model_bits and self.language_model != "lora":
            raise ValueError(
                f"a language model in {self.language_model_bits} bits trains by LoRA, got "
                f"language_model={self.language_model!r}"
            )
        if self.language_model_bits and self.strategy == "fsdp":
            raise ValueError("quantised weights are not divided over devices: choose ddp or single, not fsdp")
        if not 0 < self.answer_tokens <= self.text_tokens:
            raise ValueError(
                f"a row learns 1 to text_tokens={self.text_tokens} tokens, got {self.answer_tokens}"
            )

    @property
    def widths(self) -> Widths:
        """Bytes of a value."""
        return WIDTHS[self.precision]

    @property
    def mask_bytes(self) -> int:
        """Bytes of a value of the mask of an adapter's dropout."""
        return 1 if self.on_gpu else self.widths.stream
