"""Bulk jobs on a Ray cluster: one actor per node, each with the engines of its machine.

Ray starts processes, moves data and notices what dies. The loop over fragments is ours (``sharing.py``)
instead of Ray Data's: a job's checkpoint are fixed fragments of the input, each kept once and in one piece,
and Ray Data promises neither fixed blocks nor which of them are finished when a driver is killed. The driver
reads the input and keeps what is finished, so that nodes need no file system in common.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from llamafile_mgr.bulk.admission import NodeFacts, read_facts
from llamafile_mgr.bulk.checkpoints import FinishedFragment, Parts, parts_folder
from llamafile_mgr.bulk.computing import embed_fragment, fragments_under_way
from llamafile_mgr.bulk.job import BulkJob, JobReport, Observe, complete_job
from llamafile_mgr.bulk.ray.cluster import RayCluster, connected, find_nodes, first_line, hide_gpus, pin
from llamafile_mgr.bulk.references import Reference, load_reference
from llamafile_mgr.bulk.sharing import SharedWork
from llamafile_mgr.bulk.text_records import Failure, Fragment
from llamafile_mgr.bulk.vector_sources import NodeSource
from llamafile_mgr.errors import EngineLostError, Error, NotReadyError, UsageError

#: Called on every node: gives its source of vectors. Must be a function of an installed module.
Connect = Callable[[], AbstractAsyncContextManager[NodeSource]]

STOP_SECONDS = 15.0


async def run_on_ray(
    job: BulkJob,
    cluster: RayCluster,
    connect: Connect,
    *,
    vector_space: str | None = None,
    reference: Reference | None = None,
    observe: Observe = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> JobReport:
    """Run a job on the nodes of a cluster, or go on with it.

    ``connect``: called on every node. ``vector_space``: which one the job is to have; None takes that of an
    earlier run of the job, else the first node's. ``reference``: golden vectors that every node must give;
    None takes the first node's, which an earlier run of the job has kept.

    Raises:
        UsageError: Ray is not installed, or the job has no output.
        NotReadyError: the cluster does not answer, or no node is left; the cause names each one's reason.
        CheckpointError: the input or the settings changed since the job was begun.
    """
    if job.output is None:
        raise UsageError("a job on Ray needs an output")
    folder = parts_folder(job.output)
    begun = None if job.restart else Parts(folder).read_job()
    if begun is not None:
        vector_space = begun.get("vector_space") or vector_space
        reference = load_reference(folder) or reference
    async with connected(cluster) as ray:
        finder = _RayFinder(ray, cluster, connect, job)
        window = fragments_under_way(job.batch, job.concurrency, job.fragment)
        async with SharedWork(finder, vector_space, reference or Reference(), window, say) as work:
            await work.first()
            return await complete_job(job, work, observe)


@dataclass(eq=False, slots=True)
class _RayFinder:
    """Finds the nodes that have what an actor needs."""

    _ray: Any
    _cluster: RayCluster
    _connect: Connect
    _job: BulkJob
    _seen: set[str] = field(default_factory=set)

    async def find(self) -> Sequence[_RayNode]:
        """Return new nodes. Raises NotReadyError when the cluster does not answer."""
        try:
            wanted = self._cluster
            listed = await asyncio.to_thread(find_nodes, self._ray, wanted.cpus, wanted.gpus or 0)
        except (ConnectionError, OSError, RuntimeError, self._ray.exceptions.RayError) as error:
            raise NotReadyError("the Ray cluster does not answer", cause=first_line(error)) from error
        found = []
        for each in listed:
            if each["NodeID"] not in self._seen:
                self._seen.add(each["NodeID"])
                gpus = int(each["Resources"].get("GPU", 0)) if wanted.gpus is None else wanted.gpus
                found.append(_RayNode(self._ray, each, wanted.cpus, gpus, self._connect, self._job))
        return found


class _RayNode:
    """The driver's side of one node."""

    def __init__(
        self, ray: Any, facts: dict[str, Any], cpus: float, gpus: int, connect: Connect, job: BulkJob
    ) -> None:
        self._ray = ray
        self._id = facts["NodeID"]
        self.name = f"{facts['NodeManagerHostname']} ({self._id[:8]})"
        self._resources = {"num_cpus": cpus, "num_gpus": gpus}
        self._arguments = (connect, job.batch, job.concurrency, gpus)
        self._actor: Any = None

    async def start(self, texts: Sequence[str]) -> NodeFacts:
        """Start an actor there. Raises what ``Node`` says."""
        self._kill()
        actor = self._ray.remote(NodeWorker).options(scheduling_strategy=pin(self._id), **self._resources)
        self._actor = actor.remote(*self._arguments)
        facts: NodeFacts = await self._call("start", tuple(texts))
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
            with contextlib.suppress(Error, TimeoutError):
                await asyncio.wait_for(self._call("stop"), STOP_SECONDS)
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
            raise EngineLostError("its process ended", cause=first_line(error)) from error
        except errors.RayError as error:
            raise NotReadyError("Ray cannot run it there", cause=first_line(error)) from error
        if isinstance(result, Failure):
            raise NotReadyError(result.message)
        return result


class NodeWorker:
    """The node's side: an actor with the engines of its machine. Tells failures instead of raising them,
    since an error's class need not survive the way."""

    def __init__(self, connect: Connect, batch: int, concurrency: int, gpus: int) -> None:
        if not gpus:
            hide_gpus()
        self._connect = connect
        self._batch = batch
        self._concurrency = concurrency
        self._stack = contextlib.AsyncExitStack()
        self._source: NodeSource | None = None
        self._gate: asyncio.Semaphore | None = None

    async def start(self, texts: Sequence[str]) -> NodeFacts | Failure:
        """Start the engines and embed ``texts``."""
        try:
            source = await self._stack.enter_async_context(self._connect())
            facts = await read_facts(source, texts)
        except Error as error:
            return Failure(error.code, error.describe())
        self._source, self._gate = source, asyncio.Semaphore(self._concurrency)
        return facts

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
