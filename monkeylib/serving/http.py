"""What servers of this library share: who may come in, bodies, events, errors, and listening.

A web page must not reach a server on the reader's own machine: requests need the type `application/json`,
which browsers send to another site only with its leave, and a server on the loopback address answers to names
of that address alone.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from monkeylib.errors import first_line, is_out_of_memory
from monkeylib.progress import say
from monkeylib.redaction import redact
from monkeylib.serving.limits import CameTooSlowly, Limits, RequestError, TookTooLong

KEY = web.AppKey("key", str)
LIMITS = web.AppKey("limits", Limits)
IS_LOCAL = web.AppKey("is_local", bool)
ARRIVALS = web.AppKey("arrivals", "Arrivals")

_SECONDS_OF_THE_END = 5  # that a client has to take the last of an answer
_SHUTDOWN_SECONDS = 5  # that requests have to end when the server does

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Arrivals:
    """Bodies that are arriving: their bytes, which are in memory."""

    bytes: int = 0


def new_app(limits: Limits, key: str = "", is_local: bool = True) -> web.Application:
    """Return an application without routes, which answers errors as OpenAI's API writes them.

    Args:
        limits: of requests.
        key: that clients have to send; empty for none.
        is_local: whether only names of the loopback address are answered to.
    """
    app = web.Application(middlewares=[_errors_of_the_api])
    app[LIMITS], app[KEY], app[IS_LOCAL], app[ARRIVALS] = limits, key, is_local, Arrivals()
    return app


def run(app: web.Application, host: str, port: int, on_start: Callable[[str], Any]) -> None:
    """Serve until SIGINT or SIGTERM comes.

    Args:
        app: the application.
        host, port: where to listen; port 0 takes a free one.
        on_start: is called with the address, once clients may come.

    Raises:
        OSError: nobody can listen there.
    """
    asyncio.run(_serve(app, host, port, on_start))


def require_free(host: str, port: int) -> None:
    """Check that a program can listen at an address, before a model is loaded for it.

    Raises:
        OSError: another one listens there, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            raise OSError(
                f"nobody can listen at {host}, port {port} ({error.strerror}): name another with --port, or "
                "0 for a free one"
            ) from error


async def _serve(app: web.Application, host: str, port: int, on_start: Callable[[str], Any]) -> None:
    # A client that goes away ends its answer.
    runner = web.AppRunner(
        app, handler_cancellation=True, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        address = runner.addresses[0]
        name = f"[{address[0]}]" if ":" in address[0] else address[0]
        on_start(f"http://{name}:{address[1]}")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def is_loopback(host: str) -> bool:
    """Return whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


# --- bodies and events


async def read_json(request: web.Request) -> Any:
    """Return the body of a request.

    Raises:
        RequestError: it is of another type, too large, too slow, or no JSON; or others are arriving.
    """
    if request.content_type != "application/json":
        raise RequestError(
            f"the body is of type {request.content_type}: expected application/json", status=415
        )

    body = await _receive(request)
    try:
        return json.loads(body)
    # Brackets within brackets, thousands deep, are a RecursionError.
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON ({first_line(error)}): send a JSON object") from error


async def _receive(request: web.Request) -> bytearray:
    """Return the bytes of a request's body."""
    limits, arrivals = request.app[LIMITS], request.app[ARRIVALS]
    body = bytearray()
    try:
        async with asyncio.timeout(limits.max_seconds):
            async for chunk in request.content.iter_any():
                body += chunk
                arrivals.bytes += len(chunk)
                if len(body) > limits.max_bytes:
                    raise RequestError(
                        f"the request is larger than the {limits.max_bytes:,} bytes that this server takes: "
                        "send smaller images",
                        status=413,
                        code="request_too_large",
                    )
                # As many as the queue may hold, so that memory has a limit, too.
                if arrivals.bytes > limits.max_bytes * (limits.max_waiting + 1):
                    raise RequestError(
                        "too many large requests are arriving: send this one again in a moment",
                        status=503,
                        kind="server_error",
                        code="overloaded",
                    )
    except TimeoutError:
        raise CameTooSlowly(limits.max_seconds) from None
    finally:
        arrivals.bytes -= len(body)
    return body


async def send_events(
    request: web.Request, events: AsyncIterator[dict[str, Any]], limit: asyncio.Timeout
) -> web.StreamResponse:
    """Send events as they come (server-sent events), and `[DONE]` behind them.

    An error before the first event has a status, one behind it is an event; also the end of the time limit. A
    client that has gone, or does not read, is left.
    """
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store"}
    )
    is_sending = False

    async def send(data: bytes) -> None:
        nonlocal is_sending
        is_sending = True
        if not response.prepared:
            await response.prepare(request)
        await response.write(data)
        is_sending = False

    async def send_end(last: bytes = b"") -> None:
        async with asyncio.timeout(_SECONDS_OF_THE_END):
            await send(last + b"data: [DONE]\n\n")
            await response.write_eof()

    try:
        try:
            async for event in events:
                await send(_as_data(event))
            await send_end()
        except ConnectionError:
            raise
        except Exception as error:
            if not response.prepared:
                raise
            await send_end(_as_data(error_body(as_request_error(error))))
        except asyncio.CancelledError:
            # While a write is blocked, nothing else can be written.
            if not (response.prepared and limit.expired()) or is_sending:
                raise
            await send_end(_as_data(error_body(TookTooLong(request.app[LIMITS].max_seconds))))
    except (TimeoutError, ConnectionError, asyncio.CancelledError) as error:
        is_stopped = isinstance(error, asyncio.CancelledError) and not limit.expired()
        if is_stopped or not response.prepared:
            raise
        # Its connection is given up: a second response must not follow on it.
        if request.transport is not None:
            request.transport.abort()
    return response


def _as_data(event: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


# --- errors, and who may come in


def error_body(error: RequestError) -> dict[str, Any]:
    """Return an error as OpenAI's API writes it."""
    fields = {"message": str(error), "type": error.kind, "param": error.parameter, "code": error.code}
    return {"error": fields}


@web.middleware
async def _errors_of_the_api(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        _check_visitor(request)
        return await handler(request)
    except Exception as error:
        refused = as_request_error(error)

    headers = {"Retry-After": "1"} if refused.status == 503 else {}
    return web.json_response(error_body(refused), status=refused.status, headers=headers)


def _check_visitor(request: web.Request) -> None:
    """Check the key, and the name by which the server is called.

    Raises:
        RequestError: the key is missing or wrong, or the request is for another server.
    """
    name, _, port = request.host.rpartition(":")
    host = name if name and port.isdigit() else request.host
    if request.app[IS_LOCAL] and not is_loopback(host):
        raise RequestError("this server answers to localhost and 127.0.0.1 alone", status=403)

    key = request.app[KEY]
    sent = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if key and not hmac.compare_digest(sent.encode("utf-8", "surrogateescape"), key.encode()):
        raise RequestError(
            "the key is missing or wrong: send it as Authorization: Bearer KEY",
            status=401,
            kind="authentication_error",
            code="invalid_api_key",
        )


def as_request_error(error: Exception) -> RequestError:
    """Return an error as the API has it. What is not the client's to mend is reported here, not there."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, web.HTTPException):
        return RequestError(f"{error.reason}: there is no such route here", status=error.status)

    say(f"a request failed: {type(error).__name__}: {redact(first_line(error))}")
    if is_out_of_memory(error):
        return RequestError(
            "there was not enough memory for this request: send fewer or smaller images",
            status=500,
            kind="server_error",
        )
    return RequestError("the server failed at this request", status=500, kind="server_error")
