"""The routes of the demo.

GET  /                page
GET  /static/NAME     its style and script
GET  /samples/NAME    a sample image
GET  /api/start       what there is to choose from
POST /api/tiles       an image's grid and views, and what they cost
POST /api/answers     answers side by side, as server-sent events
POST /api/attention   what each token of an answer attends to
POST /api/captions    the stages of the caption pipeline
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from monkeylib.captions.report import draw_svg
from monkeylib.demo import requests
from monkeylib.digests import image_digest
from monkeylib.errors import choose
from monkeylib.explore.answers import SideBySide
from monkeylib.explore.caption_stages import available_experts, filter_of, move_thresholds
from monkeylib.explore.drawing import draw_grid, draw_views, grid_choices
from monkeylib.explore.samples import sample_questions
from monkeylib.explore.tiles import accepted_grids, displayed_grids, tile_image
from monkeylib.explore.variants import variants_of
from monkeylib.explore.widgets.attention import AttentionExplorer
from monkeylib.explore.widgets.captions import CaptionsExplorer, caption_rows
from monkeylib.html_pages import data_uri
from monkeylib.images import open_image
from monkeylib.model.context import ContextError
from monkeylib.monkey import Monkey
from monkeylib.raised_monkey import RaisedMonkey
from monkeylib.serving.app import add_chat_api
from monkeylib.serving.engine import Engine
from monkeylib.serving.http import new_app, read_json, send_events
from monkeylib.serving.limits import Limits, RequestError
from monkeylib.serving.worker import Worker

# Of the largest size, that a request has room for: data URLs are a third larger, and an image may come again.
IMAGES_OF_A_REQUEST = 3

_STATIC = Path(__file__).parent / "static"
_FILES = {"style.css": "text/css", "script.js": "text/javascript"}
# Nothing from elsewhere; images are data URLs.
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_MAX_TILES = 9  # of the grids to choose from
_SIZES = ((1000, 1000), (4000, 1000), (1000, 4000))  # pixels: images of several shapes
_SIDE = 440  # pixels of the images on the page
_SHOWN_TOKENS = 32  # of an answer whose attention is drawn
_CAPTIONED = 4  # images whose experts' results stay

T = TypeVar("T")


class Demo:
    """The models of a demo, and what it computes.

    Attributes:
        monkey: the model.
        name: of the model.
        limits: of requests.
        side_by_side: who answers.
        worker: computes.
    """

    def __init__(self, monkey: Monkey, name: str, limits: Limits, base: Monkey | None = None) -> None:
        self.monkey, self.name, self.limits = monkey, name, limits
        self.engine = Engine(monkey, name, limits)
        self.worker: Worker = self.engine.worker
        self.side_by_side = SideBySide(monkey, base)
        self.questions = sample_questions()
        self.samples = {question.image.name: question.image for question in self.questions}
        self.grids = displayed_grids(monkey, grid_choices(_MAX_TILES))
        # The model's own grid, which may be one for each shape.
        own_grids = {str(monkey.select_grid(size)) for size in _SIZES}
        self.own_grid = own_grids.pop() if len(own_grids) == 1 else "auto"
        self.experts = available_experts()
        self._captions: OrderedDict[tuple[str, ...], CaptionsExplorer] = OrderedDict()

    def start(self) -> dict[str, Any]:
        """Return what there is to choose from."""
        questions = [
            {
                "image": question.image.name,
                "question": question.question,
                "ground_truth": question.ground_truth,
                "text_size": question.text_size,
            }
            for question in self.questions
        ]
        has_tiles = any(variant.has_tiles for variant in variants_of(self.monkey))
        answer_grids = [self.own_grid, *accepted_grids(self.monkey, self.grids)] if has_tiles else []
        return {
            "model": self.name,
            "titles": list(self.side_by_side.models),
            "grid": self.own_grid,
            "grids": self.grids,
            "answer_grids": answer_grids,
            "has_attention": not isinstance(self.monkey, RaisedMonkey),
            "samples": list(self.samples),
            "questions": questions,
            "experts": self.experts,
            "max_bytes": self.limits.max_bytes // IMAGES_OF_A_REQUEST,
        }

    def tiles(self, image: str, grid: str) -> dict[str, Any]:
        """Return an image with its grid, its views, and what they cost."""
        tiled = tile_image(self.monkey, image, self._check_grid(grid))
        return {
            "grid": data_uri(draw_grid(tiled, _SIDE), "PNG"),
            "views": data_uri(draw_views(tiled, _SIDE), "PNG"),
            "rows": tiled.rows(),
        }

    def _check_grid(self, grid: str) -> str | None:
        """Return a grid of the choices; None for the model's own, also where that is named."""
        if not grid or grid == self.own_grid:
            return None
        return choose("grid", grid, self.grids)

    def answers(self, body: Any) -> Iterator[dict[str, Any]]:
        """Yield answers side by side."""
        messages = requests.read_messages(body, self.limits)
        titles = requests.read_names(body, "titles")
        grid = self._check_grid(requests.read_text(body, "grid"))
        stream = self.side_by_side.stream(
            messages, titles, grid, requests.MAX_NEW_TOKENS, self.limits.max_seconds
        )
        for texts in stream:
            yield {"texts": texts}

    def attention(self, image: str, question: str) -> dict[str, Any]:
        """Return what each token of an answer attends to: all tokens first, then one after the other."""
        explorer = AttentionExplorer(self.monkey, image, question)
        names = explorer.token_names()[: _SHOWN_TOKENS + 1]
        maps = []
        for _, explorer.token in names:
            overlay = data_uri(explorer.overlay(_SIDE), "JPEG")
            maps.append({"image": overlay, "shares": explorer.shares()})
        tokens = ["all", *explorer.maps.tokens[:_SHOWN_TOKENS]]
        return {"tokens": tokens, "maps": maps}

    def captions(self, image: str, experts: list[str], body: Any) -> dict[str, Any]:
        """Return what is there of an image after each stage of the caption pipeline."""
        if not experts:
            raise RequestError("no expert is chosen: choose at least one")
        for name in experts:
            choose("expert", name, self.experts)

        opened = open_image(image)
        key = (image_digest(opened), *experts)
        if key not in self._captions:
            self._captions[key] = CaptionsExplorer(opened, experts)
        while len(self._captions) > _CAPTIONED:
            self._captions.popitem(last=False)

        explorer = self._captions[key]
        explorer.filters = move_thresholds(filter_of(experts), requests.read_thresholds(body))
        records = [result.record for result in explorer.results[:-1]] + [explorer.filtered()]
        stages = [
            {
                "stage": result.stage,
                "svg": str(draw_svg(record, opened, _SIDE)),
                "rows": caption_rows(record),
            }
            for result, record in zip(explorer.results, records, strict=True)
        ]
        return {"stages": stages, "thresholds": explorer.thresholds}


