"""The chat composer and its client against a local server that speaks the chat API and fails on purpose."""

import base64
import json
import multiprocessing
import pickle
import threading
import time
from dataclasses import replace

import pytest

from monkeylib.captions import composers
from monkeylib.captions.annotations import Caption, Record
from monkeylib.captions.composers import chat, chat_model
from monkeylib.captions.composers.budget import BudgetExhausted, Prices
from monkeylib.captions.composers.chat_client import (
    OVERHEAD,
    AnswerRejected,
    ChatFailed,
    RetryPolicy,
)
from tests.support import chat_server
from tests.support.chat_server import COMPLETION

KEY = "a key that nobody may see"
# Short delays, but a timeout that no answer exceeds on a busy machine.
QUICK = RetryPolicy(attempts=8, timeout=60, first_delay=0.01, longest_delay=1.0)


def record(text: str = "a cat", **more) -> Record:
    captions = (Caption(text=text, expert="c"),)
    return Record(**{"name": "a.png", "width": 100, "height": 50, "captions": captions, **more})


@pytest.fixture()
def server(monkeypatch):
    pytest.importorskip("openai")
    with chat_server.serving(monkeypatch, KEY) as served:
        yield served


@pytest.fixture()
def make_composer(server, tmp_path):
    """Make a composer whose cache lies in the test's folder."""

    def make(**more) -> chat.ChatComposer:
        return chat.ChatComposer(tmp_path / "chat", **{"retry_policy": QUICK, **more})

    return make


def longest(item: Record, answer: int = 400) -> int:
    """Tokens that are reserved for a record."""
    return len(chat.chat_prompt(item).encode()) + OVERHEAD + answer


# --- one request -------------------------------------------------------------------------------------


def test_prompt_is_sent_and_the_answer_returned(server, make_composer):
    composer = make_composer(temperature=0.2)
    assert composer.compose(record("a cat on a mat")) == "A CAT ON A MAT."

    ((path, authorization, body),) = server.requests
    assert path == "/v1/chat/completions" and authorization == f"Bearer {KEY}"
    assert body == {
        "model": "a-model",
        "messages": [{"role": "user", "content": chat.chat_prompt(record("a cat on a mat"))}],
        "max_tokens": 400,
        "temperature": 0.2,
    }
    assert composer.usage.requests == 1 and composer.usage.completion_tokens == COMPLETION


def test_every_failure_is_retried_and_what_may_be_billed_counts(server, make_composer):
    server.script = [
        (429, {"Retry-After": "0.3"}, None),
        (500, {}, None),
        "hang",
        "garbage",
        "half",
        "no answer",
    ]
    composer = make_composer(retry_policy=replace(QUICK, timeout=3.0))

    assert composer.compose(record()) == "A CAT."
    assert len(server.requests) == 7 and len({json.dumps(body) for _, _, body in server.requests}) == 1
    assert server.times[1] - server.times[0] >= 0.29, "the delay that the server requested"

    # The full reservations of the four that may have been answered count, refusals count nothing.
    used = len(chat.chat_prompt(record())) // 4 + COMPLETION
    assert composer.usage.tokens == 4 * longest(record()) + used
    assert composer.usage.requests == 7


def test_response_without_usage_counts_the_full_reservation(server, make_composer):
    server.otherwise = "uncounted"
    composer = make_composer()
    assert composer.compose(record()) == "A CAT." and composer.usage.tokens == longest(record())


def test_retries_end_after_the_last_attempt(server, make_composer):
    server.otherwise = (503, {}, None)
    with pytest.raises(ChatFailed, match="3 attempts failed, the last one: status 503: .*on purpose"):
        make_composer(retry_policy=RetryPolicy(attempts=3, timeout=60, first_delay=0.01)).compose(record())
    assert len(server.requests) == 3


def test_retry_after_beyond_the_longest_delay_fails_at_once(server, make_composer):
    server.otherwise = (429, {"Retry-After": "3600"}, None)
    with pytest.raises(ChatFailed, match="asks to wait for 3600 seconds"):
        make_composer().compose(record())
    assert len(server.requests) == 1


