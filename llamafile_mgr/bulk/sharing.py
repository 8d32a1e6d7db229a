"""The fragments of one job shared among nodes that come, fail and go.

Knows nothing of how nodes are reached. Every fragment that is at a node when that is lost goes to another. A
node takes part only with vectors of the job's vector space that agree with its golden vectors; the others
leave with a reason. When none is left the job ends with all reasons, and what is finished is kept.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Any, Protocol

from llamafile_mgr.bulk.admission import Admission, NodeFacts
from llamafile_mgr.bulk.checkpoints import FinishedFragment
from llamafile_mgr.bulk.computing import read_next
from llamafile_mgr.bulk.references import Reference, keep_reference
from llamafile_mgr.bulk.text_records import Fragment
from llamafile_mgr.changes import Changes
from llamafile_mgr.errors import (
    EngineError,
    EngineLostError,
    Error,
    InternalError,
    NotReadyError,
)
from llamafile_mgr.tasks import run_all

#: How often a node is started that keeps being lost, and at how many losses a fragment is the suspect.
_STARTS = 3
_LOSSES = 4
_LOOK_SECONDS = 2.0
_STOP_SECONDS = 20.0


class Node(Protocol):
    """Something that computes fragments."""

    @property
    def name(self) -> str:
        """Return what people call it."""

    async def start(self, texts: Sequence[str]) -> NodeFacts:
        """Make it ready, again after it was lost, and let it embed ``texts`` without a prompt.

        Raises:
            EngineLostError: it ended meanwhile, and may be started again.
            Error: it cannot take part.
        """

    async def embed(self, fragment: Fragment) -> FinishedFragment:
        """Return what becomes of the fragment. Raises what ``start`` says."""

    async def stop(self) -> None:
        """End what was started. Raises nothing."""


class Finder(Protocol):
    """Finds nodes."""

    async def find(self) -> Sequence[Node]:
        """Return the nodes that are there now and were not returned before. Raises Error."""


@dataclass(eq=False)
class SharedWork:
    """A ``Computer`` of many nodes, to be entered; ``first`` tells when one of them is ready.

    ``vector_space``: which one the nodes must have, None takes the first one's. ``reference``: which vectors
    they must give. ``window``: fragments at a node at once. ``say``: takes one line for a person.
    """

    _finder: Finder
    _vector_space: InitVar[str | None]
    _reference: InitVar[Reference]
    _window: int
    _say: Callable[[str], None]
    _reference_kept: bool = False

    def __post_init__(self, vector_space: str | None, reference: Reference) -> None:
        self._admission = Admission(vector_space, reference)
        self._queue = _Queue(self._window)
        self._results: asyncio.Queue[FinishedFragment | Error | None] = asyncio.Queue(2 * self._window)
        self._facts: asyncio.Future[NodeFacts] = asyncio.get_running_loop().create_future()
        self._keeping = asyncio.Lock()
        self._folder: asyncio.Future[Path] = asyncio.get_running_loop().create_future()
        self._left: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._lost: Counter[int] = Counter()
        self._starts: Counter[str] = Counter()

    async def __aenter__(self) -> SharedWork:
        self._begin(self._watch())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._queue.done:
            await asyncio.wait(self._tasks, timeout=_STOP_SECONDS)
        for future in (self._facts, self._folder):
            future.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def first(self) -> NodeFacts:
        """Wait for the first node that can take part. Raises NotReadyError when none is left before."""
        return await asyncio.shield(self._facts)

    @property
    def model(self) -> str:
        """Return the model's name; ``first`` was awaited before."""
        return self._facts.result().model

    @property
    def vector_space(self) -> str:
        """Return the fingerprint of the job's vectors."""
        return self._facts.result().vector_space

    @property
    def dimensions(self) -> int | None:
        """Return how wide vectors are."""
        return self._facts.result().dimensions

    async def compute(
        self, fragments: Iterator[Fragment], folder: Path | None
    ) -> AsyncIterator[FinishedFragment]:
        """Yield the fragments as they are finished. Raises what ``Computer`` says."""
        if folder is None:
            raise NotReadyError("work is shared only by jobs that are kept")
        self._folder.set_result(folder)
        self._begin(self._read(fragments))
        while (result := await self._results.get()) is not None:
            if isinstance(result, Error):
                raise result
            yield result

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.append(task)
        return task

    async def _read(self, fragments: Iterator[Fragment]) -> None:
        try:
            await self._queue.fill(fragments)
        except Error as error:
            await self._results.put(error)

    async def _watch(self) -> None:
        """Give every node that comes its part, until all is done or no node is left."""
        living: set[asyncio.Task[None]] = set()
        ended = self._begin(self._queue.wait())
        while not self._queue.done:
            try:
                living |= {self._begin(self._live(node)) for node in await self._finder.find()}
            except Error as error:
                await self._fail(error)
                return
            if not living:
                await self._fail(self._none_left())
                return
            finished, _ = await asyncio.wait(
                {*living, ended}, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            living -= finished
            for failed in filter(None, (task.exception() for task in finished)):
                await self._fail(failed if isinstance(failed, Error) else InternalError(repr(failed)))
                return
        await self._results.put(None)

    async def _fail(self, error: Error) -> None:
        if not self._facts.done():
            self._facts.set_exception(error)
            self._facts.exception()  # it may be that nobody waits for it
        await self._results.put(error)

    def _none_left(self) -> NotReadyError:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in self._left.items())
        return NotReadyError(
            "no node is left that could go on with the job" if self._left else "there is no node for the job",
            cause=reasons or "none has the processors and GPUs that were asked for",
            hint="what is finished is kept: run the same command again when there are nodes",
        )

    async def _live(self, node: Node) -> None:
        """Lead one node through the job. Raises Error when the job cannot go on without it."""
        try:
            while not await self._live_once(node):
                pass
        except _SuspectError:
            raise
        except Error as error:
            self._left[node.name] = error.describe()
            self._say(f"{node.name} leaves the job: {error.describe()}")
        finally:
            await node.stop()

    async def _live_once(self, node: Node) -> bool:
        """Return whether the node was there until all was done; False when it is worth another start."""
        try:
            await self._admit(node, await node.start(self._admission.reference.texts))
            # What it cannot finish goes back.
            await run_all(self._pull(node) for _ in range(self._window))
        except EngineLostError as error:
            self._starts[node.name] += 1
            if self._starts[node.name] == _STARTS:
                raise
            self._say(f"{node.name}: {error.describe()}; it is started again")
            return False
        return True

    async def _admit(self, node: Node, facts: NodeFacts) -> None:
        """Let a node take part, or raise why not."""
        self._admission.admit(facts)
        if not self._facts.done():
            self._facts.set_result(facts)
        folder = await asyncio.shield(self._folder)
        async with self._keeping:
            if not self._reference_kept:
                await asyncio.to_thread(keep_reference, folder, self._admission.reference)
                self._reference_kept = True
        slow = (
            f", but yields to all else there: it has niceness {facts.niceness}" if facts.niceness > 0 else ""
        )
        self._say(f"{node.name} takes part{slow}")

    async def _pull(self, node: Node) -> None:
        """Give fragments to a node, one after the other, until there are none."""
        while (fragment := await self._queue.take()) is not None:
            try:
                part = await node.embed(fragment)
                await self._results.put(part)
            except EngineLostError as error:
                self._queue.give_back(fragment)
                self._lost[fragment.index] += 1
                if self._lost[fragment.index] == _LOSSES:
                    raise _SuspectError(
                        f"{_LOSSES} nodes were lost that worked at fragment {fragment.index}",
                        cause=error.describe(),
                        hint="what is finished is kept: run the same command again",
                    ) from error
                raise
            except BaseException:
                self._queue.give_back(fragment)
                raise
            self._queue.finish()


