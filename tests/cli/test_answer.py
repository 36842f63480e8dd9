"""`monkeylib answer`."""

import io
import json
import re
import sys
import types

import pytest
from PIL import Image

from monkeylib import resources
from monkeylib.cli import options
from monkeylib.model import MonkeyForConditionalGeneration
from tests.support.image_files import png_of_size
from tests.support.raised_models import save_base, save_raised
from tests.support.web_server import web_server


def notes(errors: str) -> list[str]:
    """Return the lines of standard error, without that on an answer that was cut."""
    return [line for line in errors.splitlines() if "was cut after" not in line]


def test_answer_prints_the_answer(call, checkpoint, image, monkey):
    expected = monkey.answer(image, "What?", max_new_tokens=3)
    code, output, errors = call("answer", image, "What?", "--model", checkpoint, "--max-new-tokens", 3)

    assert (code, output) == (0, f"{expected}\n")

    code, output, _ = call(
        "answer", image, "--prompt", "caption", "--model", checkpoint, "--max-new-tokens", 3
    )
    assert code == 0 and output == f"{monkey.answer(image, prompt='caption', max_new_tokens=3)}\n"


def test_questions_of_a_file_share_one_start(call, checkpoint, image, monkey, monkeypatch, tmp_path):
    expected = [monkey.answer(image, question, max_new_tokens=3) for question in ("What?", "Why?")]
    questions = tmp_path / "questions.txt"
    questions.write_text("What?\n\n  Why?\n", encoding="utf-8")
    asking = ("answer", image, "--model", checkpoint, "--max-new-tokens", 3)

    code, output, _ = call(*asking, "--questions", questions)
    assert (code, output) == (0, "".join(f"{answer}\n" for answer in expected))

    monkeypatch.setattr(sys, "stdin", io.StringIO("What?\nWhy?\n"))
    code, output, _ = call(*asking, "--questions", "-", "--json")
    rows = [json.loads(line) for line in output.splitlines()]
    assert [(row["question"], row["text"]) for row in rows] == [
        ("What?", expected[0].text),
        ("Why?", expected[1].text),
    ]

    # The image is encoded once, also where answers are streamed; none of them is a turn of a chat.
    encoded = []
    encode = MonkeyForConditionalGeneration.get_image_features

    def counted_encode(self, pixel_values, *arguments, **options):
        encoded.append(len(pixel_values))
        return encode(self, pixel_values, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(MonkeyForConditionalGeneration, "get_image_features", counted_encode)
        code, output, _ = call(*asking, "--questions", questions, "--stream")
    assert (code, output) == (0, "".join(f"{answer}\n" for answer in expected))
    assert len(encoded) == 1

    # Samples, and a raised model, are asked as single questions are.
    code, output, _ = call(
        *asking, "--questions", questions, "--samples", 2, "--temperature", 0.5, "--seed", 1
    )
    assert code == 0 and output.count("\n") == 4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("What?", "--questions", "QUESTIONS"), "leave one of them out"),
        (("--questions", "gone.txt"), "there is no file gone.txt"),
        (("--questions", "QUESTIONS", "--prompt", "caption"), "takes no questions"),
        (("--questions", "EMPTY"), "holds no question"),
        (("--questions", "IMAGE"), "is no text in UTF-8"),
        (("What?", "--stream", "--json"), "leave it out with --json"),
        (("What?", "--device", "gpu7"), "gpu7"),
        (("What?", "--bits", "3"), "4 or 8 bits, got 3"),
    ],
)
def test_wrong_questions_and_devices_are_reported(call, checkpoint, image, tmp_path, arguments, sentence):
    (tmp_path / "questions.txt").write_text("What?")
    (tmp_path / "empty.txt").write_text("\n")
    files = {
        "QUESTIONS": tmp_path / "questions.txt",
        "EMPTY": tmp_path / "empty.txt",
        "IMAGE": image,
    }
    given = [files.get(argument, argument) for argument in arguments]
    code, output, errors = call("answer", image, *given, "--model", checkpoint)
    assert (code, output) == (2, "") and errors.count("\n") == 1 and sentence in errors


def test_image_and_questions_from_standard_input_at_once(call, checkpoint):
    code, _, errors = call("answer", "-", "--questions", "-", "--model", checkpoint)
    assert code == 2 and "cannot both come from standard input" in errors


def test_streamed_answer_is_the_same(call, checkpoint, image):
    asking = ("answer", image, "What?", "--model", checkpoint, "--max-new-tokens", 3)
    assert call(*asking, "--stream")[:2] == call(*asking, "--no-stream")[:2]


def test_data_type_of_the_weights(call, checkpoint, image, monkey):
    asking = ("answer", image, "What?", "--model", checkpoint, "--max-new-tokens", 1)
    code, _, errors = call(*asking, "--dtype", "float16", "--device", "cpu", "-v")
    assert code == 0 and "parameters in float16 on cpu" in errors
    assert call(*asking, "--dtype", "float99")[0] == 2


