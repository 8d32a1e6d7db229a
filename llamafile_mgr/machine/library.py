"""What psutil tells where the system has no files for it; the only module that imports psutil."""

from __future__ import annotations

from llamafile_mgr.machine.hardware import Memory


def memory() -> Memory:
    """Return main memory and swap."""
    import psutil

    main, swap = psutil.virtual_memory(), psutil.swap_memory()
    return Memory(total=main.total, available=main.available, swap_total=swap.total, swap_free=swap.free)


def cpu_count(*, logical: bool = True) -> int | None:
    """Return the logical CPUs, or the physical cores of all kinds."""
    import psutil

    count: int | None = psutil.cpu_count(logical=logical)
    return count


def affinity() -> int | None:
    """Return how many logical CPUs this process may run on, ``None`` where the system has no such mask."""
    import psutil

    try:
        ask = getattr(psutil.Process(), "cpu_affinity", None)
        return len(ask()) or None if ask is not None else None
    except (OSError, psutil.Error):
        return None


def port_owner(host: str, port: int) -> str | None:
    """Return ``name (pid)`` of the process that listens here, ``None`` when we may not know."""
    import psutil

    wanted = {host, "::"} | ({"0.0.0.0"} if "." in host else set())  # noqa: S104 - compared, not bound
    try:
        for connection in psutil.net_connections(kind="tcp"):
            address = tuple(connection.laddr)
            listens = connection.status == psutil.CONN_LISTEN and address[1:] == (port,)
            if listens and address[0] in wanted and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except (OSError, psutil.Error):
        return None
    return None
