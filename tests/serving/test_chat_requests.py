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
    assert (read().length_field, read(max_tokens=7).length_field) == ("", "max_tokens")
    assert read(max_completion_tokens=3, max_tokens=7).length_field == "max_completion_tokens"
    assert read(tool_choice="auto", modalities=["text"], verbosity="medium", stop="").options == {
        "stop_strings": None
    }

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
        ({"max_new_tokens": 5}, "did you mean max_tokens?", "max_new_tokens"),
        ({"temperature": 1, "seed": -1}, "seed is -1", "seed"),
        ({"seed": "x"}, "seed is 'x': expected a whole number", "seed"),
        ({"temperature": 1e-300}, "temperature is 1e-300: expected a number from 0.000001", None),
        ({"stop": [1]}, "stop is [1]: expected a text that is not empty", "stop"),
        ({"stop": {"a": 1}}, "stop is {'a': 1}", "stop"),
        ({"grid": [1, 2]}, "grid is [1, 2]: expected a text such as", "grid"),
        ({"n": 2}, "n is 2, which this server cannot follow", "n"),
        ({"n": True}, "n is True", "n"),
        ({"logprobs": True}, "leave logprobs out", "logprobs"),
        ({"tools": [{}]}, "leave tools out", "tools"),
        ({"tool_choice": "required"}, "leave tool_choice out", "tool_choice"),
        ({"modalities": ["text", "audio"]}, "leave modalities out", "modalities"),
        ({"verbosity": "low"}, "leave verbosity out", "verbosity"),
        ({"reasoning_effort": "high"}, "leave reasoning_effort out", "reasoning_effort"),
        ({"temprature": 1}, "temperature", "temprature"),
        ({"stream": "yes"}, "expected true or false", "stream"),
        ({"stream_options": 1}, "expected an object", "stream_options"),
        ({"stream_options": {"usage": True}}, "expected an object with include_usage", "stream_options"),
        ({"grid": "3"}, "ROWSxCOLUMNS", "grid"),
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
