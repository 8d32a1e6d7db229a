"""Reading any llamafile, bare runtime or GGUF without running it.

No real llamafile was at hand: the layout follows the sources of ``zipalign``, of llamafile's loader
(``llamafile_open_zip``) and of its ``main`` (``"llamafile v" LLAMAFILE_VERSION_STRING``).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from llamafile_mgr.engines.arguments import (
    ARGUMENTS_MEMBER,
    MAX_ARGUMENT_BYTES,
    ArgumentSyntax,
    EmbeddedArguments,
    parse_arguments,
)
from llamafile_mgr.engines.families import (
    Family,
    family_of_head,
    family_of_members,
    family_of_version,
    family_rules,
    parse_version,
)
from llamafile_mgr.engines.toolbox import GPU_MODULE
from llamafile_mgr.errors import InvalidFileError
from llamafile_mgr.llamafile.byte_source import ByteSource, WorkBudget, open_source
from llamafile_mgr.llamafile.encoderfile import read_manifest
from llamafile_mgr.llamafile.gguf_facts import GgufFacts, read_gguf
from llamafile_mgr.llamafile.gguf_header import MAGIC
from llamafile_mgr.llamafile.zip_directory import (
    STORED,
    ZipDirectory,
    ZipMember,
    data_offset,
    read_directory,
    read_small_member,
    require_unique,
)

#: First bytes of an APE program, and of what ``--assimilate`` makes of one.
_APE_HEADS = (b"MZqFpD", b"jartsr", b"MZ")
_NATIVE_HEADS = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")
_ZIP_HEAD = b"PK\x03\x04"

_MAX_SCANNED_BYTES = 128 << 20
_SCAN_CHUNK_BYTES = 4 << 20
_SCAN_OVERLAP_BYTES = 64
_MAX_WEIGHTS = 64
#: Elements (pairs, tensors, strings) in all headers of one file; the largest vocabularies, merges
#: included, have less than a million.
_MAX_ELEMENTS = 2_500_000
#: How often the head may name llamafile before the search for a version is given up.
_MAX_MENTIONS = 50_000

_MENTION = b"llamafile"
_VERSION = re.compile(rb"llamafile(?:r|-server|-main)? v(\d{1,3}\.\d{1,3}\.\d{1,3})(?!\.?\d)")


class FileKind(StrEnum):
    """What a file holds: engine and weights, engine alone, or weights alone (a GGUF)."""

    LLAMAFILE = "llamafile"
    RUNTIME = "runtime"
    WEIGHTS = "weights"


@dataclass(frozen=True, slots=True)
class Weights:
    """One GGUF. ``member``: its name in the ZIP, None for a bare GGUF. ``offset``, ``size``: bytes."""

    member: str | None
    offset: int
    size: int
    gguf: GgufFacts


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a file holds.

    ``size``: bytes. ``engine_version``: such as ``0.8.4``. ``family``: None for bare weights and for
    an engine that could not be told. ``head_size``: bytes of the executable in front of the ZIP.
    ``gpu_modules``: GPU libraries in the ZIP. ``other_members``, ``other_bytes``: what else is in it.
    """

    path: Path
    size: int
    kind: FileKind
    engine_version: str | None = None
    family: Family | None = None
    weights: tuple[Weights, ...] = ()
    arguments: EmbeddedArguments | None = None
    head_size: int = 0
    gpu_modules: tuple[str, ...] = ()
    other_members: int = 0
    other_bytes: int = 0

    @property
    def model(self) -> Weights | None:
        """The language model among the weights: the first that is no projector, else the first."""
        models = [weights for weights in self.weights if not weights.gguf.is_projector]
        return next(iter(models or self.weights), None)


def inspect_file(path: Path) -> FileFacts:
    """Read what ``path`` is; it is never run, and no tensor is loaded.

    Raises:
        NotFoundError: there is no such file.
        InvalidFileError: it is neither a llamafile nor a runtime nor a GGUF, or it is a broken one.
    """
    try:
        with open_source(path) as source:
            return _inspect(path, source)
    except InvalidFileError as error:
        raise InvalidFileError(
            f"{path} cannot be used: {error.message}", cause=error.cause, hint=error.hint
        ) from error


def _inspect(path: Path, source: ByteSource) -> FileFacts:
    start = source.read_at(0, min(source.size, 256))
    if start[: len(MAGIC)] == MAGIC:
        gguf = read_gguf(source, 0, source.size, WorkBudget(_MAX_ELEMENTS))
        return FileFacts(path, source.size, FileKind.WEIGHTS, weights=(Weights(None, 0, source.size, gguf),))
    if not start.startswith(_APE_HEADS + _NATIVE_HEADS):
        raise _foreign(start)
    if (encoderfile := read_manifest(path, source)) is not None:
        raise encoderfile.refusal()
    directory = read_directory(source)
    head_size = source.size if directory is None else directory.head_size
    head = _scan_head(source, head_size)
    if directory is None:
        return _launcher_alone(path, source, head)
    return _inspect_engine(path, source, directory, head)


def _foreign(start: bytes) -> InvalidFileError:
    """Say what the file is instead, as far as its first bytes tell."""
    again = "pull it again"
    lowered = start.lstrip().lower()
    if not start:
        return InvalidFileError("it is empty", hint=again)
    if start.startswith(b"version https://git-lfs"):
        return InvalidFileError("it is a Git LFS pointer, not the file itself", hint="run: git lfs pull")
    if lowered.startswith((b"<!doctype html", b"<html")):
        return InvalidFileError("it is a web page", cause="the address led to a page", hint=again)
    if start.startswith(_ZIP_HEAD):
        return InvalidFileError("it is a ZIP archive without an engine in front")
    if start[:4] in (b"lmgg", b"tjgg", b"algg", b"fmgg"):
        return InvalidFileError("it is a GGML file older than GGUF", hint="convert the model again")
    if len(start) < 64:
        return InvalidFileError(f"it has only {len(start)} bytes and is no llamafile", hint=again)
    return InvalidFileError("it is neither a llamafile nor a GGUF")


