"""The digest of a file that is still arriving: a thread that follows the bytes that are complete.

Ranges are asked for in order, so the beginning of the file is complete soon; the thread reads it
back from the page cache while the rest arrives, and little is left to hash at the end.
"""

from __future__ import annotations

import threading
from pathlib import Path

from llamafile_mgr.errors import StoreError
from llamafile_mgr.store import BlockHashes, Digester

_READ_BYTES = 1024 * 1024


class TrailingHasher:
    """Hashes ``path`` up to where the caller says that it is complete."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._condition = threading.Condition()
        self._complete = 0
        self._size: int | None = None
        self._stopped = False
        self._failure: OSError | None = None
        self._digester = Digester()
        self._thread = threading.Thread(target=self._run, name="hasher", daemon=True)
        self._thread.start()

    def advance(self, complete: int) -> None:
        """Say how many bytes from the start on are complete; it never shrinks."""
        with self._condition:
            self._complete = max(self._complete, complete)
            self._condition.notify()

    def finish(self, size: int) -> BlockHashes:
        """Wait until all ``size`` bytes are hashed and return the hashes; blocks.

        Raises:
            StoreError: the file cannot be read, or is shorter.
        """
        with self._condition:
            self._complete = self._size = size
            self._condition.notify()
        self._thread.join()
        if self._failure is not None:
            raise StoreError(f"cannot read {self._path}: {self._failure}") from self._failure
        return self._digester.finish()

    def stop(self) -> None:
        """End the thread, whatever it has done."""
        with self._condition:
            self._stopped = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        buffer = bytearray(_READ_BYTES)
        view = memoryview(buffer)
        try:
            with self._path.open("rb", buffering=0) as stream:
                while (limit := self._next()) is not None:
                    count = stream.readinto(view[:limit])
                    if not count:
                        raise OSError("the file ends too early")
                    self._digester.update(view[:count])
        except OSError as error:
            self._failure = error

    def _next(self) -> int | None:
        """Wait for bytes to read and return how many at most; None at the end."""
        with self._condition:
            while not self._stopped:
                position = self._digester.size
                if position < self._complete:
                    return min(_READ_BYTES, self._complete - position)
                if self._size is not None:
                    return None
                self._condition.wait()
            return None
