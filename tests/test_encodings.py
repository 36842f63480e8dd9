"""An image is encoded once in all calls, as long as nothing changes that its encoding depends on."""

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer

from monkeylib.digests import tensor_checksum
from monkeylib.encodings import model_state
from monkeylib.messages import Message
from monkeylib.model.tile_lora import tile_loras
from monkeylib.monkey import Monkey
from tests.support import random_monkey
from tests.support.answers import assert_distinct, assert_same

QUESTIONS = ["x", "what is in line 2?", "who?"]


@pytest.fixture()
def monkey(monkey):
    random_monkey.train_loras(monkey.model)
    # Tests share the processor.
    return Monkey(monkey.model.eval(), copy.deepcopy(monkey.processor))


@pytest.fixture()
def watched(monkey, monkeypatch):
    """A Monkey that notes how many views its ViT encodes, and how many tokens its language model reads."""
    encoded, read = [], []
    encode, forward = monkey.model.vision.forward, monkey.model.language_model.model.forward

    def watched_encode(pixel_values, *arguments, **options):
        encoded.append(len(pixel_values))
        return encode(pixel_values, *arguments, **options)

    def watched_forward(*arguments, **options):
        embeds, ids = options.get("inputs_embeds"), options.get("input_ids")
        read.append((embeds if embeds is not None else ids).shape[:2].numel())
        return forward(*arguments, **options)

    monkeypatch.setattr(monkey.model.vision, "forward", watched_encode)
    monkeypatch.setattr(monkey.model.language_model.model, "forward", watched_forward)
    return monkey, encoded, read


def answer_anew(monkey, image, question="x", **options):
    """Answer without anything that is kept, as a Monkey of its own."""
    other = Monkey(monkey.model, monkey.processor, monkey.grid, cached_images=0)
    return other.answer(image, question, max_new_tokens=4, **options)


# --- what is shared


def test_image_is_encoded_once_in_all_calls(watched, make_image, tmp_path):
    monkey, encoded, read = watched
    image, file = make_image(), tmp_path / "page.png"
    image.save(file)
    content = [image, "what is in line 2?"]

    answers = [
        monkey.answer(image, "x", max_new_tokens=4),
        monkey.chat(file, "who?", [("x", "a cat")], max_new_tokens=4),
        monkey.stream(str(file), "x", max_new_tokens=4).answer,
        monkey.answer_messages([{"role": "user", "content": content}], max_new_tokens=4),
        *monkey.answer_batch([(image, "x"), (file, "who?")], max_new_tokens=4),
        monkey.session(file.read_bytes()).answer("x", max_new_tokens=4),
        monkey.answer(image, "x", max_new_tokens=4, num_beams=2),
    ]
    assert encoded == [5]

    # Read once by the language model, but for the session of its own and the beams.
    image_tokens = len(monkey.processor.image_ids())
    assert sum(count >= image_tokens for count in read) == 3
    expected = [answer_anew(monkey, image, question) for question in ("x", "what is in line 2?", "x", "who?")]
    assert_same([answers[0], answers[3], *answers[4:6]], expected)
    assert_same([answers[2], answers[6]], expected[:1] * 2)
    assert encoded == [5] * 5, "nothing is kept without room"


def test_images_of_a_batch_are_shared_with_other_calls(watched, make_image):
    monkey, encoded, _ = watched
    pairs = [(make_image(seed), "x") for seed in (1, 2, 3)]
    batch = monkey.answer_batch(pairs, max_new_tokens=4)
    assert encoded == [5, 5, 5]
    samples = {"do_sample": True, "seed": 1, "max_new_tokens": 4}
    sampled = monkey.answer_batch([*pairs, *pairs], **samples)
    assert_same([monkey.answer(*pair, max_new_tokens=4) for pair in pairs], batch)
    together = monkey.answer([image for image, _ in pairs], "x", max_new_tokens=4)
    assert encoded == [5, 5, 5]

    anew = Monkey(monkey.model, monkey.processor, cached_images=0)
    assert_same(anew.answer_batch([*pairs, *pairs], **samples), sampled)
    assert_same([anew.answer([image for image, _ in pairs], "x", max_new_tokens=4)], [together])


