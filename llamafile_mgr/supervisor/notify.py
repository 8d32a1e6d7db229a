"""Telling the service manager how we are: systemd's notification socket (sd_notify(3)), without its library.

Without ``NOTIFY_SOCKET`` every method does nothing. The variables are taken out of the environment, so that
no child of ours can speak for the service.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import MutableMapping

_LOG = logging.getLogger("llamafile_mgr.serve")
_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_SEND_SECONDS = 1.0
#: Of the time that the manager waits, so that two feedings may come late.
_WATCHDOG_SHARE = 1 / 3


class Notifier:
    """One connection to the service manager. ``feed_seconds``: how often it wants a sign, None for never."""

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        env = os.environ if environ is None else environ
        told = {name: env.pop(name, "") for name in _VARIABLES}
        self._address = told["NOTIFY_SOCKET"]
        self.feed_seconds = _feed_seconds(told["WATCHDOG_USEC"], told["WATCHDOG_PID"])

    @property
    def enabled(self) -> bool:
        """Return whether anybody listens."""
        return bool(self._address)

    def ready(self, status: str) -> None:
        """Say that every model is ready, at the start or after a reload."""
        self._send("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """Say in one line what is going on; ``systemctl status`` shows it."""
        self._send(f"STATUS={status}")

    def reloading(self) -> None:
        """Say that the settings are read again; ``ready`` ends it."""
        self._send(
            "RELOADING=1",
            f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}",
            "STATUS=reading the settings again",
        )

    def stopping(self) -> None:
        """Say that the end has begun."""
        self._send("STOPPING=1", "STATUS=answering the accepted calls, then stopping")

    def feed(self) -> None:
        """Say that we are alive."""
        self._send("WATCHDOG=1")

    def extend_start(self, seconds: float) -> None:
        """Ask for so much more time from now on: a large model loads for minutes."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def _send(self, *fields: str) -> None:
        if not self._address:
            return
        # A status holds what users name; a line break in it would be a field of its own.
        lines = [" ".join(field.splitlines()) for field in fields]
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_SEND_SECONDS)
                sender.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            _LOG.warning("the service manager cannot be told %s: %s", fields[0], error)


def _feed_seconds(microseconds: str, pid: str) -> float | None:
    """Return a third of the watchdog's patience; a watchdog of another process is not ours to feed."""
    if not microseconds.isascii() or not microseconds.isdigit() or int(microseconds) == 0:
        return None
    if pid and pid != str(os.getpid()):
        return None
    return int(microseconds) / 1e6 * _WATCHDOG_SHARE