class _SuspectError(EngineError):
    """Nodes end whenever they get a certain fragment."""


class _Queue:
    """Fragments that wait for a node. All of it happens on one event loop, each step without a pause."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._waiting: deque[Fragment] = deque()
        self._under_way = 0
        self._ended = False
        self._changes = Changes()

    @property
    def done(self) -> bool:
        """Tell whether every fragment of the input is finished."""
        return self._ended and not self._waiting and not self._under_way

    async def wait(self) -> None:
        """Wait until all are finished."""
        await self._changes.wait_for(lambda: self.done)

    async def fill(self, fragments: Iterator[Fragment]) -> None:
        """Read the input to its end, only as fast as it is taken. Raises what reading raises."""
        while True:
            await self._changes.wait_for(lambda: len(self._waiting) < self._depth)
            fragment = await read_next(fragments)
            if fragment is None:
                self._ended = True
                self._changes.announce()
                return
            self._waiting.append(fragment)
            self._changes.announce()

    async def take(self) -> Fragment | None:
        """Return the next fragment, None when all are finished; waits while one could still come back."""
        await self._changes.wait_for(lambda: self._waiting or self.done)
        if not self._waiting:
            return None
        self._under_way += 1
        fragment = self._waiting.popleft()
        self._changes.announce()
        return fragment

    def give_back(self, fragment: Fragment) -> None:
        """Let another node have it."""
        self._under_way -= 1
        self._waiting.appendleft(fragment)
        self._changes.announce()

    def finish(self) -> None:
        """Count one that was taken as finished."""
        self._under_way -= 1
        self._changes.announce()
