"""Models of more than 500 MB with random weights, written in seconds: real sizes, and noise for texts.

One block of random numbers serves all blocks of a model, so that neither making nor compressing them costs
time; what an engine allocates does not depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

_TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model; the defaults make a generator of 620 MB in F16."""

    width: int = 1024
    hidden: int = 4096
    blocks: int = 18
    heads: int = 16
    kv_heads: int = 8
    vocabulary: int = 32000
    context: int = 32768


def write_large_generator(
    path: Path, shape: Shape, kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F16
) -> Path:
    """Write a ``llama``; its tokens are the bytes, the letters and made-up words."""
    writer = _begin(path, "llama", shape)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    tokens = [b"<unk>", b"<s>", b"</s>", *(f"<0x{n:02X}>".encode() for n in range(256))]
    kinds = [2, 3, 3, *([6] * 256)]
    tokens += ["\u2581".encode(), *(bytes([n]) for n in range(ord("a"), ord("z") + 1))]
    tokens += [f"\u2581w{n}".encode() for n in range(shape.vocabulary - len(tokens))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds + [1] * (len(tokens) - len(kinds)))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(_TEMPLATE)
    width, hidden = shape.width, shape.hidden
    narrow = width // shape.heads * shape.kv_heads
    _add_matrix(writer, kind, "token_embd", shape.vocabulary, width)
    _add_matrix(writer, kind, "output", shape.vocabulary, width)
    _add_ones(writer, "output_norm", width)
    shapes = {
        "attn_q": (width, width),
        "attn_k": (narrow, width),
        "attn_v": (narrow, width),
        "attn_output": (width, width),
        "ffn_gate": (hidden, width),
        "ffn_up": (hidden, width),
        "ffn_down": (width, hidden),
    }
    for block in range(shape.blocks):
        for name, (rows, columns) in shapes.items():
            _add_matrix(writer, kind, f"blk.{block}.{name}", rows, columns)
        for name in ("attn_norm", "ffn_norm"):
            _add_ones(writer, f"blk.{block}.{name}", width)
    return _end(writer, path)


def write_large_encoder(path: Path, shape: Shape) -> Path:
    """Write a ``bert`` in F16 with a WordPiece vocabulary of made-up words."""
    writer = _begin(path, "bert", shape)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.CLS)
    special = [b"[PAD]", b"[UNK]", b"[CLS]", b"[SEP]", b"[MASK]"]
    words = [f"\u2581w{n}".encode() for n in range(shape.vocabulary - len(special))]
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_type_count(2)
    writer.add_token_list([*special, *words])
    writer.add_token_types([3, 2, 3, 3, 3, *([1] * len(words))])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(3)
    writer.add_sep_token_id(3)
    writer.add_unk_token_id(1)
    writer.add_pad_token_id(0)
    writer.add_mask_token_id(4)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)
    half, width, hidden = gguf.GGMLQuantizationType.F16, shape.width, shape.hidden
    _add_matrix(writer, half, "token_embd", shape.vocabulary, width)
    _add_matrix(writer, gguf.GGMLQuantizationType.F32, "position_embd", shape.context, width)
    _add_matrix(writer, gguf.GGMLQuantizationType.F32, "token_types", 2, width)
    _add_norm(writer, "token_embd_norm", width)
    square = (width, width)
    shapes = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), square)
    shapes |= {"ffn_up": (hidden, width), "ffn_down": (width, hidden)}
    for block in range(shape.blocks):
        for name, (rows, columns) in shapes.items():
            _add_matrix(writer, half, f"blk.{block}.{name}", rows, columns)
            writer.add_tensor(f"blk.{block}.{name}.bias", np.zeros(rows, np.float32))
        for name in ("attn_output_norm", "layer_output_norm"):
            _add_norm(writer, f"blk.{block}.{name}", width)
    return _end(writer, path)


def _begin(path: Path, architecture: str, shape: Shape) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(path.stem)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.blocks)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_vocab_size(shape.vocabulary)
    return writer


_MADE: dict[tuple[gguf.GGMLQuantizationType, int, int], np.ndarray] = {}


def _add_matrix(
    writer: gguf.GGUFWriter, kind: gguf.GGMLQuantizationType, name: str, rows: int, columns: int
) -> None:
    if (kind, rows, columns) not in _MADE:
        values = np.random.default_rng(7).standard_normal((rows, columns), np.float32) * 0.02
        _MADE[kind, rows, columns] = gguf.quants.quantize(values, kind)
    writer.add_tensor(f"{name}.weight", _MADE[kind, rows, columns], raw_dtype=kind)


def _add_ones(writer: gguf.GGUFWriter, name: str, width: int) -> None:
    writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))


def _add_norm(writer: gguf.GGUFWriter, name: str, width: int) -> None:
    _add_ones(writer, name, width)
    writer.add_tensor(f"{name}.bias", np.zeros(width, np.float32))


def _end(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    _MADE.clear()
    return path