def test_answer_uses_the_shipped_model_or_notes_that_the_base_answers(
    call, checkpoint, image, monkeypatch, tmp_path
):
    monkeypatch.setattr(resources, "REPOSITORY", tmp_path)
    question = ("answer", image, "What?", "--max-new-tokens", 1)
    code, _, errors = call(*question)

    assert code == 0 and "nano-monkey is missing, so" in errors and "data/models/nano-base answers" in errors
    checkpoint.rename(resources.models() / "nano-monkey")
    code, _, errors = call(*question)

    assert code == 0 and "nano-base" not in errors


def test_grid_other_than_the_checkpoints_raises(call, checkpoint, image):
    code, output, errors = call("answer", image, "What?", "--model", checkpoint, "--grid", "3x3")

    assert (code, output) == (2, "") and errors.count("\n") == 1
    assert "made for the grid 2x2" in errors and "got an image of 3x3 tiles" in errors
    assert "--set grid=auto" in errors


def test_prompt_beyond_the_context_is_reported_with_its_numbers(call, checkpoint, image, monkey):
    context = monkey.model.config.text_config.max_position_embeddings
    question = "what? " * context
    for command in (("answer", image, question), ("answer", image, "what?", "--grid", "99x9")):
        code, output, errors = call(*command, "--model", checkpoint)
        assert (code, output) == (2, "") and errors.count("\n") == 1
        assert re.search(
            rf"the prompt has \d+ tokens, \d+ of them visual, .*but the model takes {context}: ", errors
        )

    code, _, errors = call("answer", image, "what?", "--grid", "1000x1000", "--model", checkpoint)
    assert code == 2 and "pixels an image, more than" in errors


def test_advice_about_a_grid_can_be_followed_on_the_command_line(call, checkpoint, image):
    code, _, errors = call("answer", image, "What?", "--model", checkpoint, "--grid", "3x1")
    assert code == 2
    assert "choose a grid that it was made for, one inside 2x2, or auto, which" in errors

    # Both pieces of advice can be followed.
    for grid in ("1x2", "auto"):
        code, output, errors = call(
            "answer", image, "What?", "--model", checkpoint, "--grid", grid, "--max-new-tokens", 2
        )
        assert (code, notes(errors)) == (0, [])


def test_automatic_grid_follows_the_shape_of_the_image(call, checkpoint, make_image, monkey, tmp_path):
    path = tmp_path / "long.png"
    make_image(0, 40, 300).save(path)
    question = ("answer", path, "What?", "--model", checkpoint, "--max-new-tokens", 3)
    code, output, errors = call(*question, "--grid", "auto")

    assert code == 0
    assert output == f"{monkey.answer(path, 'What?', max_new_tokens=3, grid='2x1')}\n"

    # More tiles than there are LoRAs.
    code, output, errors = call(*question, "--grid", "auto:6")
    assert (code, output) == (2, "") and errors.count("\n") == 1
    assert "choose auto or auto:4, or train with `--set grid=auto --set max_tiles=6`" in errors


def test_squeezed_image_is_noted(call, checkpoint, make_image, tmp_path):
    path = tmp_path / "long.png"
    make_image(0, 30, 300).save(path)
    question = ("answer", path, "What?", "--model", checkpoint, "--max-new-tokens", 1)
    code, _, errors = call(*question)

    assert code == 0 and len(notes(errors)) == 1
    assert "30x300 pixels is stretched over 2x2 tiles" in errors and "10 times more along one side" in errors
    assert "--grid auto chooses tiles by its shape" in errors

    # What was requested is noted without advice, an ordinary image or a named grid not at all.
    code, _, errors = call(*question, "--grid", "auto")
    assert "over 2x1 tiles" in errors and "--grid auto" not in errors
    assert notes(call(*question, "--grid", "2x2")[2]) == []
    make_image(0, 40, 60).save(path)
    assert notes(call(*question)[2]) == []


def test_page_of_a_document_is_answered_about(call, checkpoint, image, monkey, tmp_path):
    document = tmp_path / "a.tif"
    with Image.open(image) as first:
        first.convert("RGB").save(
            document, save_all=True, append_images=[Image.new("RGB", first.size, "red")] * 2
        )
    question = ("What?", "--model", checkpoint, "--max-new-tokens", 3)

    code, output, errors = call("answer", f"{document}#2", *question)
    assert (code, notes(errors)) == (0, [])
    assert output == f"{monkey.answer(f'{document}#2', 'What?', max_new_tokens=3)}\n"

    code, _, errors = call("answer", document, *question)
    assert code == 0 and len(notes(errors)) == 1
    assert errors.startswith("monkeylib: ") and "has 3 pages: the first is read, 2 left out" in errors

    code, output, errors = call("answer", f"{document}#4", *question)
    assert (code, output) == (2, "") and "a.tif#4: the file has 3 pages" in errors


