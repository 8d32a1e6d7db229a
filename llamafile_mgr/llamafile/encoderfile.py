"""Files of the sibling project: an encoder in ONNX behind a server of its own, told and read, never run.

An encoderfile is a native program, a manifest in Protocol Buffers' form, the artifacts that it lists, and a
footer of 32 bytes. Source: encoderfile 0.7.0, ``docs/reference/file_format.md``, ``src/format/footer.rs``,
``proto/manifest.proto``, ``proto/metadata.proto``, and for its routes ``src/transport/http``. None was run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

from llamafile_mgr.errors import InvalidFileError
from llamafile_mgr.llamafile.byte_source import ByteSource, open_source

_MAGIC = b"ENCFILE\0"
#: Magic, format, offset and length of the manifest, flags.
_FOOTER = Struct("<8sIQQI")
_MANIFEST_IS_PROTOBUF = 1
#: Real ones have some hundred bytes.
_MOST_MANIFEST_BYTES = 1 << 20
_MOST_FIELDS = 4096
_TYPES = {
    1: "embedding",
    2: "sequence classification",
    3: "token classification",
    4: "sentence embedding",
    21: "image classification",
}
_ARTIFACTS = {
    100: "weights",
    110: "transform",
    120: "model config",
    130: "tokenizer",
    140: "image preprocessor",
}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class EncoderfileArtifact:
    """One part of the file. ``offset``: in the file; ``size``: bytes; ``sha256``: as its manifest says."""

    kind: str
    offset: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class EncoderfileFacts:
    """What an encoderfile holds. ``format``: of its footer. ``program_size``: bytes of the program alone."""

    path: Path
    size: int
    name: str
    version: str
    model_type: str
    format: int
    program_size: int
    artifacts: tuple[EncoderfileArtifact, ...]

    @property
    def vectors(self) -> str:
        """Return what its server gives for a text, in words."""
        return {"sentence embedding": "one vector a text", "embedding": "one vector a token"}.get(
            self.model_type, "no vectors"
        )

    @property
    def use(self) -> str:
        """Return how it is used, and what stands between it and a pool of ours."""
        return (
            f"start it yourself: {self.path} serve --http-hostname 127.0.0.1 --http-port 8081 --disable-grpc"
            f"; it answers POST /predict ({self.vectors}), and a remote is asked for POST /v1/embeddings: "
            "as the remote of a model it needs a translator of its own in front"
        )

    def refusal(self) -> InvalidFileError:
        """Return the error for whoever wants to run it here."""
        return InvalidFileError(
            f"it is an encoderfile ({self.model_type}, {self.name or 'without a name'})",
            cause="its ONNX engine is none of those that are run here; a GGUF of the same model can be",
            hint=self.use,
        )


def read_encoderfile(path: Path) -> EncoderfileFacts | None:
    """Return what an encoderfile holds, None for any other file.

    Raises:
        NotFoundError: there is no such file.
        InvalidFileError: it cannot be read, or is an encoderfile with a damaged manifest.
    """
    with open_source(path) as source:
        return read_manifest(path, source)


def read_manifest(path: Path, source: ByteSource) -> EncoderfileFacts | None:
    """Return what the manifest of an open file tells, None where it has no footer of an encoderfile."""
    if source.size < _FOOTER.size:
        return None
    footer = source.read_at(source.size - _FOOTER.size, _FOOTER.size)
    magic, form, offset, length, flags = _FOOTER.unpack(footer)
    if magic != _MAGIC:
        return None
    if not flags & _MANIFEST_IS_PROTOBUF or length > _MOST_MANIFEST_BYTES:
        raise InvalidFileError(f"it is an encoderfile of a form that is not known ({form})")
    try:
        fields = dict(_fields(source.read_at(offset, length)))
        kind = fields.get(1, 0)
        return EncoderfileFacts(
            path=path,
            size=source.size,
            name=_text(fields.get(2)),
            version=_text(fields.get(3)),
            model_type=_TYPES.get(kind, f"type {kind}") if isinstance(kind, int) else "unknown",
            format=form,
            program_size=offset,
            artifacts=tuple(_artifacts(fields, offset)),
        )
    except (InvalidFileError, ValueError) as error:
        raise InvalidFileError("it is an encoderfile whose manifest is damaged", cause=str(error)) from error


def _artifacts(fields: dict[int, int | bytes], offset: int) -> Iterator[EncoderfileArtifact]:
    for number, kind in _ARTIFACTS.items():
        message = fields.get(number)
        if isinstance(message, bytes):
            inner = dict(_fields(message))
            start, size, digest = inner.get(1, 0), inner.get(2, 0), inner.get(3, b"")
            if not (isinstance(start, int) and isinstance(size, int) and isinstance(digest, bytes)):
                raise ValueError(f"its entry for {kind} has fields of other types")
            yield EncoderfileArtifact(kind, offset + start, size, digest.hex())


def _text(value: int | bytes | None) -> str:
    return value[:200].decode("utf-8", "replace") if isinstance(value, bytes) else ""


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield numbers and values of a message in Protocol Buffers' form. Raises ValueError."""
    at = 0
    for _ in range(_MOST_FIELDS):
        if at == len(message):
            return
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        size, at = _varint(message, at) if wire == _BYTES else ({_FIXED64: 8, _FIXED32: 4}.get(wire, -1), at)
        if not 0 <= size <= len(message) - at:
            raise ValueError(f"field {number} does not end")
        part = message[at : at + size]
        yield number, part if wire == _BYTES else int.from_bytes(part, "little")
        at += size
    raise ValueError("it has too many fields")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, and where it ends. Raises ValueError."""
    value = 0
    for shift in range(0, 64, 7):
        if at == len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
    raise ValueError("a number in it does not end")