def test_delays_between_attempts_double(server, make_composer):
    server.script = [(500, {}, None)] * 4
    make_composer(retry_policy=RetryPolicy(attempts=5, timeout=60, first_delay=0.1)).compose(record())
    waits = [later - sooner for sooner, later in zip(server.times, server.times[1:], strict=False)]

    assert all(wait >= 0.75 * 0.1 * 2**i for i, wait in enumerate(waits))


@pytest.mark.parametrize("refusal", [(401, {}, None), (429, {}, "insufficient_quota")])
def test_endpoint_that_refuses_gets_one_request(server, make_composer, refusal):
    server.otherwise = refusal
    composer = make_composer()

    for text in ("a cat", "a dog"):
        with pytest.raises(ChatFailed, match=f"refuses requests .status {refusal[0]}"):
            composer.compose(record(text))

    assert len(server.requests) == 1 and composer.usage.tokens == 0


def test_refused_request_fails_alone(server, make_composer):
    server.script = [(400, {}, "context_length_exceeded")]
    composer = make_composer()

    with pytest.raises(ChatFailed, match="refused the request .status 400"):
        composer.compose(record())
    assert composer.compose(record()) == "A CAT." and len(server.requests) == 2


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ("length", "cut off after 400 tokens"),
        ("content_filter", "content_filter"),
        ("empty", "no text"),
        ("null", "no text"),
        ({"content": None, "refusal": "I can't help with that."}, "refused: I can't help"),
    ],
)
def test_answer_without_text_is_not_kept_and_asked_again_by_the_next_run(
    server, make_composer, tmp_path, how, complaint
):
    server.script = [how]
    with pytest.raises(ChatFailed, match=complaint) as failure:
        make_composer().compose(record())

    assert failure.value.kind == "no-answer" and len(server.requests) == 1
    assert not list((tmp_path / "chat").rglob("*.json"))

    assert make_composer().compose(record()) == "A CAT." and len(server.requests) == 2


NO_CAPTIONS = {
    "I'm sorry, but I can't assist with that request.": "it refuses: can't assist",
    "As an AI language model, I see no picture.": "it refuses: As an AI",
    "A giraffe and two elephants drink tea while a dragon sings.": "0% of its words have a source",
    "这是一张图片，上面有文字。": "not in English",
    "<script>alert(1)</script> **A cat** <img> </img> <|im_end|>": "it has markup: <script>",
    "A cat at [0.00, 0.00, 1.00, 0.50].": "it has coordinates",
    "A cat. It is a cat. So much a cat. Very. Still. Again. And again.": "it has 7 sentences",
    "cat " * 400_000: "it has 1599999 characters, more than 2000",
}


@pytest.mark.parametrize("text", NO_CAPTIONS, ids=lambda text: text[:20])
def test_answer_that_is_no_caption_is_rejected_and_not_kept(server, make_composer, tmp_path, text):
    server.otherwise = {"content": text}
    with pytest.raises(AnswerRejected, match=f"2 answers were rejected, .*{NO_CAPTIONS[text]}") as failure:
        make_composer().compose(record())

    assert failure.value.kind == "rejected" and len(server.requests) == 2
    assert len(str(failure.value)) < 400 and not list((tmp_path / "chat").rglob("*.json"))


def test_answer_after_a_rejected_one_is_kept(server, make_composer):
    server.script = [{"content": "I cannot describe pictures."}]

    assert make_composer().compose(record()) == "A CAT." and len(server.requests) == 2
    assert make_composer().compose(record()) == "A CAT." and len(server.requests) == 2


def test_the_reason_is_told_when_it_is_asked_again(server, make_composer):
    server.script = [{"content": "A giraffe \ud800."}]
    assert make_composer().compose(record()) == "A CAT."

    (_, _, first), (_, _, second) = server.requests
    assert second["messages"][:1] == first["messages"]
    answer, objection = second["messages"][1:]
    assert answer == {"role": "assistant", "content": "A giraffe ?."}
    assert (
        "nobody said giraffe" in objection["content"]
        and "Write the description again" in objection["content"]
    )