def test_image_that_is_too_large_is_one_sentence(call, checkpoint, tmp_path):
    (tmp_path / "a.png").write_bytes(png_of_size(13_300, 13_300))
    code, output, errors = call("answer", tmp_path / "a.png", "What?", "--model", checkpoint)
    assert (code, output) == (2, "") and errors.count("\n") == 1 and "13300 x 13300" in errors


def test_address_is_fetched_with_a_switch_only(call, checkpoint, image, monkey, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    options = ("What?", "--model", checkpoint, "--max-new-tokens", 3)

    with web_server({"/image.png": image.read_bytes()}) as (address, paths):
        code, output, errors = call("answer", f"{address}/image.png", *options)
        assert (code, output, paths) == (2, "", []) and errors.count("\n") == 1
        assert f"{address}/image.png is an address" in errors and "--allow-address" in errors

        code, output, errors = call("answer", f"{address}/image.png", *options, "--allow-address")
        assert (code, notes(errors), paths) == (0, [], ["/image.png"])
        assert output == f"{monkey.answer(image, 'What?', max_new_tokens=3)}\n"

        code, output, errors = call("answer", f"{address}/gone.png", *options, "--allow-address")
        assert (code, output) == (2, "") and "gone.png answers 404" in errors


@pytest.mark.parametrize("question", ["what\udcff?", "\ud83d what?"])
def test_question_that_is_not_unicode_is_reported(question, call, checkpoint, image):
    code, output, errors = call("answer", image, question, "--model", checkpoint)
    assert (code, output) == (2, "") and errors.count("\n") == 1 and "is not Unicode" in errors


def test_cut_answer_is_noted(call, checkpoint, image, monkey):
    code, output, errors = call("answer", image, "What?", "--model", checkpoint, "--max-new-tokens", 3)
    assert monkey.answer(image, "What?", max_new_tokens=3).is_cut
    sentence = "monkeylib: the answer was cut after 3 tokens: allow more with --max-new-tokens\n"
    assert (code, errors) == (0, sentence)


def test_json_holds_the_answer_with_its_samples(call, checkpoint, image, monkey):
    arguments = ("answer", image, "What?", "--model", checkpoint, "--max-new-tokens", 3, "--json")
    code, output, _ = call(*arguments)
    assert code == 0 and output.count("\n") == 1
    fields = json.loads(output)
    expected = monkey.answer(image, "What?", max_new_tokens=3).to_dict()
    assert fields.pop("token_log_probabilities") == pytest.approx(expected.pop("token_log_probabilities"))
    assert fields.pop("log_probability") == pytest.approx(expected.pop("log_probability"))
    assert fields == expected and fields["ended_by"] == "length limit" and fields["samples"] == []

    sampling = ("--samples", 3, "--temperature", 5, "--seed", 1)
    code, first, errors = call(*arguments, *sampling)
    samples = json.loads(first)["samples"]
    assert code == 0 and len(samples) == 3 and "of 3 answers were cut" in errors
    assert call(*arguments, *sampling)[1] == first

    code, output, _ = call(*arguments[:-1], *sampling)
    assert output == "".join(f"{sample['text']}\n" for sample in samples)


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        (("--samples", 3), "so give a --temperature"),
        (("--samples", 0), "--samples is 0: expected at least 1"),
        (("--samples", -1, "--temperature", 1), "--samples is -1: expected at least 1"),
        (("--temperature", 0), "temperature is 0.0: expected a number from 0.000001"),
        (("--temperature", "nan"), "temperature is nan: expected a number from 0.000001"),
        (("--seed", 1), "give a --temperature"),
        (("--seed", -1, "--temperature", 1), "seed is -1"),
        (("--prompt", "nonsense"), "there is no prompt called 'nonsense'"),
    ],
)
def test_bad_option_is_one_sentence(option, complaint, call, checkpoint, image):
    code, output, errors = call("answer", image, "What?", "--model", checkpoint, *option)
    assert (code, output) == (2, "") and errors.count("\n") == 1 and complaint in errors


def test_images_come_from_several_files_and_from_standard_input(
    call, checkpoint, image, monkey, make_image, tmp_path, monkeypatch
):
    second = tmp_path / "second.png"
    make_image(7).save(second)
    options = ("--model", checkpoint, "--max-new-tokens", 6, "--json")
    _, output, _ = call("answer", image, "What?", "--image", second, *options)
    expected = monkey.answer([image, second], "What?", max_new_tokens=6)
    assert json.loads(output)["prompt_tokens"] == expected.prompt_tokens
    assert json.loads(output)["visual_tokens"] == 2 * monkey.processor.visual_tokens()
    assert json.loads(output)["text"] == expected

    def pipe():
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(second.read_bytes())))

    pipe()
    assert call("answer", image, "What?", "--image", "-", *options)[1] == output
    pipe()
    code, _, errors = call("answer", "-", "What?", "--image", "-", *options)
    assert code == 2 and errors.count("\n") == 1 and "standard input is empty" in errors


