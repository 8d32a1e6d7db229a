"""The one error hierarchy: what happened, why it likely happened, what to do next.

Libraries raise these, only ``cli`` turns them into exit codes and only ``proxy`` into HTTP
statuses. Foreign exceptions (``OSError``, ``httpx``, ``json``) are translated where they occur.

    Error
    ├── UsageError            a command or call that cannot mean anything
    ├── ConfigError           the configuration file, a variable or a flag is wrong
    ├── NotFoundError         no such model, artifact or file
    ├── InvalidFileError      a file is not what it claims to be
    ├── IntegrityError        bytes differ from their digest
    ├── DownloadError         bytes could not be fetched
    │   └── OfflineError      fetching was forbidden
    ├── StoreError            the store cannot be read or written
    │   └── DiskFullError     there is no room
    ├── PlanError             no launch of this model can work on this machine
    ├── EngineError           an engine died, hung or answered nonsense
    │   ├── EngineStartError  an engine never became ready
    │   └── EngineLostError   the connection to an engine broke: it died or was stopped
    │       └── EngineUnreachedError  there was none: it never saw the request
    ├── PortInUseError        our own listening address is taken
    ├── NotReadyError         the model is not ready yet, or no longer
    │   ├── BusyError         the queue is full
    │   └── DeadlineError     the call's time is over
    ├── ServiceError          the system's service manager cannot or will not do it
    ├── RequestError          a request to the proxy cannot be answered as sent
    │   ├── InputTooLongError
    │   ├── BodyTooLargeError
    │   ├── UnknownRouteError
    │   ├── WrongMethodError
    │   ├── DeadlyRequestError  engines die of it
    │   └── VectorSpaceError  vectors would not fit those that the caller has
    ├── CheckpointError       a bulk job cannot go on where it stopped
    ├── IncompleteError       a bulk job ended with texts that have no vector
    └── InternalError         a defect of ours
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

__all__ = [
    "BodyTooLargeError",
    "BusyError",
    "CheckpointError",
    "ConfigError",
    "DeadlineError",
    "DeadlyRequestError",
    "DiskFullError",
    "DownloadError",
    "EngineError",
    "EngineLostError",
    "EngineStartError",
    "EngineUnreachedError",
    "Error",
    "IncompleteError",
    "InputTooLongError",
    "IntegrityError",
    "InternalError",
    "InvalidFileError",
    "NotFoundError",
    "NotReadyError",
    "OfflineError",
    "PlanError",
    "PortInUseError",
    "RequestError",
    "ServiceError",
    "StoreError",
    "UnknownRouteError",
    "UsageError",
    "VectorSpaceError",
    "WrongMethodError",
    "error_class",
]


class Error(Exception):
    """Base of all errors that a user may see.

    ``message`` says what happened in one sentence, ``cause`` why it likely happened and ``hint``
    what to do next; the latter two may be ``None``. ``code`` is a stable word for scripts.
    """

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, cause: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.cause = cause
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.cause, self.hint)

    def describe(self) -> str:
        """Return message, cause and hint on one line, for logs and HTTP bodies."""
        return "; ".join(part for part in (self.message, self.cause, self.hint) if part)


def _rebuild(cls: type[Error], message: str, cause: str | None, hint: str | None) -> Error:
    return cls(message, cause=cause, hint=hint)


class InternalError(Error):
    """A defect of ours; ``--debug`` shows the traceback."""

    exit_code = 1
    http_status = 500
    code = "internal_error"


class UsageError(Error):
    """A command line or call that cannot mean anything (click's own usage errors share the code)."""

    exit_code = 2
    http_status = 400
    code = "usage"


class ConfigError(Error):
    """The configuration file, an environment variable or a flag is wrong."""

    exit_code = 3
    code = "config"


class NotFoundError(Error):
    """There is no such model, artifact or file."""

    exit_code = 4
    http_status = 404
    code = "not_found"


class InvalidFileError(Error):
    """A file is not what it claims to be: no llamafile, a cut ZIP, a GGUF of another version."""

    exit_code = 5
    http_status = 422
    code = "invalid_file"


class IntegrityError(Error):
    """Bytes differ from the digest or size that was promised for them."""

    exit_code = 6
    http_status = 502
    code = "integrity"


class DownloadError(Error):
    """Bytes could not be fetched: network, server or address."""

    exit_code = 7
    http_status = 502
    code = "download"


class OfflineError(DownloadError):
    """Fetching was needed and the offline switch forbids it."""

    code = "offline"


class StoreError(Error):
    """The store cannot be read or written."""

    exit_code = 8
    code = "store"


class DiskFullError(StoreError):
    """There is no room left; what has arrived is kept for a resume."""

    exit_code = 9
    http_status = 507
    code = "disk_full"


class PlanError(Error):
    """No launch of this model can work on this machine with what is on the disk."""

    exit_code = 10
    http_status = 409
    code = "plan"


class EngineError(Error):
    """An engine died, hung or answered nonsense."""

    exit_code = 11
    http_status = 502
    code = "engine"


class EngineStartError(EngineError):
    """An engine never became ready."""

    exit_code = 12
    http_status = 503
    code = "engine_start"


class EngineLostError(EngineError):
    """The connection to an engine broke before it had answered: it died or was stopped."""

    code = "engine_lost"


class EngineUnreachedError(EngineLostError):
    """There was no connection to an engine: it never saw the request."""


class PortInUseError(Error):
    """The address that we were told to listen on is taken or not ours to take."""

    exit_code = 13
    code = "port_in_use"


class NotReadyError(Error):
    """The model that a call needs is not ready yet, or no longer."""

    #: When to try again; set on the instance where it is known.
    retry_after_seconds: float = 2.0
    exit_code = 14
    http_status = 503
    code = "not_ready"


class BusyError(NotReadyError):
    """The model's queue is full."""

    http_status = 429
    code = "busy"


class DeadlineError(NotReadyError):
    """The call's time is over and there is no answer yet."""

    http_status = 504
    code = "deadline"


class ServiceError(Error):
    """The system's service manager is not there, cannot be reached or refuses."""

    exit_code = 16
    code = "service"


class RequestError(Error):
    """A request to the proxy cannot be answered as it was sent: the caller's fault, always 4xx."""

    exit_code = 15
    http_status = 400
    code = "invalid_request"


class InputTooLongError(RequestError):
    """A text has more tokens than the model takes."""

    code = "context_length_exceeded"


class BodyTooLargeError(RequestError):
    """A request body is larger than the proxy takes."""

    http_status = 413
    code = "body_too_large"


class UnknownRouteError(RequestError):
    """There is no such route."""

    http_status = 404
    code = "unknown_route"


class WrongMethodError(RequestError):
    """The route exists, but not for this method."""

    http_status = 405
    code = "wrong_method"


class DeadlyRequestError(RequestError):
    """Engines die while they compute this request, also when they are given nothing else."""

    http_status = 422
    code = "deadly_request"


class VectorSpaceError(RequestError):
    """Vectors would not belong in one index with those that the caller has.

    ``space``: the fingerprint of those that are made here, empty where it is not known.
    """

    http_status = 409
    code = "vector_space_mismatch"

    def __init__(
        self, message: str, *, cause: str | None = None, hint: str | None = None, space: str = ""
    ) -> None:
        super().__init__(message, cause=cause, hint=hint)
        self.space = space

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_space, (self.message, self.cause, self.hint, self.space)


def _rebuild_space(message: str, cause: str | None, hint: str | None, space: str) -> VectorSpaceError:
    return VectorSpaceError(message, cause=cause, hint=hint, space=space)


class CheckpointError(Error):
    """A bulk job cannot go on where it stopped: its input, settings or vector space changed."""

    exit_code = 17
    http_status = 409
    code = "checkpoint"


class IncompleteError(Error):
    """A bulk job is done, and some of its texts have no vector; its output names them."""

    exit_code = 18
    code = "incomplete"


def error_class(code: str) -> type[Error] | None:
    """Return the class of this module with this ``code``: what another process or a server told of."""
    return next((cls for cls in _classes() if cls.code == code), None)


def _classes() -> Iterator[type[Error]]:
    pending: list[type[Error]] = [Error]
    while pending:
        cls = pending.pop()
        pending.extend(cls.__subclasses__())
        if cls is not Error and cls.__module__ == __name__:
            yield cls
