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


class ForeignHostError(RequestError):
    """The request names a host that is not ours: what DNS rebinding looks like."""

    http_status = 403
    code = "forbidden_host"


class ForeignOriginError(RequestError):
    """A page of another origin sent the request."""

    http_status = 403
    code = "forbidden_origin"


class MissingKeyError(RequestError):
    """No API key, or one that we do not know."""

    http_status = 401
    code = "invalid_api_key"


class NotAdminError(RequestError):
    """The key is good, but the route is the administrator's."""

    http_status = 403
    code = "admin_only"


class UnknownModelError(RequestError):
    """No model of that name is served."""

    http_status = 404
    code = "model_not_found"


class UnsupportedError(RequestError):
    """The model or its engine cannot do this."""

    code = "not_supported"


class EngineRefusedError(RequestError):
    """The engine refused the request as it was sent."""

    code = "engine_refused"


class SlowBodyError(RequestError):
    """The request's body did not come in time."""

    http_status = 408
    code = "slow_body"
