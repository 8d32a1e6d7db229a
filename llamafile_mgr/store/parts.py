"""Unfinished downloads: the bytes so far, and a map of them that survives a crash.

The map is a text file that only grows. Its first line says what the bytes belong to; ``w START END``
follows the write of these bytes, ``d N`` says that the first N of these lines are on the disk, synced
before the line was written. After a killed process every ``w`` line counts, since the kernel still
has the bytes; after a crash of the computer (another boot) only those that a ``d`` line covers do.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from llamafile_mgr.errors import StoreError
from llamafile_mgr.files import disk_error, store_errors, sync_directory, write_atomically
from llamafile_mgr.store.ranges import Range, RangeSet
from llamafile_mgr.typed_values import read_record


@dataclass(frozen=True, slots=True)
class PartInfo:
    """What the bytes of a part belong to.

    ``validator``: the ETag (or Last-Modified) of the server that sends the bytes. ``bad``: why a
    complete part failed its check; it stays until the user asks for a new start.
    """

    name: str
    source: str
    size: int | None = None
    sha256: str | None = None
    validator: str | None = None
    bad: str | None = None


def part_key(info: PartInfo) -> str:
    """Return the directory name of a part: its digest, or a digest of all that identifies it."""
    if info.sha256 is not None:
        return info.sha256
    return hashlib.sha256(f"{info.source}\n{info.size}\n{info.validator}".encode()).hexdigest()


def parse_map(text: str, boot: str | None) -> tuple[PartInfo, RangeSet]:
    """Read a map as of this boot; a last line that was cut is ignored.

    Raises:
        ValueError: the first line is no header.
    """
    head, _, rest = text.partition("\n")
    try:
        values = json.loads(head)
    except RecursionError as error:
        raise ValueError("the map of a part is nested too deeply") from error
    if not isinstance(values, dict):
        raise ValueError("the map of a part starts with a JSON object")
    same_boot = values.pop("boot", None) == boot and boot is not None
    info = read_record(values, PartInfo, "the map")
    written: list[tuple[int, int]] = []
    durable = 0
    for line in rest.split("\n")[:-1]:
        words = line.split(" ")
        if words[0] == "w" and len(words) == 3 and words[1].isdecimal() and words[2].isdecimal():
            start, end = int(words[1]), int(words[2])
            if start > end:
                break
            written.append((start, end))
        elif words[0] == "d" and len(words) == 2 and words[1].isdecimal():
            durable = min(int(words[1]), len(written))
        else:
            break
    return info, RangeSet(written if same_boot else written[:durable])


def peek(directory: Path) -> tuple[PartInfo, int] | None:
    """Return what a part is and how many of its bytes are there, without touching it."""
    try:
        text = (directory / "map").read_text(encoding="utf-8")
        info, done = parse_map(text, _boot_id())
    except (OSError, ValueError):
        return None
    return info, done.total


class Part:
    """One open part. ``write`` may be called from several threads, for ranges that do not overlap."""

    def __init__(self, directory: Path, info: PartInfo) -> None:
        self.directory = directory
        self.data = directory / "data"
        self._map = directory / "map"
        self.info = info
        self._done = RangeSet()
        self._lines = 0
        self._unsynced = False
        self._guard = threading.Lock()
        with store_errors(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._resume()
            self._data_descriptor = os.open(self.data, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                self._start_map()
            except BaseException:
                os.close(self._data_descriptor)
                raise

    def _resume(self) -> None:
        try:
            info, done = parse_map(self._map.read_text(encoding="utf-8"), _boot_id())
            length = self.data.stat().st_size
        except (FileNotFoundError, ValueError):
            self.data.unlink(missing_ok=True)
            return
        if (info.size, info.sha256, info.validator) != (
            self.info.size,
            self.info.sha256,
            self.info.validator,
        ):
            # The caller decides whether bytes of another validator may stay; see ``rebind``.
            self.info = replace(info, name=self.info.name)
        else:
            self.info = replace(self.info, bad=info.bad)
        # A map cannot know more than the file holds: after a crash the file may be shorter.
        self._done = RangeSet((start, min(end, length)) for start, end in done if start < length)

    def _start_map(self) -> None:
        _sync_data(self._data_descriptor)
        self._lines = _write_map(self._map, self.info, self._done)
        self._map_descriptor = os.open(self._map, os.O_WRONLY | os.O_APPEND)
        self._unsynced = False

    @property
    def have(self) -> int:
        """Return how many bytes are here."""
        with self._guard:
            return self._done.total

    @property
    def prefix(self) -> int:
        """Return how many bytes from the start on are here without a gap."""
        with self._guard:
            return self._done.prefix

    def covers(self, start: int, end: int) -> bool:
        """Tell whether all bytes of ``[start, end)`` are here."""
        with self._guard:
            return self._done.covers(start, end)

    def missing(self, size: int) -> list[Range]:
        """Return the gaps up to ``size``."""
        with self._guard:
            return self._done.missing(size)

    def rebind(self, info: PartInfo, *, keep: bool) -> None:
        """Say anew what the bytes belong to; without ``keep`` start over."""
        with self._guard, store_errors(self.directory):
            os.close(self._map_descriptor)
            self.info = info
            if not keep:
                self._done = RangeSet()
                os.ftruncate(self._data_descriptor, 0)
            self._start_map()

    def write(self, offset: int, chunks: Sequence[bytes]) -> int:
        """Write ``chunks`` at ``offset``, note it in the map and return how many bytes are new.

        Raises:
            DiskFullError: no room; what was noted before stays.
            StoreError: the disk failed in another way.
        """
        length = sum(map(len, chunks))
        try:
            self._write_data(offset, chunks)
            with self._guard:
                os.write(self._map_descriptor, f"w {offset} {offset + length}\n".encode())
                self._lines += 1
                self._unsynced = True
                return self._done.add(offset, offset + length)
        except OSError as error:
            missing = None if self.info.size is None else self.info.size - self._done.total
            raise disk_error(error, self.data, name=self.info.name, missing=missing) from error

    def _write_data(self, offset: int, chunks: Sequence[bytes]) -> None:
        if not hasattr(os, "pwritev"):
            with self._guard:
                os.lseek(self._data_descriptor, offset, os.SEEK_SET)
                for chunk in chunks:
                    view = memoryview(chunk)
                    while view:
                        view = view[os.write(self._data_descriptor, view) :]
            return
        views = [memoryview(chunk) for chunk in chunks if chunk]
        while views:
            count = os.pwritev(self._data_descriptor, views, offset)
            offset += count
            while views and count >= len(views[0]):
                count -= len(views.pop(0))
            if views:
                views[0] = views[0][count:]

    def checkpoint(self) -> None:
        """Sync the data, then the map's claim on it; cheap when nothing is new."""
        with self._guard:
            if not self._unsynced:
                return
            lines, self._unsynced = self._lines, False
        try:
            _sync_data(self._data_descriptor)
            with self._guard:
                os.write(self._map_descriptor, f"d {lines}\n".encode())
            _sync_data(self._map_descriptor)
        except OSError as error:
            self._unsynced = True
            raise disk_error(error, self.data, name=self.info.name) from error

    def set_size(self, size: int) -> None:
        """Note the size, once a stream that did not announce it has ended."""
        self.rebind(replace(self.info, size=size), keep=True)

    def mark_bad(self, reason: str) -> None:
        """Note that the complete file failed its check."""
        self.rebind(replace(self.info, bad=reason), keep=True)

    def close(self) -> None:
        """Checkpoint and close; the part stays for a resume."""
        try:
            self.checkpoint()
        finally:
            os.close(self._data_descriptor)
            os.close(self._map_descriptor)


