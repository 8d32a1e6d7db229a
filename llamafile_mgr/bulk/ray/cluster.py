"""A Ray cluster: its address, and being a driver of it.

Ray runs what it is told by anyone who reaches its ports; we connect only to the address that a user gives.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from llamafile_mgr.errors import NotReadyError, UsageError
from llamafile_mgr.machine.vendors import hide_every_gpu

LOCAL = "local"
_ADDRESS = re.compile(r"local|auto|[A-Za-z0-9.-]+:[0-9]{1,5}|\[[0-9A-Fa-f:]+\]:[0-9]{1,5}")
#: Ray reports its use to its makers without the first, and gives its workers, whose engines are ours, less
#: of the processors than everything else that runs there without the second.
_VARIABLES = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}


@dataclass(frozen=True, slots=True)
class RayCluster:
    """``address``: ``HOST:PORT`` of a running cluster, ``auto`` for the one that this machine belongs to,
    ``local`` for one of this machine alone. ``cpus``: that a node must have free. ``gpus``: the same, None
    takes all GPUs of every node; engines see those that Ray gave, and no other.
    """

    address: str = LOCAL
    cpus: float = 1.0
    gpus: int | None = None


def check_address(address: str) -> str:
    """Return ``address``. Raises UsageError when it is none."""
    if not _ADDRESS.fullmatch(address):
        raise UsageError(
            f"{address!r} is no address of a Ray cluster",
            hint="say --ray=HOST:PORT, --ray=auto on a machine of the cluster, or --ray=local",
        )
    return address


def import_ray() -> Any:
    """Return ``ray``. Raises UsageError when it is not installed."""
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise UsageError("Ray is not here", hint="pip install 'llamafile-mgr[ray]'") from error


@contextlib.asynccontextmanager
async def connected(cluster: RayCluster) -> AsyncIterator[Any]:
    """Be a driver of the cluster while inside, unless this process is one already."""
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    ray = await asyncio.to_thread(import_ray)
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"address": cluster.address, "log_to_driver": False, "configure_logging": False}
    if cluster.address == LOCAL:
        options["include_dashboard"] = False
    try:
        ray.init(**options)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise NotReadyError(
            f"there is no Ray cluster at {cluster.address}",
            cause=first_line(error),
            hint="run this on a machine of the cluster (`ray start --address=HOST:PORT` makes it one)",
        ) from error
    try:
        yield ray
    finally:
        await asyncio.to_thread(ray.shutdown)


def find_nodes(ray: Any, cpus: float, gpus: int) -> list[dict[str, Any]]:
    """Return what Ray tells of every living node that has so many processors and GPUs, taken or not."""
    wanted = {"CPU": cpus, "GPU": gpus}
    return [
        each
        for each in ray.nodes()
        if each["Alive"] and all(each["Resources"].get(name, 0) >= least for name, least in wanted.items())
    ]


def pin(node: str, *, soft: bool = False) -> Any:
    """Return what keeps an actor on a node; ``soft``: it may run elsewhere once the node is gone."""
    strategies = importlib.import_module("ray.util.scheduling_strategies")
    return strategies.NodeAffinitySchedulingStrategy(node, soft=soft)


def hide_gpus() -> None:
    """Let engines of this process see no GPU: Ray gave it none."""
    os.environ.update(hide_every_gpu())


def first_line(error: BaseException) -> str:
    """Return the first line of an error of Ray's, whose others are a trace."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
