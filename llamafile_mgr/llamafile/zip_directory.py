"""Reading the directory of the ZIP at the end of a llamafile; ``zipfile`` trusts files too much.

Offsets in a llamafile count from the start of the whole file, as ``zipalign`` and Cosmopolitan write
them; where they count from the start of the ZIP (a ZIP that was appended with ``cat``) they are shifted.
"""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass, replace
from struct import Struct

from llamafile_mgr.errors import InvalidFileError
from llamafile_mgr.llamafile.byte_source import ByteSource
from llamafile_mgr.llamafile.zip_records import END, END64, END64_LOCATOR, ENTRY, LOCAL, UNSET16, UNSET32

STORED, DEFLATED = 0, 8

_EXTRA = Struct("<2H")
_U64 = Struct("<Q")
_END_MAGIC = b"PK\x05\x06"
_MAX_COMMENT_BYTES = 65_535
_MAX_MEMBERS = 65_536
_MAX_DIRECTORY_BYTES = 32 << 20
_ENCRYPTED, _UTF8 = 0x1, 0x800


@dataclass(frozen=True, slots=True)
class ZipMember:
    """One entry. Offsets count from the start of the file.

    ``room_end``: where the next member or the directory starts, so that no data may reach beyond.
    ``record``: (offset, size) of this entry in the central directory.
    """

    name: str
    flags: int
    method: int
    crc: int
    compressed_size: int
    size: int
    header_offset: int
    room_end: int
    record: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ZipDirectory:
    """All entries in the directory's order.

    ``offset``, ``size``: of the directory in the file. ``shift``: what has to be added to the offsets
    that its records hold. ``head_size``: bytes in front of the first member.
    """

    members: tuple[ZipMember, ...]
    offset: int
    size: int
    shift: int
    head_size: int


def read_directory(source: ByteSource) -> ZipDirectory | None:
    """Return the directory of the ZIP that ends ``source``, None when it ends in none.

    Raises:
        InvalidFileError: there is one and it is broken, absurdly large, or its entries overlap.
    """
    tail_offset = max(0, source.size - END.size - _MAX_COMMENT_BYTES)
    tail = source.read_at(tail_offset, source.size - tail_offset)
    at = tail.rfind(_END_MAGIC)
    while at >= 0 and not _is_end_record(tail, at):
        at = tail.rfind(_END_MAGIC, 0, at)
    if at < 0:
        return None
    count, size, offset, end = _read_end(source, tail_offset + at, tail[at : at + END.size])
    if count > _MAX_MEMBERS or size > _MAX_DIRECTORY_BYTES:
        raise InvalidFileError(f"its ZIP claims {count} members in a directory of {size} bytes")
    start, shift = _locate(source, size, offset, end)
    members = _read_members(source.read_at(start, size), count, start, shift)
    head_size = min((member.header_offset for member in members), default=start)
    return ZipDirectory(members, start, size, shift, head_size)


def _is_end_record(tail: bytes, at: int) -> bool:
    if at + END.size > len(tail):
        return False
    _, disk, first_disk, here, total, _, _, comment = END.unpack_from(tail, at)
    fits: bool = at + END.size + comment <= len(tail)
    return disk == first_disk == 0 and here == total and fits


def _read_end(source: ByteSource, position: int, record: bytes) -> tuple[int, int, int, int]:
    """Return (entries, directory size, directory offset as written, end of the directory)."""
    _, _, _, _, count, size, offset, _ = END.unpack(record)
    locator = position - END64_LOCATOR.size
    if locator >= 0:
        magic, _, end64, _ = END64_LOCATOR.unpack(source.read_at(locator, END64_LOCATOR.size))
        if magic == b"PK\x06\x07":
            return _read_end64(source, end64, locator)
    if count == UNSET16 or UNSET32 in (size, offset):
        raise InvalidFileError("its ZIP64 directory is missing")
    return count, size, offset, position


def _read_end64(source: ByteSource, written: int, locator: int) -> tuple[int, int, int, int]:
    # The record stands right before its locator unless it carries extensions; then only the offset tells.
    for position in (written, locator - END64.size):
        if not 0 <= position <= locator - END64.size:
            continue
        fields = END64.unpack(source.read_at(position, END64.size))
        if fields[0] == b"PK\x06\x06":
            _, _, _, _, disk, first_disk, here, count, size, offset = fields
            if disk or first_disk or here != count:
                raise InvalidFileError("its ZIP is one of several volumes")
            return count, size, offset, position
    raise InvalidFileError("its ZIP64 directory is missing")


def _locate(source: ByteSource, size: int, offset: int, end: int) -> tuple[int, int]:
    """Return where the directory starts and the shift of all offsets in it."""
    if offset + size <= end and (size == 0 or source.read_at(offset, min(size, 4)) == b"PK\x01\x02"):
        return offset, 0
    start = end - size
    if start < offset or start < 0:
        raise InvalidFileError("it is truncated: its ZIP directory does not fit into it")
    return start, start - offset


def _read_members(directory: bytes, count: int, start: int, shift: int) -> tuple[ZipMember, ...]:
    raw: list[tuple[ZipMember, int]] = []
    at = 0
    for _ in range(count):
        if at + ENTRY.size > len(directory):
            raise InvalidFileError("its ZIP directory is cut short")
        member, least_end = _read_entry(directory, at, start, shift)
        at += member.record[1]
        raw.append((member, least_end))
    if at > len(directory):
        raise InvalidFileError("its ZIP directory is cut short")
    return _with_room(raw, start)


