import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from accelerate import infer_auto_device_map
from transformers.utils import logging

import monkeylib
from monkeylib import profiles
from monkeylib.data.records import Record
from monkeylib.images import ImageError
from monkeylib.messages import Message, read_messages
from monkeylib.model import build_on_meta, cpu
from monkeylib.profiles import build
from monkeylib.tiling import Grid
from monkeylib.training.batches import ExampleEncoder
from tests.support.answers import assert_distinct, assert_same
from tests.support.raised_models import save_base, save_raised


def test_batch_gives_the_answers_of_single_questions(monkey, make_image):
    questions = [
        (make_image(1), "What is it?"),
        (make_image(2, 40, 120), "And what does this longer question ask?"),
    ]
    batch = monkey.answer_batch(questions, max_new_tokens=8)

    assert_same(batch, [monkey.answer(*question, max_new_tokens=8) for question in questions])
    assert_distinct(batch)


def test_questions_about_one_image_share_it(monkey, make_image, monkeypatch, tmp_path):
    image, file = make_image(), tmp_path / "page.png"
    make_image(1).save(file)
    questions = [(image, "x"), (file, "who?"), (make_image(2), "y"), (image, "why?"), (str(file), "x")]
    expected = [monkey.answer(image, question, max_new_tokens=6) for image, question in questions]

    encoded, encode = [], monkey.model.vision.forward

    def watched_encode(pixel_values, *arguments, **options):
        encoded.append(len(pixel_values))
        return encode(pixel_values, *arguments, **options)

    monkeypatch.setattr(monkey.model.vision, "forward", watched_encode)
    answers = monkey.answer_batch(questions, max_new_tokens=6)

    assert_same(answers, expected)
    assert encoded == [5, 5, 5], "three images"


def test_answers_about_images_of_different_grids_are_those_of_single_questions(monkey, make_image):
    monkey.model.use_auto_grid(6)
    questions = [(make_image(1, 20, 120), "What?"), (make_image(2, 120, 30), "Why?"), (make_image(3), "Who?")]
    batch = monkey.answer_batch(questions, max_new_tokens=6, grid="auto")
    assert_distinct(batch)

    for (image, question), answer in zip(questions, batch, strict=True):
        options = {"max_new_tokens": 6, "grid": "auto:6"}
        assert_same([monkey.answer(image, question, **options)], [answer])
        assert_same([monkey.chat(image, question, **options)], [answer])
        assert_same([monkey.stream(image, question, **options).answer], [answer])


@pytest.mark.parametrize("size, grid", [((30, 200), "2x1"), ((200, 30), "1x2"), ((90, 90), "2x2")])
def test_automatic_grids_of_a_fixed_checkpoint_have_lora_for_each_tile(monkey, make_image, size, grid):
    image = make_image(1, *size)
    inputs = monkey.prepare([image], ["What?"], grid="auto")
    assert "x".join(map(str, inputs["grids"][0].tolist())) == grid

    with pytest.raises(ValueError, match="LoRA for the tiles of the grid 2x2, not for 5 tiles"):
        monkey.answer(image, "What?", grid="auto:5")


def test_grid_of_a_model_stands_where_none_is_named(monkey, make_image):
    image = make_image(1, 30, 200)
    wide = monkey.with_grid("1x2")
    answer = wide.answer(image, "What?", max_new_tokens=6)
    assert_same([answer], [monkey.answer(image, "What?", max_new_tokens=6, grid="1x2")])
    assert_distinct([answer, monkey.answer(image, "What?", max_new_tokens=6)])
    assert wide.prepare([image], ["What?"])["grids"].tolist() == [[1, 2]]
    assert wide.prepare([image], ["What?"], grid="auto")["grids"].tolist() == [[2, 1]]
    for grid in ("3x1", "auto:9", "auto:x"):
        with pytest.raises(ValueError, match="grid"):
            monkey.with_grid(grid)


HISTORY = (("What is it?", "a cat"), ("Which colour?", "red <img>"))


