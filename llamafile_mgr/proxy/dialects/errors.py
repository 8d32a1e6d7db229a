"""Errors in each dialect's own form. Every form tells whose error it is: ours or an engine's."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from llamafile_mgr.errors import EngineError, Error, NotReadyError
from llamafile_mgr.proxy.refusals import EngineRefusedError

__all__ = ["Dialect", "error_source", "render_error"]


class Dialect(StrEnum):
    """A client API; llamafile's own clients read OpenAI's error object, as its engines send it."""

    OPENAI = "openai"
    OLLAMA = "ollama"
    TEI = "tei"
    COHERE = "cohere"


def error_source(error: Error) -> str:
    """Return ``engine`` for what an engine said or did, else our name."""
    return "engine" if isinstance(error, (EngineError, EngineRefusedError)) else "llamafile-mgr"


def render_error(error: Error, dialect: Dialect = Dialect.OPENAI) -> dict[str, Any]:
    """Return the error object; on Ollama's and TEI's routes ``error`` is a text: clients print it."""
    text, source = error.describe(), error_source(error)
    if dialect is Dialect.OLLAMA:
        return {"error": text, "code": error.code, "src": source}
    if dialect is Dialect.TEI:
        return {"error": text, "error_type": _tei_type(error), "code": error.code, "src": source}
    if dialect is Dialect.COHERE:
        return {"message": text, "code": error.code, "src": source}
    kind = "invalid_request_error" if error.http_status < 500 else "server_error"
    if isinstance(error, NotReadyError):
        kind = "unavailable_error"
    return {"error": {"message": text, "type": kind, "code": error.code, "param": None, "src": source}}


def _tei_type(error: Error) -> str:
    if isinstance(error, NotReadyError):
        return "unhealthy"
    if error.http_status == 429:
        return "overloaded"
    return "validation" if error.http_status < 500 else "backend"
