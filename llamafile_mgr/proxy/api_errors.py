"""The proxy's own reasons to refuse a request, all the caller's to mend or try again; how errors are told."""

from __future__ import annotations

from typing import Any

from llamafile_mgr.errors import EngineError, Error, NotReadyError, RequestError
from llamafile_mgr.proxy.dialects.schemas import Schema


class BadHostError(RequestError, code="bad_host"):
    """The request names no host, several, or what cannot be one."""


class ForeignHostError(RequestError, code="forbidden_host", http_status=403):
    """The request names a host that is not ours: what DNS rebinding looks like."""


class ForeignOriginError(RequestError, code="forbidden_origin", http_status=403):
    """A page of another origin sent the request."""


class MissingKeyError(RequestError, code="invalid_api_key", http_status=401):
    """No API key, or one that we do not know."""


class NotAdminError(RequestError, code="admin_only", http_status=403):
    """The key is good, but the route is the administrator's."""


class UnknownModelError(RequestError, code="model_not_found", http_status=404):
    """No model of that name is served."""


class UnsupportedError(RequestError, code="not_supported"):
    """The model or its engine cannot do this."""


class EngineRefusedError(RequestError, code="engine_refused"):
    """The engine refused the request as it was sent."""


class MisdirectedError(RequestError, code="misdirected", http_status=421):
    """The request is for another scheme than the one that it came by."""


class CodedBodyError(RequestError, code="coded_body", http_status=415):
    """The request's body is compressed."""


class SlowBodyError(RequestError, code="slow_body", http_status=408):
    """The request's body did not come in time."""


#: Of the error object that engines send themselves; dialects whose clients read another bring their own.
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
