"""Running it all: sockets, engines, HTTP server, signals, and an end that leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from llamafile_mgr.config import ModelConfig, ServeConfig
from llamafile_mgr.embedding.readiness import readiness_check
from llamafile_mgr.errors import ConfigError, EngineStartError
from llamafile_mgr.paths import Paths
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.proxy.app import Proxy
from llamafile_mgr.proxy.front import Front
from llamafile_mgr.proxy.keys import KeyRing, read_keys
from llamafile_mgr.proxy.listening import bind_sockets, close_sockets, endpoint
from llamafile_mgr.proxy.protocol import protocol_class
from llamafile_mgr.supervisor.pool import Pool, PoolSnapshot
from llamafile_mgr.supervisor.states import EngineState
from llamafile_mgr.supervisor.supervisor import Supervisor, SupervisorOptions

__all__ = ["Announcements", "Server", "collect_aliases", "serve", "uvicorn_config"]

_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Announcements:
    """What the command line prints as it happens: each is called once."""

    listening: Callable[[str], None]
    ready: Callable[[str, Sequence[PoolSnapshot]], None]
    stopping: Callable[[], None]


class Server(uvicorn.Server):
    """uvicorn without its own signal handling: ours stops engines too."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(
    plans: Sequence[Plan],
    settings: ServeConfig,
    paths: Paths,
    announce: Announcements,
    models: Mapping[str, ModelConfig] | None = None,
) -> int:
    """Serve until SIGINT or SIGTERM and return the exit code: 0, also after a signal.

    ``models``: the settings of single models, for their aliases.

    Raises:
        PortInUseError: our address is taken.
        ConfigError: our address is not loopback and there are no API keys, or keys, certificate or aliases
            are wrong.
    """
    keys = read_keys(Path(settings.keys_file).expanduser()) if settings.keys_file else KeyRing()
    sockets = bind_sockets(settings.host, settings.port, public=bool(keys.keys))
    try:
        return _run_loop(
            _serve(plans, settings, paths, announce, sockets, keys, collect_aliases(models or {}))
        )
    finally:
        close_sockets(sockets)


def _run_loop(main: Coroutine[Any, Any, int]) -> int:
    """Run ``main`` on uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return int(uvloop.run(main))


async def _serve(
    plans: Sequence[Plan],
    settings: ServeConfig,
    paths: Paths,
    announce: Announcements,
    sockets: list[socket.socket],
    keys: KeyRing,
    aliases: Mapping[str, str],
) -> int:
    supervisor = Supervisor(
        plans, readiness_check, paths, SupervisorOptions(stall_seconds=settings.load_stall_seconds)
    )
    app = Proxy(Front(supervisor.pools, settings, aliases), keys)
    server = Server(uvicorn_config(app, settings))
    url = endpoint(sockets, secure=settings.tls_certificate is not None)
    stop = asyncio.Event()
    with _signals(stop, server):
        supervisor.start()
        serving = asyncio.create_task(server.serve(sockets=sockets), name="http server")
        watching = asyncio.create_task(_watch_start(supervisor.pools, url, announce), name="start watch")
        stopping = asyncio.create_task(stop.wait(), name="stop signal")
        announce.listening(url)
        try:
            await asyncio.wait({serving, watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set() and not serving.done() and watching.exception() is None:
                await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            announce.stopping()
            server.should_exit = True
            await serving
            if watching.done() and not watching.cancelled() and watching.exception() is not None:
                raise watching.exception() or AssertionError
        finally:
            for task in (watching, stopping, serving):
                task.cancel()
            await asyncio.gather(watching, stopping, serving, return_exceptions=True)
            await supervisor.stop()
    return 0


async def _watch_start(pools: Sequence[Pool], url: str, announce: Announcements) -> None:
    """Announce that every model is ready.

    Raises:
        EngineStartError: a model failed for good before it was ever ready.
    """
    while True:
        snapshots = [pool.snapshot() for pool in pools]
        for snapshot in snapshots:
            if all(engine.state is EngineState.FAILED for engine in snapshot.engines):
                engine = snapshot.engines[0]
                raise EngineStartError(
                    f"{snapshot.model} cannot be started", cause=engine.cause, hint=f"its log: {engine.log}"
                )
        if all(snapshot.ready for snapshot in snapshots):
            announce.ready(url, snapshots)
            return
        await asyncio.sleep(_POLL_SECONDS)


def uvicorn_config(app: Proxy, settings: ServeConfig) -> uvicorn.Config:
    """Return how uvicorn serves ``app``.

    Raises:
        ConfigError: the certificate or its key cannot be used.
    """
    config = uvicorn.Config(
        app,
        http=protocol_class(settings.header_seconds, settings.idle_seconds),
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=max(1, int(settings.idle_seconds)),
        timeout_graceful_shutdown=max(1, int(settings.drain_seconds)),
        backlog=2048,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    try:
        config.load()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(
            f"cannot use the certificate {settings.tls_certificate} with its key: {error}",
            hint="both must be PEM files that belong together",
        ) from error
    return config


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
def _signals(stop: asyncio.Event, server: uvicorn.Server) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into ``stop``, a second one into an end without draining."""
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            server.force_exit = True
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    if sys.platform == "win32":
        before = [signal.signal(n, lambda *_: loop.call_soon_threadsafe(on_signal)) for n in numbers]
    else:
        for number in numbers:
            loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        if sys.platform == "win32":
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)
        else:
            for number in numbers:
                loop.remove_signal_handler(number)
