"""Bulk jobs on a Ray cluster: one actor per node, each with the engines of its machine.

Ray starts processes, moves data and notices what dies. The loop over fragments is ours (``sharing.py``)
instead of Ray Data's: a job's checkpoint are fixed fragments of the input, each kept once and in one piece,
and Ray Data promises neither fixed blocks nor which of them are finished when a driver is killed. The driver
reads the input and keeps what is finished, so that nodes need no file system in common.

Ray runs what it is told by anyone who reaches its ports; we connect only to the address that a user gives.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from llamafile_mgr import __version__
from llamafile_mgr.bulk.computing import embed_fragment, fragments_under_way
from llamafile_mgr.bulk.fragments import Fragment
from llamafile_mgr.bulk.job import Job, JobReport, Observe, complete_job
from llamafile_mgr.bulk.parts import FinishedFragment, Parts, parts_folder
from llamafile_mgr.bulk.records import Failure
from llamafile_mgr.bulk.sharing import PROBES, NodeFacts, SharedWork
from llamafile_mgr.bulk.sources import VectorSource
from llamafile_mgr.errors import EngineLostError, Error, NotReadyError, UsageError

__all__ = ["Connect", "RayCluster", "check_address", "run_on_ray"]

#: Called on every node: gives its source of vectors. Must be a function of an installed module.
Connect = Callable[[], AbstractAsyncContextManager[VectorSource]]

LOCAL = "local"
_ADDRESS = re.compile(r"local|auto|[A-Za-z0-9.-]+:[0-9]{1,5}|\[[0-9A-Fa-f:]+\]:[0-9]{1,5}")
_STOP_SECONDS = 15.0
#: Without these Ray reports its use to its makers.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}


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


async def run_on_ray(
    job: Job,
    cluster: RayCluster,
    connect: Connect,
    *,
    vector_space: str | None = None,
    observe: Observe = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> JobReport:
    """Run a job on the nodes of a cluster, or go on with it.

    ``connect``: called on every node. ``vector_space``: which one the job is to have; None takes that of an
    earlier run of the job, else the first node's.

    Raises:
        UsageError: Ray is not installed, or the job has no output.
        NotReadyError: the cluster does not answer, or no node is left; the cause names each one's reason.
        CheckpointError: the input or the settings changed since the job was begun.
    """
    if job.output is None:
        raise UsageError("a job on Ray needs an output")
    begun = None if job.restart else Parts(parts_folder(job.output)).read_job()
    space = (begun or {}).get("vector_space") or vector_space
    async with _connected(cluster) as ray:
        finder = _RayFinder(ray, cluster, connect, job)
        window = fragments_under_way(job.batch, job.concurrency, job.fragment)
        async with SharedWork(finder, space, window, say) as work:
            await work.first()
            return await complete_job(job, work, observe)


@contextlib.asynccontextmanager
async def _connected(cluster: RayCluster) -> AsyncIterator[Any]:
    """Be a driver of the cluster while inside, unless this process is one already."""
    for name, value in _QUIET.items():
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
            cause=_first_line(error),
            hint="run this on a machine of the cluster (`ray start --address=HOST:PORT` makes it one)",
        ) from error
    try:
        yield ray
    finally:
        await asyncio.to_thread(ray.shutdown)


class _RayFinder:
    """Finds the nodes that have what an actor needs."""

    def __init__(self, ray: Any, cluster: RayCluster, connect: Connect, job: Job) -> None:
        self._ray = ray
        self._cluster = cluster
        self._connect = connect
        self._job = job
        self._seen: set[str] = set()

    async def find(self) -> Sequence[_RayNode]:
        """Return new nodes. Raises NotReadyError when the cluster does not answer."""
        try:
            listed = await asyncio.to_thread(self._ray.nodes)
        except (ConnectionError, OSError, RuntimeError, self._ray.exceptions.RayError) as error:
            raise NotReadyError("the Ray cluster does not answer", cause=_first_line(error)) from error
        found = []
        for each in listed:
            resources, wanted = each["Resources"], self._cluster
            able = resources.get("CPU", 0) >= wanted.cpus and resources.get("GPU", 0) >= (wanted.gpus or 0)
            if each["Alive"] and able and each["NodeID"] not in self._seen:
                self._seen.add(each["NodeID"])
                gpus = int(resources.get("GPU", 0)) if wanted.gpus is None else wanted.gpus
                found.append(_RayNode(self._ray, each, wanted.cpus, gpus, self._connect, self._job))
        return found


class _RayNode:
    """The driver's side of one node."""

    def __init__(
        self, ray: Any, facts: dict[str, Any], cpus: float, gpus: int, connect: Connect, job: Job
    ) -> None:
        self._ray = ray
        self._id = facts["NodeID"]
        self.name = f"{facts['NodeManagerHostname']} ({self._id[:8]})"
        self._resources = {"num_cpus": cpus, "num_gpus": gpus}
        self._arguments = (connect, job.batch, job.concurrency, gpus == 0)
        self._actor: Any = None

    async def start(self) -> NodeFacts:
        """Start an actor there. Raises what ``Node`` says."""
        self._kill()
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        here = strategies.NodeAffinitySchedulingStrategy(self._id, soft=False)
        actor = self._ray.remote(_Worker).options(scheduling_strategy=here, **self._resources)
        self._actor = actor.remote(*self._arguments)
        facts: NodeFacts = await self._call("start")
        return facts

    async def embed(self, fragment: Fragment) -> FinishedFragment:
        """Let the actor compute. Raises what ``Node`` says."""
        part: FinishedFragment = await self._call("embed", fragment)
        return part

    async def stop(self) -> None:
        """Let the actor end its engines, then end it."""
        if self._actor is None:
            return
        try:
            with contextlib.suppress(Error, asyncio.TimeoutError):
                await asyncio.wait_for(self._call("stop"), _STOP_SECONDS)
        finally:
            self._kill()

    def _kill(self) -> None:
        if self._actor is not None:
            self._ray.kill(self._actor)
            self._actor = None

    async def _call(self, method: str, *arguments: object) -> Any:
        errors = self._ray.exceptions
        try:
            result = await getattr(self._actor, method).remote(*arguments)
        except errors.RayActorError as error:
            raise EngineLostError("its process ended", cause=_first_line(error)) from error
        except errors.RayError as error:
            raise NotReadyError("Ray cannot run it there", cause=_first_line(error)) from error
        if isinstance(result, Failure):
            raise NotReadyError(result.message)
        return result


