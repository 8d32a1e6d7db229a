"""Ports: read from log lines, and checked against the process that owns them."""

from __future__ import annotations

import os
import socket

import pytest

from llamafile_mgr.supervisor.engine_start import choose_port, listens_on, read_listening_port


@pytest.mark.parametrize(
    ("line", "port"),
    [
        ("llama server listening at http://127.0.0.1:8081", 8081),
        ("0.00.182.754 I srv          init: listening on http://127.0.0.1:38291", 38291),
        ('{"msg":"x"} 2024 listen http://127.0.0.1:8080', 8080),
        ("main: server is listening on http://[::1]:9000 - starting the main loop", 9000),
        ("listening tests are fun", None),
        ("listening at http://127.0.0.1:8080808", None),
        ("", None),
    ],
)
def test_listening_lines(line: str, port: int | None) -> None:
    assert read_listening_port(line) == port


def test_a_chosen_port_is_free_and_ownership_is_seen() -> None:
    port = choose_port("127.0.0.1")
    assert not listens_on(os.getpid(), port)
    with socket.create_server(("127.0.0.1", port)):
        assert listens_on(os.getpid(), port)
        assert not listens_on(1, port)
    assert not listens_on(2**30, port)
