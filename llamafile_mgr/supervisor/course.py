"""What every member of a pool keeps in the same way, whether it runs here or elsewhere: its state and how it
got there, its calls, and what others wish of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque

from llamafile_mgr.supervisor.diagnosis import Diagnosis
from llamafile_mgr.supervisor.logs import EngineLog
from llamafile_mgr.supervisor.snapshots import EngineSurroundings, Transition
from llamafile_mgr.supervisor.states import EngineEvent, EngineState, next_state
from llamafile_mgr.supervisor.throughput import Job

__all__ = ["Course"]

_LOG = logging.getLogger("llamafile_mgr.supervisor")


class Course:
    """The base of ``Engine`` and ``Remote``. Only the member's own task moves it; everybody may read it.

    ``cause``: why it was last lost. ``width``: how many engines stand behind it.
    """

    def __init__(self, name: str, log: EngineLog, surroundings: EngineSurroundings) -> None:
        self.name = name
        self.log = log
        self.state = EngineState.PLANNED
        self.cause: Diagnosis | None = None
        self.in_flight = 0
        self.served = 0
        self.width = 1
        self._surroundings = surroundings
        self._since = time.monotonic()
        self._retry_at: float | None = None
        self._half_open = False
        self._transitions: deque[Transition] = deque(maxlen=32)
        self._idle = asyncio.Event()
        self._idle.set()
        self._stop = asyncio.Event()
        self._drain_seconds = 0.0
        self._suspected = asyncio.Event()

    @property
    def over(self) -> bool:
        """Tell whether waiting for it makes no sense."""
        return self.state in (EngineState.FAILED, EngineState.STOPPED)

    @property
    def retry_seconds(self) -> float | None:
        """Return the seconds until it is tried again, None when it is not backing off."""
        return None if self._retry_at is None else max(0.0, self._retry_at - time.monotonic())

    def take(self, work: int) -> Job | None:
        """Count a call that is sent to it; ``work``: its tokens, 0 for one that is not measured."""
        self.in_flight += 1
        self._idle.clear()
        return None

    def give_back(self, job: Job | None, *, answered: bool) -> None:
        """Count a call's end."""
        self.in_flight -= 1
        self.served += answered
        if self.in_flight == 0:
            self._idle.set()
            self._surroundings.changed()

    def request_stop(self, drain_seconds: float) -> None:
        """Ask it to finish its calls within ``drain_seconds``, take no more, and end."""
        self._drain_seconds = drain_seconds
        self._stop.set()

    def suspect(self) -> None:
        """Say that an answer was not right; it is checked now, and lost if it is to blame."""
        self._suspected.set()

    def _move(self, event: EngineEvent) -> None:
        before, self.state = self.state, next_state(self.state, event)
        now = time.monotonic()
        spent, self._since = now - self._since, now
        self._transitions.append(Transition(time.time(), self.state, spent))
        _LOG.info("%s: %s -> %s after %.2f s", self.name, before.value, self.state.value, spent)
        self._surroundings.changed()
