"""Every prompt gives the same ids through every user of the prompt layout."""

import importlib
import sys

import pytest
import torch
from transformers.generation import GenerateBeamDecoderOnlyOutput

from monkeylib.data import inspect
from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.prefix_sharing import PrefixSharingMonkey
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.monkey import Monkey
from monkeylib.processing import MonkeyProcessor
from monkeylib.prompts import PROMPTS, PromptLayout
from monkeylib.training.batches import ExampleEncoder
from tests.support import harness_interfaces, record_files

QUESTION = "what?"
UNANSWERABLE = "When the provided information is insufficient, respond with"

# What stands behind the image, with a blank as the separator that the released checkpoints were trained with.
BEHIND_IMAGE = {
    "vqa": " what? Answer: ",
    "chat": " what? Answer: ",
    "vqa_no_blank": "what? Answer:",
    "caption": " Generate the caption in English:",
    "detailed_caption": " Generate the detailed caption in English:",
    "detailed_caption_blank": " Generate the detailed caption in English: ",
    "vizwiz": f' what? {UNANSWERABLE} "Unanswerable". Answer:',
    "vizwiz_lower": f' what? {UNANSWERABLE} "unanswerable". Answer: ',
    "choice": " \n what? Answer: ",
    "llava": " \nwhat? ASSISTANT:",
    "plain": " what?",
    "exact": "what?",
}
HISTORY = [(QUESTION, "a cat"), (QUESTION, "red <img>")]

every_prompt = pytest.mark.parametrize("prompt", BEHIND_IMAGE)


def test_every_prompt_is_listed_here():
    assert BEHIND_IMAGE.keys() == PROMPTS.keys()


@pytest.fixture(params=["", "<unk>USER: "], ids=["no prefix", "prefix"])
def monkey(request, tiny, processor):
    """A model whose processor separates image and text with a blank."""
    separated = MonkeyProcessor(
        processor.image_processor,
        processor.tokenizer,
        queries=processor.queries,
        separator=" ",
        prompt_prefix=request.param,
    )
    return Monkey(tiny(), separated)


@pytest.fixture()
def expected(monkey):
    """Return the ids of a prompt, built by hand: `expected(images, text, ...)`."""
    processor = monkey.processor
    tokenizer = processor.tokenizer

    def text_ids(text):
        return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def build(images, *texts, history=()):
        ids = (
            tokenizer(processor.prompt_prefix, add_special_tokens=False)["input_ids"]
            if processor.prompt_prefix
            else []
        )
        for _ in range(images):
            ids = [*ids, 1, *[3] * (5 * processor.queries), 2]
        for prompt, answer in history:
            ids = [*ids, *text_ids(prompt), *text_ids(answer), tokenizer.eos_token_id]
        for text in texts:
            ids = [*ids, *text_ids(text)]
        return ids

    return build


@pytest.fixture()
def prompts_of(monkey, monkeypatch):
    """Return the ids that a call passes to the language model, a list for each row without padding."""
    calls = []

    def generate(input_ids, attention_mask, streamer=None, **options):
        calls.append([row[keep == 1].tolist() for row, keep in zip(input_ids, attention_mask, strict=True)])
        if streamer is not None:
            streamer.end()
        if not options["return_dict_in_generate"]:
            return input_ids
        no_beams = torch.zeros(len(input_ids), 0, dtype=torch.long)
        return GenerateBeamDecoderOnlyOutput(sequences=input_ids, logits=(), beam_indices=no_beams)

    monkeypatch.setattr(monkey.model, "generate", generate)

    def record(call):
        calls.clear()
        call()
        return [row for rows in calls for row in rows]

    return record


@pytest.fixture()
def harness(monkey, monkeypatch):
    """Return a harness's wrapper around the model: `harness("lmms_eval")`."""
    harness_interfaces.install(monkeypatch)
    classes = {"lmms_eval": "MonkeyForLmmsEval", "vlmevalkit": "MonkeyForVLMEvalKit"}

    def wrap(name, **options):
        module_name = f"monkeylib.integrations.{name}"
        monkeypatch.delitem(sys.modules, module_name, raising=False)
        module = importlib.import_module(module_name)
        monkeypatch.delitem(sys.modules, module_name)
        monkeypatch.setattr(module.inference, "load_model", lambda *arguments, **options: monkey)
        return getattr(module, classes[name])("a checkpoint", device="cpu", **options)

    return wrap


