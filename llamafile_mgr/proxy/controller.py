"""What the control channel can ask of a running service."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from llamafile_mgr import __version__
from llamafile_mgr.changes import wait_any
from llamafile_mgr.embedding.space import fingerprint_space
from llamafile_mgr.errors import PlanError, RequestError
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.proxy.leases import Leases
from llamafile_mgr.proxy.live_settings import LiveSettings
from llamafile_mgr.supervisor.pool import Pool
from llamafile_mgr.supervisor.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class Controller:
    """Answers commands. ``plan_again`` plans all served models anew; it blocks and runs in a thread."""

    supervisor: Supervisor
    url: str
    stop: Callable[[], None]
    plan_again: Callable[[], Sequence[Plan]]
    leases: Leases
    settings: LiveSettings
    started: float = field(default_factory=time.time)

    async def handle(
        self, command: dict[str, Any], gone: asyncio.Future[None]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the answers to one command; ``gone`` tells that nobody listens any more.

        Raises:
            RequestError: an unknown command or a missing model.
            NotFoundError: the model is not served.
            EngineStartError: a new engine did not become ready.
            NotReadyError: a lease was asked for and the service is about to end.
            PlanError: the model cannot be planned, or its vector space would change.
        """
        name = command.get("command")
        if name == "status":
            yield self._status()
        elif name == "stop":
            self.stop()
        elif name == "logs":
            async for answer in self._logs(self._pool(command), bool(command.get("follow")), gone):
                yield answer
        elif name == "load":
            await self._pool(command).load()
        elif name == "unload":
            await self._pool(command).unload()
        elif name == "restart":
            await self._restart(self._pool(command), bool(command.get("new_vector_space")))
        elif name == "lease":
            async with contextlib.aclosing(self.leases.hold(command, gone)) as answers:
                async for answer in answers:
                    yield answer
        else:
            raise RequestError(f"no such command: {name!r}")

    def _pool(self, command: dict[str, Any]) -> Pool:
        model = command.get("model")
        if not isinstance(model, str):
            raise RequestError("the command needs a model")
        return self.supervisor.find(model)

    def _status(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "url": self.url,
            "uptime_seconds": round(time.time() - self.started, 1),
            "key": self.leases.key,
            "users": self.leases.users,
            "needs_restart": list(self.settings.waiting),
            "models": [_plain(pool) for pool in self.supervisor.pools],
        }

    async def _restart(self, pool: Pool, new_space: bool) -> None:
        plans = await asyncio.to_thread(self.plan_again)
        plan = next((each for each in plans if each.name == pool.plan.name), pool.plan)
        await replace_model(pool, plan, new_space=new_space)

    async def _logs(
        self, pool: Pool, follow: bool, gone: asyncio.Future[None]
    ) -> AsyncGenerator[dict[str, Any], None]:
        shown: dict[str, int] = {}
        gone.add_done_callback(lambda _: pool.changes.announce())
        while not gone.done():
            before = dict(shown)
            for engine in pool.engines:
                lines, total = engine.log.lines, engine.log.total_lines
                new = total - shown.get(engine.name, 0)
                shown[engine.name] = total
                for line in lines[max(0, len(lines) - new) :]:
                    yield {"engine": engine.name, "line": line}
            if not follow:
                return
            if shown == before:  # otherwise more may have come while it was sent
                await wait_any([pool.changes, *(engine.log.changes for engine in pool.engines)])


async def replace_model(pool: Pool, plan: Plan, *, new_space: bool) -> None:
    """Put new engines in the place of a pool's, unless their vectors would not fit those of the old.

    Raises:
        PlanError: the vector space would change and ``new_space`` is not set.
        EngineStartError: a new engine did not become ready.
    """
    before, after = fingerprint_space(pool.plan), fingerprint_space(plan)
    if before != after and not new_space:
        raise PlanError(
            f"the vectors of {plan.name} would no longer fit those made before ({before} -> {after})",
            cause="its weights, pooling, prompts or engine generation changed",
            hint="index again, and restart with --new-vector-space",
        )
    await pool.replace(plan)


def _plain(pool: Pool) -> dict[str, Any]:
    value = asdict(pool.snapshot())
    value["reasons"] = [asdict(reason) for reason in pool.plan.reasons]
    value["path"] = str(pool.plan.path)
    value["argv"] = list(pool.plan.command(0, None))
    return value
