import pytest
import torch

from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.messages import ImagePart, Message
from monkeylib.raising.conversations import Conversations
from monkeylib.tiling import Grid
from tests.raising.conftest import noise_image
from tests.support import tiny_vlms
from tests.support.raised_models import CHAT_TEMPLATE

IMAGE = ImagePart(noise_image())
TURNS = [
    Message("user", (IMAGE, "what is it")),
    Message("assistant", ("a cat",)),
    Message("user", ("and this", IMAGE)),
    Message("assistant", ("a dog",)),
]


@pytest.fixture()
def conversations(raised):
    raised.processor.chat_template = CHAT_TEMPLATE
    return Conversations(raised.model, raised.processor)


@pytest.fixture()
def plain(raised):
    return Conversations(raised.model, raised.processor)


def learned(conversations, encoded):
    """Return the text of each turn that has labels."""
    texts = {}
    for label, turn in zip(encoded.labels, encoded.turns, strict=True):
        assert (label == IGNORE_INDEX) == (turn == -1)
        if turn >= 0:
            texts.setdefault(turn, []).append(label)
    return [conversations.tokenizer.decode(ids) for ids in texts.values()]


def test_prompts_are_those_of_the_chat_template(conversations):
    messages = [Message("user", (IMAGE, "what"))]
    assert conversations.write(messages) == "user: <image>what\nassistant:"

    inputs = conversations.prepare([messages, [Message("user", ("why is it so",))]], "1x2")
    alone = conversations.processor(
        images=IMAGE.source, text="user: <image>what\nassistant:", grid="1x2", return_tensors="pt"
    )
    # Padded on the left.
    length = alone["input_ids"].shape[1]
    assert torch.equal(inputs["input_ids"][0, -length:], alone["input_ids"][0])
    assert torch.equal(inputs["pixel_values"], alone["pixel_values"])
    assert inputs["attention_mask"].sum(dim=1).tolist() == [length, len("user: why is it so\nassistant:")]


def test_what_the_template_begins_with_is_not_added_again(raised):
    raised.processor.chat_template = "<s>" + CHAT_TEMPLATE
    conversations = Conversations(raised.model, raised.processor)
    begin = conversations.tokenizer.bos_token_id
    inputs = conversations.prepare([[Message("user", (IMAGE, "what"))]])
    assert inputs["input_ids"][0].tolist().count(begin) == 1


@pytest.mark.parametrize("end", ["", "</s>"], ids=["template without an end", "template with an end"])
def test_answers_and_ends_of_text_are_learned_alone(end, raised):
    raised.processor.chat_template = CHAT_TEMPLATE.replace(
        "{{ '\n' }}", f"{{% if message['role'] == 'assistant' %}}{end}{{% endif %}}{{{{ '\n' }}}}"
    )
    conversations = Conversations(raised.model, raised.processor)
    encoded = conversations.encode(TURNS, [Grid(2, 2), Grid(1, 2)])
    assert learned(conversations, encoded) == [" a cat</s>", " a dog</s>"]

    # In training, a prompt has the tokens that it has in inference.
    prompt = conversations.prepare([TURNS[:3]], [Grid(2, 2), Grid(1, 2)])["input_ids"][0].tolist()
    assert encoded.arrays["input_ids"][: len(prompt)] == prompt
    assert encoded.arrays["input_ids"].count(conversations.views.image_token_id) == (5 + 3) * 4


def test_base_without_a_template_reads_plain_text(plain):
    encoded = plain.encode(TURNS[:2], [Grid(2, 2)])
    assert learned(plain, encoded) == ["a cat</s>"]
    prompt = plain.prepare([TURNS[:1]])["input_ids"][0].tolist()
    assert encoded.arrays["input_ids"][: len(prompt)] == prompt

    further = [*TURNS[:2], Message("user", ("and",)), TURNS[3]]
    assert learned(plain, plain.encode(further, [Grid(2, 2)])) == ["a cat</s>", "a dog</s>"]
    with pytest.raises(ValueError, match="images stand before the first answer"):
        plain.encode(TURNS, [Grid(2, 2), Grid(2, 2)])


@pytest.mark.parametrize("kind", ["conversations", "plain"])
def test_turns_that_do_not_fit_are_left_out(kind, request):
    conversations = request.getfixturevalue(kind)
    messages = [*TURNS[:2], Message("user", ("and",)), TURNS[3]]
    whole = conversations.encode(messages, [Grid(2, 2)])
    first = conversations.encode(messages[:2], [Grid(2, 2)])
    assert (whole.count, first.count) == (2, 1)

    length = len(whole.labels)
    assert conversations.encode(messages, [Grid(2, 2)], length) == whole
    assert conversations.encode(messages, [Grid(2, 2)], length - 1) == first
    shortest = len(first.labels)
    with pytest.raises(ValueError, match=f"need {shortest} tokens but max_length is {shortest - 1}"):
        conversations.encode(messages, [Grid(2, 2)], shortest - 1)


def test_prompts_have_names(conversations, plain):
    assert conversations.default_prompt == "plain"
    wrapped = conversations.wrap(TURNS[:1], "vqa")[0].text
    assert wrapped == conversations.templates["vqa"].replace("{question}", "what is it")
    assert "single word" in wrapped
    assert conversations.wrap(TURNS, None) == TURNS
    with pytest.raises(ValueError, match="no prompt called 'riddle'"):
        conversations.wrap(TURNS, "riddle")

    plain.processor.chat_template = None
    assert plain.default_prompt == "vqa"
    assert plain.wrap(TURNS[:1], "vqa")[0].text == "what is it Answer: "


def test_texts_that_stand_for_an_image_are_refused(conversations):
    with pytest.raises(ValueError, match="holds <image>, which stands for an image"):
        conversations.prepare([[Message("user", ("<image>",))]])


def test_what_a_template_refuses_is_said_in_a_sentence(conversations):
    conversations.processor.chat_template = "{{ raise_exception('no system here') }}"
    with pytest.raises(ValueError, match="does not take this conversation: no system here"):
        conversations.write(TURNS[:1])


def test_untouched_processor_is_refused(raised, llava):
    with pytest.raises(ValueError, match="the processor is not raised"):
        Conversations(raised.model, llava.processor)


def test_base_that_reads_one_image_a_prompt_says_so():
    from monkeylib.raising import raise_resolution

    model, processor, *_ = tiny_vlms.build("blip2")
    conversations = Conversations(*raise_resolution(model, processor, rank=2))
    with pytest.raises(ValueError, match="reads one image a prompt: got 2"):
        conversations.prepare([[Message("user", (IMAGE, IMAGE, "what"))]])
