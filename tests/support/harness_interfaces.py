"""Interfaces of lmms-eval 0.7.3 and of VLMEvalKit (ms-vlmeval 0.0.20), recorded from their packages.

They hold what a model has to provide and how the harness calls it. Tests use the real packages where they are
installed.
"""

import abc
import sys
import types
from dataclasses import dataclass, field


class Lmms(abc.ABC):
    """lmms_eval.api.model.lmms: its three abstract methods, and what its constructor sets."""

    def __init__(self) -> None:
        self._rank = 0
        self._world_size = 1
        self.cache_hook = types.SimpleNamespace(add_partial=lambda attr, req, res: None)
        self.task_dict = {}

    @abc.abstractmethod
    def loglikelihood(self, requests): ...

    @abc.abstractmethod
    def generate_until(self, requests): ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests): ...

    @property
    def rank(self):
        return self._rank

    @property
    def world_size(self):
        return self._world_size


@dataclass
class Instance:
    """lmms_eval.api.instance.Instance: a request of a task."""

    request_type: str
    arguments: tuple
    idx: int
    metadata: dict = field(default_factory=dict)

    @property
    def args(self):
        return self.arguments


@dataclass(frozen=True)
class ModelManifest:
    """lmms_eval.models.registry_v2.ModelManifest: where a model's class lies."""

    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


class BaseModel:
    """vlmeval.vlm.base.BaseModel: `generate` checks a message and hands it to `generate_inner`."""

    INTERLEAVE = False
    allowed_types = ["text", "image", "video"]

    def __init__(self):
        self.dump_image_func = None

    def use_custom_prompt(self, dataset):
        return False

    @abc.abstractmethod
    def generate_inner(self, message, dataset=None):
        raise NotImplementedError

    def generate(self, message, dataset=None):
        assert all(item["type"] in self.allowed_types for item in message)
        return self.generate_inner(message, dataset)


def install(monkeypatch) -> None:
    """Make both packages importable, with the classes of this module."""
    modules = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.model": {"lmms": Lmms},
        "lmms_eval.api.instance": {"Instance": Instance},
        "lmms_eval.models": {},
        "lmms_eval.models.registry_v2": {"ModelManifest": ModelManifest},
        "vlmeval": {},
        "vlmeval.vlm": {},
        "vlmeval.vlm.base": {"BaseModel": BaseModel},
        "vlmeval.dataset": {"DATASET_TYPE": lambda name: "MCQ" if name.startswith("MMBench") else "VQA"},
        "vlmeval.config": {"supported_VLM": {}},
    }
    for name, content in modules.items():
        module = types.ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
