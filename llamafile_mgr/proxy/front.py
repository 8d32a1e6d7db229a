"""What handlers share: pools, embedders, the router, and until when a call may take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llamafile_mgr.catalog import Role
from llamafile_mgr.config import ServeConfig
from llamafile_mgr.embedding.embedder import Embedder
from llamafile_mgr.embedding.requests import InputType
from llamafile_mgr.embedding.vector_cache import CacheThread
from llamafile_mgr.engines.messages import EngineReply, EngineRequest
from llamafile_mgr.proxy.http import Padding, Reply, Request, StreamReply
from llamafile_mgr.proxy.metrics import ProxyMetrics
from llamafile_mgr.proxy.routing import RoutedCall, Router
from llamafile_mgr.supervisor.calls import Caller, Deadline, Priority, Weight
from llamafile_mgr.supervisor.pool import Pool

if TYPE_CHECKING:
    from llamafile_mgr.proxy.dialects.dialect import Dialect


@dataclass(frozen=True, slots=True)
class RecentError:
    """One refused or failed request; ``time``: seconds since 1970."""

    time: float
    status: int
    path: str
    message: str


Handler = Callable[[Request], Awaitable[Reply | StreamReply]]

_RECENT_ERRORS = 20
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
        self.router = self.make_router(settings, aliases or {})
        self.embedders = {
            pool.plan.name: Embedder(pool, input_type=InputType(settings.input_type), cache=cache)
            for pool in self.pools
            if pool.plan.role is Role.EMBED
        }
        self.metrics = ProxyMetrics()
        self.recent_errors: deque[RecentError] = deque(maxlen=_RECENT_ERRORS)
        self.started = time.time()

    def make_router(self, settings: ServeConfig, aliases: Mapping[str, str]) -> Router:
        """Return what these settings make of names. Raises ConfigError for an alias that is a name too."""
        return Router(self.pools, aliases, settings.strict_models)

    def apply(self, settings: ServeConfig, router: Router) -> None:
        """Answer requests from now on as these settings say."""
        self.settings, self.router = settings, router
        for embedder in self.embedders.values():
            embedder.input_type = InputType(settings.input_type)

    def describe(self, pool: Pool) -> dict[str, Any]:
        """Return what clients and people ask of a model."""
        plan, embedder = pool.plan, self.embedders.get(pool.plan.name)
        return {
            "role": plan.role.value,
            "ready": pool.ready,
            "engine_family": plan.family.value,
            "dimensions": plan.dimensions,
            "max_tokens": plan.max_tokens,
            "vector_space": embedder.vector_space if embedder is not None else None,
        }

    def choose(self, role: Role, name: object, request: Request, padding: Padding) -> RoutedCall:
        """Return where a call goes and note it in the request's progress. Raises RequestError."""
        choice = self.router.choose(role, name)
        request.progress.pool = choice.pool
        request.progress.padding = padding
        return choice

    def caller(self, request: Request) -> Caller:
        """Return who asks and until when, and note it in the request's progress."""
        deadline = Deadline.after(self._hold_seconds(request), self.settings.request_seconds)
        request.progress.caller = caller = Caller(request.client, deadline)
        return caller

    def _hold_seconds(self, request: Request) -> float:
        """Return how long a call may be held while its model loads.

        A connection that is kept alive may wait for as long as we allow, another only as long as its client.
        """
        allowed = self.settings.wait_seconds
        announced = request.read_timeout_seconds
        if announced is None or request.progress.padding is not Padding.NONE:
            return allowed
        return min(allowed, max(0.1, announced - _BEFORE_TIMEOUT_SECONDS))

    async def ask(
        self,
        request: Request,
        pool: Pool,
        asked: EngineRequest,
        weight: Weight,
        priority: Priority = Priority.BULK,
    ) -> EngineReply:
        """Return the reply of the pool's engines to a request that may be sent again.

        Raises:
            BusyError: the queue is full.
            NotReadyError: no engine became ready in time, or the call's time is over.
            EngineError, DeadlyRequestError: as ``Dispatcher.ask`` does.
        """
        caller, request.progress.items = self.caller(request), weight.items
        with pool.calls.admit(caller, weight):
            return await pool.calls.ask(asked, caller, tokens=weight.tokens, priority=priority)
