"""Loss in parts: the same loss, gradients and predictions in less memory."""

import functools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.model.loss import cross_entropy, cross_entropy_in_parts

VOCABULARY, WIDTH = 50, 8


@pytest.fixture
def output_layer():
    torch.manual_seed(0)
    return torch.nn.Linear(WIDTH, VOCABULARY, bias=False)


class LargestLogits(TorchDispatchMode):
    """Note the most rows of logits that one operation makes."""

    rows = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.ndim == 2 and result.shape[1] == VOCABULARY:
            self.rows = max(self.rows, result.shape[0])
        return result


def gradients(loss, hidden, output_layer):
    return torch.autograd.grad(loss, [hidden, output_layer.weight])


@pytest.mark.parametrize("num_items", [None, 90])
@pytest.mark.parametrize("positions", [1, 7, 10, 100])
def test_parts_give_the_same_loss_gradients_and_predictions(positions, num_items, output_layer):
    hidden = torch.randn(31, WIDTH, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (31,))
    logits = output_layer(hidden)
    expected = cross_entropy(logits, targets, num_items)

    with LargestLogits() as largest:
        loss, predictions = cross_entropy_in_parts(
            hidden, output_layer, targets, num_items, part_bytes=4 * VOCABULARY * positions
        )
        found = gradients(loss, hidden, output_layer)

    assert torch.equal(predictions, logits.argmax(-1))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(found, gradients(expected, hidden, output_layer))
    # The transposed output layer has as many columns, and `WIDTH` rows.
    assert largest.rows == max(min(positions, 31), WIDTH)


def test_one_part_has_the_bits_of_the_loss_of_all_logits(output_layer):
    hidden = torch.randn(31, WIDTH, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (31,))

    loss, _ = cross_entropy_in_parts(hidden, output_layer, targets)

    assert torch.equal(loss, cross_entropy(output_layer(hidden), targets))


def test_no_position_gives_zero_of_a_batch_and_no_mean(output_layer):
    nothing = torch.zeros(0, WIDTH), output_layer, torch.zeros(0, dtype=torch.long)
    loss, predictions = cross_entropy_in_parts(*nothing, num_items=3)

    assert loss == 0 and predictions.shape == (0,)
    with pytest.raises(ValueError, match="no supervised token"):
        cross_entropy_in_parts(*nothing)


@pytest.mark.parametrize("model_type", ["qwen2", "gemma2"])
def test_a_pass_without_logits_gives_the_same_loss(model_type, tiny, processor, make_image, monkeypatch):
    # Gemma 2 caps its logits, which therefore are not computed in parts.
    model = tiny()
    if model_type == "gemma2":
        model.language_model = gemma2(model.config.text_config)
    in_small_parts = functools.partial(cross_entropy_in_parts, part_bytes=1)
    monkeypatch.setattr("monkeylib.model.monkey.cross_entropy_in_parts", in_small_parts)

    inputs = processor(images=[make_image(), None], text=["a question? yes", "short"], padding_side="right")
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, IGNORE_INDEX)
    labels[0, :80] = IGNORE_INDEX
    expected = model(**inputs, labels=labels)
    output = model(**inputs, labels=labels, return_logits=False)

    torch.testing.assert_close(output.loss, expected.loss)
    assert torch.equal(output.predictions, expected.logits.argmax(-1))


def gemma2(config):
    """Return a random Gemma 2 of the sizes of a configuration, whose caps bind."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    return Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            final_logit_softcapping=0.05,
        )
    ).eval()


@pytest.mark.parametrize("options", [{}, {"labels": True, "logits_to_keep": 1}])
def test_a_pass_without_logits_needs_labels(options, tiny, processor):
    inputs = processor(text="abc")
    if options:
        options = {**options, "labels": inputs["input_ids"]}
    with pytest.raises(ValueError, match="return_logits=False needs labels"):
        tiny()(**inputs, return_logits=False, **options)
