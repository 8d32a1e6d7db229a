"""Which port an engine listens on: chosen for it, printed by it, and checked to be its own."""

from __future__ import annotations

import re
import socket

__all__ = ["choose_port", "listens_on", "read_listening_port"]

_LISTENING = re.compile(r"(?:listening (?:at|on)|\blisten) https?://[^\s/]*:(\d{1,5})\b")


def read_listening_port(line: str) -> int | None:
    """Return the port of a line such as ``llama server listening at http://127.0.0.1:8081``."""
    found = _LISTENING.search(line)
    return int(found.group(1)) if found else None


def choose_port(host: str) -> int:
    """Return a port of ``host`` that is free now; another program may still take it before the engine."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def listens_on(pid: int, port: int) -> bool:
    """Tell whether the process ``pid`` or a descendant listens on ``port``. Blocks; for a thread."""
    import psutil

    try:
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            for connection in member.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return True
    except psutil.Error:
        return False
    return False
