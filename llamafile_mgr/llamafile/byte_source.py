"""Bounded reads at an offset: nothing is loaded that was not asked for, and nothing past the end.

A memory map would be shorter, but a file that shrinks under a map kills the process (SIGBUS);
here it is an error like any other.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Any, BinaryIO

from llamafile_mgr.errors import InvalidFileError, NotFoundError

_CHUNK_BYTES = 1 << 18
_U64 = Struct("<Q")


class WorkBudget:
    """How many elements one file may make us look at; files of a few bytes can claim billions."""

    def __init__(self, elements: int) -> None:
        self._left = elements

    def spend(self, elements: int) -> None:
        """Take ``elements`` from the budget.

        Raises:
            InvalidFileError: nothing is left.
        """
        self._left -= elements
        if self._left < 0:
            raise InvalidFileError("its header is absurdly long")


class ByteSource:
    """One regular file, read at offsets. ``size``: bytes, as it was when the file was opened."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self.size = size

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``.

        Raises:
            InvalidFileError: the file has no such range, or cannot be read there.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise InvalidFileError("it is truncated: it points beyond its own end")
        try:
            self._file.seek(offset)
            data = self._read_fully(length)
        except OSError as error:
            raise InvalidFileError("it cannot be read", cause=error.strerror or str(error)) from error
        if len(data) != length:
            raise InvalidFileError("it became shorter while it was read")
        return data

    def _read_fully(self, length: int) -> bytes:
        data = self._file.read(length)
        while 0 < len(data) < length:
            more = self._file.read(length - len(data))
            if not more:
                break
            data += more
        return data


@contextlib.contextmanager
def open_source(path: Path) -> Iterator[ByteSource]:
    """Open a regular file for reading at offsets.

    Raises:
        NotFoundError: there is no such file.
        InvalidFileError: a folder, a pipe or a device, or a file that we may not read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            # Opening a pipe would block, reading a device might never end.
            raise InvalidFileError("it is not a regular file")
        file = path.open("rb", buffering=0)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"no such file: {path}") from error
    except (OSError, ValueError) as error:
        raise InvalidFileError("it cannot be opened", cause=str(error)) from error
    with file:
        yield ByteSource(file, status.st_size)


class Cursor:
    """Sequential reads within ``[start, end)`` of a source, in chunks of 256 KiB."""

    def __init__(self, source: ByteSource, start: int, end: int) -> None:
        self._source = source
        self._end = end
        self._base = start
        self._buffer = b""
        self._at = 0

    @property
    def position(self) -> int:
        """The offset in the file of the next byte."""
        return self._base + self._at

    @property
    def remaining(self) -> int:
        """The number of bytes between the next one and the end."""
        return self._end - self.position

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes.

        Raises:
            InvalidFileError: fewer are left.
        """
        self._fill(count)
        data = self._buffer[self._at : self._at + count]
        self._at += count
        return data

    def unpack(self, layout: Struct) -> tuple[Any, ...]:
        """Return the next values of this layout.

        Raises:
            InvalidFileError: too few bytes are left.
        """
        return layout.unpack(self.take(layout.size))

    def skip(self, count: int) -> None:
        """Pass over ``count`` bytes without reading them.

        Raises:
            InvalidFileError: fewer are left.
        """
        if count > self.remaining:
            raise InvalidFileError("it is truncated: it points beyond its own end")
        if self._at + count <= len(self._buffer):
            self._at += count
            return
        self._base, self._buffer, self._at = self.position + count, b"", 0

    def skip_strings(self, count: int) -> None:
        """Pass over ``count`` strings of the form u64 length, bytes.

        Raises:
            InvalidFileError: one of them is longer than what is left.
        """
        unpack = _U64.unpack_from
        while count:
            self._fill(8)
            buffer, at = self._buffer, self._at
            last = len(buffer) - 8
            while count and at <= last:
                at += 8 + unpack(buffer, at)[0]
                count -= 1
            # The last string may end beyond the buffer: skip() knows where the region ends.
            self.skip(at - self._at)

    def _fill(self, count: int) -> None:
        if len(self._buffer) - self._at >= count:
            return
        if count > self.remaining:
            raise InvalidFileError("it is truncated: its header does not fit")
        self._base, self._at = self.position, 0
        self._buffer = self._source.read_at(self._base, min(max(count, _CHUNK_BYTES), self._end - self._base))
