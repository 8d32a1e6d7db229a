"""W3C trace context on its way through: what of a request's headers reaches the engine, and in which form.

Source: https://www.w3.org/TR/trace-context/. The proxy makes no span of its own, so parents stay parents. A
header that is not well formed is dropped, never mended. Embedding calls of several callers are computed
together; such a request has no one parent, and carries nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

#: Version 00; ``ff`` is no version, and ids of zeros mean none.
_TRACE_PARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII
)
#: Pairs ``key=value``; a value may hold spaces, but nothing that ends a line.
_TRACE_STATE = re.compile(r"[a-z0-9][a-z0-9_*/@-]{0,255}=[ -+\--<>-~]{1,256}(?:,.*)?", re.ASCII)
_STATE_CHARACTERS = re.compile(r"[ -~]{1,512}", re.ASCII)


def trace_id(headers: Mapping[str, str]) -> str | None:
    """Return the trace id of a well-formed ``traceparent`` header."""
    parent = headers.get("traceparent")
    match = _TRACE_PARENT.fullmatch(parent) if parent is not None else None
    return match.group(1) if match else None


def engine_headers(headers: Mapping[str, str], request_id: str) -> tuple[tuple[str, str], ...]:
    """Return what goes to the engine: our request id, and the trace context that the caller sent.

    ``request_id``: checked already, or made by us.
    """
    passed = [("x-request-id", request_id)] if request_id else []
    if trace_id(headers) is not None:
        passed.append(("traceparent", headers["traceparent"]))
        state = headers.get("tracestate", "")
        if _STATE_CHARACTERS.fullmatch(state) and _TRACE_STATE.fullmatch(state):
            passed.append(("tracestate", state))
    return tuple(passed)
