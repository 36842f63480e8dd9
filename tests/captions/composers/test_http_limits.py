"""Limits of time and size that hold for a whole response, against a server that ignores them."""

import time

import pytest

from monkeylib.captions.composers.http_limits import limited_client
from tests.support import chat_server

openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def clients():
    """A limited client: building one takes a while, since it reads the system's certificates."""
    return limited_client()


@pytest.fixture()
def ask(monkeypatch, clients):
    """Ask a server that behaves in the given way, with a limit of seconds."""

    def request(how, seconds):
        with chat_server.serving(monkeypatch) as server:
            server.otherwise = how
            client = openai.OpenAI(
                base_url=f"http://127.0.0.1:{server.server_port}/v1",
                api_key="a key",
                max_retries=0,
                timeout=seconds,
                http_client=clients,
            )
            messages = [{"role": "user", "content": "Whole picture: a cat"}]
            return client.chat.completions.create(model="a-model", messages=messages)

    return request


@pytest.mark.parametrize("how", ["drip", "drip headers", "hang"])
def test_the_limit_of_time_is_for_the_whole_response(ask, how):
    start = time.monotonic()
    with pytest.raises(openai.APITimeoutError):
        ask(how, 0.4)
    assert time.monotonic() - start < 10, "the server would have taken a minute"


@pytest.mark.parametrize(
    ("how", "reason"), [("endless", "the response has more than 8388608 bytes"), ("compressed", "compressed")]
)
def test_large_responses_are_not_read(ask, how, reason):
    with pytest.raises(openai.APIConnectionError) as failure:
        ask(how, 60)
    assert reason in str(failure.value.__cause__)


def test_a_response_within_the_limits_is_read(ask):
    assert ask("answer", 60).choices[0].message.content.strip() == "A CAT"
