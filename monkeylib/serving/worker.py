"""One thread that computes, and a queue of limited length and time in front of it.

So the server can tell clients that it is there, or that it is busy, while an answer is generated.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import TypeVar, cast

from monkeylib.serving.limits import Limits, TookTooLong, TooManyRequests

T = TypeVar("T")
_END = object()


class Place:
    """A place in the queue of a worker.

    Attributes:
        limit: of time; it holds until the answer is sent, also where the place has been left before.
    """

    def __init__(self, limit: asyncio.Timeout, leave: Callable[[], None]) -> None:
        self.limit = limit
        self._leave: Callable[[], None] | None = leave

    def leave(self) -> None:
        """Make room for another request, once."""
        if self._leave is not None:
            self._leave()
        self._leave = None


class Worker:
    """Computes one request after the other.

    Attributes:
        limits: of time and of the queue.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._thread = ThreadPoolExecutor(1, "monkeylib worker")
        self._turn = asyncio.Lock()
        self._present = 0  # requests that wait or are computed

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Place]:
        """Hold a place in the queue, for as long as the limit of time at most.

        Raises:
            RequestError: the queue is full, or the time is over.
        """
        self.require_place()
        self._present += 1
        limit = asyncio.timeout(self.limits.max_seconds)
        place = Place(limit, self._forget_one)
        try:
            async with limit:
                yield place
        except TimeoutError:
            if not limit.expired():
                raise
            raise TookTooLong(self.limits.max_seconds) from None
        finally:
            place.leave()

    def require_place(self) -> None:
        """Refuse a request where the queue is full.

        Raises:
            TooManyRequests: it is.
        """
        if self._present > self.limits.max_waiting:
            raise TooManyRequests(self.limits.max_waiting)

    def _forget_one(self) -> None:
        self._present -= 1

    async def run(self, function: Callable[[], T]) -> T:
        """Return what a function computes when it is its turn; within a `place`."""
        async with self._turn:
            return await self._compute(function)

    async def iterate(self, iterator: Iterator[T], place: Place) -> AsyncIterator[T]:
        """Yield what a generator computes when it is its turn, and leave the place when all is computed.

        Nobody waits for a client that reads slowly: its items are kept for it. Whoever reads them may stop
        early: the generator is closed then.
        """
        items: asyncio.Queue[T | object] = asyncio.Queue()

        async def compute() -> None:
            async with self._turn:
                try:
                    while (item := await self._compute(lambda: next(iterator, _END))) is not _END:
                        items.put_nowait(item)
                finally:
                    await self._compute(iterator.close)
                    place.leave()

        task = asyncio.create_task(compute())
        task.add_done_callback(lambda _: items.put_nowait(_END))
        try:
            while (item := await items.get()) is not _END:
                yield cast(T, item)
            await task  # raises what computing has raised
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task

    def close(self) -> None:
        """End the thread once it has computed what it is at."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _compute(self, function: Callable[[], T]) -> T:
        """Run a function in the thread; also when the caller is cancelled, it is waited for."""
        future = asyncio.get_running_loop().run_in_executor(self._thread, function)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # Or the next request would be computed beside this one.
            with suppress(Exception):
                await future
            raise
