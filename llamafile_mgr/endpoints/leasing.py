"""Our side of a lease: a connection to a running ``serve`` that is kept for as long as we need it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamafile_mgr.endpoints.access import ServiceAccess, reachable
from llamafile_mgr.errors import NotReadyError
from llamafile_mgr.processes import Holder
from llamafile_mgr.supervisor.asking import send_command

#: Takes one line that tells a person how a start goes.
Report = Callable[[str], None]

#: The service says at least every second how a start goes.
_SILENCE_SECONDS = 30.0
_REPORT_SECONDS = 10.0


class Patience:
    """Tells a person, now and then, that something still goes on."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._began = self._told = time.monotonic()

    def tell(self, text: str) -> None:
        """Say so, with the seconds since the beginning, unless it was said a moment ago."""
        now = time.monotonic()
        if now - self._told >= _REPORT_SECONDS:
            self._told = now
            self._report(f"{text} ({now - self._began:.0f} s)")


@dataclass(eq=False, slots=True)
class Lease:
    """Keeps a service alive until closed, or until this process ends in whatever way."""

    _answers: Iterator[dict[str, Any]]
    _first: dict[str, Any]
    _defaults: Mapping[str, str]
    _models: dict[str, str] = field(default_factory=dict)

    @classmethod
    def take(
        cls,
        socket: Path,
        defaults: Mapping[str, str],
        *,
        process: Holder | None = None,
        keep_seconds: float = 0.0,
    ) -> Lease:
        """Take a lease of the ``serve`` behind this socket, for ``process`` too when it is given.

        ``defaults``: role -> the model that its user asked for first; of other roles it is the service's own.

        Raises:
            NotReadyError: the service is ending, or gone.
            RequestError: it cannot see the process.
        """
        command = {
            "command": "lease",
            "process": process.json() if process is not None else None,
            "keep_seconds": keep_seconds,
        }
        answers = send_command(socket, command, seconds=_SILENCE_SECONDS)
        first = next(answers, None)
        if first is None:
            raise NotReadyError("the running serve gave no lease", hint="is it of another version?")
        return cls(answers, first, defaults)

    def await_ready(self, report: Report) -> ServiceAccess:
        """Wait until every model is ready and return how to reach them.

        Raises:
            EngineStartError: a model failed for good.
            NotReadyError: the service ended meanwhile.
        """
        patience = Patience(report)
        for answer in self._answers:
            if answer.get("ready"):
                self._models = {**answer["models"], **self._defaults}
                return self.access
            patience.tell(f"still starting {', '.join(answer['waiting'])}")
        raise NotReadyError("the running serve ended while its models were starting")

    @property
    def access(self) -> ServiceAccess:
        """Return how to reach the service."""
        return ServiceAccess(reachable(self._first["url"]), self._first["api_key"], self._models)

    def close(self) -> None:
        """Give the lease back."""
        close = getattr(self._answers, "close", None)
        if close is not None:
            close()