@pytest.mark.parametrize("prompt", ["vqa", "vqa_no_blank", "plain"])
def test_messages_give_the_ids_of_a_training_conversation(monkey, make_image, prompt):
    """Up to the answer to be given, with a system message and images in the middle of sentences."""
    first, second, third = make_image(1), make_image(2), make_image(3)
    messages = [
        {"role": "system", "content": "Answer in one word."},
        {
            "role": "user",
            "content": ["Which is cheaper,", first, "or", {"type": "image", "image": second}, "?"],
        },
        {"role": "assistant", "content": "the red <img>"},
        {
            "role": "user",
            "content": [{"type": "image", "image": third}, {"type": "text", "text": "And this?"}],
        },
    ]
    inputs = monkey.prepare_messages(messages, prompt)
    ids = inputs["input_ids"][0].tolist()

    complete = (*read_messages(messages), Message("assistant", ("x",)))
    record = Record("1", complete, "a", "a: 1", prompt, monkey.processor.separator)
    row = ExampleEncoder(monkey.processor, max_length=10_000).encode(record)
    assert ids == row.input_ids[: len(ids)].tolist() and len(row.input_ids) == len(ids) + 2

    side = monkey.processor.image_processor.view_count(Grid(2, 2))
    assert len(inputs["pixel_values"]) == 3 * side and bool(inputs["attention_mask"].all())
    answer = monkey.answer_messages(messages, prompt, max_new_tokens=4)
    assert answer.prompt_tokens == len(ids) and answer.visual_tokens == 3 * monkey.processor.visual_tokens()
    assert_same([monkey.stream_messages(messages, prompt, max_new_tokens=4).answer], [answer])


def test_messages_of_one_question_are_an_answer(monkey, make_image):
    image = make_image()
    expected = monkey.answer(image, "What?", max_new_tokens=8)
    content = [image, "What?"]
    answer = monkey.answer_messages([{"role": "user", "content": content}], max_new_tokens=8)
    assert_same([answer], [expected])

    text = monkey.answer_messages([{"role": "user", "content": "What is two and two?"}], max_new_tokens=8)
    assert text.visual_tokens == 0
    with pytest.raises(ValueError, match="the prompt has .* but the model takes"):
        monkey.answer_messages([{"role": "user", "content": [image, "what? " * 2048]}])
    with pytest.raises(ValueError, match="no option of generation called 'foo'"):
        monkey.answer_messages([{"role": "user", "content": content}], foo=1)


def test_history_changes_the_answer(monkey, make_image):
    alone, later = (monkey.chat(make_image(), "Why?", history, max_new_tokens=8) for history in ((), HISTORY))

    assert_same([alone], [monkey.answer(make_image(), "Why?", max_new_tokens=8)])
    assert_distinct([alone, later])
    assert_same([monkey.stream(make_image(), "Why?", history=HISTORY, max_new_tokens=8).answer], [later])


def test_quantised_loading_without_bitsandbytes_raises(monkeypatch, monkey, tmp_path):
    monkey.model.save_pretrained(tmp_path)
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="in 4 bits needs the package bitsandbytes"):
        monkeylib.load_model(tmp_path, bits=4)
    with pytest.raises(ValueError, match="4 or 8 bits, got 3"):
        monkeylib.load_model(tmp_path, bits=3)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is optional")
@pytest.mark.parametrize("bits", [4, 8])
def test_only_the_language_model_is_quantised(bits, monkey, make_image, tmp_path):
    monkey.model.save_pretrained(tmp_path)
    monkey.processor.save_pretrained(tmp_path)
    loaded = monkeylib.load_model(tmp_path, device="cpu", bits=bits)
    kinds = {type(m).__name__ for m in loaded.model.language_model.model.modules()}
    assert {4: "Linear4bit", 8: "Linear8bitLt"}[bits] in kinds
    assert not any(
        "bit" in type(m).__name__ for m in (*loaded.model.vision.modules(), *loaded.model.resampler.modules())
    )
    assert loaded.answer(make_image(), "What?", max_new_tokens=4).tokens


def test_device_map_spreads_a_checkpoint_over_devices(monkey, make_image, tmp_path):
    monkey.model.save_pretrained(tmp_path)
    monkey.processor.save_pretrained(tmp_path)
    loaded = monkeylib.load_model(tmp_path, device_map="auto")
    assert_same(
        [loaded.answer(make_image(), "What?", max_new_tokens=8)],
        [monkey.answer(make_image(), "What?", max_new_tokens=8)],
    )


