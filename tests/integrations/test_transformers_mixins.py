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

    def __init__(self) -> None:
        self.monkey = random_monkey.make_monkey()
        config = self.monkey.model.config
        config.lora_dropout = 0.0
        self.config = config
        self.seq_length = self.prepare_config_and_inputs_for_common()[1]["input_ids"].shape[1]

    def get_config(self):
        return type(self.config).from_dict(self.config.to_dict())

    def prepare_config_and_inputs_for_common(self):
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randn(self.batch_size * 5, 3, 16, 16, generator=generator)
        span = self.monkey.processor.image_ids()
        texts = torch.randint(5, 200, (self.batch_size, 4), generator=generator).tolist()
        ids = torch.tensor([[*span, *text] for text in texts])
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": pixels,
            "grids": torch.tensor([[2, 2]] * self.batch_size),
        }
        return self.get_config(), inputs


class MonkeyModelTest(common.ModelTesterMixin, common.GenerationTesterMixin, unittest.TestCase):
    """The common tests of models, and those of generation where they are."""

    all_model_classes = (MonkeyForConditionalGeneration,)
    _is_composite = True

    def setUp(self):
        self.model_tester = MonkeyTester()


class MonkeyProcessorTest(processing_common.ProcessorTesterMixin, unittest.TestCase):
    """The common tests of processors."""

    processor_class = MonkeyProcessor

    @classmethod
    def setUpClass(cls):
        cls.tmpdirname, cls.full_tmpdirname = tempfile.mkdtemp(), None
        processor = random_monkey.make_monkey().processor
        processor.save_pretrained(cls.tmpdirname)
        cls.image_token = processor.image_token

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.tmpdirname)
