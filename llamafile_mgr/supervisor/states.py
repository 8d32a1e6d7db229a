"""The states of one engine and the moves between them; nothing here does anything.

``TRANSITIONS`` is the whole truth: an event that a state does not list is a defect of the caller.
"""

from __future__ import annotations

from enum import StrEnum


class EngineState(StrEnum):
    """Where one engine is in its life."""

    PLANNED = "planned"
    STARTING = "starting"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    STOPPED = "stopped"
    BACKING_OFF = "backing-off"
    FAILED = "failed"


class EngineEvent(StrEnum):
    """What can happen to one engine."""

    SPAWN = "spawn"
    ANSWERS = "answers"
    CHECKED = "checked"
    DIED = "died"
    GIVE_UP = "give up"
    RETRY = "retry"
    DRAIN = "drain"
    STOP = "stop"
    GONE = "gone"


_ALIVE = (EngineState.STARTING, EngineState.WARMING, EngineState.READY)
_AT_REST = (EngineState.PLANNED, EngineState.BACKING_OFF, EngineState.FAILED)
#: (state, event) -> state. ANSWERS: the health route is green. CHECKED: the readiness check passed.
#: DIED: the process ended, hung, never became ready or failed a check, and may be tried again; GIVE_UP: it
#: may not, but for a remote one, which is tried again after a pause. DRAIN: it finishes what it has and takes
#: no more. STOP ends a draining engine too, dead or alive.
TRANSITIONS: dict[tuple[EngineState, EngineEvent], EngineState] = {
    (source, event): target
    for event, target, sources in (
        (EngineEvent.SPAWN, EngineState.STARTING, (EngineState.PLANNED,)),
        (EngineEvent.ANSWERS, EngineState.WARMING, (EngineState.STARTING,)),
        (EngineEvent.CHECKED, EngineState.READY, (EngineState.WARMING,)),
        (EngineEvent.RETRY, EngineState.STARTING, (EngineState.BACKING_OFF, EngineState.FAILED)),
        (EngineEvent.DIED, EngineState.BACKING_OFF, _ALIVE),
        (EngineEvent.GIVE_UP, EngineState.FAILED, _ALIVE),
        (EngineEvent.DRAIN, EngineState.DRAINING, (EngineState.READY,)),
        (EngineEvent.STOP, EngineState.STOPPING, (*_ALIVE, EngineState.DRAINING)),
        (EngineEvent.STOP, EngineState.STOPPED, _AT_REST),
        (EngineEvent.GONE, EngineState.STOPPED, (EngineState.STOPPING,)),
    )
    for source in sources
}


def next_state(state: EngineState, event: EngineEvent) -> EngineState:
    """Return the state after ``event``.

    Raises:
        ValueError: this state knows no such event.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ValueError(f"an engine that is {state.value} cannot {event.value}") from None
