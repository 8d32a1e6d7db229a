"""What is on this disk: files by content, and names that point at them."""

from __future__ import annotations

from llamafile_mgr.store.block_hashes import BlockHashes, Digester
from llamafile_mgr.store.parts import Part, PartInfo, part_key, peek
from llamafile_mgr.store.ranges import Range
from llamafile_mgr.store.records import NameRecord, StoredArtifact, Trust
from llamafile_mgr.store.store import Store

__all__ = [
    "BlockHashes",
    "Digester",
    "NameRecord",
    "Part",
    "PartInfo",
    "Range",
    "Store",
    "StoredArtifact",
    "Trust",
    "part_key",
    "peek",
]
