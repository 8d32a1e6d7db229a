"""Linux ``binfmt_misc``: which programs the kernel starts for files that begin like a llamafile."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llamafile_mgr.machine.reading import read_text

#: The first bytes of every llamafile; some builds begin with the second text.
_HEADS = (b"MZqFpD='\n", b"jartsr='\n")


@dataclass(frozen=True, slots=True)
class BinfmtHandler:
    """One registered handler that would take a llamafile. ``ape``: it is the right one."""

    name: str
    interpreter: str

    @property
    def ape(self) -> bool:
        """Return whether this is the loader of such files, so that even a bare start works."""
        return self.interpreter.rsplit("/", 1)[-1].startswith("ape")


def parse_handler(name: str, text: str) -> BinfmtHandler | None:
    """Read one file of ``/proc/sys/fs/binfmt_misc``; ``None`` unless it is enabled and takes llamafiles."""
    lines = text.splitlines()
    if not lines or lines[0].strip() != "enabled":
        return None
    fields = dict(line.split(maxsplit=1) for line in lines[1:] if len(line.split(maxsplit=1)) == 2)
    try:
        magic = bytes.fromhex(fields.get("magic", ""))
        mask = bytes.fromhex(fields.get("mask", "")) or b"\xff" * len(magic)
        offset = int(fields.get("offset", "0"))
    except ValueError:
        return None
    if not magic or not any(_matches(head, magic, mask, offset) for head in _HEADS):
        return None
    return BinfmtHandler(name, fields.get("interpreter", "unknown"))


def read_handlers(folder: Path = Path("/proc/sys/fs/binfmt_misc")) -> tuple[BinfmtHandler, ...]:
    """Return the handlers that would take a llamafile, none when the whole mechanism is off."""
    if (read_text(folder / "status") or "").strip() != "enabled":
        return ()
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.name not in ("register", "status"))
    except OSError:
        return ()
    found = (parse_handler(name, read_text(folder / name) or "") for name in names)
    return tuple(handler for handler in found if handler is not None)


def _matches(head: bytes, magic: bytes, mask: bytes, offset: int) -> bool:
    part = head[offset : offset + len(magic)]
    if len(part) < len(magic) or len(mask) != len(magic):
        return False
    return all(a & m == b & m for a, b, m in zip(part, magic, mask, strict=True))
