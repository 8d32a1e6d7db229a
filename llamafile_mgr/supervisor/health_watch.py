"""Looking after a ready engine, here or elsewhere: asks as the liveness policy says, until it finds fault."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from llamafile_mgr.engines.transport import EngineClient
from llamafile_mgr.errors import EngineError
from llamafile_mgr.supervisor.liveness import LivenessPolicy, Probe, decide_probe

__all__ = ["watch"]


async def watch(
    client: EngineClient,
    policy: LivenessPolicy,
    *,
    suspected: asyncio.Event,
    in_flight: Callable[[], int],
    check_health: Callable[[float], Awaitable[object]],
    check_alive: Callable[[], Awaitable[None]],
) -> None:
    """Watch for ever. ``check_health`` is given its deadline; ``suspected`` asks for a check at once.

    Raises:
        EngineError: it hangs, or one of the checks raised it.
    """
    probed_at = 0.0
    while True:
        if await _set_within(suspected, policy.tick_seconds):
            suspected.clear()
            await _check_work(check_alive, policy)
        now = time.monotonic()
        probe = decide_probe(
            policy,
            silent_for=now - client.last_received,
            probed_ago=now - probed_at,
            in_flight=in_flight(),
        )
        if probe is Probe.HUNG:
            raise EngineError(f"it hangs: no answer for {now - client.last_received:.0f} seconds")
        if probe is not Probe.NOTHING:
            probed_at = now
        if probe is Probe.HEALTH:
            await check_health(policy.health_deadline_seconds)
        elif probe is Probe.WORK:
            await _check_work(check_alive, policy)


async def _check_work(check_alive: Callable[[], Awaitable[None]], policy: LivenessPolicy) -> None:
    try:
        await asyncio.wait_for(check_alive(), policy.work_deadline_seconds)
    except TimeoutError:
        raise EngineError(
            f"it hangs: no answer to a small request for {policy.work_deadline_seconds:g} seconds"
        ) from None


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for ``event``; return whether it was set in time."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()
