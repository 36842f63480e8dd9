"""What users of transformers expect of any of its models; docs/transformers.md lists its own tests."""

import copy

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, StaticCache
from transformers.generation import CompileConfig

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


@pytest.mark.parametrize("has_labels", [False, True])
@pytest.mark.parametrize("is_set_in_config", [False, True])
def test_outputs_are_tuples_where_the_caller_wants_them(model, inputs, has_labels, is_set_in_config):
    labels = {"labels": inputs["input_ids"]} if has_labels else {}
    expected = model(**inputs, **labels, output_hidden_states=True).to_tuple()

    options = {"output_hidden_states": True}
    if is_set_in_config:
        model.config.return_dict = False
    else:
        options["return_dict"] = False
    values = model(**inputs, **labels, **options)

    assert isinstance(values, tuple) and len(values) == len(expected)
    tensors = [(a, b) for a, b in zip(values, expected, strict=True) if isinstance(a, torch.Tensor)]
    assert len(tensors) == 1 + has_labels
    assert all(torch.equal(*pair) for pair in tensors)


def test_last_logits_alone_are_those_of_all(model, inputs):
    logits = model(**inputs).logits
    assert torch.allclose(model(**inputs, logits_to_keep=1).logits, logits[:, -1:], atol=1e-5)
    assert torch.allclose(model(**inputs, logits_to_keep=0).logits, logits, atol=1e-5)
    assert generate(model, inputs, logits_to_keep=0) == generate(model, inputs)


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


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"cache_implementation": "static"}])
def test_images_come_beside_an_embedded_prompt(model, inputs, options):
    """The embedding of `<imgpad>` marks the places, and the images fill them."""
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    others = {name: value for name, value in inputs.items() if name != "input_ids"}
    assert torch.equal(model(**others, inputs_embeds=embeds).logits, model(**inputs).logits)

    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, **options}
    expected = generate(model, inputs, **options)
    assert model.generate(**others, inputs_embeds=embeds, **options).tolist() == expected

    # With the ids beside, they stand before the answer.
    ids = model.generate(**inputs, inputs_embeds=embeds, **options)
    assert ids.tolist() == [[*inputs["input_ids"][0].tolist(), *expected[0]]]


def test_embedded_prompt_without_places_for_its_images_is_refused(model, inputs):
    embeds = torch.randn(1, 9, 32)
    with pytest.raises(ValueError, match="the prompt holds 0 places for visual tokens, the images give 5"):
        model(inputs_embeds=embeds, pixel_values=inputs["pixel_values"], grids=inputs["grids"])


def test_generation_goes_on_from_embeddings(model):
    model.generation_config.eos_token_id = None
    embeds = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    options = {"do_sample": False, "return_dict_in_generate": True}
    expected = model.generate(inputs_embeds=embeds, max_new_tokens=6, **options)

    first = model.generate(inputs_embeds=embeds, max_new_tokens=4, **options)
    longer = torch.cat([embeds, model.get_input_embeddings()(first.sequences)], dim=1)
    cache = first.past_key_values
    second = model.generate(inputs_embeds=longer, past_key_values=cache, max_new_tokens=2, **options)

    assert torch.equal(torch.cat([first.sequences, second.sequences], dim=1), expected.sequences)
    for layer, other in zip(second.past_key_values.layers, expected.past_key_values.layers, strict=True):
        assert torch.allclose(layer.keys, other.keys, atol=1e-5)
        assert torch.allclose(layer.values, other.values, atol=1e-5)


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


@pytest.mark.parametrize("is_same", [False, True])
def test_monkey_assists(model, inputs, is_same):
    """Whatever it proposes, the answer is that of the model alone; the same model proposes what is right."""
    expected = generate(model, inputs)
    assistant = copy.deepcopy(model)
    if not is_same:
        assistant.language_model.lm_head.weight.data = assistant.language_model.lm_head.weight.data.flip(0)
    assistant.generation_config.num_assistant_tokens = 3
    assistant.generation_config.num_assistant_tokens_schedule = "constant"
    assistant.generation_config.assistant_confidence_threshold = 0.0

    steps = []
    model.register_forward_hook(lambda *_: steps.append(1))
    assert generate(model, inputs, assistant_model=assistant) == expected
    # Four tokens a step, three of them proposed. Without the images they would be other ones.
    assert len(steps) == (2 if is_same else NEW_TOKENS)


def test_sampling_with_an_assistant_goes_on_to_the_end(model, inputs):
    torch.manual_seed(0)
    answers = generate(model, inputs, assistant_model=copy.deepcopy(model), do_sample=True)
    assert len(answers[0]) == NEW_TOKENS


def test_assistant_of_another_width_is_refused(model, inputs):
    config = copy.deepcopy(model.config)
    config.text_config.hidden_size = 64
    assistant = type(model)(config).eval()
    with pytest.raises(ValueError, match="visual tokens are 32 wide, the embeddings of text 64.*alone"):
        generate(model, inputs, assistant_model=assistant)

    # What the message says helps.
    assert generate(model, inputs, assistant_model=assistant.language_model) == generate(model, inputs)


def test_decoding_compiles_in_one_piece(model, inputs):
    expected = generate(model, inputs)
    compiling = CompileConfig(fullgraph=True, dynamic=False, backend="eager", mode=None)
    compiling._compile_all_devices = True

    torch.compiler.reset()
    options = {"cache_implementation": "static", "compile_config": compiling}
    assert generate(model, inputs, **options) == expected
    assert hasattr(model, "_compiled_call")


