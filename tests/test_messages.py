"""Messages as callers write them, and how they are laid out."""

import pytest

from monkeylib.messages import ImagePart, Message, lay_out, read_messages, replace_images

QUESTION = {"role": "user", "content": "Why?"}
ANSWER = {"role": "assistant", "content": "So."}


def test_contents_are_read_in_all_their_forms(make_image):
    image = make_image()
    uri = "data:image/png;base64,AAAA"
    (message,) = read_messages(
        [
            {
                "role": "user",
                "content": [
                    "which of",
                    image,
                    {"type": "text", "text": "and"},
                    {"type": "image", "image": "a.png"},
                    {"type": "input_text", "text": ","},
                    {"type": "image_url", "image_url": {"url": uri}},
                    {"type": "input_image", "image_url": uri},
                ],
            }
        ]
    )
    assert message.parts == (
        "which of", ImagePart(image), "and", ImagePart("a.png"), ",", ImagePart(uri), ImagePart(uri),
    )  # fmt: skip
    assert message.text == "which ofand," and message.images == (image, "a.png", uri, uri)

    roles = [message.role for message in read_messages([{"role": "developer", "content": "Be."}, QUESTION])]
    assert roles == ["system", "user"]
    own_message = Message("user", (image, "Why?"))
    assert read_messages([own_message, ANSWER, QUESTION])[0].parts == (ImagePart(image), "Why?")


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "messages are []: expected a list of objects with role and content"),
        ("Why?", "messages are 'Why?': expected a list"),
        (QUESTION, "expected a list of objects"),
        (["Why?"], "messages[0] is 'Why?': expected an object with role and content"),
        ([{"role": "user"}], "expected an object with role and content"),
        (
            [{"role": "tool", "content": "x"}],
            "messages[0].role is 'tool': expected system, user or assistant",
        ),
        ([{"role": 3, "content": "x"}], "messages[0].role is 3"),
        ([ANSWER, QUESTION], "messages[0].role is assistant: expected user"),
        ([QUESTION, QUESTION], "messages[1].role is user: expected assistant"),
        ([QUESTION, {"role": "system", "content": "x"}, QUESTION], "messages[1].role is system"),
        ([QUESTION, ANSWER], "the last message is of assistant: expected a question of the user"),
        ([{"role": "system", "content": "x"}], "the last message is of system"),
        ([{"role": "user", "content": None}], "messages[0].content is None: expected a text, or a list"),
        ([{"role": "user", "content": [{"type": "video"}]}], "messages[0].content[0].type is 'video'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text is None"),
        ([{"role": "user", "content": [{"type": "image"}]}], "messages[0].content[0] has no image"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            "messages[0].content[0] has no image",
        ),
        (
            [QUESTION, {"role": "assistant", "content": [ImagePart("a.png")]}, QUESTION],
            "messages[1].content holds an image: a message of assistant is text",
        ),
        (
            [QUESTION, Message("assistant", ("So.", ImagePart("a.png"))), QUESTION],
            "messages[1].content holds an image: a message of assistant is text",
        ),
    ],
)
def test_wrong_message_is_one_sentence(messages, complaint):
    with pytest.raises(ValueError) as raised:
        read_messages(messages)
    assert complaint in str(raised.value) and "\n" not in str(raised.value)


def test_layout_keeps_images_at_their_places():
    image = ImagePart("a.png")
    messages = [
        Message("system", ("Be brief.",)),
        Message("user", (image, "What?")),
        Message("assistant", ("red",)),
        Message("user", ("Like", image, "?")),
    ]
    turns = lay_out(messages, "vqa", " ")
    assert turns.answered == [(("Be brief. ", image, " What? Answer: "), "red")]
    assert turns.last == (" Like", image, " ? Answer: ")
    assert replace_images(turns.last, iter([7])) == [" Like", 7, " ? Answer: "]

    assert lay_out(messages).answered == [(("Be brief.\n", image, "What?"), "red")]
    # Nothing stands before a text that opens a conversation about images.
    assert lay_out(messages[3:], "vqa", " ").last == ("Like", image, " ? Answer: ")
    assert lay_out(messages[:3], "vqa").last == ()
    # A prompt for captions takes no question.
    assert lay_out(messages[1:2], "caption", " ").last == (image, " Generate the caption in English:")


@pytest.mark.parametrize("content", ["<image>\nWhy?", ["<image>", "Why?"], ["Why is <image> so?"]])
def test_text_that_stands_for_an_image_is_refused(content):
    """In training data it does, and its image lies in another field, which would not be seen."""
    complaint = r"messages\[2\].content holds <image> in a text, but no image belongs to it: put the image"
    with pytest.raises(ValueError, match=complaint) as raised:
        read_messages([QUESTION, ANSWER, {"role": "user", "content": content}])
    assert "\n" not in str(raised.value)


def test_text_about_such_a_text_can_be_asked():
    meant = [{"type": "text", "text": "What does <image> mean?"}]
    (message,) = read_messages([{"role": "user", "content": meant}])
    assert message.parts == ("What does <image> mean?",)

    # What has been read stays as it is, and so do other roles.
    assert read_messages([message]) == [message]
    answer = {"role": "assistant", "content": "An <image>."}
    assert read_messages([QUESTION, answer, QUESTION])[1].text == "An <image>."
