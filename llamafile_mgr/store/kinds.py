"""What a file of unknown origin is: a llamafile, a bare runtime or weights, from its first bytes."""

from __future__ import annotations

import zipfile
from pathlib import Path

from llamafile_mgr.catalog import ArtifactKind
from llamafile_mgr.errors import InvalidFileError

#: An Actually Portable Executable begins as a DOS program, after ``assimilate`` as ELF or Mach-O.
_PROGRAMS = (b"MZqFpD", b"jartsr", b"APEDBG", b"\x7fELF", b"\xcf\xfa\xed\xfe")


def kind_of_file(path: Path, name: str) -> ArtifactKind:
    """Tell what a file is, which its user knows by ``name``.

    Raises:
        InvalidFileError: none of ours; the message says what it looks like.
    """
    with path.open("rb") as stream:
        head = stream.read(64)
    if head.startswith(b"GGUF"):
        return ArtifactKind.WEIGHTS
    if head.startswith(_PROGRAMS):
        return ArtifactKind.LLAMAFILE if _holds_weights(path) else ArtifactKind.RUNTIME
    raise InvalidFileError(
        f"{name} is neither a llamafile nor a GGUF",
        cause=_looks_like(head),
        hint="it must be the file itself, not an archive of it or a page about it",
    )


def _holds_weights(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".gguf") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _looks_like(head: bytes) -> str:
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page"
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer"
    if text.startswith((b"{", b"[")):
        return "it is JSON"
    return "it begins with " + head[:8].hex(" ") if head else "it is empty"