def test_refusal_that_an_earlier_version_kept_is_asked_again(server, make_composer, tmp_path):
    make_composer().compose(record())
    (path,) = (tmp_path / "chat").rglob("*.json")
    kept = json.loads(path.read_text())
    kept["response"]["choices"][0]["message"]["content"] = "I'm sorry, I can't do that."
    path.write_text(json.dumps(kept))

    assert make_composer().compose(record()) == "A CAT." and len(server.requests) == 2
    assert json.loads(path.read_text())["response"]["choices"][0]["message"]["content"].strip() == "A CAT."


def test_record_without_annotations_sends_no_request(server, make_composer):
    assert make_composer().compose(record(captions=())) == "" and not server.requests


def test_unreachable_endpoint_raises_and_costs_nothing(server, make_composer, monkeypatch):
    monkeypatch.setenv(chat_model.BASE_URL, "http://127.0.0.1:9/v1")
    composer = make_composer(retry_policy=RetryPolicy(attempts=2, timeout=60, first_delay=0.01))

    with pytest.raises(ChatFailed, match="2 attempts failed"):
        composer.compose(record())
    assert composer.usage.tokens == 0


def test_limit_of_time_is_for_the_whole_answer(server, make_composer):
    server.otherwise = "drip"
    composer = make_composer(retry_policy=replace(QUICK, attempts=2, timeout=0.5))
    start = time.monotonic()

    with pytest.raises(ChatFailed, match="2 attempts failed, the last one: no answer in time"):
        composer.compose(record())
    assert time.monotonic() - start < 10, "the server would have taken a minute"


def test_endpoint_that_is_down_is_asked_no_more(server, make_composer):
    server.otherwise = (500, {}, None)
    composer = make_composer(concurrency=1, retry_policy=replace(QUICK, attempts=2, failed_requests=3))
    answers = composer.compose_all([record(f"cat {number}") for number in range(8)])

    assert len(server.requests) == 3 * 2
    assert {answer.kind for answer in answers} == {"unavailable"}
    assert ["none is sent to it for 300 seconds" in str(answer) for answer in answers] == [False] * 3 + [
        True
    ] * 5
    assert "answered none of 3 requests in a row (status 500: on purpose)" in str(answers[-1])


def test_endpoint_that_answers_again_is_asked_again_after_the_pause(server, make_composer, capsys):
    policy = replace(QUICK, attempts=1, failed_requests=2, pause=0.0)
    composer = make_composer(concurrency=1, retry_policy=policy)
    server.script = [(500, {}, None)] * 3
    answers = composer.compose_all([record(f"cat {number}") for number in range(5)])

    assert [isinstance(answer, str) for answer in answers] == [False] * 3 + [True] * 2
    said = capsys.readouterr().err
    assert said.count("answered none of 2 requests in a row") == 1 and said.count("answers again") == 1


def test_requests_that_fail_now_and_then_stop_nothing(server, make_composer):
    server.script = [(500, {}, None), "answer"] * 4
    composer = make_composer(concurrency=1, retry_policy=replace(QUICK, attempts=1, failed_requests=2))
    answers = composer.compose_all([record(f"cat {number}") for number in range(8)])

    assert [isinstance(answer, str) for answer in answers] == [False, True] * 4


# --- before the first image --------------------------------------------------------------------------


def test_check_asks_for_the_models_and_costs_nothing(server, make_composer):
    composer = make_composer()
    composer.check()

    server.models = 404  # many endpoints have no such list
    composer.check()
    assert not server.requests and composer.usage.requests == 0


def test_check_says_that_the_model_is_not_listed(server, make_composer, capsys):
    server.listed = [{"id": "a-model"}]
    make_composer().check()
    assert capsys.readouterr().err == ""

    server.listed = [{"id": "another"}, {"id": "\x1b[31mred"}]
    make_composer().check()
    said = capsys.readouterr().err
    assert "does not list the model a-model, but another, ?[31mred." in said

    server.listed = "no list"
    make_composer().check()