DEMO = web.AppKey("demo", Demo)


def build_app(demo: Demo, is_local: bool = True) -> web.Application:
    """Return the application.

    Args:
        demo: what it shows.
        is_local: whether only names of the loopback address are answered to.
    """
    app = new_app(demo.limits, is_local=is_local)
    app[DEMO] = demo
    add_chat_api(app, demo.engine)
    app.add_routes(
        [
            web.get("/", _send_page),
            web.get("/static/{name}", _send_static),
            web.get("/samples/{name}", _send_sample),
            web.get("/api/start", _send_start),
            web.post("/api/tiles", _send_tiles),
            web.post("/api/answers", _send_answers),
            web.post("/api/attention", _send_attention),
            web.post("/api/captions", _send_captions),
        ]
    )
    return app


async def _send_page(request: web.Request) -> web.StreamResponse:
    return _file(_STATIC / "index.html", "text/html")


async def _send_static(request: web.Request) -> web.StreamResponse:
    name = request.match_info["name"]
    if name not in _FILES:
        raise web.HTTPNotFound
    return _file(_STATIC / name, _FILES[name])


async def _send_sample(request: web.Request) -> web.StreamResponse:
    samples = request.app[DEMO].samples
    name = request.match_info["name"]
    if name not in samples:
        raise web.HTTPNotFound
    return web.FileResponse(samples[name], headers=_HEADERS)


def _file(path: Path, content_type: str) -> web.Response:
    headers = {**_HEADERS, "Cache-Control": "no-cache"}
    return web.Response(
        text=path.read_text(encoding="utf-8"), content_type=content_type, charset="utf-8", headers=headers
    )


async def _send_start(request: web.Request) -> web.Response:
    return web.json_response(request.app[DEMO].start())


async def _send_tiles(request: web.Request) -> web.Response:
    def compute(demo: Demo, body: Any) -> dict[str, Any]:
        return demo.tiles(requests.read_image(body), requests.read_text(body, "grid"))

    return await _compute(request, compute)


async def _send_attention(request: web.Request) -> web.Response:
    def compute(demo: Demo, body: Any) -> dict[str, Any]:
        return demo.attention(requests.read_image(body), requests.read_text(body, "question"))

    return await _compute(request, compute)


async def _send_captions(request: web.Request) -> web.Response:
    def compute(demo: Demo, body: Any) -> dict[str, Any]:
        return demo.captions(requests.read_image(body), requests.read_names(body, "experts"), body)

    return await _compute(request, compute)


async def _send_answers(request: web.Request) -> web.StreamResponse:
    demo = request.app[DEMO]
    body = await _read_body(request)
    async with demo.worker.place() as place:
        async with aclosing(demo.worker.iterate(_as_sentences(demo.answers(body)), place)) as events:
            return await send_events(request, events, place.limit)


async def _compute(request: web.Request, compute: Callable[[Demo, Any], dict[str, Any]]) -> web.Response:
    """Answer with what is computed when it is this request's turn."""
    demo = request.app[DEMO]
    body = await _read_body(request)
    async with demo.worker.place():
        try:
            return web.json_response(await demo.worker.run(lambda: compute(demo, body)))
        except ValueError as error:
            raise _as_sentence(error) from error


async def _read_body(request: web.Request) -> Any:
    """Return the body of a request, which takes no place in the queue while it comes."""
    request.app[DEMO].worker.require_place()
    return await read_json(request)


def _as_sentences(events: Iterator[T]) -> Iterator[T]:
    try:
        yield from events
    except ValueError as error:
        raise _as_sentence(error) from error


def _as_sentence(error: ValueError) -> RequestError:
    """Return what the visitor can mend: an image that cannot be read, a question that is too long."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, ContextError):
        # In the words of the page: it has no field for the length of an answer.
        return RequestError(
            "question and conversation are too long for the model: shorten the question, press New "
            "conversation, or choose a grid of fewer tiles"
        )
    return RequestError(str(error))
