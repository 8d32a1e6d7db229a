"""What was promised against what is here: before, while and after the bytes arrive."""

from __future__ import annotations

from pathlib import Path

from llamafile_mgr.downloader.resolving import Resolution
from llamafile_mgr.errors import DiskFullError, IntegrityError
from llamafile_mgr.files import free_bytes
from llamafile_mgr.store import BlockHashes, Part, PartInfo

#: Room that stays free beside a file that is fetched: maps, records, the system's own needs.
_RESERVE_BYTES = 16 * 1024 * 1024


def prepare_part(part: Part, info: PartInfo, *, restart: bool) -> None:
    """Decide what an earlier attempt's bytes are good for, and drop those that are good for nothing.

    Raises:
        IntegrityError: the earlier attempt was complete and wrong; only ``restart`` drops it.
    """
    if restart:
        part.rebind(info, keep=False)
        return
    if part.info.bad is not None:
        raise IntegrityError(
            f"an earlier download of {info.name} failed its check: {part.info.bad}",
            cause=f"its {part.have:,} bytes are kept in {part.directory}, not executable",
            hint="add --restart to drop them and fetch the whole file again",
        )
    if part.info.validator != info.validator or part.info.size != info.size:
        # The digest names the part, so its bytes stay good whichever server sends the rest.
        part.rebind(info, keep=info.sha256 is not None and part.info.size in (None, info.size))


def check_space(part: Part, size: int | None, store: Path) -> None:
    """Refuse to begin what cannot fit.

    Raises:
        DiskFullError: it does not; the message says how much is missing.
    """
    if size is None:
        return
    needed = size - part.have + _RESERVE_BYTES
    free = free_bytes(part.directory)
    if needed > free:
        raise DiskFullError(
            f"{part.info.name} does not fit: {needed - free:,} bytes are missing",
            cause=f"{needed:,} bytes are needed below {store}, {free:,} are free",
            hint="make room (llamafile-mgr prune), or move the store with LLAMAFILE_MGR_HOME",
        )


def check_promises(part: Part, hashes: BlockHashes, resolution: Resolution) -> None:
    """Compare a complete file with its digest; a wrong one is marked and never run.

    Raises:
        IntegrityError: it differs; the cause says which side is wrong as far as that can be known.
    """
    name = part.info.name
    if resolution.size is not None and hashes.size != resolution.size:
        raise IntegrityError(f"{name} has {hashes.size:,} bytes, not {resolution.size:,}")
    if resolution.sha256 is None or hashes.sha256 == resolution.sha256:
        return
    if resolution.confirmed:
        side = "the hub promises the right digest, so the bytes changed on their way or on this disk"
    else:
        side = "only the pin names a digest, so the server may have another file than the pinned one"
    part.mark_bad(f"its digest is {hashes.sha256[:16]}..., not {resolution.sha256[:16]}...")
    raise IntegrityError(
        f"{name} arrived with the wrong digest {hashes.sha256}",
        cause=f"{resolution.sha256} was promised; {side}",
        hint="nothing of it can be run; add --restart to fetch the whole file again",
    )
