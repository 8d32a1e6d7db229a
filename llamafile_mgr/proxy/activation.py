"""Listening sockets that the service manager opened for us: sd_listen_fds(3), without its library."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import MutableMapping

from llamafile_mgr.errors import ConfigError
from llamafile_mgr.proxy.listening import close_sockets, not_local

__all__ = ["inherited_sockets"]

_FIRST = 3  # SD_LISTEN_FDS_START
_VARIABLES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


def inherited_sockets(
    *, public: bool, environ: MutableMapping[str, str] | None = None, first: int = _FIRST
) -> list[socket.socket]:
    """Return the sockets that were passed to this very process, none when there are none.

    They are closed in our children, and the variables are taken out of the environment. ``public``: other
    machines may get in, because API keys are configured. ``first``: the number of the first descriptor.

    Raises:
        ConfigError: one of them is no listening TCP socket, or not loopback although there are no API keys.
    """
    env = os.environ if environ is None else environ
    count, pid, _ = (env.pop(name, "") for name in _VARIABLES)
    if pid != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return []
    sockets: list[socket.socket] = []
    try:
        for number in range(first, first + int(count)):
            os.set_inheritable(number, False)
            sockets.append(socket.socket(fileno=number))
            _check(sockets[-1], public=public)
            sockets[-1].setblocking(False)
    except BaseException as error:
        close_sockets(sockets)
        if not isinstance(error, OSError):
            raise
        raise ConfigError(f"descriptor {number} of the service manager is no socket: {error}") from error
    return sockets


def _check(given: socket.socket, *, public: bool) -> None:
    listens = given.family in (socket.AF_INET, socket.AF_INET6) and given.type == socket.SOCK_STREAM
    if not listens or not given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ConfigError(
            "the service manager passed a socket that is not listening on TCP",
            hint="ListenStream= in the socket unit must be an address and a port",
        )
    address = given.getsockname()[0]
    if not public and not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        raise not_local(address, "set serve.keys_file, or use 127.0.0.1 in the socket unit")
