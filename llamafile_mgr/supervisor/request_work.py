"""Work of one request at a time: sent as it is, its reply handed back whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llamafile_mgr.engines.messages import EngineReply, EngineRequest
from llamafile_mgr.errors import Error
from llamafile_mgr.supervisor.calls import Priority
from llamafile_mgr.supervisor.permits import WorkerSlot


class RequestWork:
    """One request that may be sent again, and its reply."""

    async def compute(
        self, slot: WorkerSlot, payloads: Sequence[EngineRequest], tokens: Sequence[int]
    ) -> Sequence[EngineReply | Error]:
        """Send it."""
        return [await slot.connection().request(request) for request in payloads]

    def discard(self, result: EngineReply) -> None:
        """A whole reply holds nothing."""

    def note_wait(self, priority: Priority, seconds: float, items: int) -> None:
        """Nobody counts these."""


class Arrival(RequestWork):
    """Nothing to compute: who has an engine knows that there is one."""

    async def compute(
        self, slot: WorkerSlot, payloads: Sequence[Any], tokens: Sequence[int]
    ) -> Sequence[Any]:
        return payloads
