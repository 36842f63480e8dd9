"""One thread that computes, and a queue of limited length and time in front of it.

So the server can tell clients that it is there, or that it is busy, while an answer is generated.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from monkeylib.serving.limits import Limits, TookTooLong, TooManyRequests

T = TypeVar("T")
_END = object()


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
    async def place(self) -> AsyncIterator[asyncio.Timeout]:
        """Hold a place in the queue, for as long as the limit of time, which is yielded.

        Raises:
            RequestError: the queue is full, or the time is over.
        """
        if self._present > self.limits.max_waiting:
            raise TooManyRequests(self.limits.max_waiting)

        self._present += 1
        try:
            async with asyncio.timeout(self.limits.max_seconds) as limit:
                yield limit
        except TimeoutError:
            if not limit.expired():
                raise
            raise TookTooLong(self.limits.max_seconds) from None
        finally:
            self._present -= 1

    async def run(self, function: Callable[[], T]) -> T:
        """Return what a function computes when it is its turn; within a `place`."""
        async with self._turn:
            return await self._compute(function)

    async def iterate(self, iterator: Iterator[T]) -> AsyncIterator[T]:
        """Yield what a generator computes when it is its turn; within a `place`.

        Whoever reads it may stop early: the generator is closed then.
        """
        async with self._turn:
            try:
                while (item := await self._compute(lambda: next(iterator, _END))) is not _END:
                    yield item
            finally:
                await self._compute(iterator.close)

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
