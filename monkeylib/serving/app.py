"""The chat API over HTTP.

POST /v1/chat/completions   an answer, or with `stream` its parts as server-sent events
GET  /v1/models             the one model
GET  /health                that the server is there
GET  /                      these routes, for who opens the address in a browser
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from aiohttp import web

from monkeylib.model.answers import Answer
from monkeylib.serving import chat_responses
from monkeylib.serving.chat_requests import ChatRequest, read_request
from monkeylib.serving.engine import Engine
from monkeylib.serving.http import new_app, read_json, send_events
from monkeylib.serving.limits import RequestError

ENGINE = web.AppKey("engine", Engine)
STARTED = web.AppKey("started", float)


def build_app(engine: Engine, key: str = "", is_local: bool = True) -> web.Application:
    """Return the application; arguments as in `http.new_app`."""
    app = new_app(engine.limits, key, is_local)
    add_chat_api(app, engine)
    app.router.add_get("/", _tell_routes)
    return app


def add_chat_api(app: web.Application, engine: Engine) -> None:
    """Add the routes of the chat API to an application."""
    app[ENGINE], app[STARTED] = engine, time.time()
    app.add_routes(
        [
            web.post("/v1/chat/completions", _complete_chat),
            web.get("/v1/models", _list_models),
            web.get("/v1/models/{name:.+}", _describe_model),
            web.get("/health", _tell_health),
        ]
    )

    async def close(app: web.Application) -> None:
        engine.worker.close()

    app.on_cleanup.append(close)


async def _complete_chat(request: web.Request) -> web.StreamResponse:
    engine = request.app[ENGINE]
    # A body that comes slowly takes no place in the queue.
    engine.worker.require_place()
    body = await read_json(request)

    async with engine.worker.place() as place:
        chat_request = read_request(body, engine.name, engine.limits, engine.allow_address)
        completion = chat_responses.new_completion(engine.name, time.time())

        async with aclosing(engine.worker.iterate(engine.stream(chat_request), place)) as parts:
            if chat_request.streams:
                return await send_events(request, _chunks(chat_request, completion, parts), place.limit)
            async for part in parts:
                if isinstance(part, Answer):
                    return web.json_response(completion.full_answer(part))
    raise RuntimeError("the model gave no answer")


async def _chunks(
    chat_request: ChatRequest,
    completion: chat_responses.Completion,
    parts: AsyncIterator[str | Answer],
) -> AsyncIterator[dict[str, Any]]:
    """Yield the events of a stream."""
    space = chat_responses.WhiteSpace()
    is_begun = False
    async for part in parts:
        if not is_begun:
            yield completion.first_part()
            is_begun = True
        if isinstance(part, Answer):
            yield completion.last_part(part)
            if chat_request.includes_usage:
                yield completion.usage_part(part)
        elif text := space.strip(part):
            yield completion.text_part(text)


async def _list_models(request: web.Request) -> web.Response:
    return web.json_response(chat_responses.model_list(request.app[ENGINE].name, request.app[STARTED]))


async def _describe_model(request: web.Request) -> web.Response:
    name = request.app[ENGINE].name
    if request.match_info["name"] != name:
        raise RequestError(
            f"there is no such model here: this server answers with {name!r}",
            status=404,
            code="model_not_found",
            parameter="model",
        )
    return web.json_response(chat_responses.model_entry(name, request.app[STARTED]))


async def _tell_routes(request: web.Request) -> web.Response:
    return web.Response(
        text=f"{request.app[ENGINE].name} answers here as OpenAI's chat API does.\n\n"
        "POST /v1/chat/completions   a question about images\n"
        "GET  /v1/models             the name of the model\n"
        "GET  /health                whether the server is there\n\n"
        "A page to ask in is opened by: monkeylib demo\n"
    )


async def _tell_health(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})
