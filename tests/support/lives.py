"""What a test needs to let an engine or a remote live without a ``serve`` around it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path

from llamafile_mgr.catalog import Role
from llamafile_mgr.changes import Changes
from llamafile_mgr.engines.families import Family
from llamafile_mgr.engines.family import EngineFamily
from llamafile_mgr.engines.launch_settings import LaunchSettings
from llamafile_mgr.engines.messages import json_request
from llamafile_mgr.engines.transport import EngineClient
from llamafile_mgr.paths import resolve_paths
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.lifecycle import RestartPolicy
from llamafile_mgr.supervisor.liveness import LivenessPolicy
from llamafile_mgr.supervisor.meters import SpeedPolicy
from llamafile_mgr.supervisor.registry import Registry
from llamafile_mgr.supervisor.snapshots import EngineSurroundings

QUICK = RestartPolicy(first_delay_seconds=0.01, longest_delay_seconds=0.02, cooldown_seconds=0.05)
ASK = json_request("/v1/embeddings", {"input": ["a"]})
_FAKE = Path(__file__).with_name("fake_engine.py")


def surroundings(
    home: Path, changes: Changes | None = None, *, restart: RestartPolicy = QUICK
) -> EngineSurroundings:
    """Return those of quick lives under ``home``."""
    paths = resolve_paths({"LLAMAFILE_MGR_HOME": str(home)})
    return EngineSurroundings(
        logs=paths.logs,
        home=paths.engine_home,
        registry=Registry(paths.runtime),
        stall_seconds=1.0 if changes is None else 20.0,
        grace_seconds=1.0,
        restart=restart,
        liveness=LivenessPolicy(tick_seconds=0.01),
        changed=(changes or Changes()).announce,
        speed=SpeedPolicy(),
        best_rates=lambda _: {},
    )


def fake_plan(*switches: str) -> Plan:
    """Return the plan of an embedding model that the fake engine serves with these switches."""
    return Plan(
        name="m",
        role=Role.EMBED,
        family=Family.V10,
        program=(sys.executable, str(_FAKE), *switches, "--"),
        settings=LaunchSettings(Role.EMBED, 0, context=64, threads=1),
        environment={},
        reasons=(),
        path=Path("m"),
    )


class Checks:
    """Asks for one vector; raises ``wrong`` when there is one."""

    def __init__(self) -> None:
        self.wrong: Exception | None = None
        self.alive = 0

    async def check_ready(self, client: EngineClient, rules: EngineFamily) -> None:
        await client.request(ASK, deadline_seconds=5)
        if self.wrong is not None:
            raise self.wrong

    async def check_alive(self, client: EngineClient, rules: EngineFamily) -> None:
        self.alive += 1
        await self.check_ready(client, rules)


async def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Look until it is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)
