"""What a bulk job has finished, on the disk next to its output, so that it survives any end.

A folder ``OUTPUT.parts`` holds ``job.json``, which says of what job they are, and one file per finished
fragment, unless a folder as output holds those itself. A file is there whole or not at all: written aside,
flushed to the disk, then renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from llamafile_mgr.bulk.text_records import Failure, Id
from llamafile_mgr.errors import CheckpointError
from llamafile_mgr.files import store_errors, sync_directory, write_atomically
from llamafile_mgr.locks import LockBusyError, Locks
from llamafile_mgr.paths import ensure_private_dir

_FORMAT = 1
_MANIFEST, _LOCK = "job.json", "lock"
#: Part files of one folder; a corpus of a hundred million texts has many.
_PER_FOLDER = 1000
_NAMES = {
    "input": "its input",
    "settings": "its settings",
    "model": "its model",
    "vector_space": "its vector space",
    "fragment": "the size of its fragments",
}


@dataclass(frozen=True, slots=True)
class FinishedFragment:
    """A computed fragment. ``digest``: of its texts. ``vectors``: float32, a row per text, NaN where failed.

    ``failures``, ``truncated``: by row. ``exact``: the same texts would give the same bytes again.
    """

    index: int
    digest: str
    ids: tuple[Id, ...]
    vectors: NDArray[np.float32]
    failures: dict[int, Failure]
    truncated: dict[int, str]
    exact: bool = False


class Keeper(Protocol):
    """Where finished fragments are kept."""

    def write(self, part: FinishedFragment) -> None:
        """Keep one. Raises StoreError."""

    def read(self, index: int) -> FinishedFragment | None:
        """Return one; None when it was not finished, or rotted since."""

    def clear(self) -> None:
        """Remove what an earlier job has left outside the job's folder. Raises StoreError."""


class Parts:
    """The folder of one job, locked while in use. ``keeper``: of finished fragments, None keeps them here."""

    def __init__(self, folder: Path, keeper: Keeper | None = None) -> None:
        self.folder = folder
        self.keeper = keeper or _PartFiles(folder)

    @contextlib.contextmanager
    def opened(self, job: dict[str, Any], *, restart: bool = False) -> Iterator[None]:
        """Begin the job that ``job`` describes, or go on with it; ``restart``: forget what is finished.

        Raises:
            CheckpointError: the folder holds another job, or another process is at it.
            StoreError: the folder cannot be made.
        """
        ensure_private_dir(self.folder)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(Locks(self.folder).held(self.folder / _LOCK))
            except LockBusyError as error:
                raise CheckpointError(
                    f"another process is at {self.folder} already", hint="wait for it"
                ) from error
            if restart:
                self._forget()
            self._begin(json.loads(json.dumps(job)))
            yield

    def _begin(self, job: dict[str, Any]) -> None:
        begun = self.read_job()
        if begun is None:
            self._forget()  # parts without a job are of one whose removal was interrupted
            write_atomically(self.folder / _MANIFEST, json.dumps(job | {"format": _FORMAT}).encode())
            return
        changed = [key for key in (*job, "format") if begun.get(key) != (job | {"format": _FORMAT}).get(key)]
        if changed:
            said = " and ".join(_NAMES.get(key, "the release that wrote it") for key in changed)
            raise CheckpointError(
                f"the job in {self.folder} cannot go on: {said} changed",
                cause=f"{changed[0]} was {_show(begun.get(changed[0]))}, is {_show(job.get(changed[0]))}",
                hint="begin it anew with --restart",
            )

    def _forget(self) -> None:
        self._clear()
        self.keeper.clear()

    def _clear(self) -> None:
        """Remove all but the lock, the description first: half a folder is never taken for a job."""
        with store_errors(self.folder):
            (self.folder / _MANIFEST).unlink(missing_ok=True)
            sync_directory(self.folder)
            for path in self.folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif not path.name.startswith(_LOCK):
                    path.unlink()

    def read_job(self) -> dict[str, Any] | None:
        """Return the description of the job that was begun here, None when there is none."""
        try:
            value = json.loads((self.folder / _MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def read_all(self, count: int) -> Iterator[FinishedFragment]:
        """Yield the fragments 0 to ``count`` - 1.

        Raises:
            CheckpointError: one is not there any more.
        """
        for index in range(count):
            part = self.keeper.read(index)
            if part is None:
                raise CheckpointError(
                    f"fragment {index} in {self.folder} cannot be read",
                    hint="run the same command again to make it anew",
                )
            yield part

    def remove(self) -> None:
        """Remove the folder."""
        self._clear()
        shutil.rmtree(self.folder, ignore_errors=True)


class _PartFiles:
    """A file of our own per fragment, a head as JSON before the vectors' bytes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, part: FinishedFragment) -> None:
        data = part.vectors.astype("<f4", copy=False).tobytes()
        head = {
            "digest": part.digest,
            "ids": part.ids,
            "shape": part.vectors.shape,
            "failures": {row: [each.code, each.message] for row, each in part.failures.items()},
            "truncated": part.truncated,
            "exact": part.exact,
            "checksum": hashlib.blake2b(data, digest_size=16).hexdigest(),
        }
        path = self._path(part.index)
        ensure_private_dir(path.parent)
        with store_errors(path):
            write_atomically(path, json.dumps(head).encode() + b"\n" + data)

    def read(self, index: int) -> FinishedFragment | None:
        try:
            head_bytes, _, data = self._path(index).read_bytes().partition(b"\n")
            head = json.loads(head_bytes)
            if hashlib.blake2b(data, digest_size=16).hexdigest() != head["checksum"]:
                return None
            vectors = np.frombuffer(data, "<f4").reshape(head["shape"]).astype(np.float32, copy=False)
        except (OSError, ValueError, KeyError):
            return None
        failures = {int(row): Failure(*said) for row, said in head["failures"].items()}
        cut = {int(row): how for row, how in head["truncated"].items()}
        ids, exact = tuple(head["ids"]), bool(head["exact"])
        return FinishedFragment(index, head["digest"], ids, vectors, failures, cut, exact)

    def clear(self) -> None:
        """Have nothing left to do: the job's folder was emptied."""

    def _path(self, index: int) -> Path:
        return self._folder / f"{index // _PER_FOLDER:06d}" / f"{index:09d}.part"


def parts_folder(output: Path) -> Path:
    """Return where the job that makes ``output`` keeps what it has finished."""
    return output.with_name(f"{output.name}.parts")


def _show(value: object) -> str:
    return json.dumps(value)[:200]