def lmms_requests(model, images, *settings):
    """One request of `QUESTION` about the images for each settings of generation."""
    from lmms_eval.api.instance import Instance

    model.task_dict = {"task": {"test": [{"images": images}]}}
    return [
        Instance("generate_until", (QUESTION, options, lambda doc: doc["images"], 0, "task", "test"), number)
        for number, options in enumerate(settings)
    ]


# Inference


@every_prompt
def test_answer_and_processor(monkey, expected, prompts_of, make_image, prompt):
    ids = expected(1, BEHIND_IMAGE[prompt])

    assert prompts_of(lambda: monkey.answer(make_image(), QUESTION, prompt)) == [ids]

    batch = [(make_image(1), QUESTION), (make_image(2), QUESTION)]
    assert prompts_of(lambda: monkey.answer_batch(batch, prompt)) == [ids, ids]
    assert prompts_of(lambda: list(monkey.stream(make_image(), QUESTION, prompt))) == [ids]

    inputs = monkey.processor(images=make_image(), text=QUESTION, prompt=prompt)

    assert inputs["input_ids"].tolist() == [ids]


@every_prompt
def test_several_images_before_the_question(monkey, expected, make_image, prompt):
    ids = expected(2, BEHIND_IMAGE[prompt])
    images = [make_image(1), make_image(2)]

    assert monkey.processor([images], [QUESTION], prompt=prompt)["input_ids"].tolist() == [ids]
    assert monkey.processor(text=[[*images, QUESTION]], prompt=prompt)["input_ids"].tolist() == [ids]


@every_prompt
def test_chat_with_and_without_history(monkey, expected, prompts_of, make_image, prompt):
    text = BEHIND_IMAGE[prompt]
    ids = expected(1, text, history=[(text, "a cat"), (text, "red <img>")])

    assert prompts_of(lambda: monkey.chat(make_image(), QUESTION, HISTORY, prompt)) == [ids]
    assert prompts_of(lambda: list(monkey.stream(make_image(), QUESTION, prompt, history=HISTORY))) == [ids]
    assert prompts_of(lambda: monkey.chat(make_image(), QUESTION, (), prompt)) == [expected(1, text)]


# Evaluation


@every_prompt
@pytest.mark.parametrize("count", [1, 3], ids=["one question", "shared prefix"])
def test_evaluation(monkey, expected, prompts_of, make_image, prompt, count):
    """Whether or not the language model reads the image once for all questions."""
    examples = [
        Example(str(number), make_image(), QUESTION, ("a cat",), prompt, image_id="image")
        for number in range(count)
    ]
    predict = PrefixSharingMonkey(monkey)

    assert prompts_of(lambda: predict(examples)) == [expected(1, BEHIND_IMAGE[prompt])] * count


@every_prompt
@pytest.mark.parametrize("images", [1, 2])
def test_lmms_eval_with_and_without_beams(
    monkey, expected, prompts_of, harness, make_image, monkeypatch, prompt, images
):
    ids = expected(images, BEHIND_IMAGE[prompt])
    model = harness("lmms_eval", prompt=prompt)
    opened = [make_image(number) for number in range(images)]

    requests = lmms_requests(model, opened, {}, {"num_beams": 2}, {"temperature": 0.5})

    assert prompts_of(lambda: model.generate_until(requests)) == [ids] * 3

    # The log-likelihood of a continuation is read from one forward pass.
    forward, input_ids = monkey.model.forward, []

    def record(*arguments, **inputs):
        input_ids.append(inputs["input_ids"][0].tolist())
        return forward(*arguments, **inputs)

    monkeypatch.setattr(monkey.model, "forward", record)
    (request,) = lmms_requests(model, opened, "yes")
    model.loglikelihood([request])

    assert input_ids == [[*ids, *monkey.processor.layout.text_ids("yes")]]