def test_check_finds_what_is_missing(server, make_composer, monkeypatch):
    server.models = 401
    with pytest.raises(ChatFailed, match="http://127.0.0.1:.* refuses the key .status 401") as failure:
        make_composer().check()
    assert KEY not in str(failure.value)

    monkeypatch.setenv(chat_model.BASE_URL, "http://name:PASSWORD123@127.0.0.1:9/v1")
    with pytest.raises(ChatFailed, match="endpoint http://127.0.0.1:9/v1 cannot be reached .*refused"):
        make_composer().check()

    monkeypatch.delenv(chat_model.KEY)
    with pytest.raises(ValueError, match="OPENAI_API_KEY isn't set"):
        make_composer().check()


@pytest.mark.parametrize("address", ["localhost:8000/v1", "ftp://host/v1", "http://", "http://host:port/v1"])
def test_address_that_is_none_is_refused_at_once(server, make_composer, monkeypatch, address):
    monkeypatch.setenv(chat_model.BASE_URL, address)
    with pytest.raises(ValueError, match="begins with http:// or https:// and names a host"):
        make_composer()


# --- secrets -----------------------------------------------------------------------------------------


def test_no_secret_is_in_an_error_a_file_or_a_log(server, make_composer, monkeypatch, tmp_path, caplog):
    address = f"http://name:PASSWORD123@127.0.0.1:{server.server_port}/v1"
    monkeypatch.setenv(chat_model.BASE_URL, address)
    caplog.set_level("DEBUG")

    # The endpoint repeats the header, in an error and in an answer.
    server.script = [(401, {}, "echo")]
    with pytest.raises(ChatFailed, match="status 401: cannot accept") as failure:
        make_composer().compose(record())

    server.otherwise = {"content": f'A cat with the text "{KEY}".'}
    caption = make_composer().compose(record())
    assert caption == 'A cat with the text "***".'

    # The password goes out as it always did.
    basic = base64.b64encode(b"name:PASSWORD123").decode()
    assert {authorization for _, authorization, _ in server.requests} == {f"Basic {basic}"}

    files = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    for secret in ("PASSWORD123", KEY, basic):
        assert secret not in str(failure.value) + repr(failure.value.__cause__)
        assert secret not in files
        assert secret not in caplog.text
    assert "127.0.0.1" in caplog.text, "the request was logged"


def test_key_that_is_repeated_with_escapes_is_taken_out(server, make_composer, tmp_path):
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in KEY)
    body = {"choices": [{"message": {"content": "A cat with the text 'KEY'."}, "finish_reason": "stop"}]}
    server.otherwise = "raw:" + json.dumps(body).replace("KEY", escaped)

    assert KEY not in make_composer().compose(record())
    assert KEY not in "".join(path.read_text() for path in tmp_path.rglob("*.json"))


def test_another_password_gives_the_same_answers(server, make_composer, monkeypatch):
    make_composer().compose(record())
    monkeypatch.setenv(chat_model.BASE_URL, f"http://name:other@127.0.0.1:{server.server_port}/v1")

    assert make_composer().compose(record()) == "A CAT." and len(server.requests) == 1


# --- the cache ---------------------------------------------------------------------------------------


def test_rerun_is_answered_from_the_cache(server, make_composer, tmp_path):
    records = [record(text) for text in ("a cat", "a dog", "a bus")]
    first = make_composer().compose_all(records)

    assert first == ["A CAT.", "A DOG.", "A BUS."] and len(server.requests) == 3

    second_composer = make_composer()
    assert second_composer.compose_all(records) == first and len(server.requests) == 3
    assert second_composer.usage.requests == 0 and second_composer.cost == 0

    # Other settings are other requests.
    make_composer(temperature=0.5).compose(records[0])
    make_composer(answer_tokens=300).compose(records[0])
    assert len(server.requests) == 5

    cached_files = list((tmp_path / "chat").rglob("*.json"))
    assert len(cached_files) == 5 and not any(KEY in path.read_text() for path in cached_files)


