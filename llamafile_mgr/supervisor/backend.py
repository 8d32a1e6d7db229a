"""What a pool asks of those that it routes calls to: engines of this machine and remote ones alike."""

from __future__ import annotations

from typing import Protocol

from llamafile_mgr.engines.transport import EngineClient
from llamafile_mgr.errors import EngineStartError
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.diagnosis import Diagnosis
from llamafile_mgr.supervisor.engine_log import EngineLog
from llamafile_mgr.supervisor.meters import EngineMeter, MeteredWork
from llamafile_mgr.supervisor.snapshots import EngineSnapshot
from llamafile_mgr.supervisor.states import EngineState

__all__ = ["Backend", "gone_for_long", "not_settled"]

#: Calls are not held for an engine that will not even be started within this time.
_LONGEST_HELD_BACKOFF_SECONDS = 5.0


class Backend(Protocol):
    """One of a pool. Its own task alone changes it; see ``Engine`` for what each of these promises."""

    name: str
    plan: Plan
    in_flight: int
    width: int
    meter: EngineMeter
    log: EngineLog

    @property
    def state(self) -> EngineState:
        """Return where it is in its life."""

    @property
    def cause(self) -> Diagnosis | None:
        """Return why it was last lost."""

    @property
    def client(self) -> EngineClient | None:
        """Return the connections to it, None while there are none."""

    @property
    def ready(self) -> bool:
        """Tell whether calls may be sent to ``client``."""

    @property
    def over(self) -> bool:
        """Tell whether waiting for it makes no sense."""

    @property
    def pid(self) -> int | None:
        """Return the process id of one that runs here."""

    @property
    def retry_seconds(self) -> float | None:
        """Return the seconds until the next try, when there is one to come."""

    def begin(self, tokens: int) -> MeteredWork | None:
        """Count a batch that is sent to it; ``tokens``: 0 for one that is not measured."""

    def end(self, job: MeteredWork | None, *, answered: bool) -> None:
        """Count a batch's end."""

    def suspect(self) -> None:
        """Say that an answer was not right."""

    async def was_ended(self, client: object) -> bool:
        """Tell whether no request is to blame for the loss of ``client``."""

    async def fate(self, client: object) -> Diagnosis | None:
        """Return why what stood behind ``client`` ended, None while nothing is known of its end."""

    def excuse_death(self, client: object) -> None:
        """Say that a request is to blame for the end of what stood behind ``client``."""

    def request_stop(self, drain_seconds: float) -> None:
        """Ask it to finish its calls and end."""

    def snapshot(self) -> EngineSnapshot:
        """Return what ``status`` shows."""

    async def run(self) -> None:
        """Live until a stop is requested, or this task is cancelled."""


def gone_for_long(member: Backend) -> bool:
    """Tell whether waiting for it makes no sense."""
    if member.state is EngineState.BACKING_OFF:
        return (member.retry_seconds or 0.0) > _LONGEST_HELD_BACKOFF_SECONDS
    return member.over


def not_settled(model: str, member: Backend) -> EngineStartError:
    """Return the error for a new engine that cannot take the place of an old one."""
    return EngineStartError(
        f"the new engine of {model} did not become ready; the old one serves on",
        cause=member.cause.cause if member.cause else None,
        hint=f"its log: {member.log.path}",
    )
