"""Models for tests: MiniLM as the store has it, and a tiny random llama that generates noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

__all__ = [
    "forget_added_eos",
    "write_large_generator",
    "write_letter_embedder",
    "write_reranker",
    "write_tiny_generator",
]

#: What makes attention see all tokens alike, and count.
_EVEN_ATTENTION = {"attn_q": 0.0, "attn_k": 0.0, "attn_v": 8.0, "attn_output": 8.0}
_TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def forget_added_eos(model: Path, path: Path) -> Path:
    """Copy a GGUF that asks for an end-of-sequence token, on which v1 engines abort, as one that does not."""
    key = b"tokenizer.ggml.add_eos_token" + (7).to_bytes(4, "little")
    data = model.read_bytes()
    assert data.count(key + b"\x01") == 1
    path.write_bytes(data.replace(key + b"\x01", key + b"\x00"))
    return path


def write_reranker(encoder: Path, path: Path, head: np.ndarray, bias: float = 0.0) -> Path:
    """Write a BERT as a reranker: its weights, and a head of one row that makes a score of ``[CLS]``."""
    reader = gguf.GGUFReader(encoder)
    writer = gguf.GGUFWriter(path, "bert")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = gguf.PoolingType.RANK.value if name == "bert.pooling_type" else field.contents()
        value = "tiny-reranker" if name == "general.name" else value
        inner = field.types[-1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, field.types[0], inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.add_tensor("cls.output.weight", head.astype(np.float32).reshape(1, -1))
    writer.add_tensor("cls.output.bias", np.array([bias], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_tiny_generator(
    path: Path, *, context: int = 512, width: int = 64, words: Sequence[str] = ()
) -> Path:
    """Write a ``llama`` of 64 dimensions and two blocks with random weights (450 KB); its text is noise.

    ``words``: further tokens of their own, whatever stands around them.
    """
    return _write_llama(path, _Shape("tiny-generator", width, 128, 2, 4, 2, words=tuple(words)), context)


def write_large_generator(path: Path, *, context: int = 2048) -> Path:
    """Write a ``llama`` of 520 million random weights in 4 bits (290 MB); its text is noise.

    A letter is a token. All blocks have the same weights, which takes as long to compute as others would.
    """
    return _write_llama(path, _Shape("large-generator", 1536, 4096, 21, 12, 3, alike=True), context, "Q4_0")


def write_letter_embedder(path: Path, *, context: int = 512) -> Path:
    """Write a ``llama`` of 64 dimensions that embeds, as its last token, about which letters a text has.

    Its attention is even over all tokens, and outweighs what the last one is. No pieces of words, so that
    engines of all generations agree on its tokens.
    """
    return _write_llama(path, _Shape("letter-embedder", 64, 128, 1, 4, 4, embeds=True), context)


@dataclass(frozen=True)
class _Shape:
    name: str
    width: int
    hidden: int
    blocks: int
    heads: int
    kv_heads: int
    alike: bool = False
    embeds: bool = False
    words: tuple[str, ...] = ()


def _write_llama(path: Path, shape: _Shape, context: int, quantisation: str = "F32") -> Path:
    width, hidden, heads = shape.width, shape.hidden, shape.heads
    tokens = [b"<unk>", b"<s>", b"</s>", *(f"<0x{n:02X}>".encode() for n in range(256))]
    kinds = [2, 3, 3, *([6] * 256)]
    letters = ["\u2581", *(chr(c) for c in range(ord("a"), ord("z") + 1))]
    tokens += [letter.encode() for letter in letters]
    kinds += [1] * len(letters)
    tokens += [word.encode() for word in shape.words]
    kinds += [4] * len(shape.words)
    packed = gguf.GGMLQuantizationType[quantisation]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(shape.name)
    mostly = "ALL_F32" if quantisation == "F32" else f"MOSTLY_{quantisation}"
    writer.add_file_type(gguf.LlamaFileType[mostly])
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(shape.blocks)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    if shape.embeds:
        writer.add_pooling_type(gguf.PoolingType.LAST)
    else:
        writer.add_chat_template(_TEMPLATE)
    random = np.random.default_rng(7)

    def matrix(rows: int, columns: int) -> np.ndarray:
        values = random.normal(0, 0.05, (rows, columns)).astype(np.float32)
        return values if quantisation == "F32" else gguf.quantize(values, packed)

    kv_width = width // heads * shape.kv_heads
    writer.add_tensor("token_embd.weight", matrix(len(tokens), width), raw_dtype=packed)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    writer.add_tensor("output.weight", matrix(len(tokens), width), raw_dtype=packed)
    shapes = {
        "attn_q": (width, width),
        "attn_k": (kv_width, width),
        "attn_v": (kv_width, width),
        "attn_output": (width, width),
        "ffn_gate": (hidden, width),
        "ffn_up": (hidden, width),
        "ffn_down": (width, hidden),
    }
    weights: dict[str, np.ndarray] = {}
    for block in range(shape.blocks):
        if not (weights and shape.alike):
            weights = {name: matrix(rows, columns) for name, (rows, columns) in shapes.items()}
        if shape.embeds:
            weights |= {name: weights[name] * factor for name, factor in _EVEN_ATTENTION.items()}
        for name, values in weights.items():
            writer.add_tensor(f"blk.{block}.{name}.weight", values, raw_dtype=packed)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{block}.{name}.weight", np.ones(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