def test_broken_cache_file_is_requested_again(server, make_composer, tmp_path):
    make_composer().compose(record())
    (path,) = (tmp_path / "chat").rglob("*.json")
    path.write_text(path.read_text()[:40])
    path.with_name(f".{path.stem}.0123456789ab.json").touch()  # a run was killed while it wrote

    assert make_composer().compose(record()) == "A CAT." and len(server.requests) == 2
    assert json.loads(path.read_text())["response"]["choices"]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_interrupted_run_loses_only_running_requests(server, make_composer):
    server.script = ["answer", "answer", (401, {}, None)]
    records = [record(f"cat {i}") for i in range(5)]
    answers = make_composer(concurrency=1).compose_all(records)

    assert [isinstance(answer, str) for answer in answers] == [True, True, False, False, False]
    assert make_composer(concurrency=1).compose_all(records)[:2] == answers[:2]
    assert len(server.requests) == 3 + 3


def test_equal_requests_at_one_time_are_sent_once(server, make_composer):
    server.pause = 0.1
    assert set(make_composer(concurrency=6).compose_all([record()] * 12)) == {"A CAT."}
    assert len(server.requests) == 1


def _compose_in_another_process(cache):
    composer = chat.ChatComposer(cache, retry_policy=QUICK)
    assert composer.compose(record()) == "A CAT."


def test_two_processes_send_an_equal_request_once(server, tmp_path):
    server.pause = 1.0
    context = multiprocessing.get_context("fork")
    processes = []
    for _ in range(2):
        process = context.Process(target=_compose_in_another_process, args=(tmp_path,))
        process.start()
        processes.append(process)

    for process in processes:
        process.join(60)

    assert [process.exitcode for process in processes] == [0, 0] and len(server.requests) == 1
    assert not list(tmp_path.rglob("*.lock"))


# --- concurrency and the budget ----------------------------------------------------------------------


