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


_BY_CODE: dict[str, type[Error]] = {}


class Error(Exception):
    """Base of all errors that a user may see.

    ``message`` says what happened in one sentence, ``cause`` why it likely happened and ``hint``
    what to do next; the latter two may be ``None``. ``code`` is a stable word for scripts.
    """

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    code: ClassVar[str] = "error"

    def __init_subclass__(
        cls, code: str | None = None, exit_code: int | None = None, http_status: int | None = None
    ) -> None:
        """Take what differs from the base."""
        told = {"code": code, "exit_code": exit_code, "http_status": http_status}
        for name, value in told.items():
            if value is not None:
                setattr(cls, name, value)
        if code is not None and cls.__module__ == __name__:
            _BY_CODE[code] = cls

    def __init__(self, message: str, *, cause: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.cause = cause
        self.hint = hint

    def describe(self) -> str:
        """Return message, cause and hint on one line, for logs and HTTP bodies."""
        return "; ".join(part for part in (self.message, self.cause, self.hint) if part)


class InternalError(Error, code="internal_error"):
    """A defect of ours; ``--debug`` shows the traceback."""


class UsageError(Error, code="usage", exit_code=2, http_status=400):
    """A command line or call that cannot mean anything (click's own usage errors share the code)."""


class ConfigError(Error, code="config", exit_code=3):
    """The configuration file, an environment variable or a flag is wrong."""


class NotFoundError(Error, code="not_found", exit_code=4, http_status=404):
    """There is no such model, artifact or file."""


class InvalidFileError(Error, code="invalid_file", exit_code=5, http_status=422):
    """A file is not what it claims to be: no llamafile, a cut ZIP, a GGUF of another version."""


class IntegrityError(Error, code="integrity", exit_code=6, http_status=502):
    """Bytes differ from the digest or size that was promised for them."""


class DownloadError(Error, code="download", exit_code=7, http_status=502):
    """Bytes could not be fetched: network, server or address."""


class OfflineError(DownloadError, code="offline"):
    """Fetching was needed and the offline switch forbids it."""


class StoreError(Error, code="store", exit_code=8):
    """The store cannot be read or written."""


class DiskFullError(StoreError, code="disk_full", exit_code=9, http_status=507):
    """There is no room left; what has arrived is kept for a resume."""


class PlanError(Error, code="plan", exit_code=10, http_status=409):
    """No launch of this model can work on this machine with what is on the disk."""


class EngineError(Error, code="engine", exit_code=11, http_status=502):
    """An engine died, hung or answered nonsense."""


class EngineStartError(EngineError, code="engine_start", exit_code=12, http_status=503):
    """An engine never became ready."""


class EngineLostError(EngineError, code="engine_lost"):
    """The connection to an engine broke before it had answered: it died or was stopped."""


class EngineUnreachedError(EngineLostError):
    """There was no connection to an engine: it never saw the request."""


class PortInUseError(Error, code="port_in_use", exit_code=13):
    """The address that we were told to listen on is taken or not ours to take."""


class NotReadyError(Error, code="not_ready", exit_code=14, http_status=503):
    """The model that a call needs is not ready yet, or no longer."""

    #: When to try again; set on the instance where it is known.
    retry_after_seconds: float = 2.0


class BusyError(NotReadyError, code="busy", http_status=429):
    """The model's queue is full."""


class DeadlineError(NotReadyError, code="deadline", http_status=504):
    """The call's time is over and there is no answer yet."""


class ServiceError(Error, code="service", exit_code=16):
    """The system's service manager is not there, cannot be reached or refuses."""


class RequestError(Error, code="invalid_request", exit_code=15, http_status=400):
    """A request to the proxy cannot be answered as it was sent: the caller's fault, always 4xx."""


class InputTooLongError(RequestError, code="context_length_exceeded"):
    """A text has more tokens than the model takes."""


class BodyTooLargeError(RequestError, code="body_too_large", http_status=413):
    """A request body is larger than the proxy takes."""


class UnknownRouteError(RequestError, code="unknown_route", http_status=404):
    """There is no such route."""


class WrongMethodError(RequestError, code="wrong_method", http_status=405):
    """The route exists, but not for this method."""


class DeadlyRequestError(RequestError, code="deadly_request", http_status=422):
    """Engines die while they compute this request, also when they are given nothing else."""


class VectorSpaceError(RequestError, code="vector_space_mismatch", http_status=409):
    """Vectors would not belong in one index with those that the caller has.

    ``space``: the fingerprint of those that are made here, empty where it is not known.
    """

    def __init__(
        self, message: str, *, cause: str | None = None, hint: str | None = None, space: str = ""
    ) -> None:
        super().__init__(message, cause=cause, hint=hint)
        self.space = space


class CheckpointError(Error, code="checkpoint", exit_code=17, http_status=409):
    """A bulk job cannot go on where it stopped: its input, settings or vector space changed."""


class IncompleteError(Error, code="incomplete", exit_code=18):
    """A bulk job is done, and some of its texts have no vector; its output names them."""


def error_class(code: str) -> type[Error] | None:
    """Return the class of this module with this ``code``: what another process or a server told of."""
    return _BY_CODE.get(code)
