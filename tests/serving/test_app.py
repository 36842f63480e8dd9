"""The server as clients have it: the package openai over HTTP, and requests of no client."""

import asyncio
import contextlib
import json
import socket
import threading
import time
import urllib.error
import urllib.request

import openai
import pytest

from monkeylib.captions.composers.budget import Budget
from monkeylib.captions.composers.chat_client import ChatClient, RetryPolicy
from monkeylib.messages import ImagePart, Message
from monkeylib.serving.limits import Limits
from tests.support.serving import MODEL, data_url, image_part, serving, user


def complete(client, messages, max_tokens=6, **options):
    return client.chat.completions.create(
        model=MODEL, messages=messages, max_completion_tokens=max_tokens, **options
    )


def test_answer_is_that_of_the_library(client, served_monkey, make_image):
    image = make_image()
    expected = served_monkey.answer(image, "What is it?", max_new_tokens=6)

    completion = complete(client, [user(image, "What is it?")])
    choice = completion.choices[0]
    assert choice.message.content == expected.text and choice.finish_reason == "length"
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (
        expected.prompt_tokens,
        expected.tokens,
    )
    assert completion.model == MODEL and completion.id.startswith("chatcmpl-")


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "monkeylib"
    with pytest.raises(openai.NotFoundError, match="answers with 'a-monkey'"):
        client.models.retrieve("gpt")


def test_address_in_a_browser_names_the_routes(server):
    address, _ = server
    with urllib.request.urlopen(address, timeout=60) as response:
        assert response.headers.get_content_type() == "text/plain"
        assert "POST /v1/chat/completions" in response.read().decode()


def test_model_of_a_hub_has_a_slash_in_its_name(served_monkey):
    with serving(served_monkey) as (address, engine):
        engine.name = "owner/name"
        assert send(address, b"", "/v1/models/owner/name")[0] == 200
        status, sentence = send(address, b"", "/v1/models/owner/other")
        assert status == 404 and "answers with 'owner/name'" in sentence


def test_stream_brings_the_same_answer_in_parts(client, served_monkey, make_image):
    messages = [user(make_image(), "Why?")]
    expected = complete(client, messages, 20)
    parts = served_monkey.stream(make_image(), "Why?", max_new_tokens=20)

    chunks = list(complete(client, messages, 20, stream=True, stream_options={"include_usage": True}))
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == expected.choices[0].message.content
    assert sum(map(bool, texts)) == sum(bool(part.strip()) for part in parts), "part by part"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage == expected.usage


def test_conversation_with_images_in_their_places(client, served_monkey, make_image):
    first, second = make_image(1), make_image(2)
    messages = [
        {"role": "system", "content": "Be brief."},
        user("Is", first, "a cat?"),
        {"role": "assistant", "content": "no"},
        user("And", second, "?"),
    ]
    expected = served_monkey.answer_messages(
        [
            Message("system", ("Be brief.",)),
            Message("user", ("Is", ImagePart(first), "a cat?")),
            Message("assistant", ("no",)),
            Message("user", ("And", ImagePart(second), "?")),
        ],
        max_new_tokens=6,
    )
    assert complete(client, messages).choices[0].message.content == expected.text


def test_prompt_grid_and_samples_are_the_clients_choice(client, served_monkey, make_image):
    image = make_image()
    expected = served_monkey.answer(image, "", "caption", max_new_tokens=6)
    completion = complete(client, [user(image, "")], extra_body={"prompt": "caption", "grid": "2x2"})
    assert completion.choices[0].message.content == expected.text

    expected = served_monkey.answer(
        image, "x", max_new_tokens=6, do_sample=True, temperature=1.5, top_p=0.9, seed=3, stop_strings=["e"]
    )
    completion = complete(client, [user(image, "x")], temperature=1.5, top_p=0.9, seed=3, stop="e")
    assert completion.choices[0].message.content == expected.text


def test_question_without_an_image(client, served_monkey):
    expected = served_monkey.answer_messages([Message("user", ("Why?",))], max_new_tokens=6)
    completion = complete(client, [{"role": "user", "content": "Why?"}])
    assert completion.choices[0].message.content == expected.text


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        ("/etc/passwd", "this server takes a data URL"),
        ("file:///etc/passwd", "opens nothing else"),
        ("http://127.0.0.1:1/a.png", "opens nothing else"),
        ("data:image/png;base64,AAAA", "cannot be read as an image"),
    ],
)
def test_no_path_and_no_address_is_opened(client, image, sentence):
    with pytest.raises(openai.BadRequestError, match=sentence) as error:
        complete(client, [{"role": "user", "content": [image_part(image), {"type": "text", "text": "x"}]}])
    assert error.value.type == "invalid_request_error" and error.value.param == "messages"


