"""The records of a ZIP as bytes, with ZIP64 fields where a figure needs them and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct, pack

LOCAL = Struct("<4s5H3I2H")
ENTRY = Struct("<4s6H3I5H2I")
END64 = Struct("<4sQ2H2I4Q")
END64_LOCATOR = Struct("<4sIQI")
END = Struct("<4s4H2IH")
UNSET16, UNSET32 = 0xFFFF, 0xFFFFFFFF
_UTF8 = 0x800
_UNIX = 3
_CLASSIC, _ZIP64 = 20, 45
#: 1980-01-01, so that the same inputs give the same bytes.
_TIME, _DATE = 0, 0x21
_MODE = 0o100444


@dataclass(frozen=True, slots=True)
class StoredMember:
    """One uncompressed member; ``offset``: of its local header, from the start of the file."""

    name: str
    size: int
    offset: int
    crc: int = 0


def local_header(member: StoredMember) -> bytes:
    """Return the header that stands in front of the data."""
    name = member.name.encode()
    extra = b""
    written = member.size
    if member.size >= UNSET32:
        extra = pack("<2H2Q", 1, 16, member.size, member.size)
        written = UNSET32
    version = _ZIP64 if extra else _CLASSIC
    fields = (b"PK\x03\x04", version, _UTF8, 0, _TIME, _DATE, member.crc, written, written)
    return LOCAL.pack(*fields, len(name), len(extra)) + name + extra


def central_record(member: StoredMember) -> bytes:
    """Return the member's record in the directory."""
    name = member.name.encode()
    numbers = b""
    size, offset = member.size, member.offset
    if member.size >= UNSET32:
        numbers += pack("<2Q", member.size, member.size)
        size = UNSET32
    if member.offset >= UNSET32:
        numbers += pack("<Q", member.offset)
        offset = UNSET32
    extra = pack("<2H", 1, len(numbers)) + numbers if numbers else b""
    version = _ZIP64 if extra else _CLASSIC
    head = (b"PK\x01\x02", _UNIX << 8 | version, version, _UTF8, 0, _TIME, _DATE, member.crc, size, size)
    return ENTRY.pack(*head, len(name), len(extra), 0, 0, 0, _MODE << 16, offset) + name + extra


def end_records(count: int, size: int, offset: int) -> bytes:
    """Return what follows a directory of ``count`` records in ``size`` bytes at ``offset``."""
    end64 = b""
    if count >= UNSET16 or size >= UNSET32 or offset >= UNSET32:
        version = (_UNIX << 8 | _ZIP64, _ZIP64)
        end64 = END64.pack(b"PK\x06\x06", END64.size - 12, *version, 0, 0, count, count, size, offset)
        end64 += END64_LOCATOR.pack(b"PK\x06\x07", 0, offset + size, 1)
    short = min(count, UNSET16)
    return end64 + END.pack(b"PK\x05\x06", 0, 0, short, short, min(size, UNSET32), min(offset, UNSET32), 0)
