"""Writing a llamafile: the runtime's bytes unchanged, then weights and arguments as ZIP members.

The layout is ``zipalign``'s: offsets count from the start of the file, weights are stored uncompressed
at a multiple of 64 KiB (the largest page of any system; Metal needs 16 KiB), and the runtime's own
members stay where they are, only their records are repeated in the new directory.
"""

from __future__ import annotations

import os
import re
import stat
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from llamafile_mgr.engines.arguments import ARGUMENTS_MEMBER, format_arguments
from llamafile_mgr.engines.families import Family, family_rules
from llamafile_mgr.errors import InvalidFileError, NotFoundError, UsageError
from llamafile_mgr.files import disk_error, replacing
from llamafile_mgr.llamafile.byte_source import ByteSource, open_source
from llamafile_mgr.llamafile.inspection import (
    FileFacts,
    FileKind,
    Weights,
    inspect_file,
    syntax_of_engine,
)
from llamafile_mgr.llamafile.zip_directory import ZipDirectory, read_directory
from llamafile_mgr.llamafile.zip_records import (
    StoredMember,
    central_record,
    end_records,
    local_header,
)

ALIGNMENT = 65_536
_COPY_BYTES = 4 << 20
_MODE = stat.S_IRUSR | stat.S_IXUSR
_NAME = re.compile(r"[^\x00-\x1f\x7f/\\.][^\x00-\x1f\x7f/\\]*")
_MODEL_FLAGS = frozenset({"-m", "--model", "-mu", "--model-url", "-hf", "-hfr", "--hf-repo"})
_PROJECTOR_FLAGS = frozenset({"-mm", "--mmproj"})

#: Told after each block: bytes written, bytes in all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class PackResult:
    """The file that was written: ``size`` in bytes, ``members`` in order, ``arguments`` as embedded."""

    path: Path
    size: int
    members: tuple[str, ...]
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Input:
    """One GGUF to embed: a range of a file of ``file_size`` bytes, and the member's name."""

    path: Path
    file_size: int
    weights: Weights
    name: str