def test_empty_standard_input_is_one_sentence(call, checkpoint, monkeypatch):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO()))
    code, output, errors = call("answer", "-", "What?", "--model", checkpoint)
    assert (code, output) == (2, "") and errors.count("\n") == 1
    assert "standard input is empty: `-` reads one image from it" in errors


def test_checkpoint_begins_at_home(call, checkpoint, image, monkeypatch):
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    code, output, errors = call(
        "answer", image, "what?", f"--model=~/{checkpoint.name}", "--max-new-tokens", 2
    )
    assert code == 0, errors


def test_raised_folder_answers_and_a_base_is_raised(call, image, tmp_path):
    base = save_base(tmp_path / "llava")
    raised = save_raised(tmp_path / "raised", base)
    question = ("answer", image, "what", "--max-new-tokens", 2, "--json")

    code, output, errors = call(*question, "--model", raised)
    assert code == 0 and json.loads(output)["visual_tokens"] == 20, errors
    code, output, errors = call(*question, "--model", base, "--grid", "1x2")
    assert code == 0 and json.loads(output)["visual_tokens"] == 12, errors
    assert f"`monkeylib train --base {base} --grid 1x2 --data FILE` trains them" in errors

    code, _, errors = call(*question, "--model", base)
    assert code == 2 and "is not raised: give it a grid, such as 2x2" in errors


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ([], 'there is no question; give one behind the image: monkeylib answer IMAGE "QUESTION"'),
        ([" "], 'there is no question; give one behind the image: monkeylib answer IMAGE "QUESTION"'),
        (["what", "is", "it?"], "the question came in 3 parts: put it between quotes"),
        (
            ["what is it?", "who is it?"],
            "2 questions came, and one is expected: write each into a line of a file",
        ),
    ],
)
def test_question_that_is_none_is_reported_before_anything_is_loaded(
    call, image, arguments, sentence, monkeypatch
):
    monkeypatch.setattr(options, "import_model_libraries", pytest.fail)
    code, output, errors = call("answer", image, *arguments)
    assert (code, output) == (2, "") and sentence in errors


def test_several_images_before_the_question_are_told_from_parts_of_it(call, image):
    code, output, errors = call("answer", image, image, "what is it?")
    assert (code, output) == (2, "")
    assert "2 images came, and one is expected" in errors and f'"QUESTION" --image {image}' in errors


@pytest.mark.parametrize("command", [["answer", "gone.png", "What?"], ["chat", "gone.png"]])
def test_image_that_is_missing_is_reported_before_anything_is_loaded(call, command, monkeypatch):
    monkeypatch.setattr(options, "import_model_libraries", pytest.fail)
    code, _, errors = call(*command)
    assert code == 2 and "there is no image at gone.png" in errors


def test_folder_in_place_of_an_image_leads_to_captions(call, image, monkeypatch):
    monkeypatch.setattr(options, "import_model_libraries", pytest.fail)
    code, _, errors = call("answer", image.parent, "What?")
    assert code == 2 and f"`monkeylib caption {image.parent} --out captions` describes all" in errors


def test_home_folder_of_an_image_has_its_sign(call, checkpoint, image, monkey, monkeypatch):
    monkeypatch.setenv("HOME", str(image.parent))
    code, output, _ = call("answer", f"~/{image.name}", "What?", "--model", checkpoint, "--max-new-tokens", 3)
    assert (code, output) == (0, f"{monkey.answer(image, 'What?', max_new_tokens=3)}\n")


@pytest.mark.parametrize("command", [["answer", "IMAGE", "What?"], ["evaluate"], ["serve"]])
def test_shipped_model_that_is_misspelled_is_suggested(call, image, command, monkeypatch):
    monkeypatch.chdir(image.parent)
    arguments = [image if word == "IMAGE" else word for word in command]
    code, _, errors = call(*arguments, "--model", "nano-monky")
    assert code == 2 and "there is no checkpoint at nano-monky: did you mean nano-monkey?" in errors


def test_model_that_nobody_has_named_is_introduced_on_a_terminal(call, image, checkpoint, monkeypatch):
    monkeypatch.setattr(options, "default_checkpoint", lambda: checkpoint)
    asking = ("answer", image, "What?", "--max-new-tokens", 3)
    assert "nano-base answers" not in call(*asking)[2]

    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert "nano-base answers, which reads synthetic images" in call(*asking)[2]
    assert "nano-base answers" not in call(*asking, "--model", checkpoint)[2]
