"""Where things lie inside the store, and which names and digests may become paths at all.

    blobs/SHA256            one verified file: 0500 when it is a program, 0400 when it is weights
    blobs/SHA256.damaged    a blob that failed a later check; never executable
    blocks/SHA256.json      hashes of its blocks
    names/NAME.json         one name pointing at a blob, with where it came from
    used/SHA256             an empty file; its time is when the blob was last used
    holds/SHA256/*.json     processes that use the blob now
    parts/KEY/              one unfinished download: data and the map of what is there
    locks/*.lock            one lock per download and one for the store
    temporary/              files on their way in

Every path is made by this module, from digests of 64 hex digits and from quoted names, so that
nothing that comes from outside can point elsewhere.
"""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from llamafile_mgr.errors import UsageError

_DIGEST = re.compile(r"[0-9a-f]{64}")
#: Letters, digits and a few marks: what catalog ids, ``model:artifact`` and file names consist of.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+:@-]{0,199}")


def is_digest(text: str) -> bool:
    """Tell whether ``text`` is a SHA-256 in lower-case hex."""
    return _DIGEST.fullmatch(text) is not None


def check_digest(text: str) -> str:
    """Return ``text`` when it is a SHA-256 in lower-case hex.

    Raises:
        UsageError: it is not.
    """
    if not is_digest(text):
        raise UsageError(f"{text!r} is no sha256", hint="a digest is 64 hexadecimal digits in lower case")
    return text


def check_name(text: str) -> str:
    """Return ``text`` when it may name something in the store.

    Raises:
        UsageError: it is empty, too long, or has characters that no name has (such as slashes).
    """
    if not _NAME.fullmatch(text) or ".." in text:
        raise UsageError(
            f"{text!r} cannot be a name",
            hint="a name has letters, digits and . _ + : @ -, starts with a letter or digit and has no '..'",
        )
    return text


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths below one store's root."""

    root: Path

    def directories(self) -> tuple[Path, ...]:
        """Return every directory that the store keeps."""
        names = ("blobs", "blocks", "names", "used", "holds", "parts", "locks", "temporary")
        return tuple(self.root / name for name in names)

    def blob(self, digest: str) -> Path:
        """Return the path of a verified file."""
        return self.root / "blobs" / check_digest(digest)

    def damaged(self, digest: str) -> Path:
        """Return where a blob lies once a check found it damaged."""
        return self.root / "blobs" / f"{check_digest(digest)}.damaged"

    def blocks(self, digest: str) -> Path:
        """Return the path of a blob's block hashes."""
        return self.root / "blocks" / f"{check_digest(digest)}.json"

    def record(self, name: str) -> Path:
        """Return the path of the record of a name."""
        return self.root / "names" / f"{urllib.parse.quote(check_name(name), safe='@+')}.json"

    def used(self, digest: str) -> Path:
        """Return the file whose time says when the blob was last used."""
        return self.root / "used" / check_digest(digest)

    def holds(self, digest: str) -> Path:
        """Return the directory of the records of who uses a blob now."""
        return self.root / "holds" / check_digest(digest)

    def part(self, key: str) -> Path:
        """Return the directory of an unfinished download; its key has the form of a digest."""
        return self.root / "parts" / check_digest(key)

    def lock(self, key: str) -> Path:
        """Return the lock file of a download, or of the store for the key ``store``."""
        return self.root / "locks" / f"{key if key == 'store' else check_digest(key)}.lock"

    @property
    def temporary(self) -> Path:
        """Return the directory for files on their way in, on the same file system as the blobs."""
        return self.root / "temporary"
