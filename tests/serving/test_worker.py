"""The queue, the limit of time, and clients that go away."""

import asyncio
from types import SimpleNamespace

import pytest

from monkeylib.serving.limits import Limits, TookTooLong, TooManyRequests
from monkeylib.serving.worker import Worker


def count(closed=None, until=3):
    try:
        yield from range(until)
    finally:
        if closed is not None:
            closed.append(True)


async def collect(worker, iterator):
    async with worker.place() as place:
        return [item async for item in worker.iterate(iterator, place)]


def test_queue_has_a_limit():
    async def run():
        worker = Worker(Limits(max_waiting=1))
        async with worker.place(), worker.place():
            with pytest.raises(TooManyRequests, match="1 requests are waiting already"):
                await collect(worker, count())
        both = await asyncio.gather(collect(worker, count()), collect(worker, count()))
        async with worker.place():
            one = await worker.run(lambda: 7)
        worker.close()
        return [*both, one]

    assert asyncio.run(run()) == [[0, 1, 2], [0, 1, 2], 7]


def test_time_has_a_limit_and_the_next_one_is_computed():
    async def run():
        worker, closed = Worker(Limits()), []
        # No limit that a server takes is over before anything is computed.
        worker.limits = SimpleNamespace(max_waiting=1, max_seconds=0.0)
        with pytest.raises(TookTooLong, match="within 0 s"):
            await collect(worker, count(closed))
        worker.limits = Limits()
        items = await collect(worker, count())
        worker.close()
        return items

    assert asyncio.run(run()) == [0, 1, 2]


def test_place_is_left_when_all_is_computed_or_has_failed():
    def fail():
        yield 1
        raise ValueError("broken")

    async def run():
        worker = Worker(Limits(max_waiting=0))
        async with worker.place() as place:
            items = worker.iterate(fail(), place)
            await anext(items)
            await asyncio.sleep(0.1)  # it is computed, though nobody reads
            others = await collect(worker, count())
            with pytest.raises(ValueError, match="broken"):
                await anext(items)
        worker.close()
        return others

    assert asyncio.run(run()) == [0, 1, 2]


def test_reader_that_goes_away_closes_what_computes():
    async def run():
        worker, closed = Worker(Limits()), []
        async with worker.place() as place:
            items = worker.iterate(count(closed, 10**9), place)
            await anext(items)
            await items.aclose()
        items = await collect(worker, count())
        worker.close()
        return closed, items

    assert asyncio.run(run()) == ([True], [0, 1, 2])