def test_image_part_of_other_forms_is_no_way_around(client):
    part = {"type": "image", "image": "/etc/passwd"}
    with pytest.raises(openai.BadRequestError, match="opens nothing else"):
        complete(client, [{"role": "user", "content": [part, {"type": "text", "text": "x"}]}])


@pytest.mark.parametrize("has_image", [True, False])
def test_answer_without_a_limit_is_as_long_as_the_context_has_room_for(
    client, served_monkey, make_image, monkeypatch, has_image
):
    image = make_image()
    message = user(image, "Why?") if has_image else user("Why?")
    tokens = complete(client, [message], 1).usage.prompt_tokens
    monkeypatch.setattr(served_monkey.model.config.text_config, "max_position_embeddings", tokens + 9)

    completion = client.chat.completions.create(model=MODEL, messages=[message])
    assert completion.usage.completion_tokens == 9 and completion.choices[0].finish_reason == "length"
    for field in ("max_tokens", "max_completion_tokens"):
        with pytest.raises(openai.BadRequestError) as error:
            client.chat.completions.create(model=MODEL, messages=[message], **{field: 10})
        sentence = error.value.body["message"]
        assert f"and {field} is 10" in sentence and f"or set {field} to 9 at most" in sentence


def test_prompt_beyond_the_context_is_refused_and_the_server_goes_on(client, make_image):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="the model takes"):
            complete(client, [user(make_image(), "x " * 40_000)], stream=stream)
    assert complete(client, [user(make_image(), "x")], 1).choices


def send(address, body, path="/v1/chat/completions", **headers):
    """Send bytes, and return status and error of the answer."""
    request = urllib.request.Request(
        address + path,
        body,
        {"Content-Type": "application/json", **headers},
        method="POST" if body else "GET",
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]["message"]


def test_requests_of_no_client_are_refused_in_one_sentence(server):
    address, _ = server
    assert send(address, b"{")[0] == 400
    assert send(address, b"[" * 100_000)[0] == 400
    assert "is not JSON" in send(address, b"\xff")[1]
    assert "expected a JSON object" in send(address, b"[]")[1]
    assert send(address, b"", "/v1/completions")[0] == 404


def test_pages_of_other_sites_reach_nothing(server):
    address, _ = server
    status, sentence = send(address, b"{}", **{"Content-Type": "text/plain"})
    assert status == 415 and "expected application/json" in sentence
    assert send(address, b"", "/v1/models", Host="evil.example:80")[0] == 403
    assert send(address, b"", "/v1/models", Host="localhost")[0] == 200
    assert send(address, b"", "/health") == (200, {"status": "ok"})


def test_limits_and_key(served_monkey, make_image):
    limits = Limits(max_bytes=20_000, max_images=1, max_new_tokens=4)
    with serving(served_monkey, limits=limits, key="secret") as (address, _):
        assert send(address, b"{}")[0] == 401
        with openai.OpenAI(base_url=f"{address}/v1", api_key="secret", max_retries=0) as client:
            image = make_image(0, 20, 20)
            assert complete(client, [user(image, "x")], None).usage.completion_tokens == 4
            with pytest.raises(openai.BadRequestError, match="at most 1"):
                complete(client, [user(image, image, "x")], None)
            with pytest.raises(openai.BadRequestError, match="from 1 to 4"):
                complete(client, [user(image, "x")], 5)
            with pytest.raises(openai.APIStatusError, match="larger than the 20,000 bytes") as error:
                complete(client, [user(image, "x" * 30_000)], None)
            assert error.value.status_code == 413
            assert len(data_url(image)) < 20_000


def test_failure_of_the_server_names_nothing_of_it(server, make_image, monkeypatch, capsys):
    address, engine = server
    monkeypatch.setattr(engine.monkey, "limit_grid", lambda grid: open("/no/such/secret"))
    body = {"model": MODEL, "messages": [user(make_image(), "x")]}
    assert send(address, json.dumps(body).encode()) == (500, "the server failed at this request")
    assert "a request failed: FileNotFoundError" in capsys.readouterr().err


def test_stream_that_takes_too_long_ends_with_an_error(served_monkey, make_image, monkeypatch):
    with serving(served_monkey) as (address, engine):
        place = engine.worker.place
        held = []

        @contextlib.asynccontextmanager
        async def watched_place():
            async with place() as held_place:
                held.append((asyncio.get_running_loop(), held_place.limit))
                yield held_place

        def stream(request):
            yield "a"
            loop, limit = held[0]
            loop.call_soon_threadsafe(limit.reschedule, loop.time())
            while True:
                yield "a"

        monkeypatch.setattr(engine.worker, "place", watched_place)
        monkeypatch.setattr(engine, "stream", stream)
        with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            chunks = complete(client, [user(make_image(), "x")], stream=True)
            with pytest.raises(openai.APIError, match="no complete answer within 120 s"):
                list(chunks)


