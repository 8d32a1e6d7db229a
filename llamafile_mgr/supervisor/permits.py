"""What a call holds until it gives it back: its place in the queue, and its batch's place at an engine."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from llamafile_mgr.engines.transport import EngineClient
from llamafile_mgr.errors import EngineUnreachedError
from llamafile_mgr.supervisor.backend import Backend
from llamafile_mgr.supervisor.calls import Batch, Caller, Priority, Weight
from llamafile_mgr.supervisor.meters import MeteredWork

if TYPE_CHECKING:
    from llamafile_mgr.supervisor.dispatch import Dispatcher


class Permit:
    """A call's place in the queue, from its admission to its end; a context that gives it back."""

    __slots__ = ("_dispatcher", "caller", "weight")

    def __init__(self, dispatcher: Dispatcher, caller: Caller, weight: Weight) -> None:
        self.caller = caller
        self.weight = weight
        self._dispatcher: Dispatcher | None = dispatcher

    def __enter__(self) -> Permit:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def release(self) -> None:
        """Leave the queue; further times do nothing."""
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            dispatcher.queue.release(self.caller.client, self.weight)


class WorkerSlot:
    """A batch's place at an engine. ``client``: the connections to it, as they were when it was sent."""

    __slots__ = ("_answered_from", "_batch", "_dispatcher", "_job", "_kept", "client", "engine")

    def __init__(self, dispatcher: Dispatcher, batch: Batch, engine: Backend) -> None:
        self.engine = engine
        self.client: EngineClient | None = engine.client
        self._dispatcher: Dispatcher | None = dispatcher
        self._batch = batch
        self._kept = False
        self._answered_from = time.monotonic()
        metered = batch.priority is not Priority.CONTROL
        self._job: MeteredWork | None = engine.begin(max(1, batch.tokens) if metered else 0)

    def connection(self) -> EngineClient:
        """Return the connections to the engine. Raises EngineLostError: it was stopped."""
        if self.client is None:
            raise EngineUnreachedError(f"{self.engine.name} was stopped")
        return self.client

    def keep(self) -> None:
        """Keep the place after the result is given, until ``end``: an answer that still comes."""
        self._kept = True

    def end_computing(self) -> None:
        """Give the place back unless it is kept."""
        if not self._kept:
            self.end()

    def end(self) -> None:
        """Give the place back; further times do nothing."""
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is None:
            return
        client = self.client
        answered = client is not None and client.last_received >= self._answered_from
        self.engine.end(self._job, answered=answered)
        dispatcher.queue.finish(self._batch)
        dispatcher.note_activity()
        dispatcher.look_soon()