class _Worker:
    """The node's side: an actor with the engines of its machine. Tells failures instead of raising them,
    since an error's class need not survive the way."""

    def __init__(self, connect: Connect, batch: int, concurrency: int, hide_gpus: bool) -> None:
        if hide_gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = os.environ["HIP_VISIBLE_DEVICES"] = ""
        self._connect = connect
        self._batch = batch
        self._concurrency = concurrency
        self._stack = contextlib.AsyncExitStack()
        self._source: VectorSource | None = None
        self._gate: asyncio.Semaphore | None = None

    async def start(self) -> NodeFacts | Failure:
        """Start the engines and embed the probes."""
        try:
            source = await self._stack.enter_async_context(self._connect())
            probes = await source.embed(PROBES)
        except Error as error:
            return Failure(error.code, error.describe())
        self._source, self._gate = source, asyncio.Semaphore(self._concurrency)
        failed = next((each.failure for each in probes if each.failure is not None), None)
        if failed is not None:
            return failed
        vectors = np.stack([each.vector for each in probes if each.vector is not None]).astype(np.float32)
        return NodeFacts(__version__, source.model, source.vector_space, source.dimensions, vectors)

    async def embed(self, fragment: Fragment) -> FinishedFragment | Failure:
        """Compute a fragment."""
        if self._source is None or self._gate is None:
            return Failure("not-ready", "it was never started")
        try:
            return await embed_fragment(fragment, self._source, self._batch, self._gate)
        except Error as error:
            return Failure(error.code, error.describe())

    async def stop(self) -> None:
        """End the engines."""
        await self._stack.aclose()


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
