"""The cache as the event loop sees it: all disk work in one thread, lookups awaited, writes not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from llamafile_mgr.embedding.vector_cache import VectorCache, cache_file
from llamafile_mgr.embedding.vectors import TextVector
from llamafile_mgr.paths import Paths

__all__ = ["CacheThread", "open_cache"]

_LOG = logging.getLogger("llamafile_mgr.embedding")
#: Writes that may wait for the disk; further vectors are not kept, since callers must not wait for them.
_MOST_WRITES = 256


class CacheThread:
    """Calls a ``VectorCache`` from a thread; what is put is seen by every later ``get``."""

    def __init__(self, cache: VectorCache) -> None:
        self._cache = cache
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedding-cache")
        self._writes = 0

    async def get(self, space: str, keys: Sequence[bytes]) -> dict[bytes, TextVector]:
        """Return what is known of ``keys``."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._cache.get, space, keys)

    def put(self, space: str, entries: Mapping[bytes, TextVector]) -> None:
        """Keep these vectors some time soon."""
        if not entries or self._writes >= _MOST_WRITES:
            return
        self._writes += 1
        self._thread.submit(self._cache.put, space, entries).add_done_callback(self._note_write)

    def _note_write(self, write: Future[None]) -> None:
        self._writes -= 1
        if not write.cancelled() and write.exception() is not None:
            _LOG.error("embedding cache: defect", exc_info=write.exception())

    def close(self) -> None:
        """Finish all writes and close the file. Blocks."""
        self._thread.submit(self._cache.close)
        self._thread.shutdown()


def open_cache(paths: Paths, limit_bytes: int) -> CacheThread | None:
    """Return the cache of this installation, None where it may hold nothing."""
    return CacheThread(VectorCache(cache_file(paths), limit_bytes)) if limit_bytes else None
