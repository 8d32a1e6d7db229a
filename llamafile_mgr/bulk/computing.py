"""Fragments into vectors: what one source of vectors does with them, some under way at once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import numpy as np

from llamafile_mgr.bulk.checkpoints import FinishedFragment
from llamafile_mgr.bulk.text_records import Fragment, TextResult
from llamafile_mgr.bulk.vector_sources import VectorSource
from llamafile_mgr.tasks import run_all


def fragments_under_way(batch: int, concurrency: int, fragment: int) -> int:
    """Return how many fragments must be at hand so that ``concurrency`` requests are always under way."""
    return 1 + -(-concurrency * batch // fragment)


async def compute_in_order(
    fragments: Iterator[Fragment], source: VectorSource, batch: int, concurrency: int, window: int
) -> AsyncGenerator[FinishedFragment, None]:
    """Yield computed fragments in order, ``window`` of them under way at once."""
    gate = asyncio.Semaphore(concurrency)
    under_way: deque[asyncio.Task[FinishedFragment]] = deque()
    try:
        while True:
            while len(under_way) < window:
                fragment = await read_next(fragments)
                if fragment is None:
                    break
                under_way.append(asyncio.create_task(embed_fragment(fragment, source, batch, gate)))
            if not under_way:
                return
            yield await under_way[0]
            under_way.popleft()
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def read_next(fragments: Iterator[Fragment]) -> Fragment | None:
    """Return the next fragment, read by a thread that nobody waits for: standard input may never end."""
    loop = asyncio.get_running_loop()
    read: asyncio.Future[Fragment | None] = loop.create_future()

    def settle(give: Callable[[Any], None], what: object) -> None:
        if not read.done():
            give(what)

    def work() -> None:
        result: tuple[Callable[[Any], None], object]
        try:
            result = read.set_result, next(fragments, None)
        except BaseException as error:  # handed on, whatever it is: the loop raises it
            result = read.set_exception, error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, *result)

    threading.Thread(target=work, name="reader", daemon=True).start()
    return await read


async def embed_fragment(
    fragment: Fragment, source: VectorSource, batch: int, gate: asyncio.Semaphore
) -> FinishedFragment:
    """Return what becomes of a fragment's texts, asked for ``batch`` at a time through ``gate``."""
    rows = [row for row, record in enumerate(fragment.records) if record.failure is None]
    results = [TextResult(failure=record.failure) for record in fragment.records]

    async def embed(some: list[int]) -> None:
        async with gate:
            answers = await source.embed([fragment.records[row].text for row in some])
        for row, answer in zip(some, answers, strict=True):
            results[row] = answer

    await run_all(embed(rows[at : at + batch]) for at in range(0, len(rows), batch))
    width = next((len(each.vector) for each in results if each.vector is not None), source.dimensions or 0)
    vectors = np.full((len(results), width), np.nan, np.float32)
    for row, result in enumerate(results):
        if result.vector is not None:
            vectors[row] = result.vector
    ids = tuple(record.id for record in fragment.records)
    failures = {row: each.failure for row, each in enumerate(results) if each.failure is not None}
    cut = {row: each.truncated for row, each in enumerate(results) if each.truncated is not None}
    return FinishedFragment(fragment.index, fragment.digest, ids, vectors, failures, cut, source.exact)
