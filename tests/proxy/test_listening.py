"""The proxy's sockets: both loopbacks, clear errors, nothing else."""

from __future__ import annotations

import errno
import socket

import pytest

from llamafile_mgr.errors import ConfigError, PortInUseError
from llamafile_mgr.proxy.listening import bind_sockets, close_sockets, endpoint


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError as error:
        return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def test_one_port_in_both_families() -> None:
    sockets = bind_sockets("localhost", 0)
    try:
        assert len({each.getsockname()[1] for each in sockets}) == 1
        assert len(sockets) == (2 if has_ipv6() else 1)
        assert endpoint(sockets).startswith("http://127.0.0.1:")
    finally:
        close_sockets(sockets)


def test_a_taken_port_is_explained() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"port {port} of 127.0.0.1 is in use"):
            bind_sockets("127.0.0.1", port)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_only_loopback(host: str) -> None:
    with pytest.raises(ConfigError, match="will not listen"):
        bind_sockets(host, 0)