def test_bfloat16_checkpoint_answers(monkey, make_image, tmp_path):
    monkey.model.save_pretrained(tmp_path)
    monkey.processor.save_pretrained(tmp_path)
    loaded = monkeylib.load_model(tmp_path, device="cpu", dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
    assert loaded.answer(make_image(), "What?", max_new_tokens=4).tokens


@pytest.mark.parametrize(("speed", "expected"), [(0.02, torch.float32), (2.0, torch.float16)])
def test_float16_checkpoint_is_computed_in_what_the_cpu_is_faster_in(
    monkey, make_image, tmp_path, monkeypatch, capsys, speed, expected
):
    monkey.model.half().save_pretrained(tmp_path)
    monkey.processor.save_pretrained(tmp_path)
    monkeypatch.setattr(cpu, "relative_speed", lambda dtype: 1.0 if dtype == torch.float32 else speed)

    loaded = monkeylib.load_model(tmp_path, device="cpu")
    assert {weight.dtype for weight in loaded.model.parameters()} == {expected}
    said = capsys.readouterr().err
    if expected == torch.float32:
        assert (
            "weights in float16 are computed in float32, which this CPU multiplies 50 times as fast" in said
        )
        assert loaded.answer(make_image(), "What?", max_new_tokens=2).tokens
    else:
        assert said == ""

    # What is named is obeyed.
    assert monkeylib.load_model(tmp_path, device="cpu", dtype="float16").model.dtype == torch.float16


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16", "torch.bfloat16"])
def test_dtype_may_be_named(dtype, monkey, tmp_path):
    monkey.model.save_pretrained(tmp_path)
    monkey.processor.save_pretrained(tmp_path)
    assert monkeylib.load_model(tmp_path, device="cpu", dtype=dtype).model.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "options, message",
    [
        ({"device": "gpu"}, "the device 'gpu' is not there"),
        ({"device": "meta:x"}, "the device 'meta:x' is not there"),
        ({"device": 2.5}, "the device 2.5 is not there"),
        ({"device": "cpu", "device_map": "auto"}, "one device .* spreads it: give one of them"),
        ({"dtype": "float33"}, "no dtype 'float33': expected float32, bfloat16 or float16"),
        ({"dtype": torch.int8}, "no dtype torch.int8"),
        ({"dtype": 16}, "no dtype 16"),
        ({"bits": "4"}, "4 or 8 bits"),
    ],
)
def test_option_that_cannot_be_obeyed_raises(options, message, monkey, tmp_path):
    monkey.model.save_pretrained(tmp_path)
    monkey.processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message) as raised:
        monkeylib.load_model(tmp_path, **options)
    assert "\n" not in str(raised.value)


def test_unknown_option_raises(tmp_path):
    with pytest.raises(TypeError, match="torch_dtype"):
        monkeylib.load_model(tmp_path, torch_dtype=torch.bfloat16)


def test_caption_needs_no_question(monkey, make_image):
    assert monkey.answer(make_image(), prompt="detailed_caption", max_new_tokens=2).tokens


def test_no_questions_give_no_answers(monkey):
    assert monkey.answer_batch([]) == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"question": None}, "a question or an answer is None: expected a text"),
        ({"question": 5}, "a question or an answer is 5: expected a text"),
        ({"question": "Why?", "history": None}, "history is None: expected a list of pairs, each a question"),
        ({"question": "Why?", "history": ["So?"]}, r"history\[0\] is 'So.': expected a pair, a question and"),
        ({"question": "Why?", "history": [("So?",)]}, r"history\[0\] is \('So.',\): expected a pair"),
        ({"question": "Why?", "history": [("So?", None)]}, "a question or an answer is None"),
    ],
)
def test_conversation_that_is_none_is_refused_in_one_sentence(arguments, complaint, monkey, make_image):
    for call in (monkey.chat, monkey.stream):
        with pytest.raises(ValueError, match=complaint):
            call(make_image(), prompt="caption", **arguments)


def test_batch_is_a_list_of_pairs(monkey, make_image):
    question = (make_image(), "Why?")
    for questions in (question, [make_image()], [(*question, "Because.")], iter([question])):
        with pytest.raises(ValueError, match=r"^questions.* is .*: expected a .*an image and a question"):
            monkey.answer_batch(questions)


