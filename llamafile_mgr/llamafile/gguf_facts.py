"""What a GGUF says about its model. A field that is ``None`` is unknown, never a guess."""

from __future__ import annotations

from dataclasses import dataclass

from llamafile_mgr.errors import InvalidFileError
from llamafile_mgr.llamafile.byte_source import ByteSource, WorkBudget
from llamafile_mgr.llamafile.ggml_types import FILE_TYPES, TENSOR_TYPES
from llamafile_mgr.llamafile.gguf_header import MODEL_NUMBERS, MetadataPairs, TensorTable, read_header

#: ``ARCH.pooling_type`` -> llama.cpp's ``--pooling`` word.
_POOLING = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}
_U32_MAX = (1 << 32) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFacts:
    """The model's own figures.

    Lengths count elements; a value that differs per layer (``head_count_kv`` of hybrid models) stands
    as its maximum. ``context_length``: tokens it was trained for. ``causal``: False for BERT-like
    models. ``file_type``: the number in the file; ``quantisation``: its name, or that of the tensor
    type with most bytes. ``parameters``: elements of all tensors of this file. ``tensor_bytes``: their
    bytes; ``tensor_types``: those by the type's name. ``split``: (index from 0, count) of one part of a
    split model. ``kind``: ``general.type``, such as ``model``, ``mmproj`` or ``adapter``.
    """

    version: int
    architecture: str | None = None
    name: str | None = None
    kind: str | None = None
    context_length: int | None = None
    embedding_length: int | None = None
    block_count: int | None = None
    head_count: int | None = None
    head_count_kv: int | None = None
    key_length: int | None = None
    value_length: int | None = None
    feed_forward_length: int | None = None
    sliding_window: int | None = None
    vocab_size: int | None = None
    expert_count: int | None = None
    expert_used_count: int | None = None
    pooling: str | None = None
    causal: bool | None = None
    tokenizer_model: str | None = None
    add_bos: bool | None = None
    add_eos: bool | None = None
    bos_id: int | None = None
    eos_id: int | None = None
    has_chat_template: bool = False
    file_type: int | None = None
    quantisation: str | None = None
    parameters: int = 0
    tensor_bytes: int = 0
    tensor_count: int = 0
    tensor_types: tuple[tuple[str, int], ...] = ()
    split: tuple[int, int] | None = None

    @property
    def is_projector(self) -> bool:
        """Whether this is the image or audio half of a multimodal model, no language model."""
        return self.kind == "mmproj" or self.architecture == "clip"

    @property
    def is_adapter(self) -> bool:
        """Whether this changes a model (LoRA), and is none itself."""
        return self.kind == "adapter"

    @property
    def is_word_piece(self) -> bool:
        """Whether its tokens are the WordPieces of BERT."""
        return self.tokenizer_model == "bert"


def read_gguf(source: ByteSource, start: int, size: int, budget: WorkBudget) -> GgufFacts:
    """Read the GGUF that lies in ``[start, start + size)`` of ``source``.

    Raises:
        InvalidFileError: it is none, of an unknown version, cut short, or makes no sense.
    """
    header = read_header(source, start, size, budget)
    lookup = _Lookup(header.pairs)
    pooling = lookup.model_number("pooling_type")
    file_type = lookup.number("general.file_type")
    return GgufFacts(
        version=header.version,
        architecture=lookup.architecture,
        name=lookup.text("general.name"),
        kind=lookup.text("general.type"),
        **{name: lookup.model_number(key) for name, key in MODEL_NUMBERS.items()},
        vocab_size=_vocab_size(header.pairs, lookup),
        pooling=None if pooling is None else _POOLING.get(pooling),
        causal=lookup.flag(f"{lookup.architecture}.attention.causal"),
        tokenizer_model=lookup.text("tokenizer.ggml.model"),
        add_bos=lookup.flag("tokenizer.ggml.add_bos_token"),
        add_eos=lookup.flag("tokenizer.ggml.add_eos_token"),
        bos_id=lookup.number("tokenizer.ggml.bos_token_id"),
        eos_id=lookup.number("tokenizer.ggml.eos_token_id"),
        has_chat_template=header.pairs.has_chat_template,
        file_type=file_type,
        quantisation=_quantisation(header.tensors, file_type),
        parameters=header.tensors.parameters,
        tensor_bytes=header.tensors.total_bytes,
        tensor_count=header.tensor_count,
        tensor_types=_types(header.tensors),
        split=_split(lookup),
    )


class _Lookup:
    """Typed access to the metadata; a value of another type counts as absent."""

    def __init__(self, pairs: MetadataPairs) -> None:
        self._values = pairs.values
        self.architecture = self.text("general.architecture")

    def text(self, key: str) -> str | None:
        value = self._values.get(key)
        return value if isinstance(value, str) else None

    def flag(self, key: str) -> bool | None:
        value = self._values.get(key)
        return value if isinstance(value, bool) else None

    def number(self, key: str) -> int | None:
        value = self._values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            return None
        if value > _U32_MAX:
            raise InvalidFileError(f"its {key} is {value}")
        return value

    def model_number(self, key: str) -> int | None:
        return self.number(f"{self.architecture}.{key}")


def _vocab_size(pairs: MetadataPairs, lookup: _Lookup) -> int | None:
    return pairs.token_count if pairs.token_count is not None else lookup.model_number("vocab_size")


def _quantisation(tensors: TensorTable, file_type: int | None) -> str | None:
    if file_type in FILE_TYPES:
        return FILE_TYPES[file_type]
    if not tensors.bytes_by_type:
        return None
    dominant = max(tensors.bytes_by_type, key=lambda kind: tensors.bytes_by_type[kind])
    known = TENSOR_TYPES.get(dominant)
    return known.name if known else None


def _types(tensors: TensorTable) -> tuple[tuple[str, int], ...]:
    sizes = sorted(tensors.bytes_by_type.items())
    return tuple((TENSOR_TYPES[kind].name, size) for kind, size in sizes if kind in TENSOR_TYPES)


def _split(lookup: _Lookup) -> tuple[int, int] | None:
    index, count = lookup.number("split.no"), lookup.number("split.count")
    return (index, count) if index is not None and count is not None and count > 1 else None