@contextlib.contextmanager
def slow_client(address, head, body):
    """A connection on which a request has come as far as `body`, and from which nothing is read."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        connection.sendall(head.format(host=host).encode() + body)
        yield connection


HEAD = "POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"


def test_clients_that_send_slowly_hold_up_nobody(served_monkey, make_image):
    limits = Limits(max_waiting=0, max_seconds=60)
    with serving(served_monkey, limits=limits) as (address, _), contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(slow_client(address, HEAD + "Content-Length: 1000\r\n\r\n", b'{"model"'))
        with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            assert complete(client, [user(make_image(), "x")]).choices


def test_request_that_is_not_complete_in_time_is_refused(served_monkey):
    with serving(served_monkey, limits=Limits(max_seconds=1)) as (address, _):
        with slow_client(address, HEAD + "Content-Length: 1000\r\n\r\n", b'{"model"') as connection:
            assert b" 408 " in connection.recv(1000).splitlines()[0]


def test_bodies_that_arrive_have_a_limit_together(served_monkey, make_image):
    limits = Limits(max_waiting=1, max_bytes=100_000)
    with serving(served_monkey, limits=limits) as (address, _), contextlib.ExitStack() as stack:
        for _ in range(2):
            head = HEAD + "Content-Length: 99999\r\n\r\n"
            stack.enter_context(slow_client(address, head, b"x" * 99_000))
        with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            with pytest.raises(openai.InternalServerError, match="too many large requests are arriving"):
                complete(client, [user("x" * 20_000)])
            stack.close()
            assert complete(client, [user(make_image(), "x")]).choices


@pytest.fixture()
def large_stream(monkeypatch):
    """A function that has streams of an engine bring more than the buffers of a connection take."""

    def enlarge(engine):
        answer, computed = engine.stream, threading.Event()

        def stream(request):
            if not request.streams:
                yield from answer(request)
                return
            try:
                for _ in range(200):
                    yield "a" * 100_000
            finally:
                computed.set()

        monkeypatch.setattr(engine, "stream", stream)
        return computed

    return enlarge


def stream_request(image):
    """Return head and body of a request for a stream."""
    body = json.dumps({"model": MODEL, "messages": [user(image, "x")], "stream": True}).encode()
    return HEAD + f"Content-Length: {len(body)}\r\n\r\n", body


def test_clients_that_read_slowly_hold_up_nobody(served_monkey, make_image, large_stream):
    with serving(served_monkey, limits=Limits(max_waiting=0, max_seconds=60)) as (address, engine):
        computed = large_stream(engine)
        with slow_client(address, *stream_request(make_image())):
            assert computed.wait(30)
            with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
                assert complete(client, [user(make_image(), "x")]).choices


def test_client_that_does_not_read_in_time_is_left(served_monkey, make_image, large_stream, capsys):
    with serving(served_monkey, limits=Limits(max_seconds=1)) as (address, engine):
        computed = large_stream(engine)
        with slow_client(address, *stream_request(make_image())) as connection:
            assert computed.wait(30)
            time.sleep(2)

            # What had been sent before, then the end: no second response on this connection.
            received = bytearray()
            connection.settimeout(10)
            with contextlib.suppress(ConnectionError):
                while chunk := connection.recv(1 << 20):
                    received += chunk
    assert received.count(b"HTTP/1.1 ") == 1 and b"[DONE]" not in received
    assert capsys.readouterr().err == ""


def test_client_that_goes_away_is_no_failure(served_monkey, make_image, large_stream, capsys):
    with serving(served_monkey, limits=Limits()) as (address, engine):
        computed = large_stream(engine)
        with slow_client(address, *stream_request(make_image())) as connection:
            connection.recv(1000)
        assert computed.wait(30)
        time.sleep(0.5)
    assert capsys.readouterr().err == ""


def test_the_caption_pipelines_client_is_served(server, served_monkey, tmp_path, capsys):
    address, _ = server
    client = ChatClient(
        f"{address}/v1",
        "none",
        cache=tmp_path,
        budget=Budget(),
        concurrency=1,
        retry_policy=RetryPolicy(attempts=1),
    )
    client.check(MODEL)
    assert capsys.readouterr().err == "", "the endpoint lists the model"

    request = {"model": MODEL, "messages": [{"role": "user", "content": "Why?"}], "max_tokens": 4}
    text = client.send(request, 4, lambda response: response["choices"][0]["message"]["content"])
    assert text == served_monkey.answer_messages([Message("user", ("Why?",))], max_new_tokens=4).text
