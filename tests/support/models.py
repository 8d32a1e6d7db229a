"""Models for tests: MiniLM as the store has it, and a tiny random llama that generates noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

__all__ = ["forget_added_eos", "write_reranker", "write_tiny_generator"]

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
    hidden, blocks, heads, kv_heads = 128, 2, 4, 2
    tokens = [b"<unk>", b"<s>", b"</s>", *(f"<0x{n:02X}>".encode() for n in range(256))]
    kinds = [2, 3, 3, *([6] * 256)]
    letters = ["\u2581", *(chr(c) for c in range(ord("a"), ord("z") + 1))]
    tokens += [letter.encode() for letter in letters]
    kinds += [1] * len(letters)
    tokens += [word.encode() for word in words]
    kinds += [4] * len(words)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny-generator")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
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
    writer.add_chat_template(_TEMPLATE)
    random = np.random.default_rng(7)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return random.normal(0, 0.05, (rows, columns)).astype(np.float32)

    kv_width = width // heads * kv_heads
    writer.add_tensor("token_embd.weight", matrix(len(tokens), width))
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    writer.add_tensor("output.weight", matrix(len(tokens), width))
    for block in range(blocks):
        shapes = {
            "attn_q": (width, width),
            "attn_k": (kv_width, width),
            "attn_v": (kv_width, width),
            "attn_output": (width, width),
            "ffn_gate": (hidden, width),
            "ffn_up": (hidden, width),
            "ffn_down": (width, hidden),
        }
        for name, (rows, columns) in shapes.items():
            writer.add_tensor(f"blk.{block}.{name}.weight", matrix(rows, columns))
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{block}.{name}.weight", np.ones(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
