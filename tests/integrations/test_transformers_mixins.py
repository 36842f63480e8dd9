"""transformers' own common tests on Monkey's model and processor.

They run where `TRANSFORMERS_TESTS` names a checkout of transformers or its unpacked source archive:

    TRANSFORMERS_TESTS=../transformers python -m pytest tests/integrations/test_transformers_mixins.py
"""

import shutil
import tempfile
import unittest

import pytest
import torch
from transformers import Qwen2Config

from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.model.qwen import QwenConfig
from monkeylib.processing import MonkeyProcessor
from tests.support import random_monkey, transformers_tests

if transformers_tests.checkout() is None:
    pytest.skip(f"needs {transformers_tests.VARIABLE}", allow_module_level=True)

common = transformers_tests.load("test_modeling_common")
processing_common = transformers_tests.load("test_processing_common")


class MonkeyTester:
    """What the mixins ask about the model: sizes, a configuration, and inputs."""

    batch_size = 2
    is_training = True
    num_hidden_layers = 2
    num_attention_heads = 2
    hidden_size = 32

    def __init__(self, grid: tuple[int, int] | None, text_config_class: type[Qwen2Config]) -> None:
        self.grid = grid
        self.config = random_monkey.make_monkey().model.config
        text_config = {**self.config.text_config.to_dict(), "model_type": text_config_class.model_type}
        self.config.text_config = text_config_class.from_dict(text_config)
        self.config.lora_dropout = 0.0
        # As other models have it: half precision loses too much beside large weights.
        self.config.text_config.initializer_range = 0.02

        # The mixin pads batches with random ids from 0 to 4, and cuts the end of the vocabulary off: neither
        # may stand for an image.
        self.config.image_start_id, self.config.image_end_id, self.config.image_token_id = 5, 6, 7
        # Without them, the mixin skips tests.
        self.config.text_config.bos_token_id, self.config.text_config.pad_token_id = 8, 0
        self.seq_length = self.prepare_config_and_inputs_for_common()[1]["input_ids"].shape[1]

    def get_config(self):
        config = type(self.config).from_dict(self.config.to_dict())
        config.use_cache = True
        return config

    def prepare_config_and_inputs_for_common(self, batch_size=batch_size):
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(9, 200, (batch_size, 26), generator=generator)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.grid is None:
            # Of different lengths.
            inputs["attention_mask"][0, :3] = 0
            return self.get_config(), inputs

        rows, cols = self.grid
        views = rows * cols + 1
        end = 1 + views * self.config.resampler_config.queries
        ids[:, 0], ids[:, end] = self.config.image_start_id, self.config.image_end_id
        ids[:, 1:end] = self.config.image_token_id
        inputs["pixel_values"] = torch.randn(batch_size * views, 3, 16, 16, generator=generator)
        inputs["grids"] = torch.tensor([self.grid] * batch_size)
        return self.get_config(), inputs


class MonkeyModelTest(common.ModelTesterMixin, common.GenerationTesterMixin, unittest.TestCase):
    """The common tests of models, and those of generation where they are."""

    all_model_classes = (MonkeyForConditionalGeneration,)
    text_config_class = Qwen2Config
    _is_composite = True

    def setUp(self):
        transformers_tests.skip_explained(self)
        grid = (2, 2)
        if "compile_model_forward" in self._testMethodName:
            # It cuts all inputs to one number of rows: an image is then one view.
            grid = (0, 0)
        elif any(name in self._testMethodName for name in ("eager_matches_sdpa_inference", "padding_free")):
            # Texts alone: the first leaves images out, the second packs texts.
            grid = None
        self.model_tester = MonkeyTester(grid, self.text_config_class)

    def prepare_config_and_inputs_for_generate(self, batch_size=2):
        """Make a batch of this size, where the mixin cuts each input to as many rows."""
        _, inputs = self.model_tester.prepare_config_and_inputs_for_common(batch_size)
        config, _ = super().prepare_config_and_inputs_for_generate()
        return config, inputs

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        """Add labels, which the mixin adds for the names of its own models only."""
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        return {**inputs, "labels": inputs["input_ids"]} if return_labels else inputs


class MonkeyWithReleasedLanguageModelTest(MonkeyModelTest):
    """The same with the language model of the released weights."""

    text_config_class = QwenConfig


class MonkeyProcessorTest(processing_common.ProcessorTesterMixin, unittest.TestCase):
    """The common tests of processors."""

    processor_class = MonkeyProcessor

    @classmethod
    def setUpClass(cls):
        cls.tmpdirname, cls.full_tmpdirname = tempfile.mkdtemp(), None
        processor = random_monkey.make_monkey().processor
        processor.save_pretrained(cls.tmpdirname)
        cls.image_token = processor.image_token

    @staticmethod
    def prepare_processor_dict():
        return {"queries": 4}

    def setUp(self):
        transformers_tests.skip_explained(self)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.tmpdirname)
