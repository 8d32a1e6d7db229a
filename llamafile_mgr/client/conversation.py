"""Calls without I/O: generators that say what to send or how many seconds to wait, and are told the outcome.

Both clients drive the same generators, so that they cannot differ.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import httpx

from llamafile_mgr.errors import (
    EngineError,
    Error,
    InternalError,
    NotFoundError,
    NotReadyError,
    RequestError,
    error_class,
)

_T = TypeVar("_T")

#: Worth another try: the queue is full, the model not ready, or an engine was lost.
_AGAIN = frozenset({429, 502, 503})
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Send:
    """Send this request; ``body`` is JSON text."""

    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


#: Of a request an answer or why there was none, of a pause nothing.
Outcome: TypeAlias = httpx.Response | httpx.HTTPError | None
Exchange: TypeAlias = Generator[Send | float, Outcome, _T]


def send_json(
    method: str,
    path: str,
    body: Mapping[str, Any] | None,
    *,
    retries: int,
    headers: Mapping[str, str] | None = None,
) -> Exchange[tuple[Any, Mapping[str, str]]]:
    """Send one request, again when that may help, and return the answer's JSON value and headers.

    Everything that is sent this way may be sent twice.

    Raises:
        Error: what the server answered, as its own class where that is ours.
        NotReadyError: nobody answers there.
    """
    content = json.dumps(body).encode() if body is not None else None
    sent = {**(headers or {}), **({"content-type": "application/json"} if content is not None else {})}
    for attempt in range(retries + 1):
        outcome = yield Send(method, path, content, sent)
        last = attempt == retries
        wait = float(_FIRST_PAUSE_SECONDS * 2**attempt)
        if isinstance(outcome, httpx.Response):
            value = _parse(outcome) if outcome.status_code < 400 else None
            # A call that was held has sent its status before it failed.
            failed_late = isinstance(value, dict) and set(value) == {"error"}
            if outcome.status_code < 400 and not failed_late:
                return value, outcome.headers
            error = read_error(outcome)
            again = isinstance(error, NotReadyError) if failed_late else outcome.status_code in _AGAIN
            if last or not again:
                raise error
            wait = _retry_after(outcome) or wait
        elif last:
            raise NotReadyError(
                "the server does not answer",
                cause=f"{type(outcome).__name__}: {outcome}".rstrip(": "),
                hint="is it running? llamafile-mgr status",
            )
        yield min(wait, _LONGEST_PAUSE_SECONDS)
    raise InternalError("a call ended without an answer")


def _retry_after(outcome: httpx.Response) -> float | None:
    text = outcome.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else None


def _parse(outcome: httpx.Response) -> Any:
    try:
        return json.loads(outcome.content)
    except ValueError as error:
        raise EngineError(
            f"the server's answer is no JSON: {error}", hint="is it a llamafile-mgr server?"
        ) from error


def read_error(outcome: httpx.Response) -> Error:
    """Return the error that an answer tells of."""
    message, code = _told(outcome.content)
    message = message or f"the server answered with status {outcome.status_code}"
    cls = error_class(code) if code else None
    error = (cls or _class_of_status(outcome.status_code))(message)
    if isinstance(error, NotReadyError):
        error.retry_after_seconds = _retry_after(outcome) or error.retry_after_seconds
    return error


def _told(body: bytes) -> tuple[str | None, str | None]:
    """Return message and code of an error in the form of OpenAI, Ollama or Cohere."""
    try:
        value = json.loads(body)
        told = value.get("error", value)
        if isinstance(told, str):
            return told, value.get("code")
        return str(told["message"]), str(told.get("code"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, None


def _class_of_status(status: int) -> type[Error]:
    if status == 404:
        return NotFoundError
    if status in (429, 503, 504):
        return NotReadyError
    return EngineError if status >= 500 else RequestError
