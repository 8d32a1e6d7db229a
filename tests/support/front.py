"""The proxy in this process before fake engines, for limits that a whole ``serve`` cannot be given."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from llamafile_mgr.catalog import Role
from llamafile_mgr.config import Config, ServeConfig
from llamafile_mgr.engines.families import Family
from llamafile_mgr.engines.family import EngineFamily
from llamafile_mgr.engines.launch_settings import LaunchSettings
from llamafile_mgr.engines.transport import EngineClient
from llamafile_mgr.paths import resolve_paths
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.proxy.app import Proxy
from llamafile_mgr.proxy.dialects.dialect import Dialect
from llamafile_mgr.proxy.dialects.dialect_table import DIALECTS
from llamafile_mgr.proxy.front import Front
from llamafile_mgr.proxy.keys import KeyRing
from llamafile_mgr.proxy.listening import bind_sockets, close_sockets, endpoint
from llamafile_mgr.proxy.live_settings import supervisor_options
from llamafile_mgr.proxy.server import HttpServer
from llamafile_mgr.supervisor.supervisor import Supervisor

__all__ = ["FakeModel", "Planned", "RunningFront", "running_front"]

_FAKE = Path(__file__).parent / "fake_engine.py"


class Planned(Protocol):
    """Whatever can say how its engine is started."""

    def plan(self) -> Plan:
        """Return the plan."""


@dataclass(frozen=True)
class FakeModel:
    """A model whose engine is the fake one, with these switches."""

    name: str
    role: Role = Role.EMBED
    switches: str = ""
    family: Family = Family.V10

    def plan(self) -> Plan:
        family = self.family.value if self.family in (Family.V1, Family.V2) else "v10"
        return Plan(
            name=self.name,
            role=self.role,
            family=self.family,
            program=(sys.executable, str(_FAKE), "--family", family, *shlex.split(self.switches), "--"),
            settings=LaunchSettings(role=self.role, port=0, context=512, threads=1, slots=2),
            environment={"PATH": "/usr/bin:/bin"},
            reasons=(),
            path=_FAKE,
            dimensions=384 if self.role is Role.EMBED else None,
            max_tokens=512,
        )


@dataclass(frozen=True)
class RunningFront:
    """A served proxy. ``url`` has no slash at its end."""

    url: str
    front: Front
    supervisor: Supervisor
    server: HttpServer

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])


class _NoChecks:
    """Takes the fake engine as it is: readiness has tests of its own."""

    async def check_ready(self, client: EngineClient, rules: EngineFamily) -> None:
        pass

    async def check_alive(self, client: EngineClient, rules: EngineFamily) -> None:
        pass


@asynccontextmanager
async def running_front(
    home: Path,
    models: Sequence[Planned],
    settings: ServeConfig | None = None,
    *,
    keys: KeyRing | None = None,
    aliases: Mapping[str, str] | None = None,
    dialects: Sequence[Dialect] = DIALECTS,
    ready: bool = True,
) -> AsyncIterator[RunningFront]:
    """Serve these models on a free port in this event loop; ends everything afterwards."""
    settings = settings or ServeConfig(drain_seconds=1)
    plans = [model.plan() for model in models]
    options = replace(supervisor_options(plans, Config(serve=settings)), stop_grace_seconds=1.0)
    paths = resolve_paths({"LLAMAFILE_MGR_HOME": str(home)})
    supervisor = Supervisor(plans, lambda plan: _NoChecks(), paths, options, lambda *_: _NoChecks())
    front = Front(supervisor.pools, settings, dialects, aliases)
    sockets = bind_sockets("127.0.0.1", 0)
    server = HttpServer(Proxy(front, keys).answer, settings)
    await supervisor.start()
    await server.start(sockets)
    try:
        while ready and not all(pool.ready for pool in supervisor.pools):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        secure = settings.tls_certificate is not None
        yield RunningFront(endpoint(sockets, secure=secure), front, supervisor, server)
    finally:
        await server.stop(0.0)
        await supervisor.stop()
        close_sockets(sockets)
