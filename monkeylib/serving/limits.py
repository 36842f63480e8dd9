"""What a client may send and wait for, and the errors that tell it so."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        max_bytes: size of the body of a request; its images stand in it.
        max_images: images in a conversation.
        max_new_tokens: length of an answer. Where a request names no limit, an answer has at most as many, or
            as the model's context has room for.
        max_seconds: from the arrival of a complete request to the end of its answer, its time in the queue
            included. Its body may take as long again to arrive.
        max_waiting: requests that wait while another one is answered.
    """

    max_bytes: int = 32 * 2**20
    max_images: int = 8
    max_new_tokens: int = 512
    max_seconds: float = 120.0
    max_waiting: int = 8

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "max_waiting" else 1
            if not value >= least:
                raise ValueError(f"{field.name} is {value}: expected at least {least}")


class RequestError(ValueError):
    """A request that is not answered, with the status and the fields that OpenAI's API has for it.

    Attributes:
        status: of HTTP.
        kind: `type` of the error.
        code: a word for programs.
        parameter: field of the request that is to be mended; None where none is.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        code: str | None = None,
        parameter: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.code, self.parameter = status, kind, code, parameter


class TooManyRequests(RequestError):
    """The queue is full."""

    def __init__(self, waiting: int) -> None:
        super().__init__(
            f"{waiting} requests are waiting already: send this one again in a moment",
            status=503,
            kind="server_error",
            code="overloaded",
        )


class CameTooSlowly(RequestError):
    """A request was not complete in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"the request was not complete within {seconds:g} s: send smaller images",
            status=408,
            code="timeout",
        )


class TookTooLong(RequestError):
    """An answer was not there in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"there was no complete answer within {seconds:g} s: request fewer tokens, or try again when the "
            "server has less to do",
            status=504,
            kind="server_error",
            code="timeout",
        )
