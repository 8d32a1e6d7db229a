"""Running it all: sockets, engines, HTTP server, signals, and an end that leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamafile_mgr.catalog import Role
from llamafile_mgr.changes import Changes
from llamafile_mgr.config import Config, ModelConfig, ServeConfig, parse_duration, parse_size
from llamafile_mgr.embedding.checked_engines import make_supervisor
from llamafile_mgr.embedding.vector_cache import open_cache
from llamafile_mgr.errors import ConfigError, Error, InternalError
from llamafile_mgr.launching.local_plans import hold_files
from llamafile_mgr.paths import Paths
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.proxy.app import Proxy
from llamafile_mgr.proxy.controller import Controller, replace_model
from llamafile_mgr.proxy.dialects.dialect_table import DIALECTS
from llamafile_mgr.proxy.front import Front
from llamafile_mgr.proxy.keys import KeyRing, read_keys, user_secret
from llamafile_mgr.proxy.leases import Leases, LeaseTerms, find_failure, single_instance
from llamafile_mgr.proxy.listening import (
    allow_descriptors,
    bind_sockets,
    close_sockets,
    endpoint,
    inherited_sockets,
)
from llamafile_mgr.proxy.server import HttpServer
from llamafile_mgr.supervisor.asking import control_socket
from llamafile_mgr.supervisor.control_channel import ControlServer
from llamafile_mgr.supervisor.liveness import LivenessPolicy
from llamafile_mgr.supervisor.meters import SpeedPolicy
from llamafile_mgr.supervisor.notify import Notifier
from llamafile_mgr.supervisor.pool import PoolOptions
from llamafile_mgr.supervisor.queue import QueueLimits
from llamafile_mgr.supervisor.snapshots import PoolSnapshot
from llamafile_mgr.supervisor.supervisor import SupervisorOptions
from llamafile_mgr.tasks import start_task

_LOG = logging.getLogger("llamafile_mgr.serve")
#: How much longer a start may take each time that its loop is seen to turn.
_EXTEND_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Announcements:
    """What the command line prints as it happens: each is called once."""

    listening: Callable[[str], None]
    ready: Callable[[str, Sequence[PoolSnapshot]], None]
    stopping: Callable[[], None]


def serve(
    plan_all: Callable[[], Sequence[Plan]],
    config: Config,
    paths: Paths,
    announce: Announcements,
    terms: LeaseTerms | None = None,
) -> int:
    """Serve until SIGINT or SIGTERM and return the exit code: 0, also after a signal.

    ``plan_all`` finds and plans the models; it is called again for a restart or SIGHUP, in a thread.
    With ``terms`` it also ends when no lease is held any more, and one of the same terms is waited for.

    Raises:
        PortInUseError: our address is taken.
        ConfigError: our address is not loopback and there are no API keys, or keys, certificate or aliases
            are wrong.
    """
    settings = config.serve
    keys = read_keys(Path(settings.keys_file).expanduser()) if settings.keys_file else KeyRing()
    public = bool(keys.keys)
    notifier = Notifier()
    with single_instance(paths.runtime, terms):
        sockets = inherited_sockets(public=public)
        try:
            notifier.status("planning")
            plans = plan_all()
            allow_descriptors()
            sockets = sockets or bind_sockets(settings.host, settings.port, public=public)
            with hold_files(plans, paths):
                service = _Service(plans, plan_all, config, paths, announce, sockets, keys, notifier, terms)
                return _run_loop(service.run())
        finally:
            close_sockets(sockets)


def _run_loop(main: Coroutine[Any, Any, int]) -> int:
    """Run ``main`` on uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return int(uvloop.run(main))