@pytest.mark.parametrize(("prompt", "dataset"), [("vqa", "OCRBench"), ("choice", "MMBench_DEV_EN")])
@pytest.mark.parametrize("images", [1, 2])
def test_vlmevalkit(expected, prompts_of, harness, make_image, tmp_path, prompt, dataset, images):
    model = harness("vlmevalkit")
    message = []
    for number in range(images):
        make_image(number).save(tmp_path / f"{number}.png")
        message.append({"type": "image", "value": str(tmp_path / f"{number}.png")})

    message.append({"type": "text", "value": QUESTION})

    assert prompts_of(lambda: model.generate(message, dataset)) == [expected(images, BEHIND_IMAGE[prompt])]


# Training data


def llava_record(tmp_path, prompt, images, turns):
    """A record of questions and answers, read from LLaVA's JSON with a named prompt."""
    names = [f"{number}.png" for number in range(images)]
    for name in names:
        (tmp_path / name).write_bytes(record_files.png())
    sides = [side for _, answer in turns for side in (QUESTION, answer)]
    sides[0] = "<image>\n" * images + QUESTION
    record_files.write_list(tmp_path / "rows.json", [record_files.talk(*sides, image=names)])
    entry = record_files.entry("llava", "rows.json", prompt=prompt, max_images=images)
    return record_files.read_dataset(entry, tmp_path)[0]


@every_prompt
@pytest.mark.parametrize("images", [1, 2])
def test_training_rows_and_data_inspection(monkey, expected, tmp_path, prompt, images):
    text = BEHIND_IMAGE[prompt]
    turns = [*HISTORY, (QUESTION, "x")]
    record = llava_record(tmp_path, prompt, images, turns)
    row = ExampleEncoder(monkey.processor, max_length=10_000).encode(record)

    answered = [(text, answer) for _, answer in turns]
    ids = expected(images, history=answered)

    assert row.input_ids.tolist() == ids
    assert inspect.count_tokens(record, monkey.processor) == len(ids)

    # Each answer is learned with its end of text, and follows the ids that chat gives to the model.
    labels = row.labels.tolist()

    assert [label for label in labels if label != IGNORE_INDEX] == [
        token
        for _, answer in turns
        for token in [*monkey.processor.layout.text_ids(answer), monkey.processor.tokenizer.eos_token_id]
    ]
    for number in range(len(turns)):
        prompt_ids = expected(images, text, history=answered[:number])
        assert ids[: len(prompt_ids)] == prompt_ids
        assert labels[len(prompt_ids) - 1] == IGNORE_INDEX and labels[len(prompt_ids)] != IGNORE_INDEX


# The layout itself


@pytest.fixture()
def layout(tokenizer):
    return PromptLayout(tokenizer, placeholder_id=3, image_start_id=1, image_end_id=2, separator=" ")


def test_separator_stands_between_an_image_and_its_text_only(layout):
    span, text = layout.image_ids(2), layout.text_ids
    assert span == [1, 3, 3, 2]
    assert layout.encode(["a", 2, 2, "b"]) == [*text("a"), *span, *span, *text(" b")]
    assert layout.encode(["a", 2, "b"], "vqa") == [*text("a"), *span, *text(" b Answer: ")]
    assert layout.encode(["a", 2, "b"], "vqa_no_blank") == [*text("a"), *span, *text("b Answer:")]


def test_image_tokens_in_a_text_stay_text(layout):
    assert not {1, 2, 3} & set(layout.text_ids("<img><imgpad></img>"))
    assert not {1, 2, 3} & set(layout.answer_ids("<img><imgpad></img>"))


def test_conversation_leaves_out_turns_that_do_not_fit(layout):
    turns = [("ab", "cd"), ("ef", "ghi")]
    conversation = layout.encode_conversation([2], turns, max_length=12)
    assert len(conversation.input_ids) == 9
    assert conversation.labels == [*[IGNORE_INDEX] * 6, *layout.answer_ids("cd")]
    assert conversation.turns == [*[-1] * 6, 0, 0, 0]
    assert set(layout.encode_conversation([2], turns).turns) == {-1, 0, 1}

    with pytest.raises(ValueError, match="need 9 tokens but max_length is 8: raise max_length"):
        layout.encode_conversation([2], turns, max_length=8)
