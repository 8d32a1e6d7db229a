"""Running it all: sockets, engines, HTTP server, signals, and an end that leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llamafile_mgr.changes import Changes
from llamafile_mgr.config import Config
from llamafile_mgr.embedding.checked_engines import make_supervisor
from llamafile_mgr.embedding.vector_cache import open_cache
from llamafile_mgr.errors import Error, InternalError
from llamafile_mgr.launching.local_plans import hold_files
from llamafile_mgr.paths import Paths
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.proxy.app import Proxy
from llamafile_mgr.proxy.controller import Controller, replace_model
from llamafile_mgr.proxy.dialects.dialect_table import DIALECTS
from llamafile_mgr.proxy.front import Front
from llamafile_mgr.proxy.keys import KeyRing, user_secret
from llamafile_mgr.proxy.leases import Leases, LeaseTerms, find_failure, single_instance
from llamafile_mgr.proxy.listening import (
    allow_descriptors,
    bind_sockets,
    close_sockets,
    endpoint,
    inherited_sockets,
)
from llamafile_mgr.proxy.live_settings import (
    LiveSettings,
    collect_aliases,
    read_key_ring,
    supervisor_options,
)
from llamafile_mgr.proxy.server import HttpServer
from llamafile_mgr.supervisor.asking import control_socket
from llamafile_mgr.supervisor.control_channel import ControlServer
from llamafile_mgr.supervisor.notify import Notifier
from llamafile_mgr.supervisor.snapshots import PoolSnapshot
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
    read: Callable[[], Config],
    plan: Callable[[Config], Sequence[Plan]],
    paths: Paths,
    announce: Announcements,
    terms: LeaseTerms | None = None,
) -> int:
    """Serve until SIGINT or SIGTERM and return the exit code: 0, also after a signal.

    ``read`` reads the settings, ``plan`` finds and plans the models; they are called again for a restart or
    SIGHUP, in a thread.
    With ``terms`` it also ends when no lease is held any more, and one of the same terms is waited for.

    Raises:
        PortInUseError: our address is taken.
        ConfigError: our address is not loopback and there are no API keys, or keys, certificate or aliases
            are wrong.
    """
    config = read()
    settings, keys = config.serve, read_key_ring(config.serve)
    public = bool(keys.keys)
    notifier = Notifier()
    with single_instance(paths.runtime, terms):
        sockets = inherited_sockets(public=public)
        try:
            notifier.status("planning")
            plans = plan(config)
            allow_descriptors()
            sockets = sockets or bind_sockets(settings.host, settings.port, public=public)
            with hold_files(plans, paths):
                source = _Source(read, plan, config, plans)
                service = _Service(source, paths, announce, sockets, keys, notifier, terms)
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


@dataclass(frozen=True, slots=True)
class _Source:
    """Where settings and plans come from, and those of the start."""

    read: Callable[[], Config]
    plan: Callable[[Config], Sequence[Plan]]
    config: Config
    plans: Sequence[Plan]

    def plan_again(self) -> Sequence[Plan]:
        """Return the plans that the present settings make. Blocks."""
        return self.plan(self.read())


class _Service:
    """One run of ``serve``: supervisor, HTTP server and control channel, with one end for all."""

    def __init__(
        self,
        source: _Source,
        paths: Paths,
        announce: Announcements,
        sockets: list[socket.socket],
        keys: KeyRing,
        notifier: Notifier,
        terms: LeaseTerms | None,
    ) -> None:
        config, plans = source.config, source.plans
        self._source = source
        self._notifier = notifier
        self._ready = False
        self._announce = announce
        self._sockets = sockets
        self._url = endpoint(sockets, secure=config.serve.tls_certificate is not None)
        self._supervisor = make_supervisor(plans, paths, supervisor_options(plans, config))
        self._cache = open_cache(paths, config.serve.cache_bytes)
        aliases = collect_aliases(config.models)
        front = Front(self._supervisor.pools, config.serve, DIALECTS, aliases, self._cache)
        proxy = Proxy(front, keys)
        self._server = HttpServer(proxy.answer, config.serve)
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._reload = asyncio.Event()
        access = {"url": self._url, "api_key": user_secret(keys)}
        self._leases = Leases(self._supervisor.snapshots, self._supervisor.changes, access, terms)
        self._for_users = terms is not None
        self._settings = LiveSettings(
            self._supervisor, front, proxy, self._server, self._leases, sockets, config
        )
        controller = Controller(
            self._supervisor, self._url, self._stop.set, source.plan_again, self._leases, self._settings
        )
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
        draining = asyncio.create_task(
            self._server.stop(self._settings.front.settings.drain_seconds), name="http server"
        )
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
        """On SIGHUP take the settings, plan again and replace the engines of the models whose plan changed.

        A model that cannot be planned any more does not keep a key in force that was taken back.
        """
        while True:
            await self._reload.wait()
            self._reload.clear()
            announced = self._ready  # before that, READY=1 would be told too early
            if announced:
                self._notifier.reloading()
            outcome = ""
            try:
                config = await asyncio.to_thread(self._source.read)
                await self._settings.apply(config)
                if self._settings.waiting:
                    outcome = f"; only a restart applies {', '.join(self._settings.waiting)}"
                for plan in await asyncio.to_thread(self._source.plan, config):
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
