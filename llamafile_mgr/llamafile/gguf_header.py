"""Reading the header of a GGUF in place: metadata and the tensor table, never a tensor.

Layout (little-endian): magic, u32 version, u64 tensors, u64 key-value pairs, the pairs, the tensor
table, padding to ``general.alignment``, the tensors' data. Offsets of tensors count from the start of
the data. Where llama.cpp's loader refuses a file (nested arrays, more than four dimensions), so do we.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from struct import Struct

from llamafile_mgr.errors import InvalidFileError
from llamafile_mgr.llamafile.byte_source import ByteSource, Cursor, WorkBudget
from llamafile_mgr.llamafile.ggml_types import TENSOR_TYPES

MAGIC = b"GGUF"

Scalar = int | float | bool | str

_VERSIONS = (2, 3)
_PREAMBLE = Struct("<4sIQQ")
_U32 = Struct("<I")
_U64 = Struct("<Q")
_ARRAY = Struct("<IQ")
_TENSOR_TAIL = Struct("<IQ")
_DIMENSIONS = {count: Struct(f"<{count}Q") for count in range(1, 5)}

_BOOL, _STRING, _ARRAY_TYPE = 7, 8, 9
_NUMBERS = {
    0: Struct("<B"),
    1: Struct("<b"),
    2: Struct("<H"),
    3: Struct("<h"),
    4: Struct("<I"),
    5: Struct("<i"),
    6: Struct("<f"),
    _BOOL: Struct("<?"),
    10: Struct("<Q"),
    11: Struct("<q"),
    12: Struct("<d"),
}

#: Bounds far above any real model (a few dozen pairs, a few thousand tensors, 10 MB of vocabulary).
_MAX_PAIRS = 16_384
_MAX_TENSORS = 65_536
_MAX_KEY_BYTES = 4_096
_MAX_TEXT_BYTES = 65_536
_MAX_NAME_BYTES = 1_024
_MAX_KEPT_ELEMENTS = 4_096

_KEPT = frozenset(
    {
        "general.alignment",
        "general.architecture",
        "general.file_type",
        "general.name",
        "general.type",
        "split.count",
        "split.no",
        "tokenizer.ggml.add_bos_token",
        "tokenizer.ggml.add_eos_token",
        "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.model",
        "tokenizer.ggml.unknown_token_id",
    }
)
#: What ``GgufFacts`` calls a model's numbers -> their keys behind the architecture's name.
MODEL_NUMBERS = {
    "context_length": "context_length",
    "embedding_length": "embedding_length",
    "block_count": "block_count",
    "head_count": "attention.head_count",
    "head_count_kv": "attention.head_count_kv",
    "key_length": "attention.key_length",
    "value_length": "attention.value_length",
    "feed_forward_length": "feed_forward_length",
    "sliding_window": "attention.sliding_window",
    "expert_count": "expert_count",
    "expert_used_count": "expert_used_count",
}
_KEPT_OF_ARCHITECTURE = frozenset({*MODEL_NUMBERS.values(), "attention.causal", "pooling_type", "vocab_size"})


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What the header says, as far as we use it."""

    version: int
    tensor_count: int
    pairs: MetadataPairs
    tensors: TensorTable


def read_header(
    source: ByteSource, start: int, size: int, budget: WorkBudget, *, keep_tensors: bool = False
) -> GgufHeader:
    """Read the GGUF that lies in ``[start, start + size)`` of ``source``; ``keep_tensors``: list them too.

    Raises:
        InvalidFileError: it is none, of an unknown version, cut short, or makes no sense.
    """
    cursor = Cursor(source, start, start + size)
    version, tensor_count, pair_count = _read_preamble(cursor)
    pairs = MetadataPairs(cursor, budget)
    for _ in range(pair_count):
        pairs.read_one()
    pairs.check(pair_count)
    tensors = TensorTable(cursor, budget, keep_tensors)
    for _ in range(tensor_count):
        tensors.read_one()
    alignment = pairs.values.get("general.alignment", 32)
    tensors.check(start, size, alignment if type(alignment) is int else 0)
    return GgufHeader(version, tensor_count, pairs, tensors)


def _read_preamble(cursor: Cursor) -> tuple[int, int, int]:
    magic, version, tensor_count, pair_count = _PREAMBLE.unpack(cursor.take(_PREAMBLE.size))
    if magic != MAGIC:
        raise InvalidFileError("it is no GGUF")
    if version not in _VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        if swapped in _VERSIONS:
            raise InvalidFileError("it is a big-endian GGUF, which engines on this machine cannot load")
        raise InvalidFileError(
            f"it is a GGUF of version {version}; versions 2 and 3 are known",
            hint="convert the model again with current tools" if version == 1 else None,
        )
    if pair_count > _MAX_PAIRS or tensor_count > _MAX_TENSORS:
        raise InvalidFileError(f"it claims {pair_count} metadata pairs and {tensor_count} tensors")
    return version, tensor_count, pair_count