def _read_entry(directory: bytes, at: int, start: int, shift: int) -> tuple[ZipMember, int]:
    fields = ENTRY.unpack_from(directory, at)
    if fields[0] != b"PK\x01\x02":
        raise InvalidFileError("its ZIP directory is broken")
    _, _, _, flags, method, _, _, crc, packed, size, name_size, extra_size, comment_size = fields[:13]
    offset = fields[16]
    name_at = at + ENTRY.size
    extra_at = name_at + name_size
    name = directory[name_at:extra_at]
    extra = directory[extra_at : extra_at + extra_size]
    if UNSET32 in (size, packed, offset):
        size, packed, offset = _read_zip64(extra, size, packed, offset)
    offset += shift
    member = ZipMember(
        name=_decode_name(name, flags),
        flags=flags,
        method=method,
        crc=crc,
        compressed_size=packed,
        size=size,
        header_offset=offset,
        room_end=0,
        record=(start + at, ENTRY.size + name_size + extra_size + comment_size),
    )
    return member, offset + LOCAL.size + name_size + packed


def _read_zip64(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Replace the fields that are all ones by the values of the ZIP64 extra field."""
    at = 0
    while at + _EXTRA.size <= len(extra):
        tag, length = _EXTRA.unpack_from(extra, at)
        at += _EXTRA.size
        if tag == 1:
            values = extra[at : at + length]
            numbers = _U64.iter_unpack(values[: len(values) // 8 * 8])
            fields = [
                next(numbers, (-1,))[0] if field == UNSET32 else field for field in (size, packed, offset)
            ]
            if -1 in fields:
                break
            return fields[0], fields[1], fields[2]
        at += length
    raise InvalidFileError("its ZIP64 fields are broken")


def _decode_name(name: bytes, flags: int) -> str:
    if flags & _UTF8 or name.isascii():
        return name.decode("utf-8", "replace")
    return name.decode("cp437")


def _with_room(raw: list[tuple[ZipMember, int]], directory_offset: int) -> tuple[ZipMember, ...]:
    """Refuse members that overlap or leave the file, and note where each one's room ends."""
    room_end: dict[int, int] = {}
    next_start = directory_offset
    for member, least_end in sorted(raw, key=lambda pair: pair[0].header_offset, reverse=True):
        if least_end > next_start:
            raise InvalidFileError("members of its ZIP overlap or reach beyond it")
        room_end[member.header_offset] = next_start
        next_start = member.header_offset
    return tuple(replace(member, room_end=room_end[member.header_offset]) for member, _ in raw)


def require_unique(directory: ZipDirectory, members: tuple[ZipMember, ...]) -> None:
    """Refuse a ZIP in which one of these names stands twice: readers disagree on which one counts.

    Raises:
        InvalidFileError: one does.
    """
    counts = Counter(member.name for member in directory.members)
    for member in members:
        if counts[member.name] > 1:
            raise InvalidFileError(f"its ZIP holds {member.name} twice")


def data_offset(source: ByteSource, member: ZipMember) -> int:
    """Return where the bytes of ``member`` start in the file, from its local header.

    Raises:
        InvalidFileError: the header is no header or belongs to another member.
    """
    header = source.read_at(member.header_offset, LOCAL.size)
    magic, _, flags, method, _, _, _, _, _, name_size, extra_size = LOCAL.unpack(header)
    if magic != b"PK\x03\x04" or method != member.method:
        raise InvalidFileError(f"the header of {member.name} in its ZIP is broken")
    name = source.read_at(member.header_offset + LOCAL.size, name_size)
    if _decode_name(name, flags) != member.name:
        raise InvalidFileError(f"the ZIP calls one member {member.name} and something else")
    if (flags | member.flags) & _ENCRYPTED:
        raise InvalidFileError(f"{member.name} in its ZIP is encrypted")
    start: int = member.header_offset + LOCAL.size + name_size + extra_size
    if start + member.compressed_size > member.room_end:
        raise InvalidFileError("members of its ZIP overlap or reach beyond it")
    return start


def read_small_member(source: ByteSource, member: ZipMember, limit: int) -> bytes:
    """Return the bytes of ``member``, decompressed.

    Raises:
        InvalidFileError: it is larger than ``limit``, broken, or packed in an unknown way.
    """
    start = data_offset(source, member)
    if member.size > limit or member.compressed_size > limit:
        raise InvalidFileError(f"{member.name} in its ZIP is larger than {limit} bytes")
    data = source.read_at(start, member.compressed_size)
    if member.method == DEFLATED:
        data = _inflate(data, member, limit)
    elif member.method != STORED:
        raise InvalidFileError(f"{member.name} in its ZIP is packed in an unknown way")
    if len(data) != member.size or zlib.crc32(data) != member.crc:
        raise InvalidFileError(f"{member.name} in its ZIP is damaged")
    return data


def _inflate(data: bytes, member: ZipMember, limit: int) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, limit + 1)
    except zlib.error as error:
        raise InvalidFileError(f"{member.name} in its ZIP is damaged", cause=str(error)) from error
