"""Re-encoding the weights of a GGUF: matrices of half precision become another tensor type.

What llama.cpp's own ``llama-quantize`` does for types of whole blocks, without the program. All else of the
file (names, order, tokenizer, vectors, what is F32) stays as it is, so that equal files make equal files.
Needs the extra ``embedded`` (gguf).
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

from llamafile_mgr.errors import InvalidFileError, UsageError

#: What can be made, and of what.
MADE_TYPES = ("Q8_0", "F16")
_HALF = frozenset({"F16", "BF16"})


def require_extra() -> None:
    """Raise UsageError where the packages that write GGUF files are not installed."""
    try:
        import gguf  # noqa: F401
        import safetensors  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"this model has to be converted, which needs {error.name}",
            hint="pip install 'llamafile-mgr[embedded]'",
        ) from error


def describe_tools() -> str:
    """Return the versions of the packages that decide the bytes of what is made."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("gguf", "numpy"))


def is_gguf(path: Path) -> bool:
    """Tell whether a file begins as a GGUF does. Raises OSError."""
    with path.open("rb") as stream:
        return stream.read(4) == b"GGUF"


def requantise(source: Path, destination: Path, quantisation: str) -> None:
    """Write ``source`` with its F16 and BF16 matrices as ``quantisation``, one of ``MADE_TYPES``.

    One matrix is in memory at a time. ``destination`` is not cleared away when this fails.

    Raises:
        UsageError: the extra ``embedded`` is not installed.
        InvalidFileError: ``source`` is no readable GGUF, or has no such matrices.
        OSError: a file cannot be read or written.
    """
    require_extra()
    import gguf

    try:
        reader = gguf.GGUFReader(source)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise InvalidFileError(f"{source} is no readable GGUF: {error}") from error
    if not any(tensor.tensor_type.name in _HALF for tensor in reader.tensors):
        raise InvalidFileError(f"{source} has no weights of half precision that could be re-encoded")
    field = reader.get_field("general.architecture")
    writer = gguf.GGUFWriter(destination, field.contents() if field is not None else "")
    try:
        _copy_metadata(reader, writer, gguf.LlamaFileType[f"MOSTLY_{quantisation}"])
        _copy_tensors(reader, writer, gguf.GGMLQuantizationType[quantisation])
    finally:
        writer.close()


def _copy_metadata(reader: Any, writer: Any, file_type: int) -> None:
    import gguf

    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        value = int(file_type) if field.name == "general.file_type" else field.contents()
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, value, kind, sub_type=inner)


def _copy_tensors(reader: Any, writer: Any, kind: Any) -> None:
    import gguf
    import numpy as np

    block, _ = gguf.GGML_QUANT_SIZES[kind]
    chosen = [t.tensor_type.name in _HALF and int(t.shape[0]) % block == 0 for t in reader.tensors]
    for tensor, changes in zip(reader.tensors, chosen, strict=True):
        to = kind if changes else tensor.tensor_type
        elements, size = gguf.GGML_QUANT_SIZES[to]
        shape = [int(number) for number in reversed(tensor.shape)]  # numpy's order
        writer.add_tensor_info(
            tensor.name, shape, np.dtype(np.float32), tensor.n_elements // elements * size, raw_dtype=to
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, changes in zip(reader.tensors, chosen, strict=True):
        data = tensor.data
        if changes:
            data = gguf.quants.quantize(gguf.quants.dequantize(data, tensor.tensor_type), kind)
        writer.write_tensor_data(data)
