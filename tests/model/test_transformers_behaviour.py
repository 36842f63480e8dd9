"""What users of transformers expect of any of its models; docs/transformers.md lists its own tests."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from tests.support import random_monkey

NEW_TOKENS = 8


@pytest.fixture(scope="module")
def monkey():
    monkey = random_monkey.make_monkey()
    monkey.model.eval()
    return monkey


@pytest.fixture()
def model(monkey):
    return copy.deepcopy(monkey.model)


@pytest.fixture()
def inputs(monkey, make_image):
    return prepare(monkey, make_image, "Why?")


def prepare(monkey, make_image, *questions):
    """Return inputs of conversations, each about an image of its own."""
    conversations = [
        [{"role": "user", "content": [{"type": "image", "image": make_image(seed)}, question]}]
        for seed, question in enumerate(questions)
    ]
    return monkey.processor.apply_chat_template(conversations, tokenize=True, return_dict=True)


def generate(model, inputs, **options):
    """Return the ids of greedy answers, or of others by the options."""
    ids = model.generate(**inputs, **{"max_new_tokens": NEW_TOKENS, "do_sample": False, **options})
    return ids[:, inputs["input_ids"].shape[1] :].tolist()


def test_outputs_have_attentions_and_hidden_states(model, inputs):
    expected = model(**inputs)
    model.set_attn_implementation("eager")
    outputs = model(**inputs, output_attentions=True, output_hidden_states=True)

    tokens = inputs["input_ids"].shape[1]
    assert [attention.shape for attention in outputs.attentions] == [(1, 2, tokens, tokens)] * 2
    assert [states.shape for states in outputs.hidden_states] == [(1, tokens, 32)] * 3

    # Eager attention and SDPA, an object and a tuple.
    assert torch.allclose(outputs.logits, expected.logits, atol=1e-5)
    assert torch.equal(model(**inputs, return_dict=False)[0], outputs.logits)


@pytest.mark.parametrize("is_tied", [False, True])
def test_embeddings_can_be_resized(model, inputs, tmp_path, is_tied):
    if is_tied:
        model.config.text_config.tie_word_embeddings = True
        model = type(model)(model.config).eval()
    before = model(**inputs).logits
    size = before.shape[-1]

    model.resize_token_embeddings(size + 7)
    assert model.get_input_embeddings().num_embeddings == size + 7
    assert model.get_output_embeddings().out_features == size + 7
    assert model.config.text_config.vocab_size == size + 7
    assert torch.allclose(model(**inputs).logits[..., :size], before, atol=1e-6)

    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, device_map="auto")
    assert torch.allclose(loaded(**inputs).logits, model(**inputs).logits, atol=1e-6)
    for saved in (model, loaded):
        shared = saved.get_input_embeddings().weight is saved.get_output_embeddings().weight
        assert shared == is_tied


def test_vision_backbone_is_the_encoder_of_images(model):
    assert model.get_encoder(modality="image") is model.vision
    assert model.get_decoder() is model.language_model


def test_embeddings_take_the_place_of_ids(model, inputs):
    visual_tokens = model.get_image_features(inputs["pixel_values"], inputs["grids"])
    embeds = model.splice(inputs["input_ids"], visual_tokens)
    assert torch.allclose(model(inputs_embeds=embeds).logits, model(**inputs).logits, atol=1e-5)

    answers = model.generate(
        inputs_embeds=embeds,
        attention_mask=inputs["attention_mask"],
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
    )
    assert answers.tolist() == generate(model, inputs)


@pytest.mark.parametrize(
    "options",
    [
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"prompt_lookup_num_tokens": 3},
        {"prefill_chunk_size": 5},
        {"num_beams": 3, "num_return_sequences": 3},
        {"num_beams": 2, "cache_implementation": "static"},
        {"do_sample": True, "top_k": 1, "num_return_sequences": 2},
    ],
    ids=lambda options: " ".join(map(str, options)),
)
def test_ways_to_generate_agree(model, inputs, options):
    answers = generate(model, inputs, **options)
    if "num_beams" not in options:
        # They say the same, one after the other.
        assert answers == generate(model, inputs) * len(answers)
    elif "cache_implementation" in options:
        assert answers == generate(model, inputs, num_beams=2)
    else:
        assert len({tuple(answer) for answer in answers}) == 3


def test_language_model_assists(model, inputs):
    torch.manual_seed(0)
    assistant = AutoModelForCausalLM.from_config(model.config.text_config).eval()
    assert generate(model, inputs, assistant_model=assistant) == generate(model, inputs)


def test_generation_goes_on_from_earlier_keys_and_values(model, inputs):
    beginning = model.generate(**inputs, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
    ids = model.generate(
        input_ids=beginning.sequences,
        attention_mask=torch.ones_like(beginning.sequences),
        past_key_values=beginning.past_key_values,
        max_new_tokens=NEW_TOKENS - 3,
        do_sample=False,
    )
    assert ids[:, inputs["input_ids"].shape[1] :].tolist() == generate(model, inputs)


def test_generation_returns_what_each_step_has_computed(model, inputs):
    model.set_attn_implementation("eager")
    names = ("scores", "logits", "attentions", "hidden_states")
    outputs = model.generate(
        **inputs,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        return_dict_in_generate=True,
        **{f"output_{name}": True for name in names},
    )
    assert all(len(outputs[name]) == NEW_TOKENS for name in names)

    # The first step reads the prompt, each other one a token.
    tokens = inputs["input_ids"].shape[1]
    assert [states[-1].shape[1] for states in outputs.hidden_states] == [tokens, *[1] * (NEW_TOKENS - 1)]
    assert [weights[-1].shape[-1] for weights in outputs.attentions] == list(
        range(tokens, tokens + NEW_TOKENS)
    )
    chosen = torch.stack(outputs.logits, dim=1).argmax(dim=-1)
    assert torch.equal(chosen, outputs.sequences[:, tokens:])


def test_padded_batch_is_each_prompt_alone(monkey, model, make_image):
    questions = ("Why?", "Is it so, and if not, why not?")
    together = prepare(monkey, make_image, *questions)
    answers = generate(model, together)
    logits = model(**together).logits

    for row, question in enumerate(questions):
        conversation = [{"role": "user", "content": [make_image(row), question]}]
        alone = monkey.processor.apply_chat_template(conversation, tokenize=True, return_dict=True)
        assert generate(model, alone)[0] == answers[row]
        tokens = alone["input_ids"].shape[1]
        assert torch.allclose(model(**alone).logits[0], logits[row, -tokens:], atol=1e-4)


def test_checkpointed_gradients_are_equal(model, inputs):
    gradients = []
    for is_checkpointed in (False, True):
        model.train()
        for module in model.modules():
            if hasattr(module, "dropout") and isinstance(module.dropout, float):
                module.dropout = 0.0
        if is_checkpointed:
            model.gradient_checkpointing_enable()
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})
        model.zero_grad()

    plain, checkpointed = gradients
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        if gradient is None:
            assert checkpointed[name] is None, name
        else:
            assert torch.allclose(gradient, checkpointed[name], atol=1e-6), name


def test_model_loads_in_a_lower_precision(model, inputs, tmp_path):
    model.save_pretrained(tmp_path)
    half = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    assert len(generate(half, inputs)[0]) == NEW_TOKENS