@pytest.mark.parametrize("nothing", [None, [], ()])
def test_nothing_is_no_image(nothing, monkey):
    for answer in (
        lambda: monkey.answer(nothing, "What?"),
        lambda: monkey.answer_batch([(nothing, "What?")]),
        lambda: monkey.chat(nothing, "What?"),
        lambda: monkey.stream(nothing, "What?"),
    ):
        with pytest.raises(ImageError, match=r"there is no image, got (None|\[\]|\(\)): ask without one by"):
            answer()


def test_sampling_depends_on_the_seed(monkey, make_image):
    """At this temperature all tokens are almost equally probable."""

    def sample(seed: int) -> tuple[int, ...]:
        torch.manual_seed(seed)
        answer = monkey.answer(make_image(), "What?", max_new_tokens=12, do_sample=True, temperature=1000.0)
        return answer.token_ids

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) == 4


def test_saved_checkpoint_gives_the_same_answer(monkey, make_image, tmp_path):
    monkey.model.save_pretrained(tmp_path)
    monkey.processor.save_pretrained(tmp_path)
    loaded = monkeylib.load_model(tmp_path, device="cpu")
    assert not loaded.model.training
    assert_same(
        [loaded.answer(make_image(), "What?", max_new_tokens=8)],
        [monkey.answer(make_image(), "What?", max_new_tokens=8)],
    )


def test_folder_without_checkpoint_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*nothing"):
        monkeylib.load_model(tmp_path / "nothing")


