"""Which weights are these? A digest of samples, the same for a bare GGUF and for one inside a llamafile."""

from __future__ import annotations

import hashlib
from pathlib import Path

from llamafile_mgr.errors import InvalidFileError
from llamafile_mgr.llamafile.inspection import Weights

_SAMPLES = 64
_SAMPLE_BYTES = 64 * 1024


def identify_weights(path: Path, weights: Weights) -> str:
    """Return a sha256 over the weights' size and 64 evenly spaced blocks of them (4 MiB in all).

    It tells models apart at the cost of a few reads, also at 14 GB; it does not prove that a file is
    undamaged. The first block holds the header: names, shapes and the tokenizer.

    Raises:
        InvalidFileError: the file cannot be read.
    """
    digest = hashlib.sha256(weights.size.to_bytes(8, "little"))
    last = max(0, weights.size - _SAMPLE_BYTES)
    try:
        with path.open("rb") as stream:
            for position in sorted({last * number // (_SAMPLES - 1) for number in range(_SAMPLES)}):
                stream.seek(weights.offset + position)
                digest.update(stream.read(min(_SAMPLE_BYTES, weights.size - position)))
    except OSError as error:
        raise InvalidFileError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()
