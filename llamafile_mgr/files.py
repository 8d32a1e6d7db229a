"""Files as they must be written: durable, atomic, owner only; foreign errors translated."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from llamafile_mgr.errors import DiskFullError, StoreError

#: No room on the disk, in the quota, or for a file of this size.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
#: What file systems say that cannot wait for a directory.
_NEVER_SYNCED = frozenset({errno.EINVAL, errno.ENOTSUP})
#: What file systems say that have no links.
_NEVER_LINKED = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
_FICLONE = 0x40049409
_COPY_BYTES = 1 << 20
#: The mark of macOS on downloaded programs.
_QUARANTINE = b"com.apple.quarantine"


def is_disk_full(error: OSError) -> bool:
    """Tell whether a write failed for want of room."""
    return error.errno in _FULL


def disk_error(
    error: OSError, path: Path, *, name: str | None = None, missing: int | None = None
) -> StoreError:
    """Return our error for an ``OSError`` on ``path``.

    ``name``: what the user calls a download. ``missing``: how many bytes still had to come.
    """
    if is_disk_full(error):
        amount = "" if missing is None else f"; {missing:,} bytes more are needed"
        kept = "" if name is None else ": what has arrived is kept"
        return DiskFullError(
            f"there is no room left for {name or path.name}{amount}",
            cause=f"{error.strerror} below {path.parent}",
            hint=f"make room and run the same command again{kept}",
        )
    return StoreError(
        f"cannot write {path}: {error.strerror or error}",
        hint="check that the directory is yours and the file system is writable",
    )


@contextlib.contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Translate every ``OSError`` inside into a ``StoreError`` about ``path``."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error


def free_bytes(path: Path) -> int:
    """Return how many bytes this user may still write on the file system of ``path``."""
    return shutil.disk_usage(path).free


def temporary_name(directory: Path) -> Path:
    """Return a fresh path in ``directory`` that tells who made it."""
    return directory / f"{os.getpid()}-{secrets.token_hex(8)}"


def sync_file(path: Path) -> None:
    """Wait until the bytes of ``path`` are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Wait until the entries of a directory are on the disk, where the system can."""
    if os.name != "posix":
        return
    try:
        sync_file(path)
    except OSError as error:
        if error.errno not in _NEVER_SYNCED:
            raise


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o600, overwrite: bool = True) -> Iterator[BinaryIO]:
    """Yield a new file that takes the place of ``path`` once the block ends well and its bytes are safe.

    A crash leaves the old or the new file, never a mix; an error inside leaves the old one.

    Raises:
        FileExistsError: there is a file already, or one appeared meanwhile, and ``overwrite`` is not set.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(descriptor)
        if overwrite:
            os.replace(temporary, path)
        else:
            _rename_to_new(temporary, path)
        sync_directory(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _rename_to_new(source: Path, target: Path) -> None:
    try:
        # A link, unlike a rename, never replaces a file that appeared meanwhile.
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NEVER_LINKED:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        os.replace(source, target)
    else:
        source.unlink()


def write_atomically(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace ``path`` by ``content`` so that a crash leaves the old or the new file, never a mix."""
    with replacing(path, mode=mode) as stream:
        stream.write(content)


def link_file(source: Path, target: Path) -> bool:
    """Give ``source`` the second name ``target``; False where the file system or the owner forbids it."""
    status = source.stat()
    if not stat.S_ISREG(status.st_mode) or (hasattr(os, "getuid") and status.st_uid != os.getuid()):
        return False
    try:
        os.link(source, target, follow_symlinks=True)
    except OSError:
        return False
    return True


def clone_or_copy(source: Path, target: Path) -> str:
    """Copy ``source`` to the new file ``target`` (mode 0600) and return ``reflink`` or ``copy``."""
    descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "r+b") as stream, source.open("rb") as origin:
        if _clone(origin.fileno(), descriptor):
            return "reflink"
        shutil.copyfileobj(origin, stream, _COPY_BYTES)
    return "copy"


def _clone(source: int, target: int) -> bool:
    """Share the blocks of two open files, where the file system can (Btrfs, XFS, bcachefs)."""
    if not sys.platform.startswith("linux"):
        return False
    import fcntl

    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def lift_quarantine(path: Path) -> None:
    """Remove the quarantine mark of a file whose digest matched, on macOS; elsewhere do nothing."""
    if sys.platform == "darwin":
        import ctypes

        library = ctypes.CDLL(None)
        library.removexattr.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int)
        library.removexattr(os.fsencode(path), _QUARANTINE, 0)
