"""Reading engine replies: JSON objects, error texts and vectors, whatever the engine made of them."""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Any

import orjson

from llamafile_mgr.engines.messages import EngineReply, EngineVectors
from llamafile_mgr.errors import EngineError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_TOO_LONG = re.compile(
    r"too large to process|exceeds? the (?:available )?context|larger than the max context", re.I
)


def error_text(reply: EngineReply) -> str:
    """Return what an engine said went wrong, from a JSON error object or from plain text."""
    try:
        body: Any = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        return reply.body.decode("utf-8", "replace").strip()[:500] or f"HTTP status {reply.status}"
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        return str(error.get("message", error))
    return str(error or body)[:500]


def says_too_long(reply: EngineReply) -> bool:
    """Tell whether an engine refused a text because it is too long: some call that an error of their own."""
    return reply.status != 200 and _TOO_LONG.search(error_text(reply)) is not None


def read_json(reply: EngineReply) -> Any:
    """Return the JSON of a good reply.

    Raises:
        EngineError: another status than 200, or no JSON.
    """
    if reply.status != 200:
        raise EngineError(f"the engine answered {reply.status}: {error_text(reply)}")
    try:
        return orjson.loads(reply.body)
    except orjson.JSONDecodeError as error:
        raise EngineError(f"the engine answered 200 with no JSON: {error}") from error


def read_openai_vectors(reply: EngineReply, count: int) -> EngineVectors:
    """Return the vectors of an OpenAI-shaped reply, as numbers or base64 of little-endian float32.

    Raises:
        EngineError: not ``count`` vectors of one width.
    """
    body = read_json(reply)
    try:
        data = sorted(body["data"], key=lambda item: item["index"])
        vectors = stack_vectors([item["embedding"] for item in data], count)
        usage = body.get("usage") or {}
        tokens = usage.get("prompt_tokens")
    except (KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"the engine's reply has no vectors: {reply.body[:200]!r}") from error
    return EngineVectors(vectors, tokens if isinstance(tokens, int) and tokens > 0 else None)


def stack_vectors(rows: list[object], count: int) -> NDArray[np.float32]:
    """Return float32 of shape (count, dimensions) from lists of numbers or base64 texts.

    Engines hide failures in HTTP 200: null, an empty list or a null among the numbers are errors here.

    Raises:
        EngineError: another count, an empty or missing vector, or different widths.
    """
    import numpy as np  # here, so that planning an engine does not load it

    if len(rows) != count:
        raise EngineError(f"the engine gave {len(rows)} vectors for {count} texts")
    vectors = [_read_vector(row) for row in rows]
    if len({len(vector) for vector in vectors}) != 1:
        raise EngineError("the engine gave vectors of different widths")
    return np.stack(vectors) if len(vectors) > 1 else vectors[0][np.newaxis]


def _read_vector(row: object) -> NDArray[np.float32]:
    import numpy as np

    try:
        if isinstance(row, str):
            vector = np.frombuffer(base64.b64decode(row, validate=True), dtype="<f4")
        else:
            vector = np.asarray(row, dtype=np.float32)
    except (ValueError, TypeError, binascii.Error) as error:
        raise EngineError(f"the engine gave something that is no vector: {error}") from error
    if vector.ndim != 1 or vector.size == 0:
        raise EngineError("the engine gave an empty vector or none")
    return vector
