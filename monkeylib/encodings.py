"""What a Monkey keeps between calls: images that it has encoded lately, and its last conversation.

An image that comes again, in whatever call, is not encoded again, and a conversation that goes on is read
from where it went on. Images are recognised by the digest of their pixels, their grid and the settings of the
processor, and a model by its state: a checksum of its weights, and what else changes its answers. So a step
of training, other weights, another precision or an adapter that is switched off have all computed anew.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import nn
from transformers import GenerationMixin, PretrainedConfig

from monkeylib.digests import bytes_digest, image_digest, tensor_checksum
from monkeylib.image_processor import IMAGE_ARGUMENTS
from monkeylib.images import JpegFile
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.processing import MonkeyProcessor
from monkeylib.session import EncodedImage, Session, encode_images
from monkeylib.tiling import Grid

# --- the state of a model


class ModelState(NamedTuple):
    """What the answers of a model depend on; equal states give equal answers.

    Attributes:
        visual: of the vision backbone and the resampler.
        language: of the language model.
    """

    visual: tuple[Any, ...]
    language: tuple[Any, ...]


def model_state(model: MonkeyForConditionalGeneration) -> ModelState | None:
    """Return the state of a model at this moment.

    All weights are read, whatever wrote them: 6 ms for nano-monkey on a CPU core, where an answer takes 130;
    the 14 GB of a 7B model in half precision take as long as a GPU needs to read them twice.

    Returns:
        None where it cannot be told: a model in training mode draws dropout, weights that are offloaded, or
        sharded over devices, are not there to be read, and those of other layouts (sparse, quantised by
        torch) have no sums.
    """
    if any(module.training for module in model.modules()):
        return None
    if not all(map(_is_readable, (*model.parameters(), *model.buffers()))):
        return None

    device = model.device.type
    surroundings = (
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
        torch.get_float32_matmul_precision(),
    )
    configs: dict[int, PretrainedConfig] = {}
    of_model = _attributes(model, configs)
    visual = tuple(
        _module_state(module, configs) for name, module in model.named_children() if name != "language_model"
    )
    language = _module_state(model.language_model, configs)
    settings = tuple(
        repr({name: value for name, value in vars(config).items() if not isinstance(value, PretrainedConfig)})
        for config in configs.values()
    )
    return ModelState((of_model, visual, settings, surroundings), language)


def _module_state(module: nn.Module, configs: dict[int, PretrainedConfig]) -> tuple[Any, ...]:
    """Return the weights of a module and all within it, by their checksum, and its attributes."""
    attributes, kinds, tensors = [], [], []
    for part in module.modules():
        attributes.append((type(part), _attributes(part, configs)))
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is not None:
                kinds.append((name, tensor.dtype, tensor.device, tensor.shape))
                tensors.append(tensor)
    return tuple(attributes), tuple(kinds), tensor_checksum(tensors)


# Attributes of every module of torch: parts, which have a state of their own, and hooks of other occasions.
_OF_TORCH = frozenset(vars(nn.Module())) - {"training", "_forward_hooks", "_forward_pre_hooks"}

# Kinds of attributes that tell by themselves whether they are the same. A function equals itself alone, such
# as another `forward` that a module has of its own.
_PLAIN = bool | int | float | str | torch.dtype | torch.device
_COMPARABLE = _PLAIN | FunctionType | MethodType | BuiltinFunctionType | partial


def _attributes(module: nn.Module, configs: dict[int, PretrainedConfig]) -> tuple[Any, ...]:
    """Return what a module has beside its weights: numbers, names, switches, functions, hooks.

    Args:
        module: a module, without those within it.
        configs: gets its configurations, which hang on many modules.
    """
    attributes: list[tuple[Any, ...]] = []
    for name, value in vars(module).items():
        # Hooks on what gives logits come and go with each answer, and see only what comes out.
        if name in _OF_TORCH or (name == "_forward_hooks" and isinstance(module, GenerationMixin)):
            continue
        if isinstance(value, _COMPARABLE):
            attributes.append((name, value))
        elif isinstance(value, torch.Tensor) and _is_readable(value):
            attributes.append((name, value.dtype, value.device, value.shape, tensor_checksum([value])))
        elif isinstance(value, PretrainedConfig):
            # Those within it, too.
            inner = [one for one in vars(value).values() if isinstance(one, PretrainedConfig)]
            configs.update({id(one): one for one in (value, *inner)})
        # Tensors in a list or a dictionary are those that a module has computed from its weights and keeps.
        elif isinstance(value, list | tuple | dict | set) and value and not _holds_tensor(value):
            attributes.append((name, repr(value)))
    return tuple(attributes)


def _is_readable(tensor: torch.Tensor) -> bool:
    # A sharded tensor knows its devices.
    is_sharded = hasattr(tensor, "device_mesh")
    return not (tensor.is_meta or tensor.is_quantized or is_sharded) and tensor.layout == torch.strided


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple | set):
        return isinstance(value, torch.Tensor)
    return any(map(_holds_tensor, value))


# --- images and prompts


class IdentifiedImage(NamedTuple):
    """An opened image with its grid, and the key by which it is recognised."""

    image: Image.Image | JpegFile
    grid: Grid
    key: tuple[Any, ...]


def identify_images(
    processor: MonkeyProcessor, images: Sequence[Image.Image | JpegFile], grids: Sequence[Grid]
) -> list[IdentifiedImage]:
    """Return images with what they are recognised by: their content, grid, and how views are made of them."""
    of_views = processor.image_processor
    settings = (type(of_views), *(str(getattr(of_views, name)) for name in IMAGE_ARGUMENTS))
    identified = []
    for image, grid in zip(images, grids, strict=True):
        # A file that is decoded late is recognised by its bytes.
        is_file = isinstance(image, JpegFile)
        digest = bytes_digest(image.content) if is_file else image_digest(image)
        identified.append(IdentifiedImage(image, grid, (digest, grid, settings)))
    return identified


class Prompts(NamedTuple):
    """Prompts whose images are opened, and not yet encoded.

    Attributes:
        ids: of each prompt, with the places of its images.
        images: of each prompt, in their order.
        has_history: whether there are earlier answers in the prompts.
    """

    ids: list[list[int]]
    images: list[list[IdentifiedImage]]
    has_history: bool = False

    def rows_of_images(self) -> dict[tuple[Any, ...], list[int]]:
        """Return the prompts about the same images, by their numbers."""
        rows: dict[tuple[Any, ...], list[int]] = {}
        for number, images in enumerate(self.images):
            rows.setdefault(tuple(image.key for image in images), []).append(number)
        return rows

    def select(self, rows: Sequence[int]) -> Prompts:
        """Return some of the prompts."""
        return self._replace(ids=[self.ids[row] for row in rows], images=[self.images[row] for row in rows])


# --- what is kept


class SessionKey(NamedTuple):
    """What a session depends on: the state of its model, its images, and how prompts begin."""

    state: ModelState
    images: tuple[Any, ...]
    settings: tuple[Any, ...]


class ImageMemory:
    """Encoded images, those that came last, and the session of the last conversation.

    Any number of threads may use it at once. Copies of it, as of a model with it, begin empty.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._encoded: OrderedDict[Any, EncodedImage] = OrderedDict()
        # The keys and values of a conversation take far more than its images: those of one are kept.
        self._last: tuple[SessionKey, Session] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()

    def clear(self) -> None:
        """Free all of it."""
        with self._lock:
            self._encoded.clear()
            self._last = None

    def encode(
        self,
        model: MonkeyForConditionalGeneration,
        processor: MonkeyProcessor,
        images: Sequence[IdentifiedImage],
        room: int,
        use_lora: bool = True,
    ) -> list[EncodedImage]:
        """Encode images, or take what there is of them.

        Args:
            model, processor: of one checkpoint.
            images: as `identify_images` returns them.
            room: images that are kept; of more, those that were not requested for the longest time go.
            use_lora: as in `get_image_features`.

        Raises:
            ValueError: a grid that the model has no LoRA for.
        """
        state = model_state(model) if room else None
        return self._encode(model, processor, images, room, state, use_lora)

    @contextmanager
    def session(
        self,
        model: MonkeyForConditionalGeneration,
        processor: MonkeyProcessor,
        images: Sequence[IdentifiedImage],
        room: int,
    ) -> Iterator[Session]:
        """Lend a session about images, and keep it for the next prompt about them unless an error comes.

        It belongs to the block alone: meanwhile, another thread gets one of its own. Arguments are those of
        `encode`.
        """
        session, key = self.take_session(model, processor, images, room)
        yield session
        self.keep_session(session, key)

    def take_session(
        self,
        model: MonkeyForConditionalGeneration,
        processor: MonkeyProcessor,
        images: Sequence[IdentifiedImage],
        room: int,
    ) -> tuple[Session, SessionKey | None]:
        """Return a session as `session` lends it, and its key, None where it is not to be kept."""
        state = model_state(model) if room else None
        key = None
        if state is not None:
            settings = (processor.prompt_prefix, processor.separator, processor.queries)
            key = SessionKey(state, tuple(image.key for image in images), settings)

        # The keys and values of the last conversation go before those of this one come.
        with self._lock:
            last, self._last = self._last, None
        if last is not None and last[0] == key:
            session = last[1]
            if session.model is model and session.processor is processor:
                return session, key
            del session
        del last

        encoded = self._encode(model, processor, images, room, state)
        return Session(model, processor, encoded), key

    def keep_session(self, session: Session, key: SessionKey | None, is_late: bool = False) -> None:
        """Keep a session that was taken.

        Args:
            session: the session.
            key: as `take_session` returned it.
            is_late: whether the model may have changed since.
        """
        if key is None or (is_late and model_state(session.model) != key.state):
            return
        with self._lock:
            self._last = key, session

    def _encode(
        self,
        model: MonkeyForConditionalGeneration,
        processor: MonkeyProcessor,
        images: Sequence[IdentifiedImage],
        room: int,
        state: ModelState | None,
        use_lora: bool = True,
    ) -> list[EncodedImage]:
        visual = None if state is None else state.visual
        encoded: dict[Any, EncodedImage] = {}
        if state is not None:
            with self._lock:
                for image in images:
                    if (of_image := self._encoded.get((image.key, visual, use_lora))) is not None:
                        encoded[image.key] = of_image

        # Image by image, so that visual tokens don't depend on the other images of a call.
        for image, grid, key in images:
            if key not in encoded:
                (encoded[key],) = encode_images(model, processor, [image], [grid], use_lora)

        if state is not None:
            with self._lock:
                for key, of_image in encoded.items():
                    self._encoded[key, visual, use_lora] = of_image
                    self._encoded.move_to_end((key, visual, use_lora))
                while len(self._encoded) > room:
                    self._encoded.popitem(last=False)
        return [encoded[image.key] for image in images]