class _Service:
    """One run of ``serve``: supervisor, HTTP server and control channel, with one end for all."""

    def __init__(
        self,
        plans: Sequence[Plan],
        plan_all: Callable[[], Sequence[Plan]],
        config: Config,
        paths: Paths,
        announce: Announcements,
        sockets: list[socket.socket],
        keys: KeyRing,
        notifier: Notifier,
        terms: LeaseTerms | None,
    ) -> None:
        self._plan_all = plan_all
        self._notifier = notifier
        self._ready = False
        self._announce = announce
        self._sockets = sockets
        self._url = endpoint(sockets, secure=config.serve.tls_certificate is not None)
        self._supervisor = make_supervisor(plans, paths, supervisor_options(plans, config))
        self._cache = open_cache(paths, config.serve.cache_bytes)
        aliases = collect_aliases(config.models)
        front = Front(self._supervisor.pools, config.serve, DIALECTS, aliases, self._cache)
        self._server = HttpServer(Proxy(front, keys).answer, config.serve)
        self._drain_seconds = config.serve.drain_seconds
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._reload = asyncio.Event()
        access = {"url": self._url, "api_key": user_secret(keys)}
        self._leases = Leases(self._supervisor.snapshots, self._supervisor.changes, access, terms)
        self._for_users = terms is not None
        controller = Controller(self._supervisor, self._url, self._stop.set, plan_all, self._leases)
        port = sockets[0].getsockname()[1]
        self._control = ControlServer(control_socket(paths.runtime, port), controller.handle)

    async def run(self) -> int:
        """Run until a signal, the control channel or a failed start ends it."""
        with _signals(self._stop, self._hurry, self._reload):
            starting = asyncio.create_task(self._start(), name="start")
            reloading = start_task(self._reload_on_request(), "reload")
            stopping = asyncio.create_task(self._stop.wait(), name="stop signal")
            leaving = start_task(self._end_when_unused(), "users")
            feeding = start_task(self._feed(), "watchdog")
            tasks = (starting, reloading, stopping, leaving)
            try:
                await self._until_end(starting, stopping)
                self._announce.stopping()
                self._notifier.stopping()
                await self._stop_serving()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await self._server.stop(0.0)
                await self._control.close()
                await self._leases.close()
                await self._supervisor.stop(drain=not self._hurry.is_set())
                if self._cache is not None:
                    await asyncio.to_thread(self._cache.close)
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)
            if not starting.cancelled() and (error := starting.exception()) is not None:
                raise error
        return 0

    async def _stop_serving(self) -> None:
        """Let answers finish, until the time for that is over or a second signal comes."""
        draining = asyncio.create_task(self._server.stop(self._drain_seconds), name="http server")
        hurrying = asyncio.create_task(self._hurry.wait(), name="second stop signal")
        await asyncio.wait({draining, hurrying}, return_when=asyncio.FIRST_COMPLETED)
        for task in (draining, hurrying):
            task.cancel()
        await asyncio.gather(draining, hurrying, return_exceptions=True)

    async def _start(self) -> None:
        await self._server.start(self._sockets)
        self._announce.listening(self._url)
        self._notifier.status(f"listening on {self._url}, starting engines")
        await self._control.start()
        try:
            await self._supervisor.start()
            snapshots = await until_ready(self._supervisor.snapshots, self._supervisor.changes)
        except Exception as error:
            told = error if isinstance(error, Error) else InternalError(f"the start failed: {error!r}")
            await self._leases.fail(told)
            raise
        self._announce.ready(self._url, snapshots)
        self._leases.mark_started()
        self._ready = True
        self._notifier.ready(self._describe())

    def _describe(self) -> str:
        names = ", ".join(pool.plan.name for pool in self._supervisor.pools)
        return f"serving {names} on {self._url}"

    async def _feed(self) -> None:
        """Feed the service manager's watchdog from this loop, as long as every pool's task is alive too.

        Before we are ready it is asked for more time: a start that hangs is seen, a long one is not mistaken.
        """
        if not self._notifier.enabled:
            return
        interval = self._notifier.feed_seconds or _EXTEND_SECONDS / 3
        while self._stop.is_set() or self._supervisor.alive:
            if not self._ready:
                self._notifier.extend_start(_EXTEND_SECONDS)
            if self._notifier.feed_seconds is not None:
                self._notifier.feed()
            await asyncio.sleep(interval)
        _LOG.error("the task of a model's engines ended: the watchdog is not fed any more")

    async def _end_when_unused(self) -> None:
        if not self._for_users:
            return
        try:
            await self._leases.unused()
        finally:
            self._stop.set()

    async def _until_end(self, starting: asyncio.Task[None], stopping: asyncio.Task[bool]) -> None:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done() and starting.exception() is None:
            await stopping

    async def _reload_on_request(self) -> None:
        """On SIGHUP plan again and replace the engines of the models whose plan changed."""
        while True:
            await self._reload.wait()
            self._reload.clear()
            announced = self._ready  # before that, READY=1 would be told too early
            if announced:
                self._notifier.reloading()
            outcome = ""
            try:
                for plan in await asyncio.to_thread(self._plan_all):
                    pool = self._supervisor.find(plan.name)
                    if plan != pool.plan:
                        await replace_model(pool, plan, new_space=False)
            except Error as error:
                _LOG.error("reload: %s", error.describe())
                outcome = f"; the last reload failed: {error.message}"
            except Exception as error:  # the next one may go well
                _LOG.exception("reload: a defect of ours")
                outcome = f"; the last reload failed: {error}"
            if announced:
                self._notifier.ready(self._describe() + outcome)


