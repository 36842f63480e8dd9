"""The body of a request, checked."""

import pytest

from monkeylib.serving.chat_requests import read_request
from monkeylib.serving.limits import Limits, RequestError
from monkeylib.tiling import Grid

MESSAGES = [{"role": "user", "content": "Why?"}]


def read(**fields):
    return read_request({"model": "m", "messages": MESSAGES, **fields}, "m", Limits(max_new_tokens=50))


def test_defaults_are_greedy():
    request = read(temperature=None, user="me", n=1, logprobs=False, frequency_penalty=0, tools=[])
    assert request.max_new_tokens == 50 and request.options == {"stop_strings": None}
    assert (request.prompt, request.grid, request.streams, request.includes_usage) == (
        None,
        None,
        False,
        False,
    )
    assert read(temperature=0, top_p=0.5).options == {"stop_strings": None}


def test_fields():
    usage = {"include_usage": True}
    request = read(max_tokens=7, stream=True, stream_options=usage, stop=["a"], grid="1x2", prompt="caption")
    assert (request.max_new_tokens, request.streams, request.includes_usage) == (7, True, True)
    assert (request.grid, request.prompt, request.options) == (Grid(1, 2), "caption", {"stop_strings": ["a"]})

    samples = {"do_sample": True, "temperature": 1.0, "top_p": 0.5, "stop_strings": None, "seed": 4}
    assert read(top_p=0.5, seed=4).options == samples


@pytest.mark.parametrize(
    ("fields", "sentence", "parameter"),
    [
        ({"model": "gpt"}, "there is no model 'gpt' here: this server answers with 'm'", "model"),
        ({"model": None}, "names no model", "model"),
        ({"messages": None}, "no messages", "messages"),
        ({"messages": []}, "expected a list of objects", "messages"),
        ({"messages": [{"role": "user", "content": 3}]}, "expected a text, or a list", "messages"),
        ({"messages": [*MESSAGES, *MESSAGES]}, "expected assistant", "messages"),
        ({"max_tokens": 51}, "a whole number from 1 to 50", "max_tokens"),
        ({"max_tokens": True}, "a whole number from 1 to 50", "max_tokens"),
        ({"temperature": "hot"}, "a number from 0 to 2", "temperature"),
        ({"top_p": 1.1}, "a number from 0 to 1", "top_p"),
        ({"temperature": 1, "seed": -1}, "seed is -1", None),
        ({"temperature": 1e-300}, "temperature is 1e-300: expected a number from 0.000001", None),
        ({"stop": [1]}, "stop_strings is", None),
        ({"n": 2}, "n is 2, which this server cannot follow", "n"),
        ({"n": True}, "n is True", "n"),
        ({"logprobs": True}, "leave logprobs out", "logprobs"),
        ({"tools": [{}]}, "leave tools out", "tools"),
        ({"temprature": 1}, "temperature", "temprature"),
        ({"stream": "yes"}, "expected true or false", "stream"),
        ({"stream_options": 1}, "expected an object", "stream_options"),
        ({"grid": "3"}, "ROWSxCOLUMNS", "grid"),
        ({"grid": [1, 2]}, "ROWSxCOLUMNS", "grid"),
        ({"prompt": "verse"}, "no prompt called 'verse'", "prompt"),
    ],
)
def test_bad_field_is_one_sentence(fields, sentence, parameter):
    with pytest.raises(RequestError) as error:
        read(**fields)
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert error.value.parameter == parameter


def test_addresses_are_taken_where_the_owner_allows_it():
    part = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    body = {"model": "m", "messages": [{"role": "user", "content": [part]}]}
    assert read_request(body, "m", Limits(), allow_address=True).images == ["https://example.org/a.png"]
    for other in ("/etc/passwd", "file:///etc/passwd", "ftp://example.org/a.png", "s3://bucket/a.png"):
        part["image_url"]["url"] = other
        with pytest.raises(RequestError, match="or an http address and opens nothing else"):
            read_request(body, "m", Limits(), allow_address=True)
