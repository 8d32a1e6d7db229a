"""Finding a service that others use already, or starting one; of many who try at once, one starts it."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from llamafile_mgr.endpoints.leasing import Lease, Report
from llamafile_mgr.endpoints.settings import Choice, Want
from llamafile_mgr.endpoints.starting import start_service
from llamafile_mgr.errors import Error, NotReadyError
from llamafile_mgr.locks import Locks
from llamafile_mgr.paths import ensure_private_dir
from llamafile_mgr.processes import Holder
from llamafile_mgr.supervisor.asking import find_sockets, send_command

__all__ = ["find_service", "join_or_start"]

_STATUS_SECONDS = 5.0
_REPORT_SECONDS = 10.0
#: A service may end between being found and being joined, and its successor too.
_ATTEMPTS = 20
_PAUSE_SECONDS = 0.5


def join_or_start(
    choice: Choice, report: Report, *, process: Holder | None = None, keep_seconds: float = 0.0
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


def _take(choice: Choice, report: Report, process: Holder | None, keep_seconds: float) -> Lease:
    with _starting(choice, report):
        socket = find_service(choice)
        if socket is None:
            report(f"starting {', '.join(want.name for want in choice.wants)}")
            socket = start_service(choice, lambda: find_service(choice), report)
        return Lease.take(socket, process=process, keep_seconds=keep_seconds)


def _starting(choice: Choice, report: Report) -> AbstractContextManager[None]:
    """Be the only one who looks for this service and starts it, while inside."""
    directory = ensure_private_dir(choice.paths.runtime)
    told = 0.0

    def tell(waited: float) -> None:
        nonlocal told
        if waited - told >= _REPORT_SECONDS:
            told = waited
            report(f"another process is starting it ({waited:.0f} s)")

    locks = Locks(directory)
    return locks.held(directory / f"exec-{choice.key}.lock", seconds=math.inf, waiting=tell)


def find_service(choice: Choice) -> Path | None:
    """Return the control socket of a running ``serve`` that does for this choice.

    That is one of the same key, or one that a person started with these models.
    """
    joinable = None
    for port, socket in find_sockets(choice.paths):
        try:
            status = next(send_command(socket, {"command": "status"}, seconds=_STATUS_SECONDS))
        except (Error, StopIteration):
            continue
        if status.get("key") == choice.key:
            return socket
        if status.get("key") is None and choice.port in (None, port) and _serves(status, choice.wants):
            joinable = socket
    return joinable


def _serves(status: dict[str, Any], wants: tuple[Want, ...]) -> bool:
    served = {(model.get("role"), model.get("path")) for model in status.get("models", ())}
    return all((want.role.value, str(want.path)) in served for want in wants)
