"""The exact cache: vectors of texts that were embedded before, in one SQLite file of the owner's.

An entry's key is the vector space and the SHA-256 of the final text, prompt included; no text is stored.
Least recently used entries make room. Every call here blocks on the disk; ``CacheThread`` calls it from a
thread of its own. A cache never fails its caller: what cannot be read is a miss, what is damaged is set
aside, what cannot be written is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llamafile_mgr.embedding.vectors import TextVector
from llamafile_mgr.errors import StoreError
from llamafile_mgr.paths import Paths, ensure_private_dir

_LOG = logging.getLogger("llamafile_mgr.embedding")
_BUSY_SECONDS = 5.0
_VERSION = 1
#: Keys of one SELECT; SQLite's own limit was 999 for long.
_KEYS = 500
#: What is left after making room, as a part of the limit: room is made seldom, since it counts all entries.
_AFTER_EVICTION = 0.9
#: Bytes; a vector of 1,024 numbers fills a page of the usual 4,096 and half of a second one.
_PAGE_SIZE = 16384
#: Writes that may wait for the disk; further vectors are not kept, since callers must not wait for them.
_MOST_WRITES = 256
_SCHEMA = """
CREATE TABLE IF NOT EXISTS vectors (
    space TEXT NOT NULL, key BLOB NOT NULL, vector BLOB NOT NULL, tokens INTEGER, checksum INTEGER NOT NULL,
    used INTEGER NOT NULL, UNIQUE (space, key)
);
CREATE INDEX IF NOT EXISTS vectors_by_use ON vectors (used);
"""


@dataclass(frozen=True, slots=True)
class CacheFacts:
    """What ``cache stats`` shows. ``bytes``: of the file and its journal."""

    path: Path
    entries: int
    bytes: int
    spaces: Mapping[str, int]


def cache_file(paths: Paths) -> Path:
    """Return where the cache of this installation lies."""
    return paths.cache / "vectors" / "vectors.sqlite"


def text_key(text: str) -> bytes:
    """Return the digest that stands for a final text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class VectorCache:
    """The file, opened at its first use. Not for several threads at once; several processes may share it.

    ``limit_bytes``: what its entries may take on the disk.
    """

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self.path = path
        self.limit_bytes = limit_bytes
        self._connection: sqlite3.Connection | None = None

    def get(self, space: str, keys: Sequence[bytes]) -> dict[bytes, TextVector]:
        """Return what is known of ``keys``; those entries count as used now."""
        found: dict[bytes, TextVector] = {}
        with self._guard():
            connection = self._open()
            for at in range(0, len(keys), _KEYS):
                found |= _select(connection, space, keys[at : at + _KEYS])
            now = time.time_ns()
            with connection:
                connection.executemany(
                    "UPDATE vectors SET used = ? WHERE space = ? AND key = ?",
                    [(now, space, key) for key in found],
                )
        return found

    def put(self, space: str, entries: Mapping[bytes, TextVector]) -> None:
        """Keep these vectors, and drop the least recently used ones when the file grows over its limit."""
        now = time.time_ns()
        rows = []
        for key, entry in entries.items():
            blob = entry.vector.astype("<f4", copy=False).tobytes()
            rows.append((space, key, blob, entry.tokens, zlib.crc32(key + blob), now))
        with self._guard():
            connection = self._open()
            with connection:
                connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?, ?, ?)", rows)
                self._make_room(connection)

    def _make_room(self, connection: sqlite3.Connection) -> None:
        if _live_bytes(connection) <= self.limit_bytes:
            return
        target = self.limit_bytes * _AFTER_EVICTION
        while (live := _live_bytes(connection)) > target:
            (count,) = connection.execute("SELECT count(*) FROM vectors").fetchone()
            if not count:
                break
            connection.execute(
                "DELETE FROM vectors WHERE rowid IN (SELECT rowid FROM vectors ORDER BY used LIMIT ?)",
                (max(1, int(count * (1 - target / live))),),
            )

    def facts(self) -> CacheFacts:
        """Return what the cache holds; a file that does not exist holds nothing.

        Raises:
            StoreError: the file cannot be read.
        """
        if not self.path.is_file():
            return CacheFacts(self.path, 0, 0, {})
        try:
            rows = self._open().execute("SELECT space, count(*) FROM vectors GROUP BY space").fetchall()
        except OSError as error:
            raise StoreError(f"cannot read the cache {self.path}: {error.strerror or error}") from error
        except sqlite3.Error as error:
            raise StoreError(
                f"cannot read the cache {self.path}: {error}", hint="llamafile-mgr cache clear"
            ) from error
        spaces = {str(space): int(count) for space, count in rows}
        return CacheFacts(self.path, sum(spaces.values()), self._size(), spaces)

    def clear(self) -> CacheFacts:
        """Drop every entry and return what there was; a damaged file is removed.

        Raises:
            StoreError: the file can neither be emptied nor removed.
        """
        try:
            facts = self.facts()
        except StoreError:
            facts = CacheFacts(self.path, 0, self._size(), {})
            self.close()
            try:
                for path in (self.path, *self._journals()):
                    path.unlink(missing_ok=True)
            except OSError as error:
                raise StoreError(f"cannot remove the cache {self.path}: {error.strerror}") from error
            return facts
        if not self.path.is_file():
            return facts
        try:
            connection = self._open()
            with connection:
                connection.execute("DELETE FROM vectors")
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise StoreError(f"cannot clear the cache {self.path}: {error}") from error
        return facts

    def close(self) -> None:
        """Close the file."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _open(self) -> sqlite3.Connection:
        """Return the open file. Raises sqlite3.Error, OSError and StoreError."""
        if self._connection is not None:
            return self._connection
        ensure_private_dir(self.path.parent)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        os.close(os.open(self.path, flags, 0o600))
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA page_size = {_PAGE_SIZE}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA wal_autocheckpoint = 256")
            connection.execute("PRAGMA journal_size_limit = 4194304")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                raise sqlite3.DatabaseError(f"made by another version ({version})")
            connection.executescript(f"{_SCHEMA}PRAGMA user_version = {_VERSION};")
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Turn every failure of the file into a warning; a damaged file is set aside."""
        try:
            yield
        except sqlite3.OperationalError as error:
            _LOG.warning("the embedding cache %s cannot be used now: %s", self.path, error)
            self.close()
        except sqlite3.DatabaseError as error:
            self.close()
            self._set_aside(error)
        except (OSError, StoreError) as error:
            _LOG.warning("the embedding cache %s cannot be used: %s", self.path, error)
            self.close()

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        aside = self.path.with_name(f"{self.path.name}.damaged")
        _LOG.warning("the embedding cache %s is damaged (%s); moved to %s", self.path, error, aside.name)
        with contextlib.suppress(OSError):
            for journal in self._journals():
                journal.unlink(missing_ok=True)
            os.replace(self.path, aside)

    def _journals(self) -> tuple[Path, ...]:
        return tuple(self.path.with_name(self.path.name + ending) for ending in ("-wal", "-shm"))

    def _size(self) -> int:
        return sum(path.stat().st_size for path in (self.path, *self._journals()) if path.is_file())


def _select(connection: sqlite3.Connection, space: str, keys: Sequence[bytes]) -> dict[bytes, TextVector]:
    """Return the whole entries among ``keys``."""
    marks = ",".join("?" * len(keys))
    rows = connection.execute(
        f"SELECT key, vector, tokens, checksum FROM vectors WHERE space = ? AND key IN ({marks})",  # noqa: S608
        (space, *keys),
    )
    return {
        key: TextVector(np.frombuffer(blob, dtype="<f4").astype(np.float32), tokens)
        for key, blob, tokens, checksum in rows
        if zlib.crc32(key + blob) == checksum
    }


def _live_bytes(connection: sqlite3.Connection) -> int:
    """Return what the entries take: pages in use."""
    pages, free, size = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


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