def make_part(directory: Path, info: PartInfo, data: Path, damage: Sequence[Range]) -> None:
    """Make an unfinished download of the whole file ``data``, in which the ``damage`` is missing."""
    directory.mkdir(mode=0o700)
    size = data.stat().st_size
    # The data first: a part whose map is lost starts over, a map without its data must not exist.
    os.replace(data, directory / "data")
    _write_map(directory / "map", info, RangeSet(damage).missing(size))


def _write_map(path: Path, info: PartInfo, done: Iterable[Range]) -> int:
    """Write a new map, all of it durable, and return how many ranges it has."""
    written = [f"w {start} {end}" for start, end in done]
    head = json.dumps({**asdict(info), "boot": _boot_id()})
    write_atomically(path, "\n".join([head, *written, f"d {len(written)}\n"]).encode())
    return len(written)


def remove_part(directory: Path) -> None:
    """Remove an unfinished download.

    Raises:
        StoreError: it cannot be removed.
    """
    try:
        shutil.rmtree(directory)
        sync_directory(directory.parent)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"cannot remove {directory}: {error.strerror or error}") from error


def _sync_data(descriptor: int) -> None:
    if hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    else:
        os.fsync(descriptor)


def _boot_id() -> str | None:
    """Return what changes with every boot, None where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
