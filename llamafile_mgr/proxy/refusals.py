"""The proxy's own reasons to refuse a request; all are the caller's to mend, or to try again later."""

from __future__ import annotations

from llamafile_mgr.errors import NotReadyError, RequestError

__all__ = [
    "BusyError",
    "DeadlineError",
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


class BusyError(RequestError):
    """The queue is full. ``retry_seconds``: when there should be room, from the measured rate."""

    http_status = 429
    code = "busy"

    def __init__(self, message: str, *, retry_seconds: int = 1, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_seconds = retry_seconds

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_busy, (self.message, self.retry_seconds, self.hint)


def _rebuild_busy(message: str, retry_seconds: int, hint: str | None) -> BusyError:
    return BusyError(message, retry_seconds=retry_seconds, hint=hint)


class DeadlineError(NotReadyError):
    """The request's time is over and there is no answer yet."""

    http_status = 504
    code = "deadline"