def test_device_map_splits_the_model_between_blocks():
    """The paper's model with fewer blocks: a module with a residual connection stays on one device."""
    config = profiles.build_config(profiles.load_profile("paper-896"))
    config.vision_config.layers = 6
    config.text_config.num_hidden_layers = 6
    config.text_config.vocab_size = 1000
    config.text_config.pad_token_id = 0
    model = build_on_meta(config)

    sizes = {}
    for name, module in model.named_modules():
        sizes[name] = sum(parameter.nbytes for parameter in module.parameters())
    reserved = sizes["language_model.model.layers.0"]  # on the first device, for weights that are moved there
    room = {0: sizes["vision"] * 2 // 3 + reserved, 1: sizes["vision"], 2: sizes[""]}
    places = infer_auto_device_map(model, room, model._no_split_modules)

    assert set(places.values()) == {0, 1, 2}

    unsplittable = [*model.vision.blocks, *model.language_model.model.layers, model.resampler]
    names = [name for name, module in model.named_modules() if module in unsplittable]

    assert len(names) == 13
    for name in names:
        assert not any(place.startswith(f"{name}.") for place in places)


def test_import_is_fast():
    program = "import time, torch; start = time.process_time(); import monkeylib; "
    program += "print(time.process_time() - start)"
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout

    assert float(output) < 1


def test_import_loads_no_heavy_package():
    heavy = "torch transformers lightning ray gradio".split()
    program = f"import sys, monkeylib; print([name for name in {heavy} if name in sys.modules])"
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout

    assert output.strip() == "[]"


def test_saving_and_loading_print_nothing_in_a_log(monkey, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(logging, "_tqdm_active", True)
    monkey.model.save_pretrained(tmp_path)
    monkey.processor.save_pretrained(tmp_path)
    monkeylib.load_model(tmp_path, device="cpu")
    assert capfd.readouterr() == ("", "")


def test_hub_gets_model_processor_and_card(monkey, tmp_path, monkeypatch):
    uploads = {}

    class Hub:
        def __init__(self, token=None):
            uploads["token"] = token

        def create_repo(self, repo_id, private, exist_ok):
            return f"hub/{repo_id}"

        def upload_folder(self, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, tmp_path / "uploaded")

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert monkey.push_to_hub("me/monkey", token="secret") == "hub/me/monkey"
    assert uploads["token"] == "secret"

    card = (tmp_path / "uploaded/README.md").read_text(encoding="utf-8")
    assert "needs the package `monkeylib`" in card and 'load_model("me/monkey")' in card
    assert "| tiles (rows x columns) | 2x2 |" in card
    loaded = monkeylib.load_model(tmp_path / "uploaded", device="cpu")
    assert torch.equal(loaded.model.vision.positions, monkey.model.vision.positions)
    assert (tmp_path / "uploaded/chat_template.jinja").exists()

    with pytest.raises(FileExistsError, match="exists already"):
        monkey.save(tmp_path / "uploaded")


# Raised models of transformers


@pytest.fixture(scope="module")
def llava_base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("bases") / "llava")


@pytest.fixture(scope="module")
def raised_monkey(llava_base, tmp_path_factory):
    folder = save_raised(tmp_path_factory.mktemp("raised") / "llava", llava_base)
    return monkeylib.load_model(folder, device="cpu")


def test_raised_model_answers_as_its_processor_and_generate_do(raised_monkey, make_image):
    model, processor = raised_monkey.model, raised_monkey.processor
    image = make_image(1)
    answer = raised_monkey.answer(image, "why", max_new_tokens=4)

    inputs = processor(images=image, text="user: <image>why\nassistant:", return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert answer.token_ids == tuple(ids.tolist())
    assert (answer.visual_tokens, answer.prompt_tokens) == (20, inputs["input_ids"].shape[1])
    assert raised_monkey.answer(image, "why", max_new_tokens=4, grid="1x2").visual_tokens == 12


def test_raised_model_answers_in_batches_and_streams(raised_monkey, make_image):
    questions = [(make_image(1), "what"), (make_image(2, 40, 120), "why is this so")]
    batch = raised_monkey.prepare([image for image, _ in questions], [text for _, text in questions], "plain")
    with torch.no_grad():
        logits = raised_monkey.model(**batch).logits[:, -1]
        for (image, question), row in zip(questions, logits, strict=True):
            alone = raised_monkey.model(**raised_monkey.prepare([image], [question], "plain")).logits[0, -1]
            torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-4)

    image, question = questions[0]
    stream = raised_monkey.stream(image, question, max_new_tokens=3)
    assert_same([stream.answer], [raised_monkey.answer(image, question, max_new_tokens=3)])


def test_raised_model_chats_in_its_template(raised_monkey, make_image):
    image = make_image(1)
    history = [("what", "a cat")]
    answer = raised_monkey.chat(image, "why", history, max_new_tokens=3)
    text = "user: <image>what\nassistant: a cat</s>\nuser: why\nassistant:"
    inputs = raised_monkey.processor(images=image, text=text, return_tensors="pt")
    assert answer.prompt_tokens == inputs["input_ids"].shape[1]
    prepared = raised_monkey.prepare_messages(
        [
            {"role": "user", "content": [image, "what"]},
            {"role": "assistant", "content": "a cat"},
            {"role": "user", "content": "why"},
        ]
    )
    assert torch.equal(prepared["input_ids"], inputs["input_ids"])


def test_base_is_raised_to_the_grid_that_is_named(llava_base, make_image):
    monkey = monkeylib.load_model(llava_base, device="cpu", grid="1x2")
    assert monkey.answer(make_image(1), "what", max_new_tokens=1).visual_tokens == 12
    with pytest.raises(ValueError, match="no adapters for the tiles of 3x3"):
        monkey.answer(make_image(1), "what", grid="3x3")
    with pytest.raises(ValueError, match="no adapters for the tiles of 3x3"):
        monkey.with_grid("3x3")
    with pytest.raises(ValueError, match="give it a grid"):
        monkeylib.load_model(llava_base)


def test_raised_model_answers_questions_about_one_image_without_a_session(raised_monkey, make_image):
    image = make_image(1)
    answers = raised_monkey.answer_batch([(image, "what"), (image, "why")], max_new_tokens=1)
    assert_same(answers, [raised_monkey.answer(image, text, max_new_tokens=1) for text in ("what", "why")])
    assert raised_monkey.answer_batch([]) == []
    with pytest.raises(ValueError, match="a raised model has no sessions"):
        raised_monkey.session(image)


def test_checkpoint_takes_another_grid(monkey, tmp_path, make_image):
    monkey.model.save_pretrained(tmp_path)
    monkey.processor.save_pretrained(tmp_path)
    wide = monkeylib.load_model(tmp_path, device="cpu", grid="1x2")
    assert wide.grid == Grid(1, 2)
