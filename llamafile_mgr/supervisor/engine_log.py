"""The log of one engine: a file rotated by size, and its last lines in memory."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

from llamafile_mgr.changes import Changes
from llamafile_mgr.errors import StoreError
from llamafile_mgr.paths import ensure_private_dir

_LINE_BYTES = 4096


class EngineLog:
    """Appends bytes to ``path``; at ``max_bytes`` the file moves to ``path`` + ``.1``, replacing an older.

    ``total_lines``: complete lines seen since the start. ``changes``: of the lines.
    ``append`` blocks on the disk and belongs in a thread; ``lines`` may be read from anywhere.
    """

    def __init__(self, path: Path, *, max_bytes: int = 4 * 1024 * 1024, keep_lines: int = 200) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._lines: deque[str] = deque(maxlen=keep_lines)
        self.total_lines = 0
        self.changes = Changes()
        self._partial = b""
        self._file: int | None = None
        self._size = 0

    @property
    def lines(self) -> tuple[str, ...]:
        """Return the last complete lines, oldest first, each cut at 4 KiB."""
        return tuple(self._lines)

    def feed(self, data: bytes) -> list[str]:
        """Take in output, keep its lines, and return the lines that it completed."""
        *complete, self._partial = (self._partial + data).split(b"\n")
        self._partial = self._partial[-_LINE_BYTES:]
        lines = [line[:_LINE_BYTES].decode("utf-8", "replace").rstrip("\r") for line in complete]
        self._lines.extend(lines)
        self.total_lines += len(lines)
        if lines:
            self.changes.announce()
        return lines

    def append(self, data: bytes) -> None:
        """Write output to the file.

        Raises:
            StoreError: the file cannot be written.
        """
        try:
            if self._file is None:
                self._open()
            if self._size + len(data) > self._max_bytes:
                self._rotate()
            assert self._file is not None  # noqa: S101
            os.write(self._file, data)
        except OSError as error:
            raise StoreError(f"cannot write the log {self.path}: {error.strerror}") from error
        self._size += len(data)

    def close(self) -> None:
        """Close the file; a later ``append`` opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> None:
        ensure_private_dir(self.path.parent)
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = os.fstat(self._file).st_size

    def _rotate(self) -> None:
        self.close()
        os.replace(self.path, self.path.with_name(self.path.name + ".1"))
        self._open()
