"""Finding a service that others use already, or starting one; of many who try at once, one starts it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from llamafile_mgr.endpoints.leasing import Lease, Patience, Report
from llamafile_mgr.endpoints.service_start import start_service
from llamafile_mgr.endpoints.sharing_terms import ServiceChoice
from llamafile_mgr.errors import Error, NotReadyError
from llamafile_mgr.locks import Locks
from llamafile_mgr.paths import Paths, ensure_private_dir
from llamafile_mgr.processes import Holder
from llamafile_mgr.supervisor.asking import find_sockets, send_command

_STATUS_SECONDS = 5.0
#: A service may end between being found and being joined, and its successor too.
_ATTEMPTS = 20
_PAUSE_SECONDS = 0.5


def join_or_start(
    choice: ServiceChoice, report: Report, *, process: Holder | None = None, keep_seconds: float = 0.0
) -> Lease:
    """Return a lease of a service with these models that is ready.

    ``process``: who uses it, when that is more than this connection. ``keep_seconds``: how long the service
    shall outlast its last user. ``report`` gets lines for a person.

    Raises:
        Error: why the service cannot be started, as ``serve`` would say it.
        NotReadyError: services kept ending before they could be used.
    """
    lost: NotReadyError | None = None
    for _ in range(_ATTEMPTS):
        try:
            lease = _take(choice, report, process, keep_seconds)
        except NotReadyError as error:
            lost = error
            time.sleep(_PAUSE_SECONDS)  # one that is about to end is still found until it has
            continue
        try:
            lease.await_ready(report)
        except NotReadyError as error:
            lease.close()
            lost = error
        except BaseException:
            lease.close()
            raise
        else:
            return lease
    raise lost or NotReadyError("no service could be joined")


def _take(choice: ServiceChoice, report: Report, process: Holder | None, keep_seconds: float) -> Lease:
    with _starting(choice, report):
        found = find_service(choice)
        if found is None:
            report(f"starting {', '.join(each.name for each in choice.wanted.models)}")
            found = start_service(choice, lambda: find_service(choice), report)
        socket, defaults = found
        return Lease.take(socket, defaults, process=process, keep_seconds=keep_seconds)


def _starting(choice: ServiceChoice, report: Report) -> AbstractContextManager[None]:
    """Be the only one who looks for this service and starts it, while inside."""
    directory, patience = ensure_private_dir(choice.paths.runtime), Patience(report)
    return Locks(directory).held(
        directory / f"exec-{choice.key}.lock",
        seconds=math.inf,
        waiting=lambda _: patience.tell("another process is starting it"),
    )


def find_service(choice: ServiceChoice) -> tuple[Path, dict[str, str]] | None:
    """Return the control socket of a running ``serve`` that does for this choice, and our defaults there.

    That is one of the same key, or one that a person started with these models.
    """
    joinable = None
    for port, socket, status in running_services(choice.paths):
        defaults = choice.find_defaults(status["models"])
        if status.get("key") == choice.key:
            return socket, defaults or {}
        if status.get("key") is None and choice.port in (None, port) and defaults is not None:
            joinable = socket, defaults
    return joinable


def running_services(paths: Paths) -> Iterator[tuple[int, Path, dict[str, Any]]]:
    """Yield port, control socket and status of every running ``serve`` that answers."""
    for port, socket in find_sockets(paths):
        try:
            status = next(send_command(socket, {"command": "status"}, seconds=_STATUS_SECONDS))
        except (Error, StopIteration):
            continue  # it ends just now, or hangs: we can do without it
        yield port, socket, status