def pack(
    runtime: Path,
    weights: Sequence[Path],
    arguments: Sequence[str],
    output: Path,
    *,
    overwrite: bool = False,
    names: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> PackResult:
    """Write ``output``: a runtime with weights, so that one file is engine and model.

    ``weights``: GGUF files, or llamafiles whose weights move to the new engine. ``names``: one per file,
    the files' own by default; a llamafile with several weights keeps its members' names. ``arguments``
    are embedded, preceded by ``-m`` (and ``--mmproj``) where they name no model themselves. The file
    appears complete or not at all, readable and executable for its owner only. The same inputs give the
    same bytes.

    Raises:
        NotFoundError: an input, or the folder of ``output``, is missing.
        InvalidFileError: an input is not what it has to be, or changes meanwhile.
        UsageError: ``output`` exists and ``overwrite`` is not set, or is an input; bad names or arguments.
        DiskFullError: the disk is full.
        StoreError: ``output`` cannot be written.
    """
    engine = _check_runtime(runtime)
    inputs = _collect(weights, names)
    _check_output(output, [runtime, *weights], overwrite)
    embedded = _complete_arguments(arguments, engine.family, inputs)
    text = format_arguments(embedded, syntax_of_engine(engine.engine_version, engine.family)).encode()
    packer = _Packer(engine, inputs, text, progress)
    try:
        with replacing(output, mode=_MODE, overwrite=overwrite) as stream:
            packer.write(stream)
    except FileExistsError as error:
        raise _exists(output) from error
    except OSError as error:
        raise disk_error(error, output) from error
    return PackResult(output, packer.size, packer.members, tuple(embedded))


def _check_runtime(runtime: Path) -> FileFacts:
    facts = inspect_file(runtime)
    if facts.kind is not FileKind.RUNTIME:
        held = "a GGUF" if facts.kind is FileKind.WEIGHTS else "a llamafile with weights of its own"
        raise InvalidFileError(
            f"{runtime} is no bare runtime: it is {held}", hint="give a runtime, such as llamafile-0.10.5"
        )
    return facts


def _collect(paths: Sequence[Path], names: Sequence[str] | None) -> list[_Input]:
    if not paths:
        raise UsageError("there are no weights to pack")
    if names is not None and len(names) != len(paths):
        raise UsageError(f"{len(names)} names for {len(paths)} weights files")
    inputs: list[_Input] = []
    for index, path in enumerate(paths):
        facts = inspect_file(path)
        if not facts.weights:
            raise InvalidFileError(f"{path} holds no weights", hint="give a GGUF")
        for weights in facts.weights:
            own = Path(weights.member or path.name).name
            name = names[index] if names is not None and len(facts.weights) == 1 else own
            inputs.append(_Input(path, facts.size, weights, _member_name(name)))
    if len({item.name for item in inputs}) != len(inputs):
        raise UsageError("two weights files share a name")
    return inputs


def _member_name(name: str) -> str:
    if not name.lower().endswith(".gguf"):
        name = f"{name}.gguf"  # engines find weights by this ending
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        size = 0
    if not _NAME.fullmatch(name) or not 0 < size <= 255:
        raise UsageError(f"weights cannot be called {name!r} in a ZIP", hint="rename the file")
    return name


def _check_output(output: Path, inputs: Sequence[Path], overwrite: bool) -> None:
    if not output.parent.is_dir():
        raise NotFoundError(f"there is no folder {output.parent}", hint="make it first")
    if any(output.exists() and os.path.samefile(output, path) for path in inputs):
        raise UsageError(f"{output} is an input and the output")
    if output.is_dir():
        raise UsageError(f"{output} is a folder", hint="name the file to write")
    if not overwrite and os.path.lexists(output):
        raise _exists(output)


def _exists(output: Path) -> UsageError:
    return UsageError(f"{output} exists", hint="choose another name, or overwrite it with --force")


def _complete_arguments(
    arguments: Sequence[str], family: Family | None, inputs: Sequence[_Input]
) -> list[str]:
    """Put the model, and a projector if there is one, in front of the caller's arguments."""
    prefix = family_rules(family).weights_prefix if family else ""
    models = [item for item in inputs if not item.weights.gguf.is_projector]
    projectors = [item for item in inputs if item.weights.gguf.is_projector]
    completed: list[str] = []
    if models and not _MODEL_FLAGS.intersection(arguments):
        completed += ["-m", prefix + models[0].name]
    if models and projectors and not _PROJECTOR_FLAGS.intersection(arguments):
        completed += ["--mmproj", prefix + projectors[0].name]
    return [*completed, *arguments]


class _Packer:
    """Writes one llamafile to a stream, reading each input once in blocks of 4 MiB."""

    def __init__(
        self, engine: FileFacts, inputs: Sequence[_Input], text: bytes, progress: Progress | None
    ) -> None:
        self._engine = engine
        self._inputs = inputs
        self._text = text
        self._progress = progress
        self._total = engine.size + sum(item.weights.size for item in inputs)
        self._done = 0
        self._records: list[bytes] = []
        self.members = (*(item.name for item in inputs), ARGUMENTS_MEMBER)
        self.size = 0

    def write(self, out: BinaryIO) -> None:
        """Write everything, from the runtime's first byte to the end of the ZIP."""
        with open_source(self._engine.path) as source:
            self._require_size(source, self._engine.size, self._engine.path)
            self._copy(source, 0, source.size, out)
            self._keep_members(source)
        for item in self._inputs:
            with open_source(item.path) as source:
                self._require_size(source, item.file_size, item.path)
                self._add_weights(source, item, out)
        self._add(StoredMember(ARGUMENTS_MEMBER, len(self._text), out.tell(), zlib.crc32(self._text)), out)
        out.write(self._text)
        directory = b"".join(self._records)
        offset = out.tell()
        out.write(directory)
        out.write(end_records(len(self._records), len(directory), offset))
        self.size = out.tell()

    def _keep_members(self, source: ByteSource) -> None:
        directory = read_directory(source)
        if directory is not None:
            kept = (member for member in directory.members if member.name not in self.members)
            self._records += [_copied_record(source, directory, member.record) for member in kept]

    def _add_weights(self, source: ByteSource, item: _Input, out: BinaryIO) -> None:
        size = item.weights.size
        header_size = len(local_header(StoredMember(item.name, size, 0)))
        start = -(-(out.tell() + header_size) // ALIGNMENT) * ALIGNMENT
        # The gap stays outside of every member, as zipalign leaves it; the header waits for the checksum.
        out.seek(start)
        crc = self._copy(source, item.weights.offset, size, out)
        end = out.tell()
        out.seek(start - header_size)
        self._add(StoredMember(item.name, size, start - header_size, crc), out)
        out.seek(end)

    def _add(self, member: StoredMember, out: BinaryIO) -> None:
        out.write(local_header(member))
        self._records.append(central_record(member))

    def _copy(self, source: ByteSource, offset: int, size: int, out: BinaryIO) -> int:
        """Copy a range and return its CRC-32."""
        crc = 0
        end = offset + size
        while offset < end:
            block = source.read_at(offset, min(_COPY_BYTES, end - offset))
            crc = zlib.crc32(block, crc)
            out.write(block)
            offset += len(block)
            self._done += len(block)
            if self._progress is not None:
                self._progress(self._done, self._total)
        return crc

    @staticmethod
    def _require_size(source: ByteSource, size: int, path: Path) -> None:
        if source.size != size:
            raise InvalidFileError(f"{path} changed while it was packed")


def _copied_record(source: ByteSource, directory: ZipDirectory, record: tuple[int, int]) -> bytes:
    data = source.read_at(*record)
    if not directory.shift:
        return data
    offset = int.from_bytes(data[42:46], "little") + directory.shift
    if offset >= 0xFFFFFFFF:
        raise InvalidFileError("the ZIP of the runtime counts its offsets in a way that cannot be kept")
    return data[:42] + offset.to_bytes(4, "little") + data[46:]