def supervisor_options(plans: Sequence[Plan], config: Config) -> SupervisorOptions:
    """Return what the settings say of engines and of the queues before them. Raises ConfigError."""
    patience, limit = config.serve.liveness_seconds, config.serve.memory_limit
    return SupervisorOptions(
        stall_seconds=config.serve.load_stall_seconds,
        memory_limit_bytes=parse_size(limit, "serve.memory_limit") if limit else None,
        liveness=LivenessPolicy(
            tick_seconds=patience * 0.1,
            silent_seconds=patience * 0.3,
            health_deadline_seconds=patience * 0.5,
            idle_seconds=patience * 3,
            work_deadline_seconds=patience * 3,
        ),
        speed=SpeedPolicy(window_seconds=patience * 2),
        pools={
            plan.name: _pool_options(plan, config.models.get(plan.name, ModelConfig()), config.serve)
            for plan in plans
        },
    )


def _pool_options(plan: Plan, model: ModelConfig, settings: ServeConfig) -> PoolOptions:
    idle, limit = model.idle_unload, model.memory_limit
    return PoolOptions(
        idle_unload_seconds=parse_duration(idle, "idle_unload") if idle else None,
        pinned=plan.role is Role.EMBED if model.pinned is None else model.pinned,
        hold_seconds=settings.wait_seconds,
        limits=QueueLimits(settings.queue_items, settings.queue_tokens),
        memory_limit_bytes=parse_size(limit, "memory_limit") if limit else None,
        drain_seconds=settings.drain_seconds,
    )


async def until_ready(
    take_snapshots: Callable[[], Sequence[PoolSnapshot]], changes: Changes
) -> Sequence[PoolSnapshot]:
    """Return the snapshots in which every model is ready, or rests until its first call.

    Raises:
        EngineStartError: a model failed for good before it was ever ready.
    """
    while True:
        snapshots = take_snapshots()
        if (failure := find_failure(snapshots)) is not None:
            raise failure
        if all(snapshot.ready or snapshot.resting for snapshot in snapshots):
            return snapshots
        await changes.wait()


def collect_aliases(models: Mapping[str, ModelConfig]) -> dict[str, str]:
    """Return alias -> model name.

    Raises:
        ConfigError: two models share an alias.
    """
    aliases: dict[str, str] = {}
    for name, model in models.items():
        for alias in model.aliases:
            if aliases.setdefault(alias, name) != name:
                raise ConfigError(f"{alias!r} is an alias of both {aliases[alias]} and {name}")
    return aliases


@contextlib.contextmanager
def _signals(stop: asyncio.Event, hurry: asyncio.Event, reload: asyncio.Event) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into ``stop``, a second one into ``hurry``, SIGHUP into ``reload``."""
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            hurry.set()
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    if sys.platform == "win32":
        before = [signal.signal(n, lambda *_: loop.call_soon_threadsafe(on_signal)) for n in numbers]
    else:
        for number in numbers:
            loop.add_signal_handler(number, on_signal)
        loop.add_signal_handler(signal.SIGHUP, reload.set)
    try:
        yield
    finally:
        if sys.platform == "win32":
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)
        else:
            for number in (*numbers, signal.SIGHUP):
                loop.remove_signal_handler(number)
