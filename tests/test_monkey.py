import pytest
import torch

import monkeylib
from monkeylib.data.records import Record
from monkeylib.images import ImageError
from monkeylib.messages import Message, read_messages
from monkeylib.tiling import Grid
from monkeylib.training.batches import ExampleEncoder
from tests.support.answers import assert_distinct, assert_same
from tests.support.hub_uploads import HubUploads


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
    monkey.forget_images()
    answers = monkey.answer_batch(questions, max_new_tokens=6)

    assert_same(answers, expected)
    assert encoded == [5, 5, 5], "three images"


def test_one_file_object_may_be_given_several_times(monkey, make_image, tmp_path):
    path, image = tmp_path / "page.png", make_image()
    image.save(path)

    with path.open("rb") as file:
        for options in ({}, {"do_sample": True, "seed": 1}):
            questions = [(file, "x"), (file, "why?"), ([file, file], "who?")]
            expected = [
                (image, "x"),
                (image, "why?"),
                ([image, image], "who?"),
            ]
            answers = monkey.answer_batch(questions, max_new_tokens=4, **options)
            assert_same(answers, monkey.answer_batch(expected, max_new_tokens=4, **options))

        content = ["Which is cheaper,", file, "or", file, "?"]
        expected = [image if part is file else part for part in content]
        assert_same(
            [monkey.answer_messages([{"role": "user", "content": content}], max_new_tokens=4)],
            [monkey.answer_messages([{"role": "user", "content": expected}], max_new_tokens=4)],
        )
        session = monkey.session([file, file])
        assert_same(
            [session.answer("x", max_new_tokens=4)],
            [monkey.answer([image, image], "x", max_new_tokens=4)],
        )


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


def test_hub_gets_model_processor_and_card(monkey, tmp_path, monkeypatch):
    uploads = HubUploads(tmp_path / "uploaded", monkeypatch)
    assert monkey.push_to_hub("me/monkey", token="secret") == "hub/me/monkey"
    assert uploads.token == "secret"

    card = (tmp_path / "uploaded/README.md").read_text(encoding="utf-8")
    assert "needs the package `monkeylib`" in card and 'load_model("me/monkey")' in card
    assert "| tiles (rows x columns) | 2x2 |" in card
    loaded = monkeylib.load_model(tmp_path / "uploaded", device="cpu")
    assert torch.equal(loaded.model.vision.positions, monkey.model.vision.positions)
    assert (tmp_path / "uploaded/chat_template.jinja").exists()

    with pytest.raises(FileExistsError, match="exists already"):
        monkey.save(tmp_path / "uploaded")
