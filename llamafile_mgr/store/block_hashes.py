"""Block hashes: what tells later which part of a file has gone bad.

A whole-file digest only says that something is wrong. The side-car written at the first verified
download has one SHA-256 per block, so that a repair fetches those blocks and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from llamafile_mgr.errors import StoreError
from llamafile_mgr.files import store_errors, write_atomically
from llamafile_mgr.store.layout import is_digest
from llamafile_mgr.store.ranges import Range
from llamafile_mgr.typed_values import read_record

BLOCK_BYTES = 4 * 1024 * 1024
_READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class BlockHashes:
    """The digest of a file, and of each of its blocks of ``block`` bytes (the last may be shorter)."""

    sha256: str
    size: int
    block: int
    blocks: tuple[str, ...]

    def bounds(self, index: int) -> Range:
        """Return the bytes of one block."""
        start = index * self.block
        return start, min(start + self.block, self.size)

    def bad_blocks(self, found: BlockHashes) -> tuple[int, ...]:
        """Return the blocks of ``found`` that differ from these, missing ones included."""
        return tuple(
            index
            for index, digest in enumerate(self.blocks)
            if index >= len(found.blocks) or found.blocks[index] != digest
        )


class Digester:
    """Computes a file's digest and its block hashes in one pass, in order."""

    __slots__ = ("_block", "_block_left", "_blocks", "_size", "_whole")

    def __init__(self) -> None:
        self._whole = hashlib.sha256()
        self._block = hashlib.sha256()
        self._block_left = BLOCK_BYTES
        self._blocks: list[str] = []
        self._size = 0

    @property
    def size(self) -> int:
        """Return how many bytes have been taken."""
        return self._size

    def update(self, data: memoryview) -> None:
        """Take the next bytes of the file."""
        self._whole.update(data)
        self._size += len(data)
        while len(data) >= self._block_left:
            self._block.update(data[: self._block_left])
            data = data[self._block_left :]
            self._blocks.append(self._block.hexdigest())
            self._block, self._block_left = hashlib.sha256(), BLOCK_BYTES
        self._block.update(data)
        self._block_left -= len(data)

    def finish(self) -> BlockHashes:
        """Return the hashes of all that was taken."""
        blocks = list(self._blocks)
        if self._block_left < BLOCK_BYTES:
            blocks.append(self._block.hexdigest())
        return BlockHashes(self._whole.hexdigest(), self._size, BLOCK_BYTES, tuple(blocks))


def hash_file(path: Path) -> BlockHashes:
    """Hash a file in one pass.

    Raises:
        StoreError: the file cannot be read.
    """
    digester = Digester()
    buffer = bytearray(_READ_BYTES)
    view = memoryview(buffer)
    try:
        with path.open("rb", buffering=0) as stream:
            while count := stream.readinto(buffer):
                digester.update(view[:count])
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    return digester.finish()


def write_blocks(path: Path, hashes: BlockHashes) -> None:
    """Write the side-car of a blob."""
    with store_errors(path):
        write_atomically(path, json.dumps(asdict(hashes)).encode())


def read_blocks(path: Path) -> BlockHashes | None:
    """Read a side-car; None when there is none or it makes no sense."""
    try:
        hashes = read_record(json.loads(path.read_bytes()), BlockHashes, "the side-car")
    except (OSError, ValueError, RecursionError):
        return None
    count = -(-hashes.size // hashes.block) if hashes.block > 0 else -1
    valid = len(hashes.blocks) == count and all(map(is_digest, (hashes.sha256, *hashes.blocks)))
    return hashes if valid else None
