"""What this room asks of a pool of engines, so that its logic can be driven by a small pool in a test."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from llamafile_mgr.engines.messages import EngineReply, EngineRequest
from llamafile_mgr.planner.plans import Plan

__all__ = ["EngineConnection", "EnginePool", "Replica"]


class EngineConnection(Protocol):
    """HTTP to one engine."""

    async def request(self, request: EngineRequest, *, deadline_seconds: float) -> EngineReply:
        """Return the engine's reply. Raises EngineLostError and EngineError."""


class Replica(Protocol):
    """One engine of a pool. ``client`` is set while it may be asked. ``plan``: how it was launched, which
    the pool's is no longer while it drains. ``width``: engines behind it."""

    plan: Plan
    width: int

    @property
    def ready(self) -> bool:
        """Tell whether calls may be sent."""

    @property
    def client(self) -> EngineConnection | None:
        """Return the connection to it."""

    def suspect(self) -> None:
        """Say that an answer was not right, so that the engine has to prove itself or is replaced."""

    async def was_ended(self, client: object) -> bool:
        """Tell whether the process behind ``client`` was ended by somebody rather than by a request."""


class EnginePool(Protocol):
    """The engines that serve one model; ``supervisor.pool.Pool`` is one."""

    @property
    def plan(self) -> Plan:
        """Return how they were launched."""

    @property
    def engines(self) -> Sequence[Replica]:
        """Return all of them, ready or not."""

    def lease(self, wait_seconds: float, work: int = 0) -> AbstractAsyncContextManager[Replica]:
        """Hold the least busy ready engine for ``work`` tokens. Raises NotReadyError."""

    async def call(
        self, request: EngineRequest, *, wait_seconds: float, deadline_seconds: float
    ) -> EngineReply:
        """Send a request that may be sent again. Raises NotReadyError and EngineError."""
