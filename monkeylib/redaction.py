"""Take secrets out of text that is printed, logged or stored: passwords in addresses, API keys, tokens.

`redact` is the only place that decides what a secret is. Whatever comes from outside (an endpoint's error, an
address from the environment, the message of another library) goes through it before it reaches a record, a
file or the terminal.
"""

import base64
import json
import os
import re
from collections.abc import Iterable
from urllib.parse import quote, unquote, urlsplit, urlunsplit

REDACTED = "***"

_SHORTEST_SECRET = 6  # characters: "x" is a usual key of a local server, and a letter of every other word

# Variables of the environment whose values are secrets, and those that may hold an address with a password.
_SECRET_NAME = re.compile(r"(^|_)(API)?(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_ADDRESS_NAME = re.compile(r"(^|_)(URL|URI|PROXY|ENDPOINT)$", re.IGNORECASE)

# user:password@ of an address. A greedy match: a password may itself hold an @.
_USER_INFO = re.compile(r"(?<=://)[^\s/?#\"'<>]+@")

# Authorization: Bearer abc, "api-key": "abc"
_HEADER = re.compile(
    r"\b((?:proxy-)?authorization|(?:x-)?api-key|cookie)([\"']?\s*[:=]\s*[\"']?)"
    r"((?:bearer|basic|digest|token)\s+)?[^\s\"',;)}\]]+",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"\b(bearer|basic)(\s+)[A-Za-z0-9+/_.~=*-]{6,}", re.IGNORECASE)

# ?token=abc of an address; password=abc anywhere, where the name alone says it
_PARAMETER = re.compile(
    r"([?&][\w-]*?(?:key|token|secret|password|passwd|signature|sig|code)=)[^\s&#\"'<>;,)]+", re.IGNORECASE
)
_ASSIGNMENT = re.compile(
    r"\b((?:api[_-]?key|access[_-]?token|client[_-]?secret|password|passwd)=)[^\s&#\"'<>;,)]+", re.IGNORECASE
)

# Keys that show what they are: of OpenAI and its like, Hugging Face, GitHub, AWS.
_KEY = re.compile(
    r"\b(?:sk|pk|rk)-[A-Za-z0-9_*-]{6,}|\bhf_[A-Za-z0-9]{8,}|\bgh[pousr]_[A-Za-z0-9]{8,}|\bAKIA[A-Z0-9]{12,}"
)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return a text with `***` in place of every secret.

    Secrets are the user and password of an address, Authorization headers, parameters of an address such as
    `token=`, keys that can be told by their form, the values of environment variables named like a key, a
    token or a password, and the given ones; all of them also as they are written in an address or in base64.

    Args:
        text: any text.
        secrets: further secrets. Those of fewer than six characters are left alone.
    """
    text = redact_values(text, [*secrets, *_environment_secrets()])

    text = _USER_INFO.sub(f"{REDACTED}@", text)
    text = _HEADER.sub(rf"\1\2\3{REDACTED}", text)
    text = _SCHEME.sub(rf"\1\2{REDACTED}", text)
    text = _PARAMETER.sub(rf"\1{REDACTED}", text)
    text = _ASSIGNMENT.sub(rf"\1{REDACTED}", text)
    return _KEY.sub(REDACTED, text)


def redact_values(text: str, secrets: Iterable[str]) -> str:
    """Return a text with `***` in place of the given secrets, and of nothing else."""
    spellings: set[str] = set()
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            encoded = base64.b64encode(secret.encode()).decode()
            spellings |= {secret, quote(secret, safe=""), unquote(secret), encoded, json.dumps(secret)[1:-1]}

    # The longest first: one secret may hold another.
    for spelling in sorted(spellings, key=len, reverse=True):
        text = text.replace(spelling, REDACTED)
    return text


def public_address(address: str) -> str:
    """Return an address without user and password, and with `***` as the value of secret parameters."""
    return redact(_USER_INFO.sub("", address))


def without_user_info(address: str) -> tuple[str, tuple[str, str] | None]:
    """Return an address without its user information, and the user and the password, None if it has none.

    Raises:
        ValueError: it is no address.
    """
    parts = urlsplit(address)
    user_info, _, host = parts.netloc.rpartition("@")
    if not user_info:
        return address, None

    user, _, password = user_info.partition(":")
    return urlunsplit(parts._replace(netloc=host)), (unquote(user), unquote(password))


def address_secrets(address: str) -> list[str]:
    """Return what is secret in an address: user and password, the password, secret parameters."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return []

    user_info = parts.netloc.rpartition("@")[0]
    secrets = [user_info, user_info.partition(":")[2]]
    secrets += [match[0].partition("=")[2] for match in _PARAMETER.finditer(f"?{parts.query}")]
    return [secret for secret in secrets if secret]


def _environment_secrets() -> list[str]:
    """Return the secrets among the environment's variables."""
    secrets = []
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name):
            secrets.append(value.strip())
        elif _ADDRESS_NAME.search(name) and "@" in value:
            secrets += address_secrets(value.strip())

    return secrets
