"""Files in a store, without a download."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from llamafile_mgr.catalog import ArtifactKind
from llamafile_mgr.files import temporary_name
from llamafile_mgr.store import NameRecord, Store, StoredArtifact, Trust
from llamafile_mgr.store.block_hashes import hash_file

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def put(store: Store, name: str, data: bytes = b"GGUFdata", **fields: object) -> StoredArtifact:
    """Publish bytes under a name."""
    store.prepare()
    path = temporary_name(store.layout.temporary)
    path.write_bytes(data)
    values: dict[str, object] = {
        "name": name,
        "digest": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "kind": ArtifactKind.WEIGHTS,
        "trust": Trust.FIRST_USE,
        "source": "https://example.com/x",
        "verified_at": NOW,
        **fields,
    }
    return store.publish(path, hash_file(path), NameRecord(**values))  # type: ignore[arg-type]
