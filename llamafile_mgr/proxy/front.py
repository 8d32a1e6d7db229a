"""What handlers share: pools, embedders, the router, the queues, and how calls are held."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamafile_mgr.catalog import Role
from llamafile_mgr.config import ServeConfig
from llamafile_mgr.embedding.cache_thread import CacheThread
from llamafile_mgr.embedding.requests import InputType
from llamafile_mgr.embedding.service import Embedder, EmbedOptions
from llamafile_mgr.proxy.admission import Admission, Cost, QueueLimits, Turn
from llamafile_mgr.proxy.http import Drip, Reply, Request, StreamReply
from llamafile_mgr.proxy.metrics import ProxyMetrics
from llamafile_mgr.proxy.routing import Choice, Router
from llamafile_mgr.supervisor.pool import Pool

if TYPE_CHECKING:
    from llamafile_mgr.proxy.dialects.dialect import Dialect

__all__ = ["Front", "Handler", "RecentError", "RequestTurn"]


@dataclass(frozen=True, slots=True)
class RecentError:
    """One refused or failed request; ``time``: seconds since 1970."""

    time: float
    status: int
    path: str
    message: str


Handler = Callable[[Request], Awaitable[Reply | StreamReply]]

_RECENT_ERRORS = 20
#: A generation engine computes as many answers as it has slots; one more waits at its door.
_SPARE_TURNS = 1
#: Embedding calls are small: enough of them run at once to fill every slot's next batch.
_LEAST_EMBED_TURNS = 32
_EMBED_TURNS_PER_SLOT = 8
#: A held call ends this long before its client would give up, so that the client hears why.
_BEFORE_TIMEOUT_SECONDS = 1.0


class Front:
    """Reads pools and never changes them."""

    def __init__(
        self,
        pools: Sequence[Pool],
        settings: ServeConfig,
        dialects: Sequence[Dialect],
        aliases: Mapping[str, str] | None = None,
        cache: CacheThread | None = None,
    ) -> None:
        self.pools = tuple(pools)
        self.settings = settings
        self.dialects = dialects
        self.router = Router(self.pools, aliases or {}, settings.strict_models)
        defaults = EmbedOptions(input_type=InputType(settings.input_type))
        self.embedders = {
            pool.plan.name: Embedder(pool, wait_seconds=settings.wait_seconds, options=defaults, cache=cache)
            for pool in self.pools
            if pool.plan.role is Role.EMBED
        }
        self.queues = {pool.plan.name: Admission(_limits(pool, settings)) for pool in self.pools}
        self.metrics = ProxyMetrics()
        self.recent_errors: deque[RecentError] = deque(maxlen=_RECENT_ERRORS)
        self.started = time.time()

    def choose(self, role: Role, name: object, request: Request, drip: Drip) -> Choice:
        """Return where a call goes and note it in the request's progress. Raises RequestError."""
        choice = self.router.choose(role, name)
        request.progress.pool = choice.pool
        request.progress.drip = drip
        return choice

    def hold_seconds(self, request: Request) -> float:
        """Return how long a call may be held while its model loads.

        A connection that is kept alive may wait for as long as we allow, another only as long as its client.
        """
        allowed = self.settings.wait_seconds
        announced = request.read_timeout_seconds
        if announced is None or request.progress.drip is not Drip.NONE:
            return allowed
        return min(allowed, max(0.1, announced - _BEFORE_TIMEOUT_SECONDS))

    def turn(self, request: Request, pool: Pool, cost: Cost) -> RequestTurn:
        """Return an async context that holds a place in the pool's queue while there is a ready engine."""
        return RequestTurn(self, request, pool, cost)


class RequestTurn(Turn):
    """A place in the pool's queue from the request's turn to its end, while there is a ready engine.

    Raises:
        BusyError: the queue is full.
        NotReadyError: no engine became ready in time.
    """

    __slots__ = ("_asked", "_front", "_pool", "_request")

    def __init__(self, front: Front, request: Request, pool: Pool, cost: Cost) -> None:
        super().__init__(front.queues[pool.plan.name], request.client, cost)
        self._front = front
        self._request = request
        self._pool = pool
        self._asked = 0.0

    async def __aenter__(self) -> float:
        progress = self._request.progress
        progress.queue_seconds = waited = await super().__aenter__()
        progress.items = self.cost.items
        if not self._pool.ready:
            try:
                async with self._pool.lease(self._front.hold_seconds(self._request)):
                    pass
            except BaseException:
                super().end(done=False)
                raise
        self._asked = time.monotonic()
        return waited

    def end(self, *, done: bool) -> None:
        """End the turn; ``done``: with an answer."""
        self._request.progress.engine_seconds = time.monotonic() - self._asked
        super().end(done=done)


def _limits(pool: Pool, settings: ServeConfig) -> QueueLimits:
    slots = pool.plan.settings.slots * (pool.plan.replicas + len(pool.plan.remotes))
    active = slots + _SPARE_TURNS
    if pool.plan.role is not Role.GENERATE:
        active = max(_LEAST_EMBED_TURNS, _EMBED_TURNS_PER_SLOT * slots)
    return QueueLimits(settings.queue_items, settings.queue_tokens, active)
