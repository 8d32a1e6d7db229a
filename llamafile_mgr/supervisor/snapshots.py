"""What engines share, and what is told of them and their pools: values without any behaviour."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from llamafile_mgr.engines.launch_settings import LaunchSettings
from llamafile_mgr.planner.deviations import RunFacts
from llamafile_mgr.supervisor.lifecycle import RestartPolicy
from llamafile_mgr.supervisor.liveness import LivenessPolicy
from llamafile_mgr.supervisor.meters import Kind, SpeedPolicy
from llamafile_mgr.supervisor.registry import Registry
from llamafile_mgr.supervisor.states import EngineState


@dataclass(frozen=True, slots=True)
class EngineSurroundings:
    """What engines share. ``changed`` is called after every transition and last call.

    ``best_rates`` gives the best rates of engines with these settings, for all of them to read and raise.
    """

    logs: Path
    home: Path
    registry: Registry
    stall_seconds: float
    grace_seconds: float
    restart: RestartPolicy
    liveness: LivenessPolicy
    changed: Callable[[], None]
    speed: SpeedPolicy
    best_rates: Callable[[LaunchSettings], MutableMapping[Kind, float]]


@dataclass(frozen=True, slots=True)
class Transition:
    """One move: wall-clock ``at`` (seconds since 1970), the new state, and the seconds spent in the old."""

    at: float
    state: EngineState
    after_seconds: float


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """What can be told of an engine now.

    ``cause``: why it last died. ``age_seconds``: of its state. ``steps``: what was changed to make it start.
    ``speed``: the share of its best throughput that it shows now, None when unknown; ``slow``: too little.
    ``retry_seconds``: until its next start, when it backs off. ``remote``: the URL of one elsewhere.
    ``rate``: its work a second of late, tokens or, where texts are not embedded, calls; None when unknown.
    ``planned``, ``actual``: where and how one of this machine computes, None before it is ready;
    ``deviations``: what differs, and why.
    """

    name: str
    state: EngineState
    age_seconds: float
    pid: int | None
    port: int | None
    restarts: int
    in_flight: int
    served: int
    cause: str | None
    steps: tuple[str, ...]
    retry_seconds: float | None
    transitions: tuple[Transition, ...]
    log: str
    speed: float | None = None
    slow: bool = False
    remote: str | None = None
    rate: float | None = None
    planned: RunFacts | None = None
    actual: RunFacts | None = None
    deviations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """What can be told of a pool now. ``loaded``: it has engines, or is starting them. ``resting``: it was
    unloaded on purpose, or left so at the start, and the next call starts it. ``accepted``: what its settings
    let pass that is refused otherwise."""

    model: str
    role: str
    family: str
    ready: bool
    loaded: bool
    pinned: bool
    waiting: int
    idle_seconds: float
    engines: tuple[EngineSnapshot, ...]
    resting: bool = False
    accepted: tuple[str, ...] = ()
