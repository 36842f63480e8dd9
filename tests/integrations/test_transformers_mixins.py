"""transformers' own common tests on Monkey's model and processor.

They run where `TRANSFORMERS_TESTS` names a checkout of transformers or its unpacked source archive:

    TRANSFORMERS_TESTS=../transformers python -m pytest tests/integrations/test_transformers_mixins.py
"""

import shutil
import tempfile
import unittest

import pytest
import torch

from monkeylib.model import MonkeyForConditionalGeneration
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

    def __init__(self, is_text_alone: bool) -> None:
        self.is_text_alone = is_text_alone
        self.config = random_monkey.make_monkey().model.config
        self.config.lora_dropout = 0.0
        # As other models have it: half precision loses too much beside large weights.
        self.config.text_config.initializer_range = 0.02

        # The mixin pads batches with random ids from 0 to 4, none of which may stand for an image.
        vocabulary = self.config.text_config.vocab_size
        self.config.image_start_id, self.config.image_end_id = vocabulary - 3, vocabulary - 2
        self.config.image_token_id = vocabulary - 1
        self.seq_length = self.prepare_config_and_inputs_for_common()[1]["input_ids"].shape[1]

    def get_config(self):
        return type(self.config).from_dict(self.config.to_dict())

    def prepare_config_and_inputs_for_common(self):
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(5, 200, (self.batch_size, 26), generator=generator)
        if not self.is_text_alone:
            # Five views of four visual tokens.
            ids[:, 0], ids[:, 21] = self.config.image_start_id, self.config.image_end_id
            ids[:, 1:21] = self.config.image_token_id

        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if not self.is_text_alone:
            inputs["pixel_values"] = torch.randn(self.batch_size * 5, 3, 16, 16, generator=generator)
            inputs["grids"] = torch.tensor([[2, 2]] * self.batch_size)
        return self.get_config(), inputs


class MonkeyModelTest(common.ModelTesterMixin, common.GenerationTesterMixin, unittest.TestCase):
    """The common tests of models, and those of generation where they are."""

    all_model_classes = (MonkeyForConditionalGeneration,)
    _is_composite = True

    def setUp(self):
        transformers_tests.skip_explained(self)
        # That test cuts all inputs to one number of rows, and images have several views.
        self.model_tester = MonkeyTester(is_text_alone="eager_matches_sdpa" in self._testMethodName)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        """Add labels, which the mixin adds for the names of its own models only."""
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        return {**inputs, "labels": inputs["input_ids"]} if return_labels else inputs


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
