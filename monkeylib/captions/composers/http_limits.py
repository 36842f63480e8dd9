"""HTTP client under the package openai whose limits hold for a whole response: of time and of bytes.

The limit of time of HTTP clients is for each read: an endpoint that sends a byte a second, of its headers or
of its answer, would never reach it.
"""

import importlib
import threading
import time
from collections.abc import Iterator
from typing import Any

_LONGEST_RESPONSE = 8 << 20  # bytes: an answer of 400 tokens has some 2,000
_PART = 1 << 16  # bytes that are sent between two looks at the clock


def limited_client(user_info: tuple[str, str] | None = None) -> Any:
    """Return a client for `openai.OpenAI`, whose timeout is that of a whole request with its response.

    Compressed responses are refused: a few bytes of them may hold gigabytes.

    Args:
        user_info: user and password that the endpoint's address came with.
    """
    import openai

    # Versions of openai are built on different libraries of the same interface.
    base = openai.DefaultHttpxClient
    http = importlib.import_module(base.__mro__[1].__module__.partition(".")[0])
    deadline = _Deadline()

    class LimitedStream(http.SyncByteStream):
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for chunk in self.stream:
                size += len(chunk)
                if size > _LONGEST_RESPONSE:
                    raise http.RemoteProtocolError(f"the response has more than {_LONGEST_RESPONSE} bytes")
                yield chunk

        def close(self) -> None:
            self.stream.close()

    class LimitedClient(base):
        def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
            deadline.start(request.extensions.get("timeout", {}).get("read"))
            request.headers["Accept-Encoding"] = "identity"
            response = super().send(request, stream=True, **options)
            response.stream = LimitedStream(response.stream)
            if stream:
                return response

            try:
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise http.RemoteProtocolError("the response is compressed, which was not asked for")
                response.read()
            except BaseException:
                response.close()
                raise
            return response

    client = LimitedClient(auth=user_info) if user_info else LimitedClient()
    # The libraries give no other access to the connections; proxies have transports of their own.
    for transport in (client._transport, *client._mounts.values()):
        if transport is not None:
            pool = transport._pool
            pool._network_backend = _LimitedBackend(pool._network_backend, deadline)
    return client


class _Deadline(threading.local):
    """Time at which the request of this thread has to be finished."""

    at = float("inf")

    def start(self, seconds: float | None) -> None:
        self.at = time.monotonic() + seconds if seconds is not None else float("inf")

    def remaining(self, timeout: float | None) -> float | None:
        """Return what is left of a timeout; the least that sockets take if nothing is."""
        left = max(0.001, self.at - time.monotonic())
        if timeout is None:
            return None if left == float("inf") else left
        return min(timeout, left)

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.at


class _LimitedBackend:
    """Network backend whose connections keep to the deadline."""

    def __init__(self, backend: Any, deadline: _Deadline) -> None:
        self.backend, self.deadline = backend, deadline
        self.errors = importlib.import_module(type(backend).__module__.partition(".")[0])

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **options: Any) -> Any:
        stream = self.backend.connect_tcp(host, port, self.deadline.remaining(timeout), **options)
        return _LimitedConnection(stream, self)

    def connect_unix_socket(self, path: str, timeout: float | None = None, **options: Any) -> Any:
        stream = self.backend.connect_unix_socket(path, self.deadline.remaining(timeout), **options)
        return _LimitedConnection(stream, self)

    def sleep(self, seconds: float) -> None:
        self.backend.sleep(seconds)


class _LimitedConnection:
    """Connection that keeps to the deadline of the request that uses it."""

    def __init__(self, stream: Any, backend: _LimitedBackend) -> None:
        self.stream, self.backend = stream, backend

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self.backend.deadline.is_over:
            raise self.backend.errors.ReadTimeout("the response took too long")
        return self.stream.read(max_bytes, self.backend.deadline.remaining(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _PART):
            if self.backend.deadline.is_over:
                raise self.backend.errors.WriteTimeout("the request took too long to send")
            part = buffer[start : start + _PART]
            self.stream.write(part, self.backend.deadline.remaining(timeout))

    def close(self) -> None:
        self.stream.close()

    def start_tls(self, ssl_context: Any, *args: Any, **options: Any) -> "_LimitedConnection":
        return _LimitedConnection(self.stream.start_tls(ssl_context, *args, **options), self.backend)

    def get_extra_info(self, info: str) -> Any:
        return self.stream.get_extra_info(info)