def test_conversation_is_read_from_where_it_goes_on(watched, make_image):
    monkey, _, read = watched
    image, history, lengths = make_image(), [], []
    for question in QUESTIONS:
        read.clear()
        answer = monkey.chat(image, question, history, max_new_tokens=4)
        lengths.append(read[0])
        anew = Monkey(monkey.model, monkey.processor, cached_images=0)
        assert_same([anew.chat(image, question, history, max_new_tokens=4)], [answer])
        history.append((question, answer))
    assert max(lengths[1:]) < lengths[0] / 2


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 3}, {"output_scores": True}])
def test_answers_do_not_depend_on_what_came_before_to_the_last_bit(monkey, make_image, options):
    image = make_image()
    expected = answer_anew(monkey, image, "who?", **options)
    history = [("x", "a cat"), ("who?", "foo bar baz"), ("where is it?", "on a table")]
    earlier_calls = [
        lambda: monkey.answer(image, "x", max_new_tokens=9),
        lambda: monkey.answer(image, "what is in line 2?", max_new_tokens=9),
        # After a call without anything in common, all of a conversation is new.
        lambda: monkey.forget_images() or monkey.chat(image, "why?", history, max_new_tokens=9),
        lambda: monkey.forget_images() or monkey.stream(image, "why?", history=history).answer,
    ]
    for call in earlier_calls:
        call()
        answer = monkey.answer(image, "who?", max_new_tokens=4, **options)
        assert answer.token_ids == expected.token_ids
        assert answer.token_log_probabilities == expected.token_log_probabilities
        if options.get("output_scores"):
            assert torch.equal(answer.scores, expected.scores)


def test_room_is_limited_and_can_be_freed(watched, make_image):
    monkey, encoded, _ = watched
    monkey.cached_images = 1
    for seed in (1, 2, 1):
        monkey.answer(make_image(seed), "x", max_new_tokens=1)
    assert encoded == [5, 5, 5]

    monkey.answer(make_image(1), "who?", max_new_tokens=1)
    assert encoded == [5, 5, 5]
    monkey.forget_images()
    monkey.answer(make_image(1), "who?", max_new_tokens=1)
    monkey.cached_images = 0
    monkey.answer(make_image(1), "who?", max_new_tokens=1)
    assert encoded == [5] * 5

    for room in (-1, 1.5, "many"):
        with pytest.raises(ValueError, match="cached_images is .*: expected a whole number from 0"):
            Monkey(monkey.model, monkey.processor, cached_images=room)


def test_only_the_last_conversation_has_keys_and_values(monkey, make_image):
    for seed in (1, 2):
        monkey.answer(make_image(seed), "x", max_new_tokens=1)
    memory = monkey._memory
    assert len(memory._encoded) == 2 and memory._last is not None
    assert all(type(one).__name__ == "EncodedImage" for one in memory._encoded.values())


def test_copies_of_a_monkey_begin_with_nothing(monkey, make_image):
    answer = monkey.answer(make_image(), "x", max_new_tokens=4)
    for other in (copy.deepcopy(monkey), pickle.loads(pickle.dumps(monkey))):
        assert not other._memory._encoded and other._memory._last is None
        assert_same([other.answer(make_image(), "x", max_new_tokens=4)], [answer])

    # A shallow copy has the same model, until it gets another one.
    other = copy.copy(monkey)
    other.model = copy.deepcopy(monkey.model)
    edit_data(other.model)
    assert_distinct([answer, other.answer(make_image(), "x", max_new_tokens=4)])
    assert_same([monkey.answer(make_image(), "x", max_new_tokens=4)], [answer])


def test_another_grid_is_another_image(watched, make_image):
    monkey, encoded, _ = watched
    wide = monkey.with_grid("1x2")
    answers = [one.answer(make_image(), "x", max_new_tokens=4) for one in (monkey, wide, monkey, wide)]
    assert encoded == [5, 3]
    assert_same(answers[2:], answers[:2])
    assert_distinct(answers[:2])


