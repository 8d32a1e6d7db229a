"""The error object that engines send themselves; dialects whose clients read another bring their own.

Every form tells whose error it is: ours or an engine's.
"""

from __future__ import annotations

from typing import Any

from llamafile_mgr.errors import EngineError, Error, NotReadyError
from llamafile_mgr.proxy.api_errors import EngineRefusedError
from llamafile_mgr.proxy.dialects.schemas import Schema

__all__ = ["ERROR_SCHEMA", "error_source", "render_error"]

ERROR_SCHEMA: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "object", "required": ["message", "type", "code", "src"]}},
}


def error_source(error: Error) -> str:
    """Return ``engine`` for what an engine said or did, else our name."""
    return "engine" if isinstance(error, (EngineError, EngineRefusedError)) else "llamafile-mgr"


def render_error(error: Error) -> dict[str, Any]:
    """Return the error object."""
    kind = "invalid_request_error" if error.http_status < 500 else "server_error"
    if isinstance(error, NotReadyError):
        kind = "unavailable_error"
    said = {"message": error.describe(), "type": kind, "code": error.code, "param": None}
    return {"error": {**said, "src": error_source(error)}}