def test_concurrency_is_limited(server, make_composer):
    server.pause = 0.15
    composer = make_composer(concurrency=3)

    assert len(composer.compose_all([record(f"cat {i}") for i in range(12)])) == 12
    assert server.most == 3

    # The limit also holds for threads that call the composer themselves.
    threads = [threading.Thread(target=composer.compose, args=(record(f"dog {i}"),)) for i in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert server.most == 3 and len(server.requests) == 21


def test_retry_after_holds_for_all_threads(server, make_composer):
    server.script = [(429, {"Retry-After": "0.5"}, None)]
    composer = make_composer(concurrency=4)

    assert "A CAT." in composer.compose_all([record()])

    # One thread is told to wait; the other sends its request only after the same delay.
    server.script, server.times[:] = [(429, {"Retry-After": "0.5"}, None)], []
    first = threading.Thread(target=composer.compose, args=(record("one"),))
    first.start()
    while not server.times:
        time.sleep(0.01)
    time.sleep(0.25)  # its answer is on the way to that thread
    composer.compose(record("two"))
    first.join()

    assert min(server.times[1:]) - server.times[0] >= 0.45


@pytest.mark.parametrize("concurrency", [1, 4])
def test_budget_is_never_exceeded_and_a_larger_one_continues(server, make_composer, concurrency):
    records = [record(f"cat {i}") for i in range(10)]
    used = len(chat.chat_prompt(records[0])) // 4 + COMPLETION
    budget = longest(records[0]) + 3 * used + used // 2  # four answers, and no room for a fifth request
    composer = make_composer(concurrency=concurrency, maximum_tokens=budget)
    answers = composer.compose_all(records)
    failed = [answer for answer in answers if not isinstance(answer, str)]

    assert len(failed) == 6 and len(server.requests) == 4
    assert composer.usage.tokens == 4 * used <= budget
    assert all(isinstance(answer, BudgetExhausted) for answer in failed)
    assert f"The budget of {budget} tokens is used up" in str(failed[0])
    assert all(
        isinstance(answer, str) for answer in make_composer(concurrency=concurrency).compose_all(records)
    )
    assert len(server.requests) == 10


def test_dollars_are_counted_and_limited(server, make_composer):
    item = record()
    prompt = len(chat.chat_prompt(item)) // 4
    composer = make_composer(prices=(0.5, 1.5), maximum_dollars=1.0)
    composer.compose(item)

    assert composer.cost == pytest.approx((0.5 * prompt + 1.5 * COMPLETION) / 1e6)

    poor = make_composer(prices=Prices(1000.0, 1000.0), maximum_dollars=0.1)
    with pytest.raises(BudgetExhausted, match="0.1 dollars is used up"):
        poor.compose(record("a dog"))
    assert len(server.requests) == 1


# --- the environment ---------------------------------------------------------------------------------


def test_model_comes_from_the_environment_and_no_record_has_the_key(server, make_composer, monkeypatch):
    monkeypatch.setenv(chat_model.BASE_URL, "https://user:secret@models.example/v1")
    composer = make_composer()
    provenance = composer.provenance.model_dump_json()

    assert composer.version == "a-model" and composer.settings["base_url"] == "https://models.example/v1"
    assert "secret" not in provenance and KEY not in provenance

    monkeypatch.delenv(chat_model.KEY)
    with pytest.raises(
        ValueError, match="OPENAI_API_KEY isn't set: put the key of https://models.example/v1"
    ):
        composer.prepare()

    monkeypatch.delenv(chat_model.MODEL)
    with pytest.raises(ValueError, match="MONKEYLIB_CHAT_MODEL isn't set: name a chat model"):
        make_composer()

    monkeypatch.setenv(chat_model.MODEL, "m")
    monkeypatch.delenv(chat_model.BASE_URL)
    assert make_composer().settings["base_url"] == "https://api.openai.com/v1"
    with pytest.raises(ValueError, match="At least one request"):
        make_composer(concurrency=0)


def test_limits_come_from_the_environment(server, tmp_path, monkeypatch):
    plain = chat.ChatComposer.from_environment(tmp_path)
    assert plain.concurrency == 8 and plain.compose(record()) == "A CAT."

    for name, value in [
        (chat_model.TOKENS, "10"), (chat_model.PRICES, "0.5, 1.5"),
        (chat_model.CONCURRENCY, "3"), (chat_model.ANSWER_TOKENS, "9"),
    ]:  # fmt: skip
        monkeypatch.setenv(name, value)
    limited = composers.load_composer("chat")

    assert limited.concurrency == 3 and limited.answer_tokens == 9
    with pytest.raises(BudgetExhausted, match="10 tokens"):
        chat.ChatComposer.from_environment(tmp_path).compose(record("a dog"))

    monkeypatch.setenv(chat_model.DOLLARS, "0.000001")
    monkeypatch.delenv(chat_model.TOKENS)
    with pytest.raises(BudgetExhausted, match="1e-06 dollars"):
        chat.ChatComposer.from_environment(tmp_path).compose(record("a dog"))

    monkeypatch.setenv(chat_model.PRICES, "0.5")
    with pytest.raises(ValueError, match="MONKEYLIB_CHAT_PRICES has to hold 2 numbers .* got '0.5'"):
        composers.load_composer("chat")


def test_pickle_has_no_key(server, make_composer):
    composer = make_composer()
    composer.compose(record())
    pickled = pickle.dumps(composer)

    assert KEY.encode() not in pickled
    assert pickle.loads(pickled).compose(record("a dog")) == "A DOG."
    assert pickle.loads(pickled).provenance == composer.provenance


def test_estimate_is_for_all_images_by_the_prompts_of_some(make_composer):
    composer = make_composer(prices=(1.0, 2.0), maximum_dollars=5.0, answer_tokens=100)
    longest_prompts = composer.estimate(3_000_000)
    assert longest_prompts == (
        "3000000 requests to a-model, 4500000000 tokens of prompts at most and 300000000 of answers at most: "
        "US$ 5100.00, and the budget is US$ 5.00."
    )

    prompt = -(-len(chat.chat_prompt(record())) // 4)
    assert f"{prompt * 10} tokens of prompts (as those of 2 records)" in composer.estimate(10, [record()] * 2)
    assert "MONKEYLIB_CHAT_PRICES would say what they cost" in make_composer().estimate(10)
