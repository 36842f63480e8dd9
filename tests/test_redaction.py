"""Secrets are taken out of text; everything else stays as it is."""

import base64

import pytest

from monkeylib.redaction import address_secrets, public_address, redact, redact_values, without_user_info


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no host at http://name:hunter2@models.example/v1", "no host at http://***@models.example/v1"),
        ("http://name:p@ss@models.example:80/v1 failed", "http://***@models.example:80/v1 failed"),
        ("ftp://only-a-token@host", "ftp://***@host"),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer ***"),
        ("{'authorization': 'Basic bmFtZTpwYXNz', 'a': 1}", "{'authorization': 'Basic ***', 'a': 1}"),
        ('{"api-key": "0123456789", "a": 1}', '{"api-key": "***", "a": 1}'),
        ("the header was Bearer 0123456789", "the header was Bearer ***"),
        ("GET https://host/v1?api_key=1234&page=2", "GET https://host/v1?api_key=***&page=2"),
        ("https://host/a?token=1234 and password=secret,", "https://host/a?token=*** and password=***,"),
        ("https://host/a?X-Amz-Signature=00ff&b=c", "https://host/a?X-Amz-Signature=***&b=c"),
        ("Incorrect API key provided: sk-proj-ab_cd12****wxyz.", "Incorrect API key provided: ***."),
        ("token hf_abcdefghij is invalid", "token *** is invalid"),
    ],
)
def test_secrets_are_told_by_their_form(text, expected):
    assert redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "status 401: Incorrect API key",
        "http://models.example/v1 and mail to a@b.example",
        "The picture shows a basic bench, a bearer of news, key: value",
        "a prompt of 300 tokens, max_tokens=400, status code 12",
        "sk- and hf_ alone",
        "sort(key=name), pad_token='<pad>', --set key=value",
    ],
)
def test_text_without_secrets_stays(text):
    assert redact(text) == text


def test_given_secrets_are_found_in_every_spelling():
    secret = "pass word/1"
    spellings = [secret, "pass%20word%2F1", base64.b64encode(secret.encode()).decode()]

    assert redact(" ".join(spellings), [secret]) == "*** *** ***"
    assert redact_values("Bearer 0123456789 pass word/1", [secret]) == "Bearer 0123456789 ***"
    assert redact_values("x marks the spot", ["x", ""]) == "x marks the spot"


def test_environment_names_secrets(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a key that nobody may see")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://name:PASSWORD123@127.0.0.1/v1?token=blue-horse")

    monkeypatch.setenv("MONKEY", "gorilla")

    text = redact(
        "a key that nobody may see, PASSWORD123, name:PASSWORD123, blue-horse, name, 127.0.0.1, gorilla"
    )
    assert text == "***, ***, ***, ***, name, 127.0.0.1, gorilla"


def test_address_is_named_without_its_secrets():
    address = "https://name:p%40ss@models.example:8000/v1?api_key=abc&deployment=x"

    assert public_address(address) == "https://models.example:8000/v1?api_key=***&deployment=x"
    assert address_secrets(address) == ["name:p%40ss", "p%40ss", "abc"]
    assert address_secrets("https://models.example/v1") == address_secrets("http://[") == []


def test_user_and_password_are_split_from_an_address():
    assert without_user_info("https://models.example/v1") == ("https://models.example/v1", None)
    assert without_user_info("http://name:p%40ss@host:80/v1?a=b") == (
        "http://host:80/v1?a=b",
        ("name", "p@ss"),
    )
