"""What is on this disk: files by content, and names that point at them."""

from __future__ import annotations

from llamafile_mgr.store.block_hashes import BlockHashes, Digester, hash_file, read_blocks
from llamafile_mgr.store.parts import Part, PartInfo, part_key, peek
from llamafile_mgr.store.ranges import Range, RangeSet
from llamafile_mgr.store.records import NameRecord, StoredArtifact, Trust
from llamafile_mgr.store.store import Removal, Store

__all__ = [
    "BlockHashes",
    "Digester",
    "NameRecord",
    "Part",
    "PartInfo",
    "Range",
    "RangeSet",
    "Removal",
    "Store",
    "StoredArtifact",
    "Trust",
    "hash_file",
    "part_key",
    "peek",
    "read_blocks",
]
