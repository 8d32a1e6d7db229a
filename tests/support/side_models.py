"""Files that stand beside a model, with random weights: a LoRA adapter, and a projector for images.

Keys and tensors: llama.cpp b11100, ``src/llama-adapter.cpp`` and ``tools/mtmd/clip.cpp`` (its LLaVA branch).
"""

from __future__ import annotations

import base64
import struct
import zlib
from pathlib import Path

import gguf
import numpy as np


def write_adapter(path: Path, *, width: int = 64, architecture: str = "llama") -> Path:
    """Write an adapter of rank 4 for the first block of a model of this width, strong enough to be seen."""
    random = np.random.default_rng(11)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 64.0)
    for name in ("attn_q", "attn_output"):
        for half, shape in (("lora_a", (4, width)), ("lora_b", (width, 4))):
            values = random.normal(0, 1, shape).astype(np.float32)
            writer.add_tensor(f"blk.0.{name}.weight.{half}", values)
    return _finish(writer, path)


def write_projector(path: Path, *, width: int = 64, inner: int = 32) -> Path:
    """Write a LLaVA projector for images of 28 x 28 dots in four patches, for a model of ``width``."""
    random = np.random.default_rng(13)
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", True)
    sizes = {"image_size": 28, "patch_size": 14, "embedding_length": inner, "feed_forward_length": 64}
    sizes |= {"block_count": 2, "attention.head_count": 2, "projection_dim": width}
    for name, value in sizes.items():
        writer.add_uint32(f"clip.vision.{name}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    for name in ("image_mean", "image_std"):
        writer.add_array(f"clip.vision.{name}", [0.5, 0.5, 0.5])

    def put(name: str, *shape: int) -> None:
        values = np.ones(shape) if "ln" in name and name.endswith("weight") else random.normal(0, 0.2, shape)
        writer.add_tensor(name, values.astype(np.float32))

    put("v.class_embd", inner)
    put("v.patch_embd.weight", inner, 3, 14, 14)
    put("v.position_embd.weight", 5, inner)
    for block in range(2):
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            put(f"v.blk.{block}.{name}.weight", inner, inner)
            put(f"v.blk.{block}.{name}.bias", inner)
        for name, rows, columns in (("ffn_up", 64, inner), ("ffn_down", inner, 64)):
            put(f"v.blk.{block}.{name}.weight", rows, columns)
            put(f"v.blk.{block}.{name}.bias", rows)
        for name in ("ln1", "ln2"):
            put(f"v.blk.{block}.{name}.weight", inner)
            put(f"v.blk.{block}.{name}.bias", inner)
    for name in ("v.pre_ln", "v.post_ln"):
        put(f"{name}.weight", inner)
        put(f"{name}.bias", inner)
    put("mm.0.weight", width, inner)
    put("mm.0.bias", width)
    put("mm.2.weight", width, width)
    put("mm.2.bias", width)
    return _finish(writer, path)


def _finish(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def data_url(red: int, *, size: int = 28) -> str:
    """Return a PNG of one colour as a ``data:`` URL."""
    row = b"\0" + bytes((red, 40, 40)) * size
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(row * size)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode("ascii")
