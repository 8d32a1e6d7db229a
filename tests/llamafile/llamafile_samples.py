"""Files to read: GGUFs written by the ``gguf`` package, and APE-like runtimes in front of a ZIP.

No real llamafile can be fetched where these tests run. The shapes here follow the sources of
``zipalign`` and of llamafile's loader; what a real head contains besides is not known to them.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, PoolingType

from llamafile_mgr.llamafile.zip_records import StoredMember, central_record, local_header


def head(version: str | None = "0.8.4", *, marker: bool = False, script: str = "exit 0") -> bytes:
    """Return a launcher: exec refuses it, sh runs it, and nothing behind its exit is read by sh."""
    lines = ["MZqFpD=''", f": 'llamafile v{version}'" if version else ":", ": 'see llamafile v0.1.0'"]
    if version:
        lines.append(f": 'llamafile v{version} - run models'")
    if marker:
        lines.append(": python -m llamafile_mgr.engines.embedded")
    return "\n".join([*lines, script, ""]).encode()


def write_bert(path: Path, *, add_eos: bool = True) -> Path:
    """Write a small BERT-like GGUF with mean pooling."""
    writer = GGUFWriter(path, "bert")
    writer.add_name("tiny bert")
    writer.add_context_length(512)
    writer.add_embedding_length(384)
    writer.add_feed_forward_length(1536)
    writer.add_block_count(6)
    writer.add_head_count(12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(PoolingType.MEAN)
    writer.add_file_type(1)
    writer.add_tokenizer_model("bert")
    writer.add_token_list([f"token{i}" for i in range(100)])
    writer.add_bos_token_id(101)
    writer.add_eos_token_id(102)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(add_eos)
    writer.add_tensor("token_embd.weight", np.zeros((100, 384), dtype=np.float16))
    writer.add_tensor("token_embd_norm.weight", np.ones(384, dtype=np.float32))
    return _finish(writer, path)


def write_llama(path: Path) -> Path:
    """Write a small generation GGUF whose KV heads differ per layer."""
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(64)
    writer.add_block_count(3)
    writer.add_head_count(8)
    writer.add_head_count_kv([2, 4, 0])
    writer.add_key_length(8)
    writer.add_value_length(16)
    writer.add_expert_count(4)
    writer.add_expert_used_count(2)
    writer.add_sliding_window(1024)
    writer.add_chat_template("{{ messages }}")
    writer.add_tensor("token_embd.weight", np.zeros((32, 64), dtype=np.float32))
    return _finish(writer, path)


def write_projector(path: Path) -> Path:
    """Write the image half of a multimodal model."""
    writer = GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_tensor("v.patch", np.zeros((4, 4), dtype=np.float32))
    return _finish(writer, path)


def _finish(writer: GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_runtime(path: Path, members: dict[str, bytes] | None = None, *, start: bytes | None = None) -> Path:
    """Write a bare runtime: a head, and a ZIP as real ones carry it (``.symtab.amd64`` at least)."""
    path.write_bytes(start if start is not None else head())
    with zipfile.ZipFile(path, "a") as archive:
        for name, data in ({".symtab.amd64": b"\0" * 100} | (members or {})).items():
            archive.writestr(name, data)
    return path


def write_llamafile(
    path: Path, gguf: Path, arguments: str | None = None, *, start: bytes | None = None
) -> Path:
    """Write a llamafile with ``zipfile`` alone, so that our own writer is not its judge."""
    write_runtime(path, start=start)
    with zipfile.ZipFile(path, "a") as archive:
        archive.write(gguf, gguf.name)
        if arguments is not None:
            archive.writestr(".args", arguments)
    return path


def raw_gguf(pairs: list[bytes] = [], tensors: list[bytes] = [], *, tail: int = 0) -> bytes:  # noqa: B006
    """Return a GGUF built by hand, for what the writer refuses to write."""
    if not any(b"general.architecture" in known for known in pairs):
        pairs = [*pairs, pair("general.architecture", 8, text("llama"))]
    return (
        struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(pairs))
        + b"".join(pairs)
        + b"".join(tensors)
        + bytes(tail)
    )


def pair(key: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def member(name: str, data: bytes, offset: int) -> tuple[bytes, bytes]:
    """Return (local header and data, central record) of a stored member."""
    entry = StoredMember(name, len(data), offset, zlib.crc32(data))
    return local_header(entry) + data, central_record(entry)