class MetadataPairs:
    """The metadata pairs, read one after another; only those of interest are kept.

    ``values``: the scalars; an array of numbers stands as its greatest element. ``token_count``: of the
    vocabulary, None where none is listed; ``tokens_at``: the offset in the file of its first text.
    """

    def __init__(self, cursor: Cursor, budget: WorkBudget) -> None:
        self._cursor = cursor
        self._budget = budget
        self.values: dict[str, Scalar] = {}
        self.token_count: int | None = None
        self.tokens_at: int | None = None
        self.has_chat_template = False
        self._seen: set[int] = set()  # hashes of keys: keys themselves may be long

    def read_one(self) -> None:
        """Read the next pair. Raises InvalidFileError."""
        self._budget.spend(1)
        key = self._read_key()
        (kind,) = self._cursor.unpack(_U32)
        if key.startswith("tokenizer.chat_template"):
            self.has_chat_template = True
        kept = _is_kept(key)
        self._seen.add(hash(key))
        if kind == _ARRAY_TYPE:
            self._read_array(key, kept)
        elif kind == _STRING:
            self._read_string(key, kept)
        elif kind in _NUMBERS:
            (value,) = self._cursor.unpack(_NUMBERS[kind])
            if kept:
                self.values[key] = value
        else:
            raise InvalidFileError(f"its metadata holds a value of unknown type {kind}")

    def check(self, count: int) -> None:
        """Refuse metadata that readers would read differently, or that describes no model."""
        if len(self._seen) != count:
            raise InvalidFileError("its metadata names a key twice")
        if not isinstance(self.values.get("general.architecture"), str):
            raise InvalidFileError("it names no architecture")

    def _read_key(self) -> str:
        (length,) = self._cursor.unpack(_U64)
        if length > _MAX_KEY_BYTES:
            raise InvalidFileError(f"its metadata holds a key of {length} bytes")
        return self._cursor.take(length).decode("utf-8", "replace")

    def _read_string(self, key: str, kept: bool) -> None:
        (length,) = self._cursor.unpack(_U64)
        if not kept:
            self._cursor.skip(length)
        elif length > _MAX_TEXT_BYTES:
            raise InvalidFileError(f"its {key} is a text of {length} bytes")
        else:
            self.values[key] = self._cursor.take(length).decode("utf-8", "replace")

    def _read_array(self, key: str, kept: bool) -> None:
        kind, count = self._cursor.unpack(_ARRAY)
        if key == "tokenizer.ggml.tokens":
            self.token_count = count
            self.tokens_at = self._cursor.position if kind == _STRING else None
        if kind == _STRING:
            if count * 8 > self._cursor.remaining:
                raise InvalidFileError(f"it is truncated: it claims an array of {count} strings")
            self._budget.spend(count)
            self._cursor.skip_strings(count)
        elif kind not in _NUMBERS:
            raise InvalidFileError(f"its metadata holds an array of unknown or nested type {kind}")
        elif kept and 0 < count <= _MAX_KEPT_ELEMENTS:
            self._budget.spend(count)
            layout = Struct(f"<{count}{_NUMBERS[kind].format[-1]}")
            self.values[key] = max(self._cursor.unpack(layout))
        else:
            self._cursor.skip(count * _NUMBERS[kind].size)


def _is_kept(key: str) -> bool:
    if key in _KEPT:
        return True
    architecture, _, rest = key.partition(".")
    return rest in _KEPT_OF_ARCHITECTURE and len(architecture) <= 100


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor. ``kind``: its type's number; ``offset``: in the data; ``size``: bytes."""

    name: str
    kind: int
    offset: int
    size: int


class TensorTable:
    """The tensor table, summed up entry by entry. ``bytes_by_type``: tensor type -> bytes of data.
    ``data_at``: the offset in the file of the first tensor; ``entries``: where they are kept."""

    def __init__(self, cursor: Cursor, budget: WorkBudget, keep: bool) -> None:
        self._cursor = cursor
        self._budget = budget
        self._end = 0  # bytes of data that the tensors need, gaps included
        self._offsets_or = 0  # all offsets or-ed: its low bits tell whether one of them is unaligned
        self.parameters = 0
        self.total_bytes = 0
        self.bytes_by_type: Counter[int] = Counter()
        self.data_at = 0
        self._keep = keep
        self.entries: list[TensorEntry] = []

    def read_one(self) -> None:
        """Read the next entry. Raises InvalidFileError."""
        self._budget.spend(1)
        (length,) = self._cursor.unpack(_U64)
        if length > _MAX_NAME_BYTES:
            raise InvalidFileError(f"it names a tensor in {length} bytes")
        name: bytes | None = None
        if self._keep:
            name = self._cursor.take(length)
        else:
            self._cursor.skip(length)
        (count,) = self._cursor.unpack(_U32)
        if not 1 <= count <= 4:
            raise InvalidFileError(f"it holds a tensor of {count} dimensions")
        shape = self._cursor.unpack(_DIMENSIONS[count])
        kind, offset = self._cursor.unpack(_TENSOR_TAIL)
        elements = 1
        for extent in shape:
            elements *= extent
        size = _tensor_bytes(kind, shape[0], elements)
        self._offsets_or |= offset
        self._end = max(self._end, offset + size)
        self.parameters += elements
        self.total_bytes += size
        self.bytes_by_type[kind] += size
        if name is not None:
            self.entries.append(TensorEntry(name.decode("utf-8", "replace"), kind, offset, size))

    def check(self, start: int, size: int, alignment: int) -> None:
        """Refuse a table whose tensors do not fit behind the header."""
        if not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            raise InvalidFileError(f"its alignment of {alignment} is no power of two")
        if not self.bytes_by_type:
            return
        if self._offsets_or & (alignment - 1):
            raise InvalidFileError("a tensor of it starts at an unaligned offset")
        header = self._cursor.position - start
        data = -(-header // alignment) * alignment
        self.data_at = start + data
        missing = data + max(self._end, self.total_bytes) - size
        if missing > 0:
            raise InvalidFileError(
                f"it is truncated: its tensors need {missing} bytes more than it has",
                hint="pull or copy it again",
            )


def _tensor_bytes(kind: int, row: int, elements: int) -> int:
    known = TENSOR_TYPES.get(kind)
    if known is None:
        # A type newer than this table: no format stores less than half a bit per element.
        return elements // 16
    if row % known.block_elements:
        raise InvalidFileError(f"it holds a {known.name} tensor with rows of {row} elements")
    return elements // known.block_elements * known.block_bytes
