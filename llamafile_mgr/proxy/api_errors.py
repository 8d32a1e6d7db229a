"""The proxy's own reasons to refuse a request; all are the caller's to mend, or to try again later."""

from __future__ import annotations

from llamafile_mgr.errors import RequestError

__all__ = [
    "EngineRefusedError",
    "ForeignHostError",
    "ForeignOriginError",
    "MissingKeyError",
    "NotAdminError",
    "SlowBodyError",
    "UnknownModelError",
    "UnsupportedError",
]


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


class SlowBodyError(RequestError, code="slow_body", http_status=408):
    """The request's body did not come in time."""