def test_static_cache_has_room_for_prompt_and_answer(model, inputs):
    outputs = model.generate(
        **inputs, max_new_tokens=NEW_TOKENS, cache_implementation="static", return_dict_in_generate=True
    )
    tokens = inputs["input_ids"].shape[1]
    assert isinstance(outputs.past_key_values, StaticCache)
    # The last token is in no cache.
    shapes = {(layer.keys.shape, layer.values.shape) for layer in outputs.past_key_values.layers}
    assert shapes == {((1, 2, tokens + NEW_TOKENS - 1, 16),) * 2}


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


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "num_return_sequences": 2},
        {"num_beams": 2},
        {"num_beams": 2, "num_return_sequences": 2, "use_cache": False},
        {"num_beams": 2, "do_sample": True, "num_return_sequences": 2},
        {"prompt_lookup_num_tokens": 2},
    ],
    ids=lambda options: " ".join(map(str, options)),
)
def test_every_way_to_generate_returns_its_steps(model, inputs, options):
    model.set_attn_implementation("eager")
    torch.manual_seed(0)
    names = ("scores", "logits", "attentions", "hidden_states")
    outputs = model.generate(
        **inputs,
        **{"do_sample": False, **options},
        max_new_tokens=NEW_TOKENS,
        bad_words_ids=[[model.config.image_token_id]],
        return_dict_in_generate=True,
        **{f"output_{name}": True for name in names},
    )
    sequences = options.get("num_return_sequences", 1)
    rows = max(options.get("num_beams", 1), sequences)
    assert len(outputs.sequences) == sequences

    vocabulary = model.config.text_config.vocab_size
    for name in ("scores", "logits"):
        assert [step.shape for step in outputs[name]] == [(rows, vocabulary)] * NEW_TOKENS

    tokens = inputs["input_ids"].shape[1]
    for number, (states, weights) in enumerate(zip(outputs.hidden_states, outputs.attentions, strict=True)):
        is_prompt_read = number == 0 or not options.get("use_cache", True)
        read = tokens + number if is_prompt_read else 1
        assert [state.shape for state in states] == [(rows, read, 32)] * 3
        assert [weight.shape for weight in weights] == [(rows, 2, read, tokens + number)] * 2

    if options.get("use_cache", True):
        lengths = {layer.keys.shape[2] for layer in outputs.past_key_values.layers}
        assert lengths == {outputs.sequences.shape[1] - 1}
    else:
        assert outputs.past_key_values is None


def test_sampling_follows_the_seed(model, inputs):
    def sample(seed):
        torch.manual_seed(seed)
        return generate(model, inputs, do_sample=True, top_k=10, top_p=0.9, temperature=2.0)

    assert sample(1) == sample(1)
    assert len({tuple(sample(seed)[0]) for seed in range(4)}) > 1


def test_generation_begins_from_nothing(model):
    answer = model.generate(bos_token_id=9, max_new_tokens=3, do_sample=False)
    expected = model.generate(torch.tensor([[9]]), max_new_tokens=3, do_sample=False)
    assert answer.tolist() == expected.tolist() and answer.shape == (1, 4)


def test_positions_may_be_given(model, inputs):
    count = inputs["input_ids"].shape[1]
    assert generate(model, inputs, position_ids=torch.arange(count)[None]) == generate(model, inputs)


def test_padding_on_the_left_changes_no_logits(model, inputs):
    padded = {**inputs}
    for name, value in (("input_ids", 0), ("attention_mask", 0)):
        padded[name] = F.pad(inputs[name], (32, 0), value=value)
    padded["position_ids"] = (padded["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    last = model(**inputs).logits[:, -1]
    assert torch.allclose(model(**padded).logits[:, -1], last, atol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_texts_do_not_see_each_other(model, attention):
    """They follow one another in one row, and each one's positions begin at 0."""
    model.set_attn_implementation(attention)
    texts = [torch.arange(10, 10 + length)[None] for length in (6, 9)]
    packed = torch.cat(texts, dim=1)
    positions = torch.cat([torch.arange(text.shape[1])[None] for text in texts], dim=1)

    logits = model(packed, position_ids=positions, use_cache=False).logits
    alone = torch.cat([model(text).logits for text in texts], dim=1)
    assert torch.allclose(logits, alone, atol=1e-5)


def test_mask_of_queries_and_keys_is_obeyed(model):
    """Three continuations of one beginning, in one row: none of them sees another."""
    beginning = torch.tensor([10, 11, 12])
    endings = torch.tensor([13, 14, 15])
    may_see = torch.ones(6, 6).tril()
    may_see[3:, 3:] = torch.eye(3)
    mask = torch.where(may_see.bool(), 0.0, torch.finfo(torch.float32).min)[None, None]

    row = torch.cat([beginning, endings])[None]
    positions = torch.tensor([[0, 1, 2, 3, 3, 3]])
    together = model(row, attention_mask=mask, position_ids=positions).logits[0, 3:]
    alone = model(torch.stack([torch.cat([beginning, ending[None]]) for ending in endings])).logits[:, -1]
    assert torch.allclose(together, alone, atol=1e-5)


def test_steps_of_generation_hand_unknown_arguments_on(model):
    arguments = {"output_attentions": True, "number": 42}
    inputs = model.prepare_inputs_for_generation(torch.tensor([[1, 2, 3]]), **arguments)
    assert inputs.items() >= arguments.items() and "input_ids" in inputs


def test_generation_settings_survive_saving(model, inputs, tmp_path):
    model.generation_config.max_new_tokens = 5
    model.generation_config.repetition_penalty = 1.3
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert loaded.generation_config.to_diff_dict() == model.generation_config.to_diff_dict()

    answer = loaded.generate(**inputs)
    assert answer.shape[1] == inputs["input_ids"].shape[1] + 5
    assert answer.tolist() == model.generate(**inputs).tolist()


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