@dataclass(frozen=True, slots=True)
class _Head:
    """What the bytes in front of the ZIP tell."""

    version: str | None
    family: Family | None
    has_local_header: bool


def _scan_head(source: ByteSource, size: int) -> _Head:
    """Search the head, its first 128 MiB at most, for the version and for the mark of a family."""
    versions: Counter[str] = Counter()
    family: Family | None = None
    has_local_header = False
    mentions = _MAX_MENTIONS
    end = min(size, _MAX_SCANNED_BYTES)
    at = 0
    while at < end:
        window = source.read_at(at, min(_SCAN_CHUNK_BYTES + _SCAN_OVERLAP_BYTES, end - at))
        found, mentions = _versions_in(window, mentions)
        versions.update(found)
        family = family or family_of_head(window)
        has_local_header = has_local_header or _ZIP_HEAD in window
        at += _SCAN_CHUNK_BYTES
    # A page in the help may name another release: the program names its own most often.
    best = max(versions, key=lambda text: (versions[text], parse_version(text) or ()), default=None)
    return _Head(best, family, has_local_header)


def _versions_in(window: bytes, mentions: int) -> tuple[list[str], int]:
    """Return the versions that follow the first ``mentions`` mentions, and how many are left to look at."""
    found: list[str] = []
    at = window.find(_MENTION)
    while at >= 0 and mentions:
        mentions -= 1
        match = _VERSION.match(window, at)
        if match is not None:
            found.append(match.group(1).decode("ascii"))
        at = window.find(_MENTION, at + len(_MENTION))
    return found, mentions


def _launcher_alone(path: Path, source: ByteSource, head: _Head) -> FileFacts:
    """Accept a head without a ZIP only where that is how it is made: a launcher of this package's own."""
    if head.family is None or head.has_local_header:
        raise InvalidFileError(
            "it has no ZIP directory at its end: it is truncated, or no llamafile", hint="pull it again"
        )
    return FileFacts(path, source.size, FileKind.RUNTIME, head.version, head.family, head_size=source.size)


def _inspect_engine(path: Path, source: ByteSource, directory: ZipDirectory, head: _Head) -> FileFacts:
    weights = _read_weights(source, directory)
    modules = tuple(m.name for m in directory.members if GPU_MODULE.fullmatch(m.name))
    family = _family(head, directory)
    if not weights and family is None:
        raise InvalidFileError("it is a program with a ZIP, but it holds neither weights nor a known engine")
    used = {ARGUMENTS_MEMBER, *(entry.member for entry in weights)}
    others = [member for member in directory.members if member.name not in used]
    return FileFacts(
        path=path,
        size=source.size,
        kind=FileKind.LLAMAFILE if weights else FileKind.RUNTIME,
        engine_version=head.version,
        family=family,
        weights=weights,
        arguments=_read_arguments(source, directory, head.version, family),
        head_size=directory.head_size,
        gpu_modules=modules,
        other_members=len(others),
        other_bytes=sum(member.compressed_size for member in others),
    )


def _family(head: _Head, directory: ZipDirectory) -> Family | None:
    if head.family is not None:
        return head.family
    if head.version is not None:
        return family_of_version(head.version)
    return family_of_members(member.name for member in directory.members)


def syntax_of_engine(version: str | None, family: Family | None) -> ArgumentSyntax | None:
    """Return how this engine reads its ``.args``, None when too little is known about it."""
    numbers = parse_version(version) if version else None
    if numbers is not None:
        return ArgumentSyntax.SHELL if numbers >= (0, 8, 17) else ArgumentSyntax.LINES
    return ArgumentSyntax.SHELL if family and family_rules(family).reads_shell_words else None


def _read_weights(source: ByteSource, directory: ZipDirectory) -> tuple[Weights, ...]:
    members = tuple(m for m in directory.members if m.name[1:].lower().endswith(".gguf"))
    if len(members) > _MAX_WEIGHTS:
        raise InvalidFileError(f"it holds {len(members)} weights files")
    require_unique(directory, members)
    budget = WorkBudget(_MAX_ELEMENTS)
    return tuple(_read_member_weights(source, member, budget) for member in members)


def _read_member_weights(source: ByteSource, member: ZipMember, budget: WorkBudget) -> Weights:
    offset = data_offset(source, member)
    if member.method != STORED or member.size != member.compressed_size:
        raise InvalidFileError(
            f"its weights {member.name} are compressed, and engines map them from the file",
            hint="pack it again: llamafile-mgr pack",
        )
    try:
        gguf = read_gguf(source, offset, member.size, budget)
    except InvalidFileError as error:
        raise InvalidFileError(f"{member.name} in it: {error.message}", hint=error.hint) from error
    return Weights(member.name, offset, member.size, gguf)


def _read_arguments(
    source: ByteSource, directory: ZipDirectory, version: str | None, family: Family | None
) -> EmbeddedArguments | None:
    members = tuple(member for member in directory.members if member.name == ARGUMENTS_MEMBER)
    if not members:
        return None
    require_unique(directory, members)
    data = read_small_member(source, members[0], MAX_ARGUMENT_BYTES)
    return parse_arguments(data.decode("utf-8", "replace"), syntax_of_engine(version, family))