# --- what changes an answer


def train_step(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


def load_other_weights(model):
    model.load_state_dict({name: value * 1.1 for name, value in model.state_dict().items()})


def edit_data(module):
    for parameter in module.parameters():
        parameter.data.copy_(parameter.data * 1.3)


def exchange_tiles(model):
    for lora in tile_loras(model):
        for parameter in (lora.lora_A, lora.lora_B):
            parameter.data = parameter.data[[1, 0, 3, 2]]


def permute_within_tiles(model):
    for lora in tile_loras(model):
        lora.lora_A.data = lora.lora_A.data.flip(-1)


def fill_tiles(model):
    for lora in tile_loras(model):
        torch.nn.init.constant_(lora.lora_B, 0.3)


def change_one_value(model):
    model.vision.blocks[0].attention.out.weight.data[0, 0] += 3


def hook(model):
    model.vision.register_forward_hook(lambda module, inputs, output: -output)


def replace_forward(model):
    forward = model.vision.forward
    model.vision.forward = lambda *arguments, **options: -forward(*arguments, **options)


CHANGES = {
    "a training step": train_step,
    "load_state_dict": load_other_weights,
    "weights of the ViT": lambda model: edit_data(model.vision),
    "weights of the resampler": lambda model: edit_data(model.resampler),
    "weights of the language model": lambda model: edit_data(model.language_model),
    "LoRAs of other tiles": exchange_tiles,
    "permuted LoRAs": permute_within_tiles,
    "filled LoRAs": fill_tiles,
    "precision": lambda model: model.to(torch.bfloat16),
    "a hook": hook,
    "another forward": replace_forward,
    "positions": lambda model: model.resampler.positions.data.neg_(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("call", ["answer", "stream", "session"])
def test_changed_weights_have_answers_of_their_own(monkey, make_image, change, call):
    if call == "session":

        def respond(monkey):
            return monkey.session(make_image()).answer("x", max_new_tokens=4)
    elif call == "stream":

        def respond(monkey):
            return monkey.stream(make_image(), "x", max_new_tokens=4).answer
    else:

        def respond(monkey):
            return monkey.answer(make_image(), "x", max_new_tokens=4)

    before = respond(monkey)
    torch.manual_seed(0)
    CHANGES[change](monkey.model)
    after = respond(monkey)
    assert_same([after], [answer_anew(monkey, make_image())])
    if change != "precision":
        assert_distinct([before, after])


def test_adapters_of_peft_may_be_switched_off_scaled_exchanged_and_merged(monkey, make_image):
    image, model = make_image(), monkey.model.language_model
    config = LoraConfig(r=2, lora_alpha=64, target_modules=["v_proj", "down_proj"], init_lora_weights=False)
    for name in ("one", "other"):
        inject_adapter_in_model(config, model, name)
    monkey.model.eval()
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]

    changes = {
        "another adapter": lambda layer: layer.set_adapter("one"),
        "switched off": lambda layer: layer.enable_adapters(False),
        "switched on": lambda layer: layer.enable_adapters(True),
        "scaled": lambda layer: layer.scale_layer(0.3),
        "merged": lambda layer: layer.merge(),
        "changed below": lambda layer: layer.get_base_layer().weight.data.mul_(1.5),
    }
    answers = {"": monkey.answer(image, "x", max_new_tokens=4)}
    for name, change in changes.items():
        for layer in layers:
            change(layer)
        answers[name] = monkey.answer(image, "x", max_new_tokens=4)
        assert_same([answers[name]], [answer_anew(monkey, image)])

    assert_same([answers.pop("switched on")], [answers["another adapter"]])
    assert_same([answers.pop("merged")], [answers["scaled"]])
    assert_distinct(list(answers.values()))


@pytest.mark.parametrize(
    "settings", [{"resize_mode": "pad"}, {"global_from": "original"}, {"exact": False}, {"tile_overlap": 4}]
)
def test_other_settings_of_images_have_answers_of_their_own(monkey, make_image, settings):
    image = make_image(0, 300, 90)
    before = monkey.answer(image, "x", max_new_tokens=4)
    for name, value in settings.items():
        setattr(monkey.processor.image_processor, name, value)
    after = monkey.answer(image, "x", max_new_tokens=4)
    assert_same([after], [answer_anew(monkey, image)])
    if "exact" not in settings:
        assert_distinct([before, after])


@pytest.mark.parametrize("settings", [{"separator": " "}, {"prompt_prefix": "x"}])
def test_other_settings_of_prompts_have_answers_of_their_own(monkey, make_image, settings):
    pairs = [(make_image(), "x"), (make_image(), "who?")]
    before = monkey.answer_batch(pairs, max_new_tokens=4)
    for name, value in settings.items():
        setattr(monkey.processor, name, value)
    after = monkey.answer_batch(pairs, max_new_tokens=4)
    assert_same(after, [answer_anew(monkey, *pair) for pair in pairs])
    assert_distinct([*before, *after])


def test_compressed_files_that_are_decoded_late_are_recognised(monkey, make_image):
    file = io.BytesIO()
    make_image(0, 600, 400).save(file, "JPEG")
    late = Monkey(monkey.model, copy.deepcopy(monkey.processor))
    late.processor.image_processor.exact = False
    answers = [late.answer(file.getvalue(), "x", max_new_tokens=4) for _ in range(2)]
    assert len(late._memory._encoded) == 1
    assert_same(answers, [answer_anew(late, file.getvalue())] * 2)


def test_nothing_is_kept_while_a_model_trains(watched, make_image):
    monkey, encoded, _ = watched
    monkey.answer(make_image(), "x", max_new_tokens=1)
    for module in (monkey.model, monkey.model.vision):
        module.train()
        for _ in range(2):
            encoded.clear()
            monkey.answer(make_image(), "x", max_new_tokens=1)
            assert encoded == [5]
        monkey.model.eval()

    encoded.clear()
    monkey.answer(make_image(), "x", max_new_tokens=1)
    assert not encoded


def test_every_mode_of_torch_has_its_own_encodings(monkey, make_image):
    image = make_image()
    expected = answer_anew(monkey, image)
    with torch.inference_mode():
        answers = [
            monkey.answer(image, "x", max_new_tokens=4),
            monkey.stream(image, "x", max_new_tokens=4).answer,
        ]
    answers.append(monkey.answer(image, "x", max_new_tokens=4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = monkey.answer(image, "x", max_new_tokens=4)
        answers.append(monkey.stream(image, "x", max_new_tokens=4).answer)
    with torch.enable_grad():
        answers.append(monkey.answer(image, "x", max_new_tokens=4))
    assert_same(answers, [expected] * len(answers))
    assert rounded.token_log_probabilities != expected.token_log_probabilities


def test_weights_that_change_while_a_stream_is_open_leave_nothing_behind(monkey, make_image):
    image = make_image()
    before = monkey.answer(image, "x", max_new_tokens=4)
    weights = copy.deepcopy(monkey.model.state_dict())
    stream = monkey.stream(image, "x", max_new_tokens=4)
    edit_data(monkey.model.language_model)
    list(stream)
    monkey.model.load_state_dict(weights)
    assert_same([monkey.answer(image, "x", max_new_tokens=4)], [before])


def test_threads_may_answer_at_once(monkey, make_image):
    requests = [(seed, question) for seed in (1, 2) for question in QUESTIONS] * 3
    expected = {request: answer_anew(monkey, make_image(request[0]), request[1]) for request in requests}
    monkey.cached_images = 1

    def respond(request):
        seed, question = request
        if question == "who?":
            return monkey.stream(make_image(seed), question, max_new_tokens=4).answer
        return monkey.answer(make_image(seed), question, max_new_tokens=4)

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(respond, requests))
    assert_same(answers, [expected[request] for request in requests])


def test_error_on_the_way_leaves_nothing_half_read(monkey, make_image, monkeypatch):
    image = make_image()
    monkey.answer(image, "who?", max_new_tokens=4)
    with monkeypatch.context() as patch:
        layer = monkey.model.language_model.model.layers[-1]
        patch.setattr(layer, "forward", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            monkey.answer(image, "what?", max_new_tokens=4)
    assert_same([monkey.answer(image, "what?", max_new_tokens=4)], [answer_anew(monkey, image, "what?")])


def test_conversations_without_images_are_answered(monkey):
    messages = [Message("user", ("who?",))]
    answer = monkey.answer_messages(messages, max_new_tokens=3)
    assert_same([monkey.stream_messages(messages, max_new_tokens=3).answer], [answer])


def test_request_that_cannot_be_answered_encodes_nothing(watched, make_image):
    monkey, encoded, _ = watched
    with pytest.raises(ValueError, match="but the model takes 2048"):
        monkey.answer(make_image(), "x", max_new_tokens=4000)
    with pytest.raises(ValueError, match="no option of generation"):
        monkey.answer(make_image(), "x", temprature=1)
    with pytest.raises(ValueError, match="a stream is one answer"):
        monkey.stream(make_image(), "x", num_beams=2)
    assert not encoded


def test_nothing_is_kept_of_models_whose_weights_are_elsewhere(monkey):
    weight = monkey.model.resampler.query
    assert model_state(monkey.model) is not None
    weight.device_mesh = "two devices"
    assert model_state(monkey.model) is None
    del weight.device_mesh
    monkey.model.vision.to("meta")
    assert model_state(monkey.model) is None


# --- checksum


def test_checksum_sees_every_change_of_a_tensor():
    weight = torch.randn(3, 4, 5)
    checksum = tensor_checksum([weight])
    assert tensor_checksum([weight.clone()]) == checksum

    others = [weight.flip(dim) for dim in range(3)] + [
        weight[[1, 0, 2]],
        weight * 1.001,
        torch.zeros(3, 4, 5),
    ]
    changed = weight.clone()
    changed[2, 3, 4] += 1e-5
    checksums = {tensor_checksum([other]) for other in (*others, changed)}
    assert len(checksums) == 7 and checksum not in checksums

    pair = [torch.ones(4), torch.zeros(4)]
    assert tensor_checksum(pair) != tensor_checksum(pair[::-1])
    for dtype in (torch.float16, torch.bfloat16, torch.int8, torch.int64, torch.float64, torch.float8_e4m3fn):
        matrix = torch.arange(16).view(4, 4).to(dtype)
        assert tensor_checksum([matrix]) != tensor_checksum([matrix.view(torch.uint8).flip(0).view(dtype)])


@pytest.mark.parametrize("value", [-torch.inf, torch.finfo(torch.float32).min, 1e30, torch.nan])
def test_checksum_sees_changes_beside_values_without_bounds(value):
    mask = torch.full((4, 4), value).triu(1)
    weight = torch.randn(4, 4)
    assert tensor_checksum([mask, weight]) == tensor_checksum([mask.clone(), weight])
    assert tensor_checksum([mask, weight]) != tensor_checksum([mask, 1.01 * weight])


def test_checksum_takes_tensors_without_values():
    empty = [torch.empty(0), torch.empty(0, 0), torch.empty(3, 0, 2)]
    assert tensor_checksum(empty) == tensor_checksum(empty)


@pytest.mark.parametrize("kind", ["sparse", "quantised"])
def test_nothing_is_kept_where_weights_cannot_be_read(monkey, make_image, kind):
    matrix = torch.eye(3)
    quantised = torch.quantize_per_tensor(matrix, 0.1, 0, torch.qint8)
    monkey.model.vision.register_buffer("extra", matrix.to_sparse() if kind == "sparse" else quantised)
    assert model_state(monkey.model) is None
    assert_same([monkey.answer(make_image(), "x", max_new_tokens=4)], [answer_anew(monkey, make_image())])


def test_state_of_a_model_is_the_same_until_something_changes(monkey):
    state = model_state(monkey.model)
    assert hash(state) is not None and model_state(monkey.model) == state
    monkey.model.language_model.model.embed_tokens.weight.data[3, 3] += 1e-3
    changed = model_state(monkey.model)
    assert changed.visual == state.visual and changed.language != state.language
