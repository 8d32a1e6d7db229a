"""The proxy's listening sockets: its own, by default loopback in both address families, taken before any
engine starts; or those that the service manager opened for it, sd_listen_fds(3) without its library."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import sys
from collections.abc import MutableMapping, Sequence

from llamafile_mgr.errors import ConfigError, PortInUseError

_BACKLOG = 2048
_DESCRIPTORS = 65_536
#: ``localhost`` means either address, and clients differ in which they try.
_LOOPBACK = ("127.0.0.1", "::1")
_FIRST_GIVEN = 3  # SD_LISTEN_FDS_START
_GIVEN = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


def allow_descriptors() -> None:
    """Let this process open as many files and connections as the system lets it, up to ``_DESCRIPTORS``.

    Many systems start programs with a limit of 1,024, less than one busy proxy has connections.
    """
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS has a second limit that it does not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def most_connections(wanted: int) -> int:
    """Return how many clients' connections may be open, at most ``wanted``: of the files that this process
    may open a quarter is left to engines, logs and the store."""
    if sys.platform == "win32":
        return wanted
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft * 3 // 4))


def bind_sockets(host: str, port: int, *, public: bool = False) -> list[socket.socket]:
    """Return listening sockets for ``host`` and ``port``; port 0 picks one, the same for both families.

    ``public``: other machines may get in, because API keys are configured.

    Raises:
        ConfigError: the host is no loopback address and ``public`` is false, or it is no address.
        PortInUseError: the address is taken or not allowed.
    """
    addresses = addresses_of(host, public=public)
    sockets: list[socket.socket] = []
    try:
        for address in addresses:
            bound = _bind(address, port, optional=bool(sockets))
            if bound is not None:
                sockets.append(bound)
                port = bound.getsockname()[1]
    except BaseException:
        close_sockets(sockets)
        raise
    return sockets


def addresses_of(host: str, *, public: bool = False) -> tuple[str, ...]:
    """Return the addresses that ``host`` stands for; ``public`` as in ``bind_sockets``.

    Raises:
        ConfigError: the host is no loopback address and ``public`` is false, or it is no address.
    """
    addresses = _LOOPBACK if host in ("127.0.0.1", "localhost") else (host.strip("[]"),)
    for address in addresses:
        parsed = _parse_address(address)
        if public and parsed is None:
            raise ConfigError(
                f"serve.host must be an address, not {host!r}", hint="0.0.0.0 means all of IPv4"
            )
        if not public and not (parsed and parsed.is_loopback):
            raise _not_local(host, "set serve.keys_file, or use 127.0.0.1")
    return addresses


def _parse_address(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        return None


def _not_local(host: str, hint: str) -> ConfigError:
    """Return why an address that others reach is not listened on without API keys."""
    said = f"will not listen on {host}: the proxy has no API keys, so it serves this machine alone"
    return ConfigError(said, hint=hint)


def _bind(address: str, port: int, *, optional: bool) -> socket.socket | None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        bound = socket.socket(family, socket.SOCK_STREAM)
    except OSError:
        if optional:
            return None
        raise
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((address, port))
        bound.listen(_BACKLOG)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        # A machine without IPv6 is served over IPv4 alone; a port that is taken is taken in either.
        if optional and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            return None
        raise _explain(address, port, error) from error
    return bound


def _explain(address: str, port: int, error: OSError) -> PortInUseError:
    if error.errno == errno.EADDRINUSE:
        return PortInUseError(
            f"port {port} of {address} is in use",
            cause="another program, perhaps another `llamafile-mgr serve` or a llamafile, listens there",
            hint="stop it, or choose another port with --port",
        )
    if error.errno == errno.EACCES:
        return PortInUseError(f"port {port} may not be used by this user", hint="use a port above 1023")
    return PortInUseError(f"cannot listen on {address}:{port}: {error.strerror or error}")


def close_sockets(sockets: Sequence[socket.socket]) -> None:
    """Close all of them."""
    for each in sockets:
        each.close()


def endpoint(sockets: Sequence[socket.socket], *, secure: bool = False) -> str:
    """Return the base URL of the first socket."""
    address, port = sockets[0].getsockname()[:2]
    host = f"[{address}]" if ":" in address else address
    return f"{'https' if secure else 'http'}://{host}:{port}"


def inherited_sockets(
    *, public: bool, environ: MutableMapping[str, str] | None = None, first: int = _FIRST_GIVEN
) -> list[socket.socket]:
    """Return the sockets that were passed to this very process, none when there are none.

    They are closed in our children, and the variables are taken out of the environment. ``public``: other
    machines may get in, because API keys are configured. ``first``: the number of the first descriptor.

    Raises:
        ConfigError: one of them is no listening TCP socket, or not loopback although there are no API keys.
    """
    env = os.environ if environ is None else environ
    count, pid, _ = (env.pop(name, "") for name in _GIVEN)
    if pid != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return []
    sockets: list[socket.socket] = []
    try:
        for number in range(first, first + int(count)):
            os.set_inheritable(number, False)
            sockets.append(socket.socket(fileno=number))
            _check_given(sockets[-1], public=public)
            sockets[-1].setblocking(False)
    except BaseException as error:
        close_sockets(sockets)
        if not isinstance(error, OSError):
            raise
        raise ConfigError(f"descriptor {number} of the service manager is no socket: {error}") from error
    return sockets


def _check_given(given: socket.socket, *, public: bool) -> None:
    listens = given.family in (socket.AF_INET, socket.AF_INET6) and given.type == socket.SOCK_STREAM
    if not listens or not given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ConfigError(
            "the service manager passed a socket that is not listening on TCP",
            hint="ListenStream= in the socket unit must be an address and a port",
        )
    if not public:
        require_loopback(given, "set serve.keys_file, or use 127.0.0.1 in the socket unit")


def require_loopback(given: socket.socket, hint: str) -> None:
    """Raise ConfigError where others reach a listening socket, as without API keys they must not."""
    address = given.getsockname()[0]
    if not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        raise _not_local(address, hint)
