"""Quantised models for tests, made with the functions of the wheel's own llama.cpp.

The wheel exports ``ggml_quantize_chunk``, which ``llama-quantize`` calls for each tensor. Rows that a K-quant
does not divide get what ``llama-quantize`` puts in its place; values and feed-forward outputs of the medium
mixtures get the finer type, as there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import xllamacpp.xllamacpp
from gguf import GGMLQuantizationType as Type
from gguf import LlamaFileType as FileType

#: Name -> its number in the file, the type of matrices, and the type of those that matter more.
MIXTURES = {
    "F16": (FileType.MOSTLY_F16, Type.F16, Type.F16),
    "Q8_0": (FileType.MOSTLY_Q8_0, Type.Q8_0, Type.Q8_0),
    "Q6_K": (FileType.MOSTLY_Q6_K, Type.Q6_K, Type.Q6_K),
    "Q5_K_M": (FileType.MOSTLY_Q5_K_M, Type.Q5_K, Type.Q6_K),
    "Q4_K_M": (FileType.MOSTLY_Q4_K_M, Type.Q4_K, Type.Q6_K),
    "Q4_0": (FileType.MOSTLY_Q4_0, Type.Q4_0, Type.Q4_0),
    "Q2_K": (FileType.MOSTLY_Q2_K, Type.Q2_K, Type.Q2_K),
}
_INSTEAD = {Type.Q2_K: Type.IQ4_NL, Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}
_MATTERS_MORE = ("attn_v", "ffn_down")
Change = Callable[[str, np.ndarray], np.ndarray]


def rewrite(
    model: Path,
    path: Path,
    mixture: str = "F16",
    *,
    name: str = "unknown-encoder",
    number: str | None = None,
    change: Change = lambda tensor, data: data,
    tokens: Callable[[list[str]], list[str]] = lambda listed: listed,
) -> Path:
    """Write an F16 encoder in another mixture and under another name.

    ``number``: the mixture that the file says it is, where that is another. ``change`` is given each tensor's
    name and stored bytes or numbers, ``tokens`` the vocabulary.
    """
    reader = gguf.GGUFReader(model)
    _, usual, finer = MIXTURES[mixture]
    writer = gguf.GGUFWriter(path, "bert")
    told: dict[str, Any] = {"general.name": name, "general.file_type": int(MIXTURES[number or mixture][0])}
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value: Any = told.get(key, field.contents())
        value = tokens(value) if key == "tokenizer.ggml.tokens" else value
        inner = field.types[-1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, value, field.types[0], inner)
    for tensor in reader.tensors:
        data, kind = tensor.data, tensor.tensor_type
        if kind is not Type.F32:
            kind = finer if any(part in tensor.name for part in _MATTERS_MORE) else usual
            data, kind = _quantise(gguf.quants.dequantize(tensor.data, tensor.tensor_type), kind)
        writer.add_tensor(tensor.name, change(tensor.name, data), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _quantise(data: np.ndarray, kind: Type) -> tuple[np.ndarray, Type]:
    if kind is Type.F16:
        return data.astype(np.float16), kind
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    rows, width = data.shape
    if width % elements:
        return _quantise(data, _INSTEAD[kind])
    numbers = np.ascontiguousarray(data, np.float32)
    made = np.zeros((rows, width // elements * size), np.uint8)
    quantise = ctypes.CDLL(xllamacpp.xllamacpp.__file__).ggml_quantize_chunk
    quantise.restype = ctypes.c_size_t
    whole = ctypes.c_int64
    quantise.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, whole, whole, whole, ctypes.c_void_p]
    written = quantise(int(kind), numbers.ctypes.data, made.ctypes.data, 0, rows, width, None)
    assert written == made.nbytes
    return made, kind
